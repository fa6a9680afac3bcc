package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"weft/internal/bus"
	"weft/internal/eventstore"
	"weft/internal/eventstore/write"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/statetree"
	"weft/internal/stream"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// ensureRoom gives a room's row, and makes a stub of a room that is not known.
// Until we are in a room its version is what another server says: a stub follows
// what is said last.
func (s *Server) ensureRoom(ctx context.Context, rules *event.Rules, room id.Room) (*eventstore.Room, error) {
	r, err := s.store.Room(ctx, room)
	if errors.Is(err, merr.ErrNotFound) {
		var n nid.Room
		if n, err = s.writer.RoomNID(ctx); err != nil {
			return nil, err
		}
		err = s.group.Steps(ctx, sqldb.Step{Lock: newRoomLock(room), Run: func(tx *sqldb.Tx) error {
			_, err := s.writer.InsertRoom(ctx, tx, n, room, rules.Version)
			return err
		}})
		if err == nil {
			r, err = s.store.Room(ctx, room)
		}
	}
	switch {
	case err != nil:
		return nil, err
	case r.Version == rules.Version:
		return r, nil
	case !r.Stub:
		return nil, merr.IncompatibleRoomVersion("the room %s has version %s here, not %s", room, r.Version, rules.Version)
	}
	err = s.group.Steps(ctx, sqldb.Step{Lock: roomLock(r.NID), Run: func(tx *sqldb.Tx) error {
		return s.writer.UpdateRoom(ctx, tx, write.RoomUpdate{NID: r.NID, Revision: r.Revision, CurrentState: r.CurrentState,
			Extremities: r.Extremities, Depth: r.Depth, Version: rules.Version, Stub: true})
	}})
	if err != nil {
		return nil, err
	}
	return s.store.Room(ctx, room)
}

// storeJoinedRoom stores a room that another server let us into: what it said of the
// state and the auth chain, as outliers, and the join on top of them, from which our
// knowledge of the room begins.
//
//  1. the join's signatures
//  2. state and auth chain: signatures, auth rules, stored in batches
//  3. the state before the join, as a tree
//  4. the join by its auth events and by that state
//  5. the room: the join is its only forward extremity, the previous events of the join
//     are where its history ends
//
// Memory is bounded by the spool and the batches; the state costs 24 bytes a member.
//
// spec: server-server §9 (Joining Rooms)
func (s *Server) storeJoinedRoom(ctx context.Context, rules *event.Rules, roomID id.Room, origin id.Server, join *event.Event, sp *spool) (*eventstore.Event, error) {
	if err := s.checkSignatures(ctx, []*event.Event{join})[0]; err != nil {
		return nil, err
	}
	room, err := s.ensureRoom(ctx, rules, roomID)
	if err != nil {
		return nil, err
	}
	o, err := s.storeSpool(ctx, room, sp)
	if err != nil {
		return nil, err
	}
	state, err := o.state()
	if err != nil {
		return nil, err
	}
	var stored *eventstore.Event
	err = s.queues.do(roomID, &job{ctx: ctx, run: func(ctx context.Context) error {
		return s.attempt(ctx, func() error {
			var err error
			stored, err = s.enterRoom(ctx, roomID, origin, join, state)
			return err
		})
	}})
	return stored, err
}

// state gives the state of a spool as changes of an empty tree. What was dropped or
// rejected is not part of it.
func (o *outliers) state() ([]statetree.Change, error) {
	out := make([]statetree.Change, 0, len(o.sp.state))
	created := false
	for _, i := range o.sp.state {
		st := o.done[i]
		if st.nid == 0 || !st.isState || st.flags&eventstore.Rejected != 0 {
			continue
		}
		created = created || st.key == statetree.Key{Type: nid.TypeCreate, StateKey: nid.EmptyStateKey}
		out = append(out, statetree.Change{Key: st.key, Event: st.nid})
	}
	if !created {
		return nil, merr.New(502, "M_UNKNOWN", "the state of %s that the other server sent has no valid create event", o.room.ID)
	}
	slices.SortFunc(out, func(a, b statetree.Change) int { return a.Compare(b.Key) })
	for i := 1; i < len(out); i++ {
		if out[i].Key == out[i-1].Key {
			return nil, merr.New(502, "M_UNKNOWN", "the state of %s that the other server sent has two events for one key", o.room.ID)
		}
	}
	return out, nil
}

// enterRoom does steps 3 to 5 in the room's queue.
func (s *Server) enterRoom(ctx context.Context, roomID id.Room, origin id.Server, join *event.Event, state []statetree.Change) (*eventstore.Event, error) {
	room, err := s.store.Room(ctx, roomID)
	if err != nil {
		return nil, err
	}
	d, err := s.newDraft(ctx, room)
	if err != nil {
		return nil, err
	}
	if found, err := d.eventsByID(ctx, []id.Event{join.ID}); err != nil {
		return nil, err
	} else if len(found) == 1 && found[0].HasState {
		return found[0], nil // it came by another way meanwhile
	}
	in := &incoming{ev: join, origin: origin, mode: inputPushed}
	for _, p := range join.PrevEvents {
		in.gaps = append(in.gaps, gapState{missing: p, entries: state})
	}
	members, err := s.store.LocalMembers(ctx, room.NID, eventstore.Join)
	if err != nil {
		return nil, err
	}
	if !room.Stub && len(members) > 0 {
		// Another of our users joined meanwhile: the join is one more event of a room
		// that we are in.
		if err := d.accept(ctx, in); err != nil {
			return nil, err
		}
	} else if err := d.enter(ctx, in, state); err != nil {
		return nil, err
	}
	return d.byID[join.ID], s.commit(ctx, d)
}

// enter makes a join the beginning of what we know of a room. If we were in the room
// before, what was then stays as history.
func (d *draft) enter(ctx context.Context, in *incoming, state []statetree.Change) error {
	if err := d.expect(ctx, in.ev); err != nil {
		return err
	}
	known, _, err := d.known(ctx, in)
	if err != nil {
		return err
	}
	a, _, err := d.place(ctx, in, known)
	if err != nil {
		return err
	}
	if a.StateBefore, err = statetree.Apply(ctx, d.nodes, statetree.Root{}, state, d.nodes); err != nil {
		return err
	}
	a.HasState = true
	verdict, err := d.byAuthEvents(ctx, in.ev)
	if err == nil && verdict == nil {
		verdict, err = d.byStateBefore(ctx, in.ev, a.StateBefore)
	}
	if err = errors.Join(err, verdict); err != nil {
		return err
	}
	d.added = append(d.added, a)
	d.byID[a.ID], d.byNID[a.NID] = a.Event, a.Event
	d.tips, d.depth, d.entered = []*eventstore.Event{a.Event}, a.Depth, true
	d.current, err = d.after(ctx, a.Event)
	return err
}

// localLeftovers finds local users whose membership is not that of the state: what we
// heard of them while we were not in the room.
func (d *draft) localLeftovers(ctx context.Context, seen map[nid.StateKey]bool) ([]statetree.Key, []nid.Event, error) {
	members, err := d.s.store.LocalMembers(ctx, d.room.NID)
	if err != nil {
		return nil, nil, err
	}
	var keys []statetree.Key
	var now []nid.Event
	for _, m := range members {
		k := statetree.Key{Type: nid.TypeMember, StateKey: m.UserNID}
		if seen[m.UserNID] {
			continue
		}
		n, _, err := statetree.Get(ctx, d.nodes, d.current, k)
		if err != nil {
			return nil, nil, err
		}
		if n != m.Event {
			keys, now = append(keys, k), append(now, n)
		}
	}
	return keys, now, nil
}

// storeOutlierMembership stores a member event of a local user in a room that this
// server is not in: an invite, a knock, or what ends them. stripped is the state that
// came with an invite or a knock. The caller has verified the event.
func (s *Server) storeOutlierMembership(ctx context.Context, rules *event.Rules, roomID id.Room, ev *event.Event, stripped []json.RawMessage) (*eventstore.Event, error) {
	user, err := id.ParseUser(ev.StateKey)
	if err != nil || ev.Type != eventauth.TypeMember || !ev.IsState || ev.RoomID != roomID {
		return nil, merr.BadJSON("the event is no member event of the room %s", roomID)
	}
	if _, err := s.ensureRoom(ctx, rules, roomID); err != nil {
		return nil, err
	}
	var stored *eventstore.Event
	err = s.queues.do(roomID, &job{ctx: ctx, run: func(ctx context.Context) error {
		return s.attempt(ctx, func() error {
			var err error
			stored, err = s.setOutlierMembership(ctx, roomID, user, ev, stripped)
			if errors.Is(err, write.ErrFence) {
				err = fmt.Errorf("%w: %w", errStale, err)
			}
			return err
		})
	}})
	return stored, err
}

func (s *Server) setOutlierMembership(ctx context.Context, roomID id.Room, user id.User, ev *event.Event, stripped []json.RawMessage) (*eventstore.Event, error) {
	room, err := s.store.Room(ctx, roomID)
	if err != nil {
		return nil, err
	}
	d, err := s.newDraft(ctx, room)
	if err != nil {
		return nil, err
	}
	if err := d.expect(ctx, ev); err != nil {
		return nil, err
	}
	found, err := d.eventsByID(ctx, []id.Event{ev.ID})
	if err != nil {
		return nil, err
	}
	var e *eventstore.Event
	if len(found) == 1 {
		e = found[0]
	} else if e, err = d.newEvent(ctx, ev, nil); err != nil {
		return nil, err
	} else {
		e.Flags = eventstore.Outlier
	}
	member, err := s.store.Member(ctx, room.NID, user)
	if err != nil || member.Event == e.NID {
		return e, err
	}
	userNID, err := s.userNID(ctx, user)
	if err != nil {
		return nil, err
	}
	row := s.writer.Row(e, eventstore.Parents{}) // its auth events were not checked
	change := write.MemberChange{User: user, UserNID: userNID, Membership: eventstore.ParseMembership(ev.Membership()), Event: e.NID, Local: s.local(user)}
	enter := func(tx *sqldb.Tx) error {
		if err := s.writer.TouchRoom(ctx, tx, room.NID, room.Revision); err != nil {
			return err
		}
		if len(found) == 0 {
			if err := s.writer.InsertEvents(ctx, tx, []write.Row{row}); err != nil {
				return err
			}
		}
		if change.Membership == eventstore.Invite || change.Membership == eventstore.Knock {
			return s.writer.SetInviteState(ctx, tx, room.NID, userNID, stripped)
		}
		return nil
	}
	store := func(tx *sqldb.Tx) error {
		// A second invite changes no membership, and what does not change has no place in
		// the stream.
		var pos int64
		if member.Membership == change.Membership {
			pos, err = stream.Position(ctx, tx, stream.Events)
		} else {
			pos, err = stream.Advance(ctx, tx, stream.Events, 1)
		}
		if err != nil {
			return err
		}
		change.StreamPos = pos
		tx.OnCommit(func() {
			bus.PublishUpdate(s.cfg.Bus, bus.Update{Stream: stream.Events, Pos: pos, Rooms: []string{string(roomID)}, Users: []string{string(user)}})
		})
		_, err = s.writer.SetMembers(ctx, tx, room.NID, []write.MemberChange{change})
		return err
	}
	return e, s.group.Steps(ctx, sqldb.Step{Lock: roomLock(room.NID), Run: enter}, sqldb.Step{Lock: eventsLock(), Run: store})
}
