package remote

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
)

const (
	// MaxMembers bounds the members of a room.
	MaxMembers = 1_000_000
	// defaultBody is how long the text of a message is, in bytes: with the JSON
	// around it that gives a content of 300 bytes or so.
	defaultBody = 260
	// maxBodyText keeps events far below the limit of 65,536 bytes.
	maxBodyText = 32 << 10
)

// RoomOptions say what a room is like.
type RoomOptions struct {
	// Version is the room version; empty means the default one.
	Version event.RoomVersion
	// Members is how many users are joined, the creator included: 1 to MaxMembers.
	Members int
	// Body is how long the texts of messages are, in bytes; 0 means 260.
	Body int
	// Seed makes branchy inflows differ; the same seed gives the same shape.
	Seed uint64
}

// Room is a synthetic room. It is safe for concurrent use.
type Room struct {
	// ID is the room's ID.
	ID id.Room

	s     *Server
	rules *event.Rules
	opts  RoomOptions
	cast  cast

	mu sync.RWMutex
	// events are all events. It begins with the state that the room began with:
	// the initial events, then one join for each further member.
	events history
	// initial gives the positions of the initial events, and early those events.
	initial map[key]int
	early   map[id.Event]*event.Event
	// recent are the events after the beginning.
	recent map[id.Event]*node
	// heads are the forward extremities.
	heads   []id.Event
	lastTS  int64
	checker *eventauth.Checker
	joins   []Join
	// changed is closed and replaced when an event is added.
	changed chan struct{}
}

// node is an event after the beginning, with the states around it.
type node struct {
	event         *event.Event
	before, after state
	at            time.Time
}

// Join is a user of a server under test who joined through this server.
type Join struct {
	User  id.User
	Event id.Event
	// Asked is when the template was given, Sent when the signed event came, and
	// Answered when the last byte of the answer, with the room's state, was handed
	// to the connection. Answered is zero before that.
	Asked, Sent, Answered time.Time
	// Bytes is the size of that answer.
	Bytes int64
}

// room finds a room, nil when there is none.
func (s *Server) room(roomID id.Room) *Room {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.rooms[roomID]
}

// Version is the room's version.
func (r *Room) Version() event.RoomVersion { return r.rules.Version }

// Creator is the user who made the room, of the main server.
func (r *Room) Creator() id.User { return r.s.member(0) }

// Joins lists the users of servers under test who joined, in the order of their joins.
func (r *Room) Joins() []Join {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.DeleteFunc(slices.Clone(r.joins), func(j Join) bool { return j.Event == "" })
}

// AwaitJoin waits until the join of a user has been answered in full.
func (r *Room) AwaitJoin(ctx context.Context, user id.User) (Join, error) {
	for {
		r.mu.RLock()
		changed := r.changed
		at := slices.IndexFunc(r.joins, func(j Join) bool { return j.User == user && !j.Answered.IsZero() })
		var j Join
		if at >= 0 {
			j = r.joins[at]
		}
		r.mu.RUnlock()
		if at >= 0 {
			return j, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Join{}, fmt.Errorf("remote: %s has not joined %s: %w", user, r.ID, ctx.Err())
		}
	}
}

// Received waits until an event of a server under test has come, and says when.
func (r *Room) Received(ctx context.Context, eventID id.Event) (time.Time, error) {
	for {
		r.mu.RLock()
		changed, n := r.changed, r.recent[eventID]
		r.mu.RUnlock()
		if n != nil {
			return n.at, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("remote: the event %s has not come: %w", eventID, ctx.Err())
		}
	}
}

// State gives the room's current state as this server computes it.
func (r *Room) State() (map[eventauth.Key]id.Event, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	st, err := r.current()
	if err != nil {
		return nil, err
	}
	return r.stateMap(st), nil
}

// Size gives the number of the room's events and the bytes of their JSON.
func (r *Room) Size() (events int, bytes int64) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, e := range r.events.list {
		bytes += int64(len(e.json))
	}
	return len(r.events.list), bytes
}

// stateMap writes a state out.
func (r *Room) stateMap(st state) map[key]id.Event {
	out := make(map[key]id.Event, st.began+len(st.changed))
	for k, at := range r.initial {
		if at < st.began {
			out[k] = r.events.list[at].id
		}
	}
	for at := len(r.initial); at < st.began; at++ {
		k := key{Type: eventauth.TypeMember, StateKey: string(r.s.member(at - len(r.initial) + 1))}
		out[k] = r.events.list[at].id
	}
	for k, e := range st.changed {
		if out[k] = e; e == "" {
			delete(out, k)
		}
	}
	return out
}

// current gives the state after all that is known.
func (r *Room) current() (state, error) { return r.before(r.heads) }

// event gives an event of the room.
func (r *Room) event(eventID id.Event) (*event.Event, error) {
	if n := r.recent[eventID]; n != nil {
		return n.event, nil
	}
	if e := r.early[eventID]; e != nil {
		return e, nil
	}
	at, ok := r.events.index[eventID]
	if !ok {
		return nil, fmt.Errorf("remote: no event %s in the room %s", eventID, r.ID)
	}
	return r.events.parse(at, r.rules)
}

// link adds an event to the graph. It must be allowed by the state before it.
//
//  1. the state before: of the parents, resolved
//  2. authorisation
//  3. the history, the forward extremities, who waits
func (r *Room) link(e *event.Event) (*node, error) {
	if n := r.recent[e.ID]; n != nil {
		return n, nil
	}
	before, err := r.before(e.PrevEvents)
	if err != nil {
		return nil, err
	}
	if err := r.allowed(e, before); err != nil {
		return nil, fmt.Errorf("remote: event %s (%s of %s): %w", e.ID, e.Type, e.Sender, err)
	}
	n := &node{event: e, before: before, after: before.with(e), at: time.Now()}
	r.events.add(e)
	r.recent[e.ID] = n
	r.heads = append(slices.DeleteFunc(r.heads, func(h id.Event) bool { return slices.Contains(e.PrevEvents, h) }), e.ID)
	r.lastTS = max(r.lastTS, e.OriginServerTS)
	r.tell()
	return n, nil
}

// tell wakes those who wait for something in the room.
func (r *Room) tell() {
	close(r.changed)
	r.changed = make(chan struct{})
}
