package roomserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/statetree"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
)

// draft is what is about to happen to a room: new events, and the room as it is
// after them, computed on one revision of it. Nothing is stored before commit. A
// draft belongs to one goroutine, the room's queue.
type draft struct {
	s     *Server
	room  *eventstore.Room // what it was computed on; revision 0: a new room
	nodes *statetree.Batch
	auth  *eventauth.Checker
	// remembered: the room was not read just now.
	remembered bool

	added []*addition
	byID  map[id.Event]*eventstore.Event
	byNID map[nid.Event]*eventstore.Event
	// seen are stored events that were looked at: what of them can change, changes
	// behind the room's fence.
	seen map[id.Event]*eventstore.Event
	// coming is what is known of the events that are about to be received.
	coming  map[id.Event]coming
	tips    []*eventstore.Event // forward extremities, loaded
	began   []*eventstore.Event // those that the draft began with
	current statetree.Root      // the state resolved over them, once it is settled
	depth   int64
	// patient: the state over several extremities is resolved when somebody has to know it, not with
	// each event. open are the states after them that wait for that.
	patient bool
	open    []statetree.Root
	// memo holds the resolutions made here, for the server's memory after the commit.
	memo   []resolved
	looked *looked
	// redacted are targets, old or new, and the redaction that hides them.
	redacted []redaction
	// gaps are previous events that nobody gave us, with the depth of who refers to them.
	gaps []gap
	// entered: the room begins anew with a join over federation.
	entered bool
	// also runs in the transaction that stores the draft.
	also func(ctx context.Context, tx *sqldb.Tx, room nid.Room) error
	// txns are the clients' transactions that made events.
	txns []clientTxn
	// asked are the contexts of those who asked for events of it.
	asked []context.Context
}

// wanted is errStale when somebody who asked for a part of a draft has given up. So the draft is computed again without it.
func (d *draft) wanted() error {
	for _, ctx := range d.asked {
		if err := d.s.givenUp(ctx); err != nil {
			return fmt.Errorf("%w: who asked for a part of it has given up: %w", errStale, err)
		}
	}
	return nil
}

// givenUp says why something is not to be done any more: who asked for it may have asked elsewhere, and for something else after that.
func (s *Server) givenUp(ctx context.Context) error { return cmp.Or(ctx.Err(), s.db.Stale(ctx)) }

// coming is what is known of an event that is about to be received: not stored, referred to by events that
// are, redacted by some.
type coming struct {
	absent, referred bool
	redactions       []nid.Event
}

// addition is one event of a draft.
type addition struct {
	*eventstore.Event
	// known: the event was stored before, as an outlier.
	known bool
	// partial: and that without all its auth events.
	partial bool
	// live: the event gets a stream position, and clients see it as new. Otherwise
	// it is history.
	live bool
	// ours: the event was made here just now, so that nobody can have referred to it.
	ours bool
}

// redaction is an event and the one that hides it. late: the redaction was there
// first.
type redaction struct {
	target, by nid.Event
	id         id.Event // of the target
	late       bool
}

type gap struct {
	missing id.Event
	of      *eventstore.Event
}

// newDraft begins with the room as it is stored.
func (s *Server) newDraft(ctx context.Context, room *eventstore.Room) (*draft, error) {
	tips, err := s.store.Events(ctx, room.Extremities)
	if err != nil {
		return nil, fmt.Errorf("loading the forward extremities of %s: %w", room.ID, err)
	}
	return s.draftAt(room, tips), nil
}

// draftAt begins with a room and its forward extremities.
func (s *Server) draftAt(room *eventstore.Room, tips []*eventstore.Event) *draft {
	return &draft{
		s: s, room: room, nodes: statetree.NewBatch(s.store), auth: eventauth.NewChecker(),
		byID: make(map[id.Event]*eventstore.Event), byNID: make(map[nid.Event]*eventstore.Event),
		seen:    make(map[id.Event]*eventstore.Event),
		current: room.CurrentState, depth: room.Depth, tips: tips, began: tips,
	}
}

// emptyDraft begins with a room that does not exist yet.
func (s *Server) emptyDraft(ctx context.Context, rules *event.Rules, room id.Room) (*draft, error) {
	n, err := s.writer.RoomNID(ctx)
	if err != nil {
		return nil, err
	}
	return s.newDraft(ctx, &eventstore.Room{NID: n, ID: room, Version: rules.Version, Rules: rules})
}

// mark and rewind undo what one send of a batch did before it failed.
type mark struct {
	added, memo, redacted, gaps, txns int
	tips                              []*eventstore.Event
	current                           statetree.Root
	open                              []statetree.Root
	depth                             int64
}

func (d *draft) mark() mark {
	return mark{len(d.added), len(d.memo), len(d.redacted), len(d.gaps), len(d.txns), d.tips, d.current, d.open, d.depth}
}

func (d *draft) rewind(m mark) {
	for _, a := range d.added[m.added:] {
		delete(d.byID, a.ID)
		delete(d.byNID, a.NID)
		d.looked = nil
	}
	d.added, d.memo, d.redacted = d.added[:m.added], d.memo[:m.memo], d.redacted[:m.redacted]
	d.gaps, d.txns = d.gaps[:m.gaps], d.txns[:m.txns]
	d.tips, d.current, d.open, d.depth = m.tips, m.current, m.open, m.depth
}

// accepted tells whether an event takes part in the room: it can be a forward
// extremity and changes the state.
func accepted(e *eventstore.Event) bool {
	return e.Flags&(eventstore.Rejected|eventstore.SoftFailed) == 0
}

// after gives the state after an event.
func (d *draft) after(ctx context.Context, e *eventstore.Event) (statetree.Root, error) {
	if !e.IsState || e.Flags&eventstore.Rejected != 0 {
		return e.StateBefore, nil
	}
	change := statetree.Change{Key: e.Key(), Event: e.NID}
	root, err := statetree.Apply(ctx, d.nodes, e.StateBefore, []statetree.Change{change}, d.nodes)
	if err != nil {
		return root, fmt.Errorf("the state after %s: %w", e.ID, err)
	}
	return root, nil
}

// before gives the state before an event whose previous events are all known: the
// states after them, resolved. extra are further states to resolve with, where
// another server told the state at a gap.
func (d *draft) before(ctx context.Context, prevs []*eventstore.Event, extra ...statetree.Root) (statetree.Root, error) {
	if len(extra) == 0 && sameEvents(prevs, d.tips) {
		return d.current, d.settle(ctx)
	}
	roots := extra
	for _, p := range prevs {
		r, err := d.after(ctx, p)
		if err != nil {
			return r, err
		}
		roots = append(roots, r)
	}
	return d.resolve(ctx, roots)
}

func sameEvents(a, b []*eventstore.Event) bool {
	if len(a) != len(b) {
		return false
	}
	for _, e := range a {
		if !slices.ContainsFunc(b, func(o *eventstore.Event) bool { return o.NID == e.NID }) {
			return false
		}
	}
	return true
}

// add puts an event whose verdict is known (its flags say it) into the draft, and
// moves the room's extremities and state on.
func (d *draft) add(ctx context.Context, a *addition) error {
	d.added = append(d.added, a)
	d.byID[a.ID], d.byNID[a.NID] = a.Event, a.Event
	if a.Depth > d.depth && accepted(a.Event) {
		d.depth = a.Depth
	}
	if err := d.applyRedactions(ctx, a); err != nil {
		return err
	}
	if !a.live || !accepted(a.Event) {
		return nil
	}
	return d.advance(ctx, a)
}

// advance makes an event a forward extremity in place of what it refers to. One that
// came late, when others refer to it already, only ends those.
//
// An event may refer to others only through events that are no extremities of
// ours, because they were rejected or soft failed: their ancestors are covered by
// it as well.
func (d *draft) advance(ctx context.Context, a *addition) error {
	referred, err := d.isReferred(ctx, a)
	if err != nil {
		return err
	}
	covered, err := d.covered(ctx, a.Event)
	if err != nil {
		return err
	}
	tips := make([]*eventstore.Event, 0, len(d.tips)+1)
	for _, t := range d.tips {
		if !covered[t.ID] {
			tips = append(tips, t)
		}
	}
	if !referred {
		tips = append(tips, a.Event)
	}
	if referred && len(tips) == len(d.tips) {
		return nil
	}
	slices.SortFunc(tips, func(a, b *eventstore.Event) int { return int(a.NID - b.NID) })
	roots := make([]statetree.Root, len(tips))
	for i, t := range tips {
		if roots[i], err = d.after(ctx, t); err != nil {
			return err
		}
	}
	if d.patient {
		d.tips, d.open = tips, roots
		return nil
	}
	current, err := d.resolve(ctx, roots)
	if err != nil {
		return err
	}
	d.tips, d.current = tips, current
	return nil
}

// errUnsettled reports that the state over the forward extremities of a patient draft cannot be
// resolved. Which of its events is the one too many, only a draft that is not patient tells.
var errUnsettled = errors.New("the current state cannot be resolved")

// settle makes d.current the state over the forward extremities.
func (d *draft) settle(ctx context.Context) error {
	if d.open == nil {
		return nil
	}
	current, err := d.resolve(ctx, d.open)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnsettled, err)
	}
	d.current, d.open = current, nil
	return nil
}

// currentState gives what the rules need to judge an event by the current state. The states after
// the extremities tell it by themselves where they agree: what is not conflicted comes through
// resolution as it is. What none of them has, resolution may bring back, and what they contradict each
// other in, it decides.
//
// spec: rooms/v2, rooms/v12 (State resolution, Algorithm, the last step)
func (d *draft) currentState(ctx context.Context, ev *event.Event) (eventauth.MapState, error) {
	keys := append(eventauth.NeededKeys(ev), eventauth.Key{Type: eventauth.TypeCreate})
	if d.open == nil {
		return d.state(ctx, d.current, keys)
	}
	agreed, err := d.agree(ctx, keys)
	if err != nil {
		return nil, err
	}
	if agreed {
		return d.state(ctx, d.open[0], keys)
	}
	if err := d.settle(ctx); err != nil {
		return nil, err
	}
	return d.state(ctx, d.current, keys)
}

// agree tells whether all open states hold the same events for all keys.
func (d *draft) agree(ctx context.Context, keys []eventauth.Key) (bool, error) {
	known, err := d.s.store.KeyMap(ctx, keys)
	if err != nil {
		return false, err
	}
	places := make([]statetree.Key, len(keys))
	for i, k := range keys {
		place, ok := known[k]
		if !ok {
			return false, nil
		}
		places[i] = place
	}
	lookups := make([]statetree.Lookup, 0, len(d.open)*len(places))
	for _, root := range d.open {
		for _, k := range places {
			lookups = append(lookups, statetree.Lookup{Root: root, Key: k})
		}
	}
	found, err := statetree.GetEach(ctx, d.nodes, lookups)
	if err != nil {
		return false, fmt.Errorf("states of %s: %w", d.room.ID, err)
	}
	for i, n := range found {
		if n == 0 || n != found[i%len(places)] {
			return false, nil
		}
	}
	return true, nil
}

// maxCovered bounds the walk through rejected and soft-failed ancestors.
const maxCovered = 1000

// covered gives the IDs of the events that an extremity replaces.
func (d *draft) covered(ctx context.Context, e *eventstore.Event) (map[id.Event]bool, error) {
	seen := make(map[id.Event]bool)
	next := e.PrevEvents
	for len(next) > 0 && len(seen) < maxCovered {
		var unseen []id.Event
		for _, p := range next {
			if !seen[p] {
				seen[p] = true
				unseen = append(unseen, p)
			}
		}
		next = nil
		if sameTip(d.tips, unseen) {
			continue // the usual case needs no look at the events
		}
		events, err := d.eventsByID(ctx, unseen)
		if err != nil {
			return nil, err
		}
		for _, p := range events {
			if p.Flags&eventstore.Outlier == 0 && !accepted(p) {
				next = append(next, p.PrevEvents...)
			}
		}
	}
	return seen, nil
}

// sameTip tells whether all events are tips.
func sameTip(tips []*eventstore.Event, ids []id.Event) bool {
	for _, i := range ids {
		if !slices.ContainsFunc(tips, func(t *eventstore.Event) bool { return t.ID == i }) {
			return false
		}
	}
	return true
}

// isReferred tells whether an event that came late is a previous event of an accepted
// one that we have.
func (d *draft) isReferred(ctx context.Context, e *addition) (bool, error) {
	if e.ours {
		return false, nil
	}
	for _, a := range d.added {
		if accepted(a.Event) && slices.Contains(a.PrevEvents, e.ID) {
			return true, nil
		}
	}
	if !d.coming[e.ID].referred {
		return false, nil
	}
	ends, err := d.s.store.BackwardExtremities(ctx, d.room.NID)
	if err != nil {
		return false, err
	}
	var children []nid.Event
	for _, end := range ends {
		if end.Missing == e.ID {
			children = append(children, end.Event)
		}
	}
	events, err := d.events(ctx, children)
	return slices.ContainsFunc(events, accepted), err
}

// state gives the events of some keys in a state, those that exist, as the rules
// look at them: before any redaction.
func (d *draft) state(ctx context.Context, root statetree.Root, keys []eventauth.Key) (eventauth.MapState, error) {
	found := make(eventauth.MapState, len(keys)+1)
	places, err := d.s.store.Keys(ctx, keys)
	if err != nil {
		return nil, fmt.Errorf("state keys: %w", err)
	}
	nids, err := statetree.GetMany(ctx, d.nodes, root, places)
	if err != nil {
		return nil, fmt.Errorf("state of %s: %w", d.room.ID, err)
	}
	events, err := d.plain(ctx, slices.DeleteFunc(nids, func(n nid.Event) bool { return n == 0 }))
	if err != nil {
		return nil, err
	}
	found.Put(events...)
	return found, nil
}

// authState gives what the rules need to judge an event by a state.
func (d *draft) authState(ctx context.Context, root statetree.Root, ev *event.Event) (eventauth.MapState, error) {
	return d.state(ctx, root, append(eventauth.NeededKeys(ev), eventauth.Key{Type: eventauth.TypeCreate}))
}
