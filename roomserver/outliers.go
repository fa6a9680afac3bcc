package roomserver

import (
	"context"
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

const (
	// outlierBatch is how many outliers are verified and stored together.
	outlierBatch = 256
	// outlierCache is how many auth events of a spool are kept parsed.
	outlierCache = 1024
)

// spoolStatus is what became of an entry of a spool.
type spoolStatus struct {
	nid     nid.Event // 0: not stored
	flags   eventstore.Flags
	isState bool
	key     statetree.Key
	// partial: it was stored while some of its auth events were not known.
	partial bool
}

// outliers stores the events of a spool.
type outliers struct {
	s          *Server
	room       *eventstore.Room
	sp         *spool
	auth       *eventauth.Checker
	done       []spoolStatus // by the spool's index
	cache      map[int32]*event.Event
	later      error // why one was left out that may be good; laterDepth is the depth of the deepest such
	laterDepth int64
}

// storeSpool verifies the events of a spool, signatures and auth rules by their
// auth events, and stores them as outliers: events without a place in the timeline.
// Those that break a rule are stored as rejected, so that what names them among
// its auth events is rejected too. Those that are not signed, or lack auth events,
// are left out.
//
// Outliers change nothing in the room, so they are stored ahead of what needs
// them, without the fence, and memory stays bounded however many there are.
//
// spec: server-server §5.1.1 (checks 2 and 4)
func (s *Server) storeSpool(ctx context.Context, room *eventstore.Room, sp *spool) (*outliers, error) {
	o := &outliers{s: s, room: room, sp: sp, auth: eventauth.NewChecker(), cache: make(map[int32]*event.Event)}
	if room.Rules.RoomIDIsCreateHash {
		sp.intern(eventauth.CreateEventID(room.ID)) // needed by all, named by none
	}
	o.done = make([]spoolStatus, len(sp.entries))
	if err := o.lookup(ctx); err != nil {
		return nil, err
	}
	order := sp.order(func(i int32) bool { return o.done[i].nid != 0 })
	for len(order) > 0 {
		n := min(outlierBatch, len(order))
		if err := o.batch(ctx, order[:n]); err != nil {
			return nil, err
		}
		order = order[n:]
	}
	return o, nil
}

// lookup finds what is stored already.
func (o *outliers) lookup(ctx context.Context) error {
	all := make([]int32, len(o.sp.entries))
	for i := range all {
		all[i] = int32(i)
	}
	for part := range slices.Chunk(all, outlierBatch) {
		if err := o.find(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// find looks for entries in the store.
func (o *outliers) find(ctx context.Context, list []int32) error {
	ids := make([]id.Event, len(list))
	for k, i := range list {
		ids[k] = o.sp.entries[i].id
	}
	found, err := o.s.eventsByID(ctx, ids)
	if err != nil {
		return err
	}
	for _, e := range found {
		if e.RoomNID == o.room.NID {
			o.done[o.sp.index[e.ID]] = statusOf(e)
		}
	}
	return nil
}

func statusOf(e *eventstore.Event) spoolStatus {
	return spoolStatus{nid: e.NID, flags: e.Flags, isState: e.IsState, key: e.Key(), partial: partial(e)}
}

// partial tells whether an event was stored while some of its auth events were not
// known, as one of a room that we were not in.
func partial(e *eventstore.Event) bool {
	distinct := slices.Clone(e.AuthEvents)
	slices.Sort(distinct)
	return len(e.AuthNIDs) < len(slices.Compact(distinct))
}

// batch verifies and stores some entries, whose auth events come before them. When
// another writer stores one of them at the same time, it begins again and finds it.
func (o *outliers) batch(ctx context.Context, list []int32) error {
	var index []int32
	var events []*event.Event
	for _, i := range list {
		if o.done[i].nid != 0 && !o.done[i].partial {
			continue
		}
		ev, err := o.sp.event(i)
		if err != nil {
			return err
		}
		index, events = append(index, i), append(events, ev)
	}
	signed := o.s.checkSignatures(ctx, events)
	for k, err := range signed {
		if isLater(err) {
			o.later, o.laterDepth = err, max(o.laterDepth, events[k].Depth)
		}
	}
	return o.s.attempt(ctx, func() error {
		err := o.tryBatch(ctx, index, events, signed)
		if sqldb.IsUniqueViolation(err) {
			for _, i := range index {
				o.done[i] = spoolStatus{}
			}
			if err := o.find(ctx, index); err != nil {
				return err
			}
		}
		return err
	})
}

func (o *outliers) tryBatch(ctx context.Context, index []int32, events []*event.Event, signed []error) error {
	if err := o.s.intern(ctx, events, func(k int) bool { return signed[k] == nil }); err != nil {
		return err
	}
	var rows, completed []*eventstore.Event
	parents := make(map[id.Event]nid.Event)
	for k, ev := range events {
		i := index[k]
		if signed[k] != nil {
			o.s.log.WithError(signed[k]).WithField("event", ev.ID).Info("an event of the state or auth chain is not signed as it must be")
			continue
		}
		if o.done[i].nid != 0 && !o.done[i].partial {
			continue
		}
		auth, flags, ok, err := o.judge(ctx, ev)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		n := o.done[i].nid
		if n == 0 {
			if n, err = o.s.writer.EventNIDs(ctx, 1, highest(auth)); err != nil {
				return err
			}
		}
		row, err := o.s.newEvent(ctx, o.room.NID, n, ev, auth, eventstore.Outlier|flags)
		if err != nil {
			return err
		}
		for k, a := range ev.AuthEvents {
			parents[a] = auth[k]
		}
		if o.done[i].partial {
			completed = append(completed, row)
		} else {
			rows = append(rows, row)
		}
		o.done[i] = statusOf(row) // those after it may name it
		o.remember(i, ev)
	}
	return o.s.insertOutliers(ctx, rows, completed, parents)
}

// judge applies the auth rules by the event's own auth events, and gives their
// numbers. ok is false when one of them is not there.
func (o *outliers) judge(ctx context.Context, ev *event.Event) (nids []nid.Event, _ eventstore.Flags, ok bool, _ error) {
	state := make(eventauth.MapState, len(ev.AuthEvents)+1)
	auth := make([]*event.Event, 0, len(ev.AuthEvents))
	for _, a := range ev.AuthEvents {
		e, err := o.event(ctx, a)
		if err != nil {
			return nil, 0, false, err
		}
		if e == nil {
			return nil, 0, false, nil
		}
		auth = append(auth, e)
		nids = append(nids, o.done[o.sp.index[a]].nid)
	}
	state.Put(auth...)
	if ev.Rules.RoomIDIsCreateHash && ev.Type != eventauth.TypeCreate {
		create, err := o.event(ctx, eventauth.CreateEventID(ev.RoomID))
		if err != nil {
			return nil, 0, false, err
		}
		if create == nil {
			return nil, 0, false, nil
		}
		state.Put(create)
	}
	rejected := func(e id.Event) bool {
		i, ok := o.sp.index[e]
		return !ok || o.done[i].flags&eventstore.Rejected != 0
	}
	err := ev.CheckFieldSize()
	if err == nil {
		err = eventauth.CheckAuthEvents(ev, auth, rejected)
	}
	if err == nil {
		err = o.auth.Check(ev, state)
	}
	if err != nil {
		o.s.log.WithError(err).WithField("event", ev.ID).Info("an event of the state or auth chain is rejected")
		return nids, eventstore.Rejected, true, nil
	}
	return nids, 0, true, nil
}

// event gives a stored event of the spool or the store, nil if it is not there.
func (o *outliers) event(ctx context.Context, ev id.Event) (*event.Event, error) {
	i, ok := o.sp.index[ev]
	if !ok || o.done[i].nid == 0 {
		return nil, nil
	}
	if e := o.cache[i]; e != nil {
		return e, nil
	}
	var e *event.Event
	var err error
	if o.sp.entries[i].size != 0 {
		e, err = o.sp.event(i)
	} else {
		var found []*event.Event
		if found, err = o.s.store.Unredacted(ctx, []nid.Event{o.done[i].nid}); err == nil {
			e = found[0]
		}
	}
	if err != nil {
		return nil, fmt.Errorf("auth event %s: %w", ev, err)
	}
	o.remember(i, e)
	return e, nil
}

func (o *outliers) remember(i int32, e *event.Event) {
	if len(o.cache) >= outlierCache {
		clear(o.cache)
	}
	o.cache[i] = e
}
