package federationapi

import (
	"context"
	"math"
	"slices"

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
	held  int // rooms and servers in rooms
}

// roomServers is what is known of a room from a stream position on.
type roomServers struct {
	at int64
	// current are the other servers with a joined member when the room was read, since when nobody
	// has moved but those in moved. The slice is
	// shared by the events of the room.
	current []id.Server
	// moved are other servers' members whose membership has changed since.
	moved []eventstore.Member
}

// maxHeld bounds the rooms that are remembered, and the servers in them.
const maxHeld = 200_000

const (
	// movedChunk is how many members are looked up at once in the state at an event.
	movedChunk = 500
	// maxAsked is of how many servers it is asked one by one whether they have a member who stayed; of more, all members
	// of the room are read.
	maxAsked = 20
)

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
	if len(events) == 0 {
		return nil, nil
	}
	rooms := make([]nid.Room, len(events))
	for i, e := range events {
		rooms[i] = e.RoomNID
	}
	if err := r.load(ctx, rooms, events[0].StreamPos-1); err != nil {
		return nil, err
	}
	return r.route(ctx, events)
}

// route routes events of rooms that were loaded.
func (r *routes) route(ctx context.Context, events []*eventstore.Event) ([]routed, error) {
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

// stays tells of an event in a room that was loaded whether it goes nowhere, without looking at the event. Where a room has no
// members on other servers, and had none, only who is made to leave may be there: invited, or about to knock.
func (r *routes) stays(room nid.Room, kind nid.Type) bool {
	rs := r.rooms[room]
	return len(rs.current) == 0 && len(rs.moved) == 0 && kind != nid.TypeMember
}

// load brings what is known of rooms up to date, of which there are events after from. A room whose members of other servers
// have not moved since it was read stays as it is.
func (r *routes) load(ctx context.Context, rooms []nid.Room, from int64) error {
	if r.held > maxHeld {
		clear(r.rooms)
		r.held = 0
	}
	low := from
	var known, stale []nid.Room
	seen := make(map[nid.Room]bool)
	for _, room := range rooms {
		if seen[room] {
			continue
		}
		seen[room] = true
		if rs := r.rooms[room]; rs != nil {
			known, low = append(known, room), min(low, rs.at)
		} else {
			stale = append(stale, room)
		}
	}
	moved, err := r.movedSince(ctx, known, low)
	if err != nil {
		return err
	}
	for _, room := range known {
		rs := r.rooms[room]
		if slices.ContainsFunc(moved[room], func(m eventstore.Member) bool { return m.StreamPos > rs.at }) {
			stale = append(stale, room)
		} else {
			rs.at = max(rs.at, from)
		}
	}
	return r.read(ctx, stale, from)
}

// read reads rooms. The servers are read before the moved members: who leaves in between is found
// among the latter.
func (r *routes) read(ctx context.Context, rooms []nid.Room, from int64) error {
	if len(rooms) == 0 {
		return nil
	}
	servers, err := r.store.ServersOf(ctx, rooms, r.only)
	if err != nil {
		return err
	}
	moved, err := r.movedSince(ctx, rooms, from)
	if err != nil {
		return err
	}
	for _, room := range rooms {
		rs := &roomServers{at: from, moved: moved[room]}
		for _, s := range servers[room] {
			if s != r.self {
				rs.current = append(rs.current, s)
			}
		}
		if old := r.rooms[room]; old != nil {
			r.held -= 1 + len(old.current)
		}
		r.rooms[room] = rs
		r.held += 1 + len(rs.current)
	}
	return nil
}

// movedSince gives the members of other servers whose membership has changed.
func (r *routes) movedSince(ctx context.Context, rooms []nid.Room, from int64) (map[nid.Room][]eventstore.Member, error) {
	if len(rooms) == 0 {
		return nil, nil
	}
	moved, err := r.store.MovedMembers(ctx, rooms, from, math.MaxInt64)
	for room, members := range moved {
		moved[room] = slices.DeleteFunc(members, func(m eventstore.Member) bool {
			s := m.User.Server()
			return s == r.self || r.only != "" && s != r.only
		})
	}
	return moved, err
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
	if len(moved) == 0 && target == "" {
		return was, nil
	}
	before, err := r.store.StateBefore(e)
	if err != nil {
		return nil, err
	}
	if err := joinedAt(ctx, before, moved, was); err != nil {
		return nil, err
	}
	if target != "" {
		ev, err := before.Get(ctx, eventauth.TypeMember, string(target))
		if err != nil {
			return nil, err
		}
		if ev != nil {
			// A ban of somebody who had nothing to do with the room concerns nobody else.
			switch ev.Membership() {
			case "join", "invite", "knock":
				was[target.Server()] = true
			}
		}
	}
	return was, r.others(ctx, e, before, moved, was)
}

// joinedAt notes which servers of members had one of them joined in a state. A server is not looked at further when it had.
func joinedAt(ctx context.Context, state *eventstore.State, members []eventstore.Member, was map[id.Server]bool) error {
	for part := range slices.Chunk(members, movedChunk) {
		var keys []eventauth.Key
		for _, m := range part {
			if s := m.User.Server(); !was[s] {
				was[s] = false
				keys = append(keys, eventauth.Key{Type: eventauth.TypeMember, StateKey: string(m.User)})
			}
		}
		if len(keys) == 0 {
			continue
		}
		found, err := state.GetMany(ctx, keys)
		if err != nil {
			return err
		}
		for key, ev := range found {
			if ev.Membership() == "join" {
				was[id.User(key.StateKey).Server()] = true
			}
		}
	}
	return nil
}

// others decides on servers none of whose moved members was in the room at the event: another
// of their users may have been, and have stayed. A server that came since gets what was before by asking for it.
func (r *routes) others(ctx context.Context, e *eventstore.Event, before *eventstore.State, moved []eventstore.Member, was map[id.Server]bool) error {
	// Who stayed was there when the room was read, and its server with it.
	var open []id.Server
	for _, s := range r.rooms[e.RoomNID].current {
		if in, known := was[s]; known && !in {
			open = append(open, s)
		}
	}
	if len(open) == 0 {
		return nil
	}
	if err := r.stayed(ctx, e, open, was); err != nil {
		return err
	}
	// Who was in the room at the event, and left after the moved members were read and before it was asked who stayed, is among those
	// who have moved by now.
	now, err := r.movedSince(ctx, []nid.Room{e.RoomNID}, e.StreamPos-1)
	if err != nil {
		return err
	}
	known := make(map[id.User]bool, len(moved))
	for _, m := range moved {
		known[m.User] = true
	}
	late := slices.DeleteFunc(now[e.RoomNID], func(m eventstore.Member) bool {
		return known[m.User] || !slices.Contains(open, m.User.Server())
	})
	return joinedAt(ctx, before, late, was)
}

// stayed notes which of some servers have a member who has been joined since before an event.
func (r *routes) stayed(ctx context.Context, e *eventstore.Event, servers []id.Server, was map[id.Server]bool) error {
	if len(servers) <= maxAsked {
		for _, s := range servers {
			in, err := r.store.ServerStayed(ctx, e.RoomNID, s, e.StreamPos)
			if err != nil {
				return err
			}
			was[s] = in
		}
		return nil
	}
	members, err := r.store.MovedMembers(ctx, []nid.Room{e.RoomNID}, math.MinInt64, e.StreamPos-1)
	if err != nil {
		return err
	}
	stayed := map[id.Server]bool{}
	for _, m := range members[e.RoomNID] {
		if m.Membership == eventstore.Join {
			stayed[m.User.Server()] = true
		}
	}
	for _, s := range servers {
		was[s] = stayed[s]
	}
	return nil
}
