package roomserver

import (
	"cmp"
	"context"
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
)

// clientTxn is a client's transaction of a draft.
type clientTxn struct {
	sendOptions
	event *eventstore.Event
}

// writeSet is a draft made ready: all that a transaction needs, so that it is short.
type writeSet struct {
	d      *draft
	room   *eventstore.Room // as it will be
	insert []write.Row
	place  []*eventstore.Event
	// completed are events of place that were stored without all their auth events.
	completed []*eventstore.Event
	live      []*eventstore.Event // in the order of their stream positions
	history   []*eventstore.Event
	members   []write.MemberChange
	users     []string // local users whose membership changes
	arrived   []id.Event
	gaps      []write.Backward
	pending   []*eventstore.Event // redactions whose target is not here
	pos       int64               // the last stream position
}

// commit is step 14: it stores a draft and publishes it. errStale reports that the
// room is not what the draft was computed on.
func (s *Server) commit(ctx context.Context, d *draft) error {
	if len(d.added) == 0 {
		return s.overtaken(ctx, d)
	}
	w, err := d.ready(ctx)
	if err != nil {
		return err
	}
	err = s.group.Steps(ctx, w.steps(ctx)...)
	if err != nil {
		s.heads.forget(d.room.ID)
	}
	if errors.Is(err, write.ErrFence) {
		return fmt.Errorf("%w: %w", errStale, err)
	}
	if err != nil {
		return err
	}
	s.metrics.count(d.added)
	return nil
}

// ready does everything that needs no transaction.
func (d *draft) ready(ctx context.Context) (*writeSet, error) {
	w := &writeSet{d: d}
	room := *d.room
	room.CurrentState, room.Depth, room.Stub = d.current, d.depth, false
	room.Extremities = make([]nid.Event, len(d.tips))
	for i, t := range d.tips {
		room.Extremities[i] = t.NID
	}
	w.room = &room
	parents, err := d.numbers(ctx)
	if err != nil {
		return nil, err
	}
	roots := []statetree.Root{d.current}
	for _, a := range d.added {
		roots = append(roots, a.StateBefore)
		if a.known {
			w.place = append(w.place, a.Event)
			if a.partial {
				w.completed = append(w.completed, a.Event)
			}
		} else {
			w.insert = append(w.insert, d.s.writer.Row(a.Event, parents))
		}
		if a.live {
			w.live = append(w.live, a.Event)
		} else {
			w.history = append(w.history, a.Event)
		}
		if !a.ours {
			w.arrived = append(w.arrived, a.ID)
		}
		if a.Type == eventauth.TypeRedaction && a.Redacts != "" && accepted(a.Event) && !d.redacts(a.NID) {
			w.pending = append(w.pending, a.Event)
		}
	}
	for _, g := range d.gaps {
		if !rejectedFlag(g.of) {
			w.gaps = append(w.gaps, write.Backward{Event: g.of.NID, Missing: g.missing})
		}
	}
	if err := d.nodes.Keep(roots...); err != nil {
		return nil, err
	}
	if err := d.members(ctx, w); err != nil {
		return nil, err
	}
	return w, nil
}

// redacts tells whether a redaction of the draft found its target.
func (d *draft) redacts(by nid.Event) bool {
	return slices.ContainsFunc(d.redacted, func(r redaction) bool { return r.by == by })
}

// steps are the parts of the write, which may run more than once. The room's row comes first: it is the
// fence, and it keeps other writers of the room out, so that what the room alone has is written with it; the stream's
// counter comes last, because it keeps out all writers.
func (w *writeSet) steps(ctx context.Context) []sqldb.Step {
	steps := make([]sqldb.Step, 1, 4)
	steps[0] = sqldb.Step{Lock: roomLock(w.room.NID), Run: func(tx *sqldb.Tx) error { return w.enter(ctx, tx) }}
	if w.d.room.Revision == 0 {
		steps[0].Lock = newRoomLock(w.room.ID)
	}
	if also := w.d.also; also != nil {
		steps = append(steps, sqldb.Step{Lock: directoryLock(), Run: func(tx *sqldb.Tx) error { return also(ctx, tx, w.room.NID) }})
	}
	if len(w.history) > 0 {
		steps = append(steps, sqldb.Step{Lock: backfillLock(), Run: func(tx *sqldb.Tx) error { return w.backward(ctx, tx) }})
	}
	return append(steps, sqldb.Step{Lock: eventsLock(), Run: func(tx *sqldb.Tx) error { return w.store(ctx, tx) }})
}

// enter writes what needs no position in the stream.
func (w *writeSet) enter(ctx context.Context, tx *sqldb.Tx) error {
	d, out := w.d, w.d.s.writer
	if err := w.fence(ctx, tx); err != nil {
		return err
	}
	if err := out.InsertNodes(ctx, tx, d.nodes); err != nil {
		return err
	}
	for _, t := range d.txns {
		made, err := out.PutTxn(ctx, tx, write.Txn{User: t.User, Device: t.Txn.Device, Scope: t.Txn.Scope, ID: t.Txn.ID,
			Event: t.event.NID, Created: d.s.now()})
		if err != nil {
			return err
		}
		if made != 0 {
			return fmt.Errorf("%w: the client's transaction was carried out elsewhere", errStale)
		}
	}
	return nil
}

// store writes the rest.
func (w *writeSet) store(ctx context.Context, tx *sqldb.Tx) error {
	out := w.d.s.writer
	if err := w.forward(ctx, tx); err != nil {
		return err
	}
	if err := out.InsertEvents(ctx, tx, w.insert); err != nil {
		return err
	}
	if err := out.PlaceEvents(ctx, tx, w.place); err != nil {
		return err
	}
	for _, e := range w.completed {
		if err := out.SetAuth(ctx, tx, e); err != nil {
			return err
		}
	}
	if err := w.edges(ctx, tx); err != nil {
		return err
	}
	if err := w.storeMembers(ctx, tx); err != nil {
		return err
	}
	// With all locks held: waiting for them may have taken long.
	if err := w.d.wanted(); err != nil {
		return err
	}
	tx.OnCommit(w.publish)
	return nil
}

// fence makes sure that the room is as the draft saw it, or new.
func (w *writeSet) fence(ctx context.Context, tx *sqldb.Tx) error {
	out := w.d.s.writer
	revision := w.d.room.Revision
	if revision == 0 {
		ok, err := out.InsertRoom(ctx, tx, w.room.NID, w.room.ID, w.room.Version)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("room %s: %w", w.room.ID, write.ErrFence)
		}
		revision = 1
	}
	return out.UpdateRoom(ctx, tx, write.RoomUpdate{NID: w.room.NID, Revision: revision, CurrentState: w.room.CurrentState,
		Extremities: w.room.Extremities, Depth: w.room.Depth, Version: w.room.Version, Stub: w.room.Stub})
}

// backward takes positions for history.
func (w *writeSet) backward(ctx context.Context, tx *sqldb.Tx) error {
	lowest, err := w.d.s.writer.BackfillPositions(ctx, tx, len(w.history))
	if err != nil {
		return err
	}
	for i, e := range w.history {
		e.StreamPos = lowest + int64(i)
	}
	return nil
}

// forward takes stream positions for what clients see as new.
func (w *writeSet) forward(ctx context.Context, tx *sqldb.Tx) error {
	w.pos = 0
	n := int64(len(w.live))
	if n == 0 {
		return nil
	}
	first, err := stream.Advance(ctx, tx, stream.Events, n)
	if err != nil {
		return err
	}
	for i, e := range w.live {
		e.StreamPos = first + int64(i)
	}
	w.pos = first + n - 1
	return nil
}

// edges stores redactions and where the graph ends backward.
func (w *writeSet) edges(ctx context.Context, tx *sqldb.Tx) error {
	d, out := w.d, w.d.s.writer
	if err := out.AddBackward(ctx, tx, w.room.NID, w.gaps); err != nil {
		return err
	}
	if err := out.DeleteBackward(ctx, tx, w.room.NID, w.arrived); err != nil {
		return err
	}
	for _, r := range w.pending {
		if err := out.AddPendingRedaction(ctx, tx, r.Redacts, r.NID); err != nil {
			return err
		}
	}
	for _, r := range d.redacted {
		if err := out.SetRedacted(ctx, tx, r.target, r.by); err != nil {
			return err
		}
		if r.late {
			if err := out.DeletePendingRedactions(ctx, tx, r.id); err != nil {
				return err
			}
		}
	}
	return nil
}

// storeMembers gives the changes of members the position of the event that made them,
// or of the last one, where the merge of branches did.
func (w *writeSet) storeMembers(ctx context.Context, tx *sqldb.Tx) error {
	if len(w.members) == 0 {
		return nil
	}
	at := make(map[nid.Event]int64, len(w.live))
	for _, e := range w.live {
		at[e.NID] = e.StreamPos
	}
	for i := range w.members {
		m := &w.members[i]
		if m.StreamPos = at[m.Event]; m.StreamPos == 0 {
			m.StreamPos = w.pos
		}
	}
	by, err := w.d.s.writer.SetMembers(ctx, tx, w.room.NID, w.members)
	w.room.Joined, w.room.Invited = w.d.room.Joined+by.Joined, w.d.room.Invited+by.Invited
	return err
}

// publish runs after the commit.
func (w *writeSet) publish() {
	s := w.d.s
	var kept []resolved
	for _, m := range w.d.memo {
		if slices.ContainsFunc(w.d.added, func(a *addition) bool { return a.StateBefore == m.root }) {
			kept = append(kept, m)
		}
	}
	s.memo.put(kept)
	s.heads.put(w)
	rows := make([]*eventstore.Event, len(w.insert))
	for i, r := range w.insert {
		rows[i] = r.Event
	}
	s.store.Remember(rows)
	if w.pos > 0 {
		u := bus.Update{Stream: stream.Events, Pos: w.pos, Rooms: []string{string(w.room.ID)}, Users: w.users}
		if len(w.members) == 0 {
			u.Lot = string(eventstore.NewLot(w.live).Encode())
		}
		bus.PublishUpdate(s.cfg.Bus, u)
	}
}

// members finds the members whose membership in the current state changes.
func (d *draft) members(ctx context.Context, w *writeSet) error {
	var keys []statetree.Key
	var now []nid.Event
	seen := make(map[nid.StateKey]bool)
	flush := func() error {
		changes, err := d.memberChanges(ctx, keys, now)
		if err != nil {
			return err
		}
		for _, c := range changes {
			if c.Local {
				w.users = append(w.users, string(c.User))
			}
		}
		w.members = append(w.members, changes...)
		keys, now = keys[:0], now[:0]
		return nil
	}
	const batch = 500
	err := statetree.Diff(ctx, d.nodes, d.room.CurrentState, d.current, func(k statetree.Key, _, in nid.Event) error {
		if k.Type != nid.TypeMember {
			return nil
		}
		keys, now = append(keys, k), append(now, in)
		if d.entered {
			seen[k.StateKey] = true
		}
		if len(keys) < batch {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err == nil && d.entered {
		if keys, now, err = d.localLeftovers(ctx, seen); err == nil {
			err = flush()
		}
	}
	if err != nil {
		return fmt.Errorf("the changed members of %s: %w", d.room.ID, err)
	}
	return nil
}

// memberChanges makes changes from places of member events and the events that
// are there now.
func (d *draft) memberChanges(ctx context.Context, keys []statetree.Key, now []nid.Event) ([]write.MemberChange, error) {
	var nids []nid.Event
	for _, n := range now {
		if n != 0 {
			nids = append(nids, n)
		}
	}
	events, err := d.events(ctx, nids)
	if err != nil {
		return nil, err
	}
	texts, err := d.s.store.KeyTexts(ctx, keys)
	if err != nil {
		return nil, err
	}
	out := make([]write.MemberChange, 0, len(keys))
	next := 0
	for i, k := range keys {
		c := write.MemberChange{UserNID: k.StateKey, User: id.User(texts[k].StateKey), Event: now[i]}
		if now[i] != 0 {
			c.Membership = eventstore.ParseMembership(events[next].Membership())
			next++
		}
		// A state key of a member event can be anything; rules refuse what is no user
		// ID only where they look at it.
		user, err := id.ParseUser(string(c.User))
		if err != nil {
			continue
		}
		c.Local = d.s.local(user)
		out = append(out, c)
	}
	return out, nil
}

// newEvent makes the row of an event of the draft. known is its row as an outlier,
// or nil.
func (d *draft) newEvent(ctx context.Context, ev *event.Event, known *eventstore.Event) (*eventstore.Event, error) {
	auth, err := d.numbersOf(ctx, ev.AuthEvents)
	if err != nil {
		return nil, err
	}
	var n nid.Event
	if known != nil {
		n = known.NID
		if last := highest(auth); last > max(n, d.room.Unordered) {
			room := *d.room
			room.Unordered = last
			d.room = &room
		}
	} else if n, err = d.s.writer.EventNIDs(ctx, 1, highest(auth)); err != nil {
		return nil, err
	}
	return d.s.newEvent(ctx, d.room.NID, n, ev, auth, 0)
}

// newEvent makes an event's row, without a place in the room. auth are the numbers
// of its auth events.
func (s *Server) newEvent(ctx context.Context, room nid.Room, n nid.Event, ev *event.Event, auth []nid.Event, flags eventstore.Flags) (*eventstore.Event, error) {
	var keys []string
	if ev.IsState {
		keys = []string{ev.StateKey}
	}
	types, stateKeys, err := s.writer.Intern(ctx, []string{ev.Type}, keys)
	if err != nil {
		return nil, err
	}
	e := &eventstore.Event{Event: ev, NID: n, RoomNID: room, TypeNID: types[ev.Type], Flags: flags, AuthNIDs: sortedNIDs(auth)}
	if ev.IsState {
		e.StateKeyNID = stateKeys[ev.StateKey]
	}
	return e, nil
}

// intern gives numbers to the types and state keys of many events at once, of those for which want is true.
func (s *Server) intern(ctx context.Context, events []*event.Event, want func(i int) bool) error {
	var types, keys []string
	for i, ev := range events {
		if !want(i) {
			continue
		}
		if types = append(types, ev.Type); ev.IsState {
			keys = append(keys, ev.StateKey)
		}
	}
	_, _, err := s.writer.Intern(ctx, types, keys)
	return err
}

// highest gives the highest of some numbers, 0 of none.
func highest(list []nid.Event) (n nid.Event) {
	for _, e := range list {
		n = max(n, e)
	}
	return n
}

func sortedNIDs(list []nid.Event) []nid.Event {
	out := slices.Clone(list)
	slices.Sort(out)
	return slices.Compact(out)
}

// userNID gives the number of a user, and a new one to one who has none.
func (s *Server) userNID(ctx context.Context, user id.User) (nid.StateKey, error) {
	_, keys, err := s.writer.Intern(ctx, nil, []string{string(user)})
	return keys[string(user)], err
}

// insertOutliers stores outliers, whose auth events have the numbers in auth, and the auth
// events of some that were stored without them. Where another writer stored one of them first, it is
// a unique violation.
func (s *Server) insertOutliers(ctx context.Context, events, completed []*eventstore.Event, auth map[id.Event]nid.Event) error {
	if len(events)+len(completed) == 0 {
		return nil
	}
	rows := make([]write.Row, len(events))
	for i, e := range events {
		rows[i] = s.writer.Row(e, eventstore.Parents{Auth: auth})
	}
	of := events
	if len(of) == 0 {
		of = completed
	}
	room := of[0].RoomNID // that of all
	return s.group.Steps(ctx, sqldb.Step{Lock: roomLock(room), Run: func(tx *sqldb.Tx) error {
		if err := s.writer.LockRoom(ctx, tx, room); err != nil {
			return err
		}
		for _, e := range completed {
			if err := s.writer.SetAuth(ctx, tx, e); err != nil {
				return err
			}
		}
		return s.writer.InsertEvents(ctx, tx, rows)
	}})
}

// stage stores the events of a transaction and its answer, together.
func (s *Server) stage(ctx context.Context, origin id.Server, txnID string, answer []byte, rows []eventstore.Staged) error {
	return s.group.Steps(ctx,
		sqldb.Step{Lock: answerLock(origin, txnID), Run: func(tx *sqldb.Tx) error {
			first, err := s.writer.PutInboundTxn(ctx, tx, origin, txnID, s.now(), answer)
			if err == nil && !first {
				err = errRepeated
			}
			return err
		}},
		sqldb.Step{Lock: inboundLock(), Run: func(tx *sqldb.Tx) error { return s.writer.Stage(ctx, tx, rows) }})
}

// unstage drops what is processed of the staged rows of a room, and keeps the events that they still have.
func (s *Server) unstage(ctx context.Context, left []eventstore.Staged) error {
	if len(left) == 0 {
		return nil
	}
	left = slices.SortedFunc(slices.Values(left), func(a, b eventstore.Staged) int { return cmp.Compare(a.Seq, b.Seq) })
	return s.group.Steps(ctx, sqldb.Step{Lock: stagedLock(left[0].Room), Run: func(tx *sqldb.Tx) error {
		return s.writer.Unstage(ctx, tx, left)
	}})
}

func (s *Server) setAnswer(ctx context.Context, origin id.Server, txnID string, answer []byte) error {
	return s.group.Steps(ctx, sqldb.Step{Lock: answerLock(origin, txnID), Run: func(tx *sqldb.Tx) error {
		return s.writer.SetInboundTxn(ctx, tx, origin, txnID, answer)
	}})
}
