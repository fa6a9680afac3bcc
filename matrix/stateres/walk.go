package stateres

import (
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
)

// node is an event that the walk over auth chains has met.
type node struct {
	e     *event.Event
	order int64
	auth  []*node
	sides bits
	// common: the event is in the chains of all sides.
	common bool
	// conflicted: the event is in the conflicted state set.
	conflicted bool
	// below: it can be reached from a conflicted event. above: a conflicted event
	// can be reached from it. Both are by one step at least.
	below, above bool
	// met: the walk in order has put it into its queue.
	met bool
}

// bits is a set of sides.
type bits []uint64

func (b bits) set(i int) { b[i/64] |= 1 << (i % 64) }

// add puts the others into the set and reports whether it grew.
func (b bits) add(others bits) bool {
	grew := false
	for i, o := range others {
		if o&^b[i] != 0 {
			b[i] |= o
			grew = true
		}
	}
	return grew
}

func (b bits) full(n int) bool {
	for i := range b {
		if rest := n - 64*i; rest >= 64 && b[i] != ^uint64(0) || rest < 64 && b[i] != 1<<rest-1 {
			return false
		}
	}
	return true
}

// walk is the walk over the auth chains of the conflicted events.
type walk struct {
	r     *resolver
	nodes map[id.Event]*node
	// subgraph: the conflicted state subgraph is wanted.
	subgraph bool
}

// fullConflictedSet gives the conflicted state set, the auth difference and, in
// 2.1, the conflicted state subgraph.
//
// spec: rooms/v2, rooms/v12 (State resolution, Definitions)
func (r *resolver) fullConflictedSet() (map[id.Event]*event.Event, error) {
	w := &walk{r: r, subgraph: r.in.Rules.StateRes == event.StateResV21}
	done := false
	if r.in.Order != nil {
		if err := w.start(); err != nil {
			return nil, err
		}
		var err error
		if done, err = w.inOrder(); err != nil {
			return nil, err
		}
	}
	if !done {
		if err := w.start(); err != nil {
			return nil, err
		}
		if err := w.exhaustive(); err != nil {
			return nil, err
		}
	}
	return w.collect()
}

// start makes the nodes that the walk starts from: the conflicted events, and the
// unconflicted power levels and join rules, whose chains are common.
func (w *walk) start() error {
	w.nodes = make(map[id.Event]*node)
	if err := w.r.prefetch(w.r.allConflicted()); err != nil {
		return err
	}
	for _, sides := range w.r.in.Conflicted {
		for side, i := range sides {
			if i == "" {
				continue
			}
			n, err := w.node(i)
			if err != nil {
				return err
			}
			n.conflicted = true
			n.sides.set(side)
		}
	}
	for _, typ := range []string{eventauth.TypePowerLevels, eventauth.TypeJoinRules} {
		e, err := w.r.common(Key{Type: typ})
		if err != nil {
			return err
		}
		if e != nil {
			if _, err := w.node(e.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// node gives the node of an event, which is made when it is met first.
func (w *walk) node(i id.Event) (*node, error) {
	if n := w.nodes[i]; n != nil {
		return n, nil
	}
	e, err := w.r.event(i)
	if err != nil {
		return nil, err
	}
	n := &node{e: e, sides: make(bits, (w.r.in.Sides+63)/64)}
	u, err := w.r.common(keyOf(e))
	if err != nil {
		return nil, err
	}
	n.common = u != nil && u.ID == i && e.IsState
	if w.r.in.Order != nil {
		n.order = w.r.in.Order(i)
	}
	w.nodes[i] = n
	return n, nil
}

// expand finds the auth events of a node.
func (w *walk) expand(n *node) error {
	if n.auth != nil {
		return nil
	}
	if err := w.r.prefetch(n.e.AuthEvents); err != nil {
		return err
	}
	n.auth = make([]*node, 0, len(n.e.AuthEvents))
	for _, i := range n.e.AuthEvents {
		a, err := w.node(i)
		if err != nil {
			return err
		}
		n.auth = append(n.auth, a)
	}
	return nil
}

// inherit gives an auth event what is known of an event that names it, and reports
// whether that was news.
func (w *walk) inherit(a, n *node) bool {
	news := false
	if below := n.conflicted || n.below; below && !a.below {
		a.below, news = true, true
	}
	if a.common {
		return news
	}
	if n.common {
		a.common = true
		return true
	}
	if a.sides.add(n.sides) {
		news = true
		a.common = a.sides.full(w.r.in.Sides)
	}
	return news
}

// inOrder walks from the newest event backwards, and stops when all events that
// wait are common and, where the subgraph is wanted, older than every conflicted
// event. It reports false when an event contradicts the order.
func (w *walk) inOrder() (bool, error) {
	queue := &heapOf[*node]{less: func(a, b *node) bool { return a.order > b.order }}
	differing := 0 // events in the queue that are not common
	oldest := int64(0)
	for _, n := range w.nodes {
		if n.order <= 0 {
			return false, nil
		}
		n.met = true
		queue.push(n)
		if !n.common {
			differing++
		}
		if n.conflicted && (oldest == 0 || n.order < oldest) {
			oldest = n.order
		}
	}
	for queue.len() > 0 && (differing > 0 || w.subgraph && queue.list[0].order > oldest) {
		n := queue.pop()
		if !n.common {
			differing--
		}
		if err := w.expand(n); err != nil {
			return false, err
		}
		for _, a := range n.auth {
			if a.order <= 0 || a.order >= n.order {
				return false, nil
			}
			was := a.met && !a.common
			w.inherit(a, n)
			if !a.met {
				a.met = true
				queue.push(a)
			}
			if is := !a.common; is && !was {
				differing++
			} else if was && !is {
				differing--
			}
		}
	}
	if w.subgraph {
		w.markAbove(w.ancestorsFirst())
	}
	return true, nil
}

// exhaustive walks all chains to their ends.
func (w *walk) exhaustive() error {
	for frontier := w.allNodes(); len(frontier) > 0; {
		var wanted []id.Event
		for _, n := range frontier {
			wanted = append(wanted, n.e.AuthEvents...)
		}
		if err := w.r.prefetch(wanted); err != nil {
			return err
		}
		var next []*node
		for _, n := range frontier {
			if err := w.expand(n); err != nil {
				return err
			}
			for _, a := range n.auth {
				if !a.met {
					a.met = true
					next = append(next, a)
				}
			}
		}
		frontier = next
	}
	order := w.ancestorsFirst()
	// One run is enough where auth events form no circle; forged event IDs of
	// versions 1 and 2 may.
	for news := true; news; {
		news = false
		for i := len(order) - 1; i >= 0; i-- {
			for _, a := range order[i].auth {
				news = w.inherit(a, order[i]) || news
			}
		}
	}
	if w.subgraph {
		w.markAbove(order)
	}
	return nil
}

func (w *walk) allNodes() []*node {
	list := make([]*node, 0, len(w.nodes))
	for _, n := range w.nodes {
		n.met = true
		list = append(list, n)
	}
	return list
}

// ancestorsFirst sorts the nodes so that an event comes after its auth events.
func (w *walk) ancestorsFirst() []*node {
	out := make([]*node, 0, len(w.nodes))
	entered := make(map[*node]bool, len(w.nodes))
	type frame struct {
		n    *node
		next int
	}
	var stack []frame
	for _, root := range w.nodes {
		if entered[root] {
			continue
		}
		entered[root] = true
		stack = append(stack, frame{n: root})
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if top.next == len(top.n.auth) {
				out = append(out, top.n)
				stack = stack[:len(stack)-1]
				continue
			}
			a := top.n.auth[top.next]
			top.next++
			if !entered[a] {
				entered[a] = true
				stack = append(stack, frame{n: a})
			}
		}
	}
	return out
}

// markAbove finds the events from which a conflicted event can be reached.
func (w *walk) markAbove(ancestorsFirst []*node) {
	for _, n := range ancestorsFirst {
		for _, a := range n.auth {
			if a.conflicted || a.above {
				n.above = true
				break
			}
		}
	}
}

// collect picks the full conflicted set out of the nodes.
func (w *walk) collect() (map[id.Event]*event.Event, error) {
	full := make(map[id.Event]*event.Event)
	var candidates []id.Event
	for i, n := range w.nodes {
		switch {
		case n.conflicted, w.subgraph && n.below && n.above:
			full[i] = n.e
		case !n.common && n.below:
			candidates = append(candidates, i)
		}
	}
	if len(candidates) == 0 {
		return full, nil
	}
	var common map[id.Event]bool
	if w.r.in.InUnconflictedChain != nil {
		var err error
		if common, err = w.r.in.InUnconflictedChain(candidates); err != nil {
			return nil, err
		}
	}
	for _, i := range candidates {
		if !common[i] {
			full[i] = w.nodes[i].e
		}
	}
	return full, nil
}
