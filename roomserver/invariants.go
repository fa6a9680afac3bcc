package roomserver

import (
	"context"
	"errors"
	"fmt"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/statetree"
	"weft/internal/stream"
	"weft/matrix/id"
)

// maxFindings bounds what one Verify reports.
const maxFindings = 50

// Verify checks what must always be true of the store, and returns what is not. It
// reads everything; writers should be at rest.
//
//   - forward extremities are accepted events with a state, and none is a parent of an
//     event that is not history
//   - the current state is the resolution of the states after them
//   - state trees are canonical and complete
//   - every event of the graph has its parents, or backward extremities in their place
//   - the tables of members and servers say what the current state says
//   - the stream of events has no gaps
func (s *Server) Verify(ctx context.Context) error {
	v := &verifier{s: s}
	const page = 100
	for after := nid.Room(0); ; {
		rooms, err := s.store.ListRooms(ctx, after, page)
		if err != nil {
			return err
		}
		for _, room := range rooms {
			after = room.NID
			if err := v.room(ctx, room); err != nil {
				return fmt.Errorf("verifying %s: %w", room.ID, err)
			}
		}
		if len(rooms) < page {
			break
		}
	}
	if err := v.stream(ctx); err != nil {
		return err
	}
	return errors.Join(v.found...)
}

type verifier struct {
	s     *Server
	found []error
}

func (v *verifier) broken(format string, args ...any) {
	if len(v.found) < maxFindings {
		v.found = append(v.found, fmt.Errorf("invariant broken: "+format, args...))
	}
}

func (v *verifier) room(ctx context.Context, room *eventstore.Room) error {
	if room.Stub {
		return nil
	}
	d, err := v.s.newDraft(ctx, room)
	if err != nil {
		return err
	}
	if len(d.tips) == 0 {
		v.broken("%s has no forward extremity", room.ID)
	}
	roots := make([]statetree.Root, 0, len(d.tips))
	for _, t := range d.tips {
		if !accepted(t) || !t.HasState || t.RoomNID != room.NID {
			v.broken("%s: the forward extremity %s is not an accepted event of the room", room.ID, t.ID)
			continue
		}
		root, err := d.after(ctx, t)
		if err != nil {
			return err
		}
		roots = append(roots, root)
	}
	root, err := d.resolve(ctx, roots)
	if err != nil {
		return err
	}
	if root != room.CurrentState {
		v.broken("%s: the current state %s is not that of its forward extremities, %s", room.ID, room.CurrentState, root)
	}
	if err := v.tree(ctx, room.CurrentState); err != nil {
		return err
	}
	if err := v.graph(ctx, d); err != nil {
		return err
	}
	return v.members(ctx, room)
}

func (v *verifier) tree(ctx context.Context, root statetree.Root) error {
	err := statetree.Verify(ctx, v.s.store, root)
	if errors.Is(err, statetree.ErrCorrupt) || errors.Is(err, statetree.ErrMissing) {
		v.broken("the state tree %s: %w", root, err)
		return nil
	}
	return err
}

// graph walks over the events of a room.
func (v *verifier) graph(ctx context.Context, d *draft) error {
	tips := make(map[id.Event]bool, len(d.tips))
	for _, t := range d.tips {
		tips[t.ID] = true
	}
	var last statetree.Root
	from := eventstore.Start()
	for {
		page, err := v.s.store.History(ctx, eventstore.HistoryQuery{Room: d.room.NID, From: from, Limit: 200})
		if err != nil || len(page) == 0 {
			return err
		}
		for _, e := range page {
			from = e.Position()
			if !e.HasState {
				v.broken("the event %s of %s has no state", e.ID, d.room.ID)
				continue
			}
			if e.StateBefore != last {
				if err := v.tree(ctx, e.StateBefore); err != nil {
					return err
				}
				last = e.StateBefore
			}
			for _, p := range e.PrevEvents {
				if tips[p] && e.StreamPos > 0 {
					v.broken("%s: the forward extremity %s is a parent of %s", d.room.ID, p, e.ID)
				}
			}
			missing, err := v.s.missing(ctx, e.PrevEvents, eventstore.Outlier)
			if err != nil {
				return err
			}
			noted, err := v.s.store.BackwardAmong(ctx, d.room.NID, missing)
			if err != nil {
				return err
			}
			for _, m := range missing {
				if !noted[m] {
					v.broken("%s: %s, a parent of %s, is neither here nor a backward extremity", d.room.ID, m, e.ID)
				}
			}
		}
	}
}

// members compares the tables with the current state, where we are in the room:
// elsewhere they hold what we heard from outside.
func (v *verifier) members(ctx context.Context, room *eventstore.Room) error {
	want := make(map[nid.StateKey]nid.Event)
	err := statetree.WalkType(ctx, v.s.store, room.CurrentState, nid.TypeMember, func(e statetree.Entry) error {
		want[e.StateKey] = e.Event
		return nil
	})
	if err != nil {
		return err
	}
	if resident, err := v.resident(ctx, want); err != nil || !resident {
		return err
	}
	var joined, invited int64
	servers := make(map[id.Server]bool)
	err = v.s.store.EachMember(ctx, room.NID, func(m eventstore.Member) error {
		if want[m.UserNID] != m.Event {
			v.broken("%s: the member %s has event %d in the table and %d in the state", room.ID, m.User, m.Event, want[m.UserNID])
		}
		delete(want, m.UserNID)
		switch m.Membership {
		case eventstore.Join:
			joined++
			servers[m.User.Server()] = true
		case eventstore.Invite:
			invited++
		}
		return nil
	})
	if err != nil {
		return err
	}
	for user, n := range want {
		v.broken("%s: the member event %d of user %d is not in the table", room.ID, n, user)
	}
	if joined != room.Joined || invited != room.Invited {
		v.broken("%s: %d joined and %d invited, the row says %d and %d", room.ID, joined, invited, room.Joined, room.Invited)
	}
	list, err := v.s.store.Servers(ctx, room.NID)
	if err != nil {
		return err
	}
	for _, server := range list {
		if !servers[server] {
			v.broken("%s: the server %s has no joined member", room.ID, server)
		}
		delete(servers, server)
	}
	for server := range servers {
		v.broken("%s: the server %s is not in the table", room.ID, server)
	}
	return nil
}

// resident tells whether a user of this server is joined by a state's member events.
func (v *verifier) resident(ctx context.Context, members map[nid.StateKey]nid.Event) (bool, error) {
	keys := make([]nid.StateKey, 0, len(members))
	for k := range members {
		keys = append(keys, k)
	}
	users, err := v.s.store.StateKeys(ctx, keys)
	if err != nil {
		return false, err
	}
	for k, user := range users {
		if !v.s.local(id.User(user)) {
			continue
		}
		e, err := v.s.store.Event(ctx, members[k])
		if err != nil {
			return false, err
		}
		if e.Membership() == "join" {
			return true, nil
		}
	}
	return false, nil
}

const (
	countStreamSQL  = `SELECT COUNT(*), COALESCE(MAX(stream_pos), 0) FROM events WHERE stream_pos > 0`
	countOutsideSQL = `SELECT COUNT(DISTINCT c.stream_pos), COALESCE(MAX(c.stream_pos), 0) FROM membership_changes c
		WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.stream_pos = c.stream_pos)`
)

// stream checks that each position of the stream is an event's, or that of a membership
// in a room that we are not in.
func (v *verifier) stream(ctx context.Context) error {
	return v.s.db.View(ctx, func(tx *sqldb.Tx) error {
		var events, lastEvent, outside, lastOutside int64
		if err := tx.QueryRow(ctx, countStreamSQL).Scan(&events, &lastEvent); err != nil {
			return fmt.Errorf("counting the stream of events: %w", err)
		}
		if err := tx.QueryRow(ctx, countOutsideSQL).Scan(&outside, &lastOutside); err != nil {
			return fmt.Errorf("counting memberships: %w", err)
		}
		pos, err := stream.Position(ctx, tx, stream.Events)
		if err != nil {
			return err
		}
		if last := max(lastEvent, lastOutside); last != pos || events+outside != pos {
			v.broken("the stream of events is at %d, its last row at %d, and it has %d rows", pos, last, events+outside)
		}
		return nil
	})
}
