package roomserver

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/statetree"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/matrix/stateres"
)

// rootSet names a set of states: their roots in order, joined. Roots of different
// rooms never meet in one, since every state holds its room's create event.
type rootSet string

// resolved is a resolution that was made: the set, and the state it gives.
type resolved struct {
	set  rootSet
	root statetree.Root
}

// resolveMemo remembers resolutions. Only those whose result became the state before
// a stored event are put in, since nothing else keeps the result's nodes from
// being swept.
type resolveMemo struct {
	mu    sync.Mutex
	max   int
	known map[rootSet]statetree.Root
	order []rootSet // oldest first, a ring
	next  int
}

func newResolveMemo(size int) *resolveMemo {
	return &resolveMemo{max: size, known: make(map[rootSet]statetree.Root, size)}
}

func (m *resolveMemo) get(set rootSet) (statetree.Root, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.known[set]
	return r, ok
}

func (m *resolveMemo) put(list []resolved) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range list {
		if _, ok := m.known[r.set]; ok {
			continue
		}
		if len(m.order) < m.max {
			m.order = append(m.order, r.set)
		} else {
			delete(m.known, m.order[m.next])
			m.order[m.next] = r.set
			m.next = (m.next + 1) % m.max
		}
		m.known[r.set] = r.root
	}
}

// resolve merges states. What they have in common is never looked at: the trees
// tell in which keys they differ, and the result is the first state with these
// keys changed.
func (d *draft) resolve(ctx context.Context, roots []statetree.Root) (statetree.Root, error) {
	roots = slices.Clone(roots)
	slices.SortFunc(roots, func(a, b statetree.Root) int { return bytes.Compare(a[:], b[:]) })
	roots = slices.Compact(roots)
	if len(roots) == 0 {
		return statetree.Root{}, nil
	}
	if len(roots) == 1 {
		return roots[0], nil
	}
	var set []byte
	for _, r := range roots {
		set = append(set, r[:]...)
	}
	if root, ok := d.s.memo.get(rootSet(set)); ok {
		return root, nil
	}
	for _, m := range d.memo {
		if m.set == rootSet(set) {
			return m.root, nil
		}
	}
	root, err := d.resolveConflicts(ctx, roots)
	if err != nil {
		return root, fmt.Errorf("resolving %d states of %s: %w", len(roots), d.room.ID, err)
	}
	d.memo = append(d.memo, resolved{rootSet(set), root})
	return root, nil
}

// maxWitnesses bounds the places that are remembered for resolutions.
const maxWitnesses = 10_000

// merge is one resolution under way.
type merge struct {
	ctx   context.Context
	d     *draft
	first statetree.Root
	*looked
}

// looked is what the resolutions of a draft have looked at. Each begins where the one before it ended, so
// most of what the next one needs is here.
type looked struct {
	nids  map[id.Event]nid.Event
	ids   map[nid.Event]id.Event
	cache map[id.Event]*event.Event
	bad   map[id.Event]bool // rejected
	auth  map[nid.Event][]nid.Event
}

// maxLooked bounds the events that a draft keeps for its next resolution.
const maxLooked = 5_000

func newLooked() *looked {
	return &looked{nids: make(map[id.Event]nid.Event), ids: make(map[nid.Event]id.Event), cache: make(map[id.Event]*event.Event),
		bad: make(map[id.Event]bool), auth: make(map[nid.Event][]nid.Event)}
}

func (d *draft) resolveConflicts(ctx context.Context, roots []statetree.Root) (statetree.Root, error) {
	if d.looked == nil || len(d.looked.nids)+len(d.looked.auth) > maxLooked {
		d.looked = newLooked()
	}
	m := &merge{ctx: ctx, d: d, first: roots[0], looked: d.looked}
	places := make(map[statetree.Key][]nid.Event)
	err := statetree.Conflicts(ctx, d.nodes, roots, func(k statetree.Key, events []nid.Event) error {
		if len(places) >= d.s.limits.Conflicts {
			return merr.Forbidden("the states differ in more than %d keys", d.s.limits.Conflicts)
		}
		places[k] = slices.Clone(events)
		return nil
	})
	if err != nil {
		return statetree.Root{}, err
	}
	d.s.metrics.conflicts.Observe(float64(len(places)))
	conflicted, keys, err := m.translate(places, len(roots))
	if err != nil {
		return statetree.Root{}, err
	}
	out, err := stateres.ResolveConflicted(stateres.Input{
		Rules: d.room.Rules, Sides: len(roots), Conflicted: conflicted, Unconflicted: m.unconflicted,
		Events: m, Rejected: func(e id.Event) bool { return m.bad[e] },
		Order: m.order, InUnconflictedChain: func(list []id.Event) (map[id.Event]bool, error) { return m.inUnconflictedChain(list, places) },
	})
	if err != nil {
		return statetree.Root{}, err
	}
	changes := make([]statetree.Change, 0, len(places))
	for text, place := range keys {
		changes = append(changes, statetree.Change{Key: place, Event: m.nids[out[text]]})
		delete(out, text)
	}
	for text, ev := range out {
		extra, err := d.s.store.Keys(ctx, []eventauth.Key{text})
		if err != nil {
			return statetree.Root{}, err
		}
		if len(extra) == 1 {
			changes = append(changes, statetree.Change{Key: extra[0], Event: m.nids[ev]})
		}
	}
	return statetree.Apply(ctx, d.nodes, roots[0], changes, d.nodes)
}

// translate turns places and numbers into text.
func (m *merge) translate(places map[statetree.Key][]nid.Event, sides int) (map[stateres.Key][]id.Event, map[stateres.Key]statetree.Key, error) {
	var nids []nid.Event
	list := make([]statetree.Key, 0, len(places))
	for k, events := range places {
		list = append(list, k)
		for _, n := range events {
			if n != 0 {
				nids = append(nids, n)
			}
		}
	}
	if err := m.load(nids); err != nil {
		return nil, nil, err
	}
	texts, err := m.d.s.store.KeyTexts(m.ctx, list)
	if err != nil {
		return nil, nil, err
	}
	conflicted := make(map[stateres.Key][]id.Event, len(places))
	keys := make(map[stateres.Key]statetree.Key, len(places))
	for place, events := range places {
		text, ok := texts[place]
		if !ok {
			return nil, nil, fmt.Errorf("no text for the state key %v", place)
		}
		ids := make([]id.Event, sides)
		for i, n := range events {
			if n != 0 {
				ids[i] = m.ids[n]
			}
		}
		conflicted[text], keys[text] = ids, place
	}
	return conflicted, keys, nil
}

// load reads events by number, as they were before any redaction: what a redaction hides
// must not depend on when it came.
func (m *merge) load(nids []nid.Event) error {
	rest := make([]nid.Event, 0, len(nids))
	for _, n := range nids {
		if m.ids[n] == "" {
			rest = append(rest, n)
		}
	}
	if len(rest) == 0 {
		return nil
	}
	events, err := m.d.judged(m.ctx, rest)
	m.remember(events)
	return err
}

func (m *merge) remember(events []eventstore.Judged) {
	for _, e := range events {
		m.nids[e.ID], m.ids[e.NID], m.cache[e.ID] = e.NID, e.ID, e.Event
		if e.Rejected {
			m.bad[e.ID] = true
		}
	}
}

// Event implements stateres.Events.
func (m *merge) Event(e id.Event) (*event.Event, error) {
	if ev := m.cache[e]; ev != nil {
		return ev, nil
	}
	if err := m.Prefetch([]id.Event{e}); err != nil {
		return nil, err
	}
	if ev := m.cache[e]; ev != nil {
		return ev, nil
	}
	return nil, fmt.Errorf("the event %s of the auth chain is not here", e)
}

// Prefetch implements stateres.Prefetcher.
func (m *merge) Prefetch(list []id.Event) error {
	rest := make([]id.Event, 0, len(list))
	for _, i := range list {
		if m.cache[i] == nil {
			rest = append(rest, i)
		}
	}
	if len(rest) == 0 {
		return nil
	}
	events, err := m.d.judgedByID(m.ctx, rest)
	m.remember(events)
	return err
}

// unconflicted looks up a key in which all states agree.
func (m *merge) unconflicted(k stateres.Key) (id.Event, error) {
	places, err := m.d.s.store.Keys(m.ctx, []eventauth.Key{k})
	if err != nil || len(places) == 0 {
		return "", err
	}
	n, ok, err := statetree.Get(m.ctx, m.d.nodes, m.first, places[0])
	if err != nil || !ok {
		return "", err
	}
	if err := m.load([]nid.Event{n}); err != nil {
		return "", err
	}
	return m.ids[n], nil
}

// order is the number an event was given: it is stored after its auth events, so it
// has a higher one. (Events that were stored without them, and completed later, break
// that; the resolver notices and only takes longer.)
func (m *merge) order(e id.Event) int64 { return int64(m.nids[e]) }

// inUnconflictedChain answers for the few events of which the resolver cannot tell
// whether an unconflicted event's auth chain has them. An event that has another in its chain has a
// higher number, so events are followed only as far down as the lowest candidate.
//
// What leads to a candidate mostly is what took its place in the state, or what led to it the last
// time. These are looked at first, and all other unconflicted events, of which there may be
// 100,000, only for the rest.
func (m *merge) inUnconflictedChain(list []id.Event, conflicted map[statetree.Key][]nid.Event) (map[id.Event]bool, error) {
	c := &chainSearch{m: m, wanted: make(map[nid.Event]id.Event, len(list)), lowest: 1<<62 - 1,
		from: make(map[nid.Event]statetree.Entry), found: make(map[id.Event]bool)}
	likely := make([]statetree.Key, 0, 2*len(list))
	for _, e := range list {
		n := m.nids[e]
		c.wanted[n] = e
		c.lowest = min(c.lowest, n-1)
		if w, ok := m.d.s.witnesses.GetIfPresent(n); ok {
			likely = append(likely, w.Key)
		}
		own, err := m.d.s.store.Keys(m.ctx, []eventauth.Key{{Type: m.cache[e].Type, StateKey: m.cache[e].StateKey}})
		if err != nil {
			return nil, err
		}
		likely = append(likely, own...)
	}
	if c.lowest < m.d.room.Unordered {
		c.lowest = 0
	}
	likely = slices.DeleteFunc(likely, func(k statetree.Key) bool { return conflicted[k] != nil })
	events, err := statetree.GetMany(m.ctx, m.d.nodes, m.first, likely)
	if err != nil {
		return nil, err
	}
	var start []statetree.Entry
	for i, n := range events {
		if n != 0 {
			start = append(start, statetree.Entry{Key: likely[i], Event: n})
		}
	}
	if err := c.follow(start); err != nil || c.done() {
		return c.found, err
	}
	var rest []statetree.Entry
	err = statetree.Walk(m.ctx, m.d.nodes, m.first, func(e statetree.Entry) error {
		if conflicted[e.Key] == nil && e.Event > c.lowest {
			rest = append(rest, e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c.found, c.follow(rest)
}

// edges makes the numbers of the auth events of events known.
func (m *merge) edges(list []nid.Event) error {
	rest := make([]nid.Event, 0, len(list))
	for _, n := range list {
		if _, ok := m.auth[n]; !ok {
			rest = append(rest, n)
		}
	}
	if len(rest) == 0 {
		return nil
	}
	found, err := m.d.authNIDs(m.ctx, rest)
	for n, auth := range found {
		m.auth[n] = auth
	}
	return err
}

// chainSearch looks for events in the auth chains of entries of a state.
type chainSearch struct {
	m      *merge
	wanted map[nid.Event]id.Event
	lowest nid.Event // below it there is nothing of interest
	// from holds the events that were met, with the entry that led to them.
	from  map[nid.Event]statetree.Entry
	found map[id.Event]bool
}

func (c *chainSearch) done() bool { return len(c.found) == len(c.wanted) }

// follow follows the auth events of entries, and theirs, until all that is wanted is found. It remembers
// which entry led there.
func (c *chainSearch) follow(entries []statetree.Entry) error {
	var level []nid.Event
	meet := func(n nid.Event, from statetree.Entry) {
		if _, ok := c.from[n]; ok {
			return
		}
		c.from[n] = from
		level = append(level, n)
		if e, ok := c.wanted[n]; ok {
			c.found[e] = true
			c.m.d.s.witnesses.Set(n, from)
		}
	}
	for _, e := range entries {
		meet(e.Event, e)
	}
	for len(level) > 0 && !c.done() {
		if err := c.m.edges(level); err != nil {
			return err
		}
		now := level
		level = nil
		for _, n := range now {
			for _, a := range c.m.auth[n] {
				if a > c.lowest {
					meet(a, c.from[n])
				}
			}
		}
	}
	return nil
}
