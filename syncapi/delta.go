package syncapi

import (
	"context"

	"weft/internal/clientevent"
	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/statetree"
)

// deltaQuery asks for the state events that a client needs beside a timeline, to
// come from what it knows to the state after it.
type deltaQuery struct {
	// nodes leads to the nodes of all roots below.
	nodes statetree.BatchLoader
	// whole: the client knows nothing; else it knows prev.
	whole bool
	prev  statetree.Root
	// start is the state before the timeline, current that after it.
	start, current statetree.Root
	timeline       []*eventstore.Event
	// after: the client takes the state from here alone, and nothing from the timeline.
	after  bool
	filter *roomEventFilter
	// members are shown in any case, where members are loaded lazily.
	members []nid.StateKey
}

// delta collects the state events, by place.
type delta struct {
	s     *Server
	q     *deltaQuery
	found map[statetree.Key]nid.Event
	order []statetree.Key
	shown map[nid.Event]bool // in the timeline
	lazy  bool
}

// readDelta finds the state events. In the comparison of two states it reads only what
// differs; members that are loaded lazily are never walked over.
//
// spec?: without use_state_after the client applies the timeline on top of the state
// before it. Where branches of the room were merged, that does not lead to the room's
// state; then the entries that the client would miss are put into the state as
// well, unless the timeline has another event in their place.
func (s *Server) readDelta(ctx context.Context, q *deltaQuery) ([]nid.Event, error) {
	d := &delta{s: s, q: q, found: make(map[statetree.Key]nid.Event), shown: make(map[nid.Event]bool), lazy: q.filter.LazyLoadMembers}
	if !q.after {
		for _, e := range q.timeline {
			d.shown[e.NID] = true
		}
	}
	base := q.start
	if q.after {
		base = q.current
	}
	var err error
	if q.whole {
		err = d.walk(ctx, base)
	} else {
		err = d.compare(ctx, q.prev, base)
	}
	if err == nil && !q.after {
		from := q.prev
		if q.whole {
			from = q.start
		}
		err = d.compare(ctx, from, q.current)
	}
	if err == nil && d.lazy {
		err = d.addMembers(ctx, base)
	}
	if err != nil {
		return nil, err
	}
	return d.result(ctx)
}

func (d *delta) set(k statetree.Key, e nid.Event) {
	if e == 0 || d.shown[e] {
		return
	}
	if _, ok := d.found[k]; !ok {
		d.order = append(d.order, k)
	}
	d.found[k] = e
}

// walk takes a whole state, but for members that are loaded lazily.
func (d *delta) walk(ctx context.Context, root statetree.Root) error {
	if !d.lazy {
		return statetree.Walk(ctx, d.q.nodes, root, func(e statetree.Entry) error {
			d.set(e.Key, e.Event)
			return nil
		})
	}
	err := statetree.Walk(ctx, d.q.nodes, root, func(e statetree.Entry) error {
		if e.Type >= nid.TypeMember {
			return statetree.Stop
		}
		d.set(e.Key, e.Event)
		return nil
	})
	if err != nil {
		return err
	}
	return statetree.WalkFrom(ctx, d.q.nodes, root, statetree.Key{Type: nid.TypeMember + 1}, func(e statetree.Entry) error {
		d.set(e.Key, e.Event)
		return nil
	})
}

// compare takes what differs from one state to another.
func (d *delta) compare(ctx context.Context, from, to statetree.Root) error {
	if from == to {
		return nil
	}
	return statetree.Diff(ctx, d.q.nodes, from, to, func(k statetree.Key, _, now nid.Event) error {
		if d.lazy && d.q.whole && k.Type == nid.TypeMember {
			return nil
		}
		d.set(k, now)
		return nil
	})
}

// addMembers adds the members who sent something in the timeline, and those that the
// query names.
//
// spec: client-server §6.4.3 (Lazy-loading room members)
func (d *delta) addMembers(ctx context.Context, root statetree.Root) error {
	senders := make([]string, 0, len(d.q.timeline))
	for _, e := range d.q.timeline {
		senders = append(senders, string(e.Sender))
	}
	numbers, err := d.s.events.StateKeyNIDs(ctx, senders)
	if err != nil {
		return err
	}
	seen := make(map[nid.StateKey]bool)
	var keys []statetree.Key
	add := func(n nid.StateKey) {
		if n != 0 && !seen[n] {
			seen[n] = true
			keys = append(keys, statetree.Key{Type: nid.TypeMember, StateKey: n})
		}
	}
	for _, n := range numbers {
		add(n)
	}
	for _, n := range d.q.members {
		add(n)
	}
	nids, err := statetree.GetMany(ctx, d.q.nodes, root, keys)
	if err != nil {
		return err
	}
	for i, k := range keys {
		if _, there := d.found[k]; !there {
			d.set(k, nids[i])
		}
	}
	return nil
}

// result gives the events in the order found, without those whose type the filter refuses.
func (d *delta) result(ctx context.Context) ([]nid.Event, error) {
	f := d.q.filter
	var types map[nid.Type]string
	if f.Types != nil || f.NotTypes != nil {
		seen := make(map[nid.Type]bool)
		var list []nid.Type
		for _, k := range d.order {
			if !seen[k.Type] {
				seen[k.Type] = true
				list = append(list, k.Type)
			}
		}
		var err error
		if types, err = d.s.events.Types(ctx, list); err != nil {
			return nil, err
		}
	}
	out := make([]nid.Event, 0, len(d.order))
	for _, k := range d.order {
		if types == nil || f.allowsType(types[k.Type]) {
			out = append(out, d.found[k])
		}
	}
	return out, nil
}

// statePage is how many state events are read and written at once.
const statePage = 200

// writeState writes state events under a key, page by page.
func (s *Server) writeState(ctx context.Context, b *object, name string, v clientevent.Viewer, fields fieldFilter, f *roomEventFilter, list []nid.Event) error {
	o := b.key(name)
	o.raw(`{"events":[`)
	first := true
	for len(list) > 0 {
		n := min(statePage, len(list))
		page, err := s.events.Events(ctx, list[:n])
		if err != nil {
			return err
		}
		list = list[n:]
		options, err := clientevent.Load(ctx, s.events, v, page)
		if err != nil {
			return err
		}
		for i, e := range page {
			if !f.allows(e) {
				continue
			}
			if !first {
				o.raw(`,`)
			}
			first = false
			if err := appendEvent(o, e, options[i], fields); err != nil {
				return err
			}
		}
		if err := o.flush(); err != nil {
			return err
		}
	}
	o.raw(`]}`)
	return nil
}

// rootAfter gives the root of the state after an event.
func (s *Server) rootAfter(ctx context.Context, e *eventstore.Event, batch *statetree.Batch) (statetree.Root, error) {
	state, err := s.events.StateAfter(e)
	if err != nil {
		return statetree.Root{}, err
	}
	return state.Root(ctx, batch)
}
