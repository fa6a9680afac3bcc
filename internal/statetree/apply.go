package statetree

import (
	"context"
	"fmt"
	"slices"
)

// load brings the content of a stored subtree into memory, checking it against
// what its parent says. The result keeps its hash.
func load(ctx context.Context, l Loader, s *subtree) error {
	if s.loaded() {
		return nil
	}
	raw, err := l.Node(ctx, s.hash)
	if err != nil {
		return fmt.Errorf("statetree: reading node %s: %w", s.hash, err)
	}
	return s.fill(raw)
}

// fill decodes raw into a stored subtree. A count of -1 is not known yet (a root).
func (s *subtree) fill(raw []byte) error {
	n, err := decode(raw)
	if err != nil {
		return fmt.Errorf("statetree: node %s: %w", s.hash, err)
	}
	if s.count >= 0 && n.count != s.count {
		return fmt.Errorf("%w: node %s has %d entries, its parent says %d", ErrCorrupt, s.hash, n.count, s.count)
	}
	n.stored, n.hash = true, s.hash
	*s = n
	return nil
}

// loadAll brings several stored subtrees into memory, in one batch where possible.
func loadAll(ctx context.Context, l Loader, subs []*subtree) error {
	var hashes []Hash
	for _, s := range subs {
		if !s.loaded() {
			hashes = append(hashes, s.hash)
		}
	}
	if len(hashes) == 0 {
		return nil
	}
	raws, err := loadMany(ctx, l, hashes)
	if err != nil {
		return fmt.Errorf("statetree: reading %d nodes: %w", len(hashes), err)
	}
	for _, s := range subs {
		if s.loaded() {
			continue
		}
		if err := s.fill(raws[0]); err != nil {
			return err
		}
		raws = raws[1:]
	}
	return nil
}

// top gives the subtree of a whole map.
func top(root Root) subtree {
	if root.Empty() {
		return subtree{}
	}
	return subtree{count: -1, stored: true, hash: Hash(root)}
}

// Apply makes the map that root becomes by the changes. New nodes go to out,
// which is also where l should lead when earlier changes of the same batch are to
// be seen (out itself is such a loader). When a key occurs more than once, the last change
// counts. Removing what is not there is no error. The cost is proportional to the number
// of nodes on the way to the changes; building from nothing is linear.
func Apply(ctx context.Context, l Loader, root Root, changes []Change, out *Batch) (Root, error) {
	sorted := slices.Clone(changes)
	slices.SortStableFunc(sorted, func(a, b Change) int { return a.Compare(b.Key) })
	kept := sorted[:0]
	for i, c := range sorted {
		if c.Type < 0 || c.StateKey < 0 || c.Event < 0 || c.Type > maxNumber || c.StateKey > maxNumber || c.Event > maxNumber {
			return Root{}, fmt.Errorf("statetree: change %v is out of range", c)
		}
		if i+1 == len(sorted) || sorted[i+1].Key != c.Key {
			kept = append(kept, c)
		}
	}
	a := applier{ctx: ctx, l: l, out: out}
	s := top(root)
	if _, err := a.update(&s, kept); err != nil {
		return Root{}, err
	}
	if s.count == 0 {
		return Root{}, nil
	}
	a.seal(&s)
	return Root(s.hash), nil
}

type applier struct {
	ctx context.Context
	l   Loader
	out *Batch
}

// update applies sorted changes without duplicates to s and tells whether it
// became another. A subtree that did loses its hash; seal gives it a new one.
func (a *applier) update(s *subtree, changes []Change) (changed bool, err error) {
	if len(changes) == 0 {
		return false, nil
	}
	if err := load(a.ctx, a.l, s); err != nil {
		return false, err
	}
	if !s.branch() {
		merged, changed := merge(s.entries, changes)
		if changed {
			*s = build(merged)
		}
		return changed, nil
	}
	a.widen(s, changes)
	return a.descend(s, changes)
}

// widen puts a new branch above s when an insertion lies outside s's prefix.
func (a *applier) widen(s *subtree, changes []Change) {
	pos := s.pos
	for _, c := range changes {
		if c.Event != 0 {
			pos = min(pos, c.common(s.prefix))
		}
	}
	if pos == s.pos {
		return
	}
	below := *s
	*s = subtree{
		count: below.count,
		fork:  &fork{pos: pos, prefix: below.prefix.prefix(pos), children: []child{{nibble: below.prefix.nibble(pos), subtree: below}}},
	}
}

// descend applies changes to the children of branch s. All insertions lie within
// its prefix.
func (a *applier) descend(s *subtree, changes []Change) (changed bool, err error) {
	children := make([]child, 0, min(16, len(s.children)+len(changes)))
	old := s.children
	total := 0
	for nibble := range uint8(16) {
		c := child{nibble: nibble}
		if len(old) > 0 && old[0].nibble == nibble {
			c, old = old[0], old[1:]
		}
		var mine []Change
		mine, changes = take(changes, s, nibble)
		ch, err := a.update(&c.subtree, mine)
		if err != nil {
			return false, err
		}
		changed = changed || ch
		if c.count > 0 {
			total += c.count
			children = append(children, c)
		}
	}
	switch {
	case !changed:
		return false, nil
	case total <= LeafMax:
		entries, err := a.collect(children, total)
		if err != nil {
			return false, err
		}
		*s = build(entries)
	case len(children) == 1:
		*s = children[0].subtree
	default:
		*s = subtree{count: total, fork: &fork{pos: s.pos, prefix: s.prefix, children: children}}
	}
	return true, nil
}

// take splits off the leading changes that belong under a nibble of branch s. Changes
// outside the prefix (removals of what is not there) are dropped on the way.
func take(changes []Change, s *subtree, nibble uint8) (mine, rest []Change) {
	inside := func(c Change) int { // -1 before this child, 0 in it, 1 after
		p := c.prefix(s.pos)
		if p != s.prefix {
			return p.Compare(s.prefix)
		}
		return int(c.nibble(s.pos)) - int(nibble)
	}
	start := 0
	for start < len(changes) && inside(changes[start]) < 0 {
		start++
	}
	end := start
	for end < len(changes) && inside(changes[end]) == 0 {
		end++
	}
	return changes[start:end], changes[end:]
}

// collect gathers the few entries left under a branch that must become a leaf.
func (a *applier) collect(children []child, total int) ([]Entry, error) {
	entries := make([]Entry, 0, total)
	for i := range children {
		err := walk(a.ctx, a.l, &children[i].subtree, Key{}, func(e Entry) error {
			entries = append(entries, e)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// merge applies sorted changes to sorted entries.
func merge(entries []Entry, changes []Change) (out []Entry, changed bool) {
	out = make([]Entry, 0, len(entries)+len(changes))
	for _, c := range changes {
		for len(entries) > 0 && entries[0].Less(c.Key) {
			out, entries = append(out, entries[0]), entries[1:]
		}
		old := Entry{}
		if len(entries) > 0 && entries[0].Key == c.Key {
			old, entries = entries[0], entries[1:]
		}
		changed = changed || old.Event != c.Event
		if c.Event != 0 {
			out = append(out, Entry(c))
		}
	}
	return append(out, entries...), changed
}

// build draws the canonical subtree of sorted entries.
func build(entries []Entry) subtree {
	if len(entries) <= LeafMax {
		return subtree{count: len(entries), entries: entries}
	}
	pos := entries[0].common(entries[len(entries)-1].Key)
	s := subtree{count: len(entries), fork: &fork{pos: pos, prefix: entries[0].prefix(pos), children: make([]child, 0, 16)}}
	for len(entries) > 0 {
		nibble := entries[0].nibble(pos)
		end, _ := slices.BinarySearchFunc(entries, nibble+1, func(e Entry, n uint8) int { return int(e.nibble(pos)) - int(n) })
		s.children = append(s.children, child{nibble: nibble, subtree: build(entries[:end:end])})
		entries = entries[end:]
	}
	return s
}

// seal writes the nodes of a changed subtree, children first, and names it.
func (a *applier) seal(s *subtree) {
	if s.stored {
		return
	}
	var raw []byte
	if s.branch() {
		for i := range s.children {
			if c := &s.children[i].subtree; c.count > InlineMax {
				a.seal(c)
			}
		}
		raw = encodeBranch(s)
	} else {
		raw = encodeLeaf(s.entries)
	}
	s.stored, s.hash = true, hashOf(raw)
	a.out.nodes[s.hash] = raw
}
