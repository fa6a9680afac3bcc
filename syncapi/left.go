package syncapi

import (
	"context"
	"math"

	"github.com/tidwall/gjson"

	"weft/internal/clientevent"
	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/statetree"
	"weft/matrix/eventauth"
	"weft/matrix/id"
)

func stringField(e *eventstore.Event, name string) string {
	return gjson.GetBytes(e.Content(), name).Str
}

// write writes the section of a room that the user left: its history up to then.
//
// spec: client-server §6.4 (LeftRoom)
func (r *leftRoom) write(ctx context.Context, a *answer) (bool, error) {
	s, q := a.s, a.q
	e, err := s.events.Event(ctx, r.event)
	if err != nil {
		return false, err
	}
	b := a.out.open()
	if r.stub || !e.HasState || e.StreamPos <= 0 {
		err = r.writeBare(ctx, a, b, e)
	} else {
		err = r.writeHistory(ctx, a, b, e)
	}
	if err != nil {
		return false, err
	}
	if f := &q.filter.Room.AccountData; f.allowsRoom(r.id) {
		if list := dataEvents(a.plan.data[r.id], &f.eventFilter); len(list) > 0 {
			events(b, "account_data", list)
		}
	}
	b.close()
	return true, nil
}

// writeBare writes the leave event alone: of a room in which this server never was.
func (r *leftRoom) writeBare(ctx context.Context, a *answer, b *object, e *eventstore.Event) error {
	t := &timeline{prev: eventstore.Start(), deepest: math.MaxInt64}
	if a.q.filter.Room.Timeline.allows(e) {
		t.events = []*eventstore.Event{e}
	}
	d := &deltaQuery{nodes: statetree.NewBatch(a.s.events), after: a.q.stateAfter, filter: &a.q.filter.Room.State}
	_, err := a.s.writeHistory(ctx, a, b, r.id, t, d)
	return err
}

func (r *leftRoom) writeHistory(ctx context.Context, a *answer, b *object, e *eventstore.Event) error {
	s, q := a.s, a.q
	from := q.since.Events
	if r.fresh {
		from = 0
	}
	t, err := s.readTimeline(ctx, timelineQuery{
		room: r.nid, from: from, to: e.StreamPos, limit: q.filter.Room.Timeline.limit(defaultTimeline, maxTimeline),
		filter: &q.filter.Room.Timeline, user: q.user, ignored: a.plan.ignored,
	})
	if err != nil {
		return err
	}
	batch := statetree.NewBatch(s.events)
	d := &deltaQuery{nodes: batch, whole: r.fresh || q.fullState, timeline: t.events, after: q.stateAfter, filter: &q.filter.Room.State,
		members: []nid.StateKey{a.plan.me}}
	in, err := r.wasJoined(ctx, s, q.user, e)
	if err != nil {
		return err
	}
	if !in {
		// The room's state is none of the user's business.
		_, err := s.writeHistory(ctx, a, b, r.id, t, d)
		return err
	}
	if d.current, err = s.rootAfter(ctx, e, batch); err != nil {
		return err
	}
	d.start = d.current
	if len(t.events) > 0 && t.events[0].HasState {
		d.start = t.events[0].StateBefore
	}
	if !d.whole {
		last, err := s.events.LastBefore(ctx, r.nid, q.since.Events)
		if err != nil {
			return err
		}
		if d.whole = last == 0; !d.whole {
			known, err := s.events.Event(ctx, last)
			if err != nil {
				return err
			}
			if d.prev, err = s.rootAfter(ctx, known, batch); err != nil {
				return err
			}
		}
	}
	_, err = s.writeHistory(ctx, a, b, r.id, t, d)
	return err
}

// wasJoined tells whether the user was in the room before the event.
func (r *leftRoom) wasJoined(ctx context.Context, s *Server, user id.User, e *eventstore.Event) (bool, error) {
	if !r.wasIn {
		return false, nil
	}
	state, err := s.events.StateBefore(e)
	if err != nil {
		return false, err
	}
	m, err := state.Get(ctx, "m.room.member", string(user))
	return m != nil && m.Membership() == "join", err
}

// strippedTypes are the state events that describe a room to those outside.
//
// spec: client-server §6.2.1 (Stripped state)
var strippedTypes = [...]string{
	"m.room.create", "m.room.name", "m.room.avatar", "m.room.topic", "m.room.join_rules", "m.room.canonical_alias", "m.room.encryption",
}

// writeInvite writes the section of an invite or a knock. Invites by ignored users are
// not shown.
//
// spec: client-server §6.4 (InvitedRoom, KnockedRoom), §11.21.2 (Ignoring users)
func (a *answer) writeInvite(ctx context.Context, m eventstore.MemberRoom) (bool, error) {
	s := a.s
	e, err := s.events.Event(ctx, m.Event)
	if err != nil {
		return false, err
	}
	name := "invite_state"
	if m.Membership == eventstore.Knock {
		name = "knock_state"
	} else if a.plan.ignored[e.Sender] {
		return false, nil
	}
	list, err := s.strippedState(ctx, m.Room, a.q.user, e)
	if err != nil {
		return false, err
	}
	b := a.out.open()
	events(b, name, list)
	b.close()
	return true, nil
}

// strippedState gives what an invited or knocking user may know of a room: what another
// server sent with the invite, or the room's own state.
func (s *Server) strippedState(ctx context.Context, room nid.Room, user id.User, e *eventstore.Event) ([][]byte, error) {
	var out [][]byte
	own := func(raw []byte) bool {
		return gjson.GetBytes(raw, "type").Str == "m.room.member" && gjson.GetBytes(raw, "state_key").Str == string(user)
	}
	given, err := s.events.InviteState(ctx, room, user)
	if err != nil {
		return nil, err
	}
	for _, raw := range given {
		if stripped, ok := clientevent.AppendStrippedJSON(nil, raw); ok && !own(stripped) {
			out = append(out, stripped)
		}
	}
	if len(given) == 0 && e.HasState {
		state, err := s.events.StateBefore(e)
		if err != nil {
			return nil, err
		}
		keys := make([]eventauth.Key, len(strippedTypes))
		for i, t := range strippedTypes {
			keys[i] = eventauth.Key{Type: t}
		}
		found, err := state.GetMany(ctx, keys)
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			if found[k] != nil {
				out = append(out, clientevent.AppendStripped(nil, found[k]))
			}
		}
	}
	return append(out, clientevent.AppendStripped(nil, e)), nil
}
