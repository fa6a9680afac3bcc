package eventstore

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"weft/internal/nid"
	"weft/internal/statetree"
	"weft/matrix/id"
)

const (
	verifyEventsSQL = `SELECT event_nid FROM events WHERE room_nid = $1 AND event_nid > $2 ORDER BY event_nid LIMIT $3`
	verifyCountsSQL = `SELECT server, joined FROM room_servers WHERE room_nid = $1`
)

// Verify checks what must always be true of the store (WEFT_VERIFY): every room's
// extremities are accepted events with a place in the room; what is derived of its current state
// (members, counts, servers) agrees with it; every event can be read, its auth events
// are here, and the state before it is a canonical tree. It returns all that it
// finds, up to a hundred problems, and reads everything: it is for tests and repairs.
func (r *Reader) Verify(ctx context.Context) error {
	v := verifier{Reader: r.Scanning().Primary(), roots: make(map[statetree.Root]bool)}
	for after := nid.Room(0); ; {
		rooms, err := v.ListRooms(ctx, after, pageSize)
		if err != nil {
			return err
		}
		for _, room := range rooms {
			after = room.NID
			if err := v.room(ctx, room); err != nil {
				return fmt.Errorf("eventstore: verifying %s: %w", room.ID, err)
			}
			if len(v.problems) >= maxProblems {
				return errors.Join(v.problems...)
			}
			clear(v.roots)
		}
		if len(rooms) < pageSize {
			return errors.Join(v.problems...)
		}
	}
}

const maxProblems = 100

type verifier struct {
	*Reader
	roots    map[statetree.Root]bool // checked
	problems []error
}

func (v *verifier) problem(room *Room, format string, args ...any) {
	if len(v.problems) < maxProblems {
		v.problems = append(v.problems, fmt.Errorf("room %s: "+format, append([]any{room.ID}, args...)...))
	}
}

func (v *verifier) room(ctx context.Context, room *Room) error {
	if err := v.events(ctx, room); err != nil {
		return err
	}
	if room.Stub {
		return nil
	}
	v.tree(ctx, room, room.CurrentState, "current state")
	if len(room.Extremities) == 0 {
		v.problem(room, "no forward extremities")
	}
	tips, err := v.Events(ctx, room.Extremities)
	if err != nil {
		v.problem(room, "forward extremities: %w", err)
		return nil
	}
	for _, e := range tips {
		if !e.Visible() || e.RoomNID != room.NID || e.StreamPos == 0 {
			v.problem(room, "the forward extremity %s has flags %d and position %d", e.ID, e.Flags, e.StreamPos)
		}
	}
	return v.members(ctx, room)
}

func (v *verifier) tree(ctx context.Context, room *Room, root statetree.Root, what string) {
	if v.roots[root] {
		return
	}
	v.roots[root] = true
	if err := statetree.Verify(ctx, v.Reader, root); err != nil {
		v.problem(room, "%s: %w", what, err)
	}
}

// events reads all events of a room.
func (v *verifier) events(ctx context.Context, room *Room) error {
	for after := nid.Event(0); ; {
		page, err := numbers[nid.Event](ctx, v.Reader, verifyEventsSQL, int64(room.NID), int64(after), pageSize)
		if err != nil {
			return err
		}
		events, err := v.Events(ctx, page)
		if err != nil {
			v.problem(room, "events: %w", err)
		}
		for _, e := range events {
			v.event(ctx, room, e)
		}
		if len(page) < pageSize {
			return nil
		}
		after = page[len(page)-1]
	}
}

func (v *verifier) event(ctx context.Context, room *Room, e *Event) {
	if n := len(e.AuthNIDs); n > 0 && e.AuthNIDs[n-1] > max(e.NID, room.Unordered) {
		v.problem(room, "%s has the number %d, its auth event %d", e.ID, e.NID, e.AuthNIDs[n-1])
	}
	outlier := e.Flags&Outlier != 0
	if outlier == (e.StreamPos != 0) || outlier && e.HasState {
		v.problem(room, "%s has flags %d, position %d, state %v", e.ID, e.Flags, e.StreamPos, e.HasState)
	}
	if e.HasState {
		v.tree(ctx, room, e.StateBefore, "state before "+string(e.ID))
	}
	if e.Flags&Rejected == 0 && len(e.AuthNIDs) != len(e.AuthEvents) && !outlier {
		v.problem(room, "%s has %d auth events, %d are here", e.ID, len(e.AuthEvents), len(e.AuthNIDs))
	}
	if ids, err := v.EventIDs(ctx, e.AuthNIDs); err != nil {
		v.problem(room, "auth events of %s: %w", e.ID, err)
	} else if !subset(ids, e.AuthEvents) {
		v.problem(room, "%s has the auth events %v, stored are %v", e.ID, e.AuthEvents, ids)
	}
}

func subset(list, of []id.Event) bool {
	set := make(map[id.Event]bool, len(of))
	for _, e := range of {
		set[e] = true
	}
	for _, e := range list {
		if !set[e] {
			return false
		}
	}
	return true
}

// members compares the members' tables with the current state.
func (v *verifier) members(ctx context.Context, room *Room) error {
	state := make(map[nid.StateKey]nid.Event)
	err := statetree.WalkType(ctx, v.Reader, room.CurrentState, nid.TypeMember, func(e statetree.Entry) error {
		state[e.StateKey] = e.Event
		return nil
	})
	if err != nil {
		return nil // the tree was reported
	}
	var joined, invited int64
	servers := make(map[id.Server]int64)
	err = v.EachMember(ctx, room.NID, func(m Member) error {
		if state[m.UserNID] != m.Event {
			v.problem(room, "%s has member event %d, the current state has %d", m.User, m.Event, state[m.UserNID])
		}
		delete(state, m.UserNID)
		switch m.Membership {
		case Join:
			joined++
			servers[m.User.Server()]++
		case Invite:
			invited++
		}
		return nil
	})
	if err != nil {
		return err
	}
	for user, event := range state {
		v.problem(room, "user %d is a member by event %d, and not in the table", user, event)
	}
	if joined != room.Joined || invited != room.Invited {
		v.problem(room, "%d joined and %d invited are counted, there are %d and %d", room.Joined, room.Invited, joined, invited)
	}
	counted := make(map[id.Server]int64)
	err = v.rows(ctx, verifyCountsSQL, []any{int64(room.NID)}, func(row func(...any) error) error {
		var server id.Server
		var n int64
		err := row(&server, &n)
		counted[server] = n
		return err
	})
	if err == nil && !maps.Equal(counted, servers) {
		v.problem(room, "the servers are counted as %v, they are %v", counted, servers)
	}
	return err
}
