package federationapi

import (
	"context"
	"math"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/matrix/eventauth"
	"weft/matrix/id"
)

// routes works out where events go: to the servers that were in the room when
// they were sent. The room may have changed before the stream is read, a kick
// right after a message most of all, and whoever was there must get the message
// that the kick comes after.
//
// Server ACLs do not count here.
//
// spec: client-server §11.33 ("Servers should still send events to denied
// servers if they are still residents of the room.")
type routes struct {
	store *eventstore.Reader
	self  id.Server
	// only, where not empty, is the one destination that is of interest.
	only  id.Server
	rooms map[nid.Room]*roomServers
}

// roomServers is what is known of a room from a stream position on.
type roomServers struct {
	// current are the other servers with a joined member now. The slice is
	// shared by the events of the room.
	current []id.Server
	// moved are other servers' members whose membership has changed since.
	moved []eventstore.Member
}

// maxMoved bounds the members of a room that are looked up at each event. Where
// more have changed, all that are there now or have left get the events.
const maxMoved = 500

func newRoutes(store *eventstore.Reader, self, only id.Server) *routes {
	return &routes{store: store, self: self, only: only, rooms: map[nid.Room]*roomServers{}}
}

// routed is an event and where it goes. The list may be shared; it must not be
// changed.
type routed struct {
	event   *eventstore.Event
	servers []id.Server
}

// page routes events. They come in the order of the stream, also from call to call.
func (r *routes) page(ctx context.Context, events []*eventstore.Event) ([]routed, error) {
	if err := r.load(ctx, events); err != nil {
		return nil, err
	}
	out := make([]routed, len(events))
	for i, e := range events {
		servers, err := r.of(ctx, e)
		if err != nil {
			return nil, err
		}
		out[i] = routed{e, servers}
	}
	return out, nil
}

// load reads the rooms that are met for the first time. The servers are read
// before the moved members: who leaves in between is found among the latter.
func (r *routes) load(ctx context.Context, events []*eventstore.Event) error {
	var fresh []nid.Room
	from := int64(math.MaxInt64)
	for _, e := range events {
		if r.rooms[e.RoomNID] != nil {
			continue
		}
		from = min(from, e.StreamPos-1)
		fresh = append(fresh, e.RoomNID)
		rs := &roomServers{}
		r.rooms[e.RoomNID] = rs
		all, err := r.servers(ctx, e.RoomNID)
		if err != nil {
			return err
		}
		for _, s := range all {
			if s != r.self {
				rs.current = append(rs.current, s)
			}
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	moved, err := r.store.MovedMembers(ctx, fresh, from, math.MaxInt64)
	if err != nil {
		return err
	}
	for room, members := range moved {
		rs := r.rooms[room]
		for _, m := range members {
			if s := m.User.Server(); s != r.self && (r.only == "" || s == r.only) {
				rs.moved = append(rs.moved, m)
			}
		}
	}
	return nil
}

func (r *routes) servers(ctx context.Context, room nid.Room) ([]id.Server, error) {
	if r.only == "" {
		return r.store.Servers(ctx, room)
	}
	in, err := r.store.ServerInRoom(ctx, room, r.only)
	if err != nil || !in {
		return nil, err
	}
	return []id.Server{r.only}, nil
}

// of lists the destinations of an event: the servers in the room at the event,
// but the one it came from, and the server of a user who is made to leave.
func (r *routes) of(ctx context.Context, e *eventstore.Event) ([]id.Server, error) {
	rs := r.rooms[e.RoomNID]
	var moved []eventstore.Member
	for _, m := range rs.moved {
		if m.StreamPos >= e.StreamPos {
			moved = append(moved, m)
		}
	}
	from, t := e.Sender.Server(), r.target(e)
	if len(moved) == 0 && t == "" && from == r.self {
		return rs.current, nil
	}
	was, err := r.judge(ctx, e, moved, t)
	if err != nil {
		return nil, err
	}
	delete(was, from)
	var out []id.Server
	for _, s := range rs.current {
		in, known := was[s]
		delete(was, s)
		if s != from && (in || !known) {
			out = append(out, s)
		}
	}
	for s, in := range was {
		if in {
			out = append(out, s)
		}
	}
	return out, nil
}

// target gives the user whom an event makes leave, if another server's. That
// server must hear of it though it may have nobody else in the room.
func (r *routes) target(e *eventstore.Event) id.User {
	if e.Type != eventauth.TypeMember || !e.IsState {
		return ""
	}
	if m := e.Membership(); m != "leave" && m != "ban" {
		return ""
	}
	user, err := id.ParseUser(e.StateKey)
	if err != nil || user.Server() == r.self || (r.only != "" && user.Server() != r.only) {
		return ""
	}
	return user
}

// judge tells, of the servers of moved members and of the target, which were to
// get an event.
func (r *routes) judge(ctx context.Context, e *eventstore.Event, moved []eventstore.Member, target id.User) (map[id.Server]bool, error) {
	was := map[id.Server]bool{}
	if len(moved) > maxMoved {
		for _, m := range moved {
			was[m.User.Server()] = true
		}
		if target != "" {
			was[target.Server()] = true
		}
		return was, nil
	}
	var keys []eventauth.Key
	for _, m := range moved {
		keys = append(keys, eventauth.Key{Type: eventauth.TypeMember, StateKey: string(m.User)})
	}
	if target != "" {
		keys = append(keys, eventauth.Key{Type: eventauth.TypeMember, StateKey: string(target)})
	}
	if len(keys) == 0 {
		return was, nil
	}
	before, err := r.store.StateBefore(e)
	if err != nil {
		return nil, err
	}
	members, err := before.GetMany(ctx, keys)
	if err != nil {
		return nil, err
	}
	at := func(user id.User) string {
		if ev := members[eventauth.Key{Type: eventauth.TypeMember, StateKey: string(user)}]; ev != nil {
			return ev.Membership()
		}
		return ""
	}
	for _, m := range moved {
		s := m.User.Server()
		was[s] = was[s] || at(m.User) == "join"
	}
	if target != "" {
		// A ban of somebody who had nothing to do with the room concerns nobody else.
		switch at(target) {
		case "join", "invite", "knock":
			was[target.Server()] = true
		}
	}
	return was, r.present(ctx, e, moved, was)
}

// present decides on servers that are in the room now and none of whose moved
// members was there at the event: another of their users may have been. They
// get what they may see.
func (r *routes) present(ctx context.Context, e *eventstore.Event, moved []eventstore.Member, was map[id.Server]bool) error {
	for _, m := range moved {
		s := m.User.Server()
		if was[s] || m.Membership != eventstore.Join {
			continue
		}
		sees, err := r.store.CanServerSee(ctx, s, e)
		if err != nil {
			return err
		}
		was[s] = sees
	}
	return nil
}
