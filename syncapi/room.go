package syncapi

import (
	"context"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/statetree"
	"weft/matrix/eventauth"
	"weft/matrix/id"
)

// write writes the section of a joined room.
//
// spec: client-server §6.4 (JoinedRoom)
func (r *joinedRoom) write(ctx context.Context, a *answer) (bool, error) {
	s, q := a.s, a.q
	b := a.out.open()
	some := false
	if r.changed || r.newly || q.fullState {
		told, err := r.writeHistory(ctx, a, b)
		if err != nil {
			return false, err
		}
		some = some || told
	} else if q.stateAfter {
		b.key("state_after").raw(`{"events":[]}`)
	}
	if r.newly || q.fullState || len(r.moved) > 0 {
		if err := s.writeSummary(ctx, b, r.Room, q.user); err != nil {
			return false, err
		}
		some = true
	}
	told, err := r.writeEphemeral(ctx, a, b)
	if err != nil {
		return false, err
	}
	some = some || told
	if f := &q.filter.Room.AccountData; f.allowsRoom(r.ID) {
		if list := dataEvents(a.plan.data[r.ID], &f.eventFilter); len(list) > 0 {
			events(b, "account_data", list)
			some = true
		}
	}
	some = some || r.newly || q.fullState || r.late
	if some {
		a.plan.unread[r.NID].write(b, q.filter.Room.Timeline.UnreadThreads)
	}
	b.close()
	return some, nil
}

// writeHistory writes timeline and state; it reports false when both are empty.
func (r *joinedRoom) writeHistory(ctx context.Context, a *answer, b *object) (bool, error) {
	s, q := a.s, a.q
	from := q.since.Events
	if r.newly {
		from = 0
	}
	t, err := s.readTimeline(ctx, timelineQuery{
		room: r.NID, from: from, to: a.plan.to.Events, limit: q.filter.Room.Timeline.limit(defaultTimeline, maxTimeline),
		filter: &q.filter.Room.Timeline, user: q.user, ignored: a.plan.ignored, piece: r.piece,
	})
	if err != nil {
		return false, err
	}
	t.deepest = r.Depth
	if r.newly && !q.initial {
		t.limited = true // what came before the user is not in it
	}
	d := &deltaQuery{
		nodes: statetree.NewBatch(s.events), whole: r.newly || q.fullState, start: r.CurrentState, current: r.CurrentState,
		timeline: t.events, after: q.stateAfter, filter: &q.filter.Room.State,
	}
	if len(t.events) > 0 && t.events[0].HasState {
		d.start = t.events[0].StateBefore
	}
	if d.whole && d.filter.LazyLoadMembers {
		if d.members, err = r.namesakes(ctx, s, q.user, a.plan.me); err != nil {
			return false, err
		}
	}
	switch {
	case d.whole:
	case r.piece != nil:
		d.prev, d.nodes, d.whole = r.piece.prev, r.piece.nodes, !r.piece.known
	default:
		if d.whole, err = s.previousState(ctx, r.NID, q.since.Events, d); err != nil {
			return false, err
		}
	}
	return s.writeHistory(ctx, a, b, r.ID, t, d)
}

// namesakes gives the members that are shown with a room's whole state: the user, and
// the heroes of a room without a name.
//
// spec: client-server §6.4 (GET /sync: "servers MUST include the syncing user's own
// membership event"), (m.heroes: "the membership events for the heroes MUST be included")
func (r *joinedRoom) namesakes(ctx context.Context, s *Server, user id.User, me nid.StateKey) ([]nid.StateKey, error) {
	out := []nid.StateKey{me}
	heroes, err := s.heroes(ctx, r.Room, user)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(heroes))
	for i, h := range heroes {
		names[i] = string(h)
	}
	numbers, err := s.events.StateKeyNIDs(ctx, names)
	for _, n := range numbers {
		out = append(out, n)
	}
	return out, err
}

// previousState sets prev to the room's state at the last sync. It reports true
// when there was none.
func (s *Server) previousState(ctx context.Context, room nid.Room, since int64, d *deltaQuery) (unknown bool, err error) {
	last, err := s.events.LastBefore(ctx, room, since)
	if err != nil || last == 0 {
		return last == 0, err
	}
	e, err := s.events.Event(ctx, last)
	if err != nil || !e.HasState {
		return true, err
	}
	batch := statetree.NewBatch(s.events)
	d.nodes = batch
	d.prev, err = s.rootAfter(ctx, e, batch)
	return false, err
}

// writeHistory writes a timeline and the state that goes with it.
func (s *Server) writeHistory(ctx context.Context, a *answer, b *object, room id.Room, t *timeline, d *deltaQuery) (bool, error) {
	q := a.q
	var state []nid.Event
	if f := &q.filter.Room.State; f.allowsRoom(room) {
		var err error
		if state, err = s.readDelta(ctx, d); err != nil {
			return false, err
		}
		if f.LazyLoadMembers && !f.IncludeRedundant && !d.whole {
			if state, err = s.sent.drop(ctx, s.events, q, room, state, d); err != nil {
				return false, err
			}
		}
	}
	o := b.key("timeline")
	o.raw(`{"events":`)
	if err := s.writePiece(ctx, o, a.viewer(), q.fields, t.events, t.piece); err != nil {
		return false, err
	}
	if t.limited {
		o.raw(`,"limited":true`)
	} else {
		o.raw(`,"limited":false`)
	}
	o.raw(`,"prev_batch":`)
	o.string(prevToken(t.prev, a.plan.to.Events, t.deepest))
	o.raw(`}`)
	name := "state"
	if q.stateAfter {
		name = "state_after"
	}
	if len(state) > 0 || q.stateAfter {
		if err := s.writeState(ctx, b, name, a.viewer(), q.fields, &q.filter.Room.State, state); err != nil {
			return false, err
		}
	}
	return len(t.events) > 0 || len(state) > 0 || t.limited, nil
}

// writeEphemeral writes receipts and typing.
func (r *joinedRoom) writeEphemeral(ctx context.Context, a *answer, b *object) (bool, error) {
	q, f := a.q, &a.q.filter.Room.Ephemeral
	if !f.allowsRoom(r.ID) {
		return false, nil
	}
	var list [][]byte
	from := q.since.Receipts
	if r.newly {
		from = 0
	}
	if f.allowsType("m.receipt") && from < a.plan.to.Receipts {
		receipts, err := a.s.readReceipts(ctx, r.NID, q.user, from, a.plan.to.Receipts)
		if err != nil {
			return false, err
		}
		if content := receiptContent(receipts, a.plan.ignored); content != nil {
			list = append(list, ephemeral("m.receipt", content))
		}
	}
	if f.allowsType("m.typing") {
		since := q.since.Typing
		if r.newly {
			since = 0
		}
		users, ok := a.s.typing.typists(r.ID, since, !r.newly)
		if ok || q.foreign != nil && q.foreign.blank && !r.newly {
			list = append(list, ephemeral("m.typing", typingContent(users, a.plan.ignored)))
		}
	}
	if len(list) > 0 || r.newly {
		events(b, "ephemeral", list) // the conformance tests look for it in a first answer, empty or not
	}
	return len(list) > 0, nil
}

// ephemeral makes an event without sender.
func ephemeral(typ string, content []byte) []byte {
	o := new(output)
	o.raw(`{"content":`)
	o.bytes(content)
	o.raw(`,"type":`)
	o.string(typ)
	o.raw(`}`)
	return o.buf
}

// heroes gives the members that name a room which has no name.
func (s *Server) heroes(ctx context.Context, room *eventstore.Room, user id.User) ([]id.User, error) {
	state := s.events.CurrentState(room)
	named, err := state.GetMany(ctx, []eventauth.Key{{Type: "m.room.name"}, {Type: "m.room.canonical_alias"}})
	if err != nil {
		return nil, err
	}
	if e := named[eventauth.Key{Type: "m.room.name"}]; e != nil && stringField(e, "name") != "" {
		return nil, nil
	}
	if e := named[eventauth.Key{Type: "m.room.canonical_alias"}]; e != nil && stringField(e, "alias") != "" {
		return nil, nil
	}
	return s.events.Heroes(ctx, room.NID, user)
}

// writeSummary writes counts and heroes.
//
// spec: client-server §6.4 (RoomSummary)
func (s *Server) writeSummary(ctx context.Context, b *object, room *eventstore.Room, user id.User) error {
	heroes, err := s.heroes(ctx, room, user)
	if err != nil {
		return err
	}
	in := b.key("summary").open()
	if len(heroes) > 0 {
		texts(in, "m.heroes", heroes)
	}
	in.key("m.joined_member_count").int(room.Joined)
	in.key("m.invited_member_count").int(room.Invited)
	in.close()
	return nil
}
