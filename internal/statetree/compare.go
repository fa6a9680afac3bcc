package statetree

import (
	"context"
	"errors"
	"slices"

	"weft/internal/nid"
)

// Diff calls fn for every key on which the two maps differ, in key order; 0
// stands for absent. It reads only nodes that are not shared. Stop ends it early
// without an error.
func Diff(ctx context.Context, l Loader, a, b Root, fn func(key Key, inA, inB nid.Event) error) error {
	return Conflicts(ctx, l, []Root{a, b}, func(key Key, events []nid.Event) error {
		return fn(key, events[0], events[1])
	})
}

// Conflicts calls fn for every key on which the maps do not all agree, in key
// order. events holds each map's event in the order of the roots, 0 where it has none;
// the slice is reused between calls. Only nodes that are not shared by all maps are
// read. Stop ends it early without an error.
func Conflicts(ctx context.Context, l Loader, roots []Root, fn func(key Key, events []nid.Event) error) error {
	if len(roots) < 2 {
		return nil
	}
	c := comparer{ctx: ctx, l: l, fn: fn, events: make([]nid.Event, len(roots)), need: make([]*subtree, len(roots))}
	subs := make([]subtree, len(roots))
	for i, r := range roots {
		subs[i] = top(r)
	}
	err := c.compare(subs)
	if errors.Is(err, Stop) {
		return nil
	}
	return err
}

type comparer struct {
	ctx    context.Context
	l      Loader
	fn     func(Key, []nid.Event) error
	events []nid.Event // for fn
	need   []*subtree  // for compare
}

// same reports whether two subtrees surely hold the same entries.
func same(a, b *subtree) bool {
	if a.stored && b.stored {
		return a.hash == b.hash
	}
	return a.loaded() && b.loaded() && !a.branch() && !b.branch() && slices.Equal(a.entries, b.entries)
}

func allSame(subs []subtree) bool {
	for i := range subs[1:] {
		if !same(&subs[0], &subs[i+1]) {
			return false
		}
	}
	return true
}

// compare reports the differences of subtrees that stand at the same place.
func (c *comparer) compare(subs []subtree) error {
	if allSame(subs) {
		return nil
	}
	for i := range subs {
		c.need[i] = &subs[i]
	}
	if err := loadAll(c.ctx, c.l, c.need); err != nil {
		return err
	}
	pos, branches := split(subs)
	if !branches {
		return c.entries(subs)
	}
	parts := make([]subtree, len(subs))
	for nibble := range uint8(16) {
		for i := range subs {
			parts[i] = subs[i].part(pos, nibble)
		}
		if err := c.compare(parts); err != nil {
			return err
		}
	}
	return nil
}

// split finds the first nibble at which the subtrees' keys part, and whether any
// of them is a branch.
func split(subs []subtree) (pos int, branches bool) {
	pos = 32
	var ref *subtree
	for i := range subs {
		s := &subs[i]
		if s.count == 0 {
			continue
		}
		if s.branch() {
			branches = true
			pos = min(pos, s.pos)
		} else {
			pos = min(pos, s.entries[0].common(s.entries[len(s.entries)-1].Key))
		}
		if ref == nil {
			ref = s
		}
		pos = min(pos, ref.first().common(s.first()))
	}
	return pos, branches
}

// part gives what lies under one nibble at pos. All keys of s agree before pos.
func (s *subtree) part(pos int, nibble uint8) subtree {
	switch {
	case s.count == 0:
		return subtree{}
	case !s.branch():
		lo := slices.IndexFunc(s.entries, func(e Entry) bool { return e.nibble(pos) == nibble })
		if lo < 0 {
			return subtree{}
		}
		hi := lo
		for hi < len(s.entries) && s.entries[hi].nibble(pos) == nibble {
			hi++
		}
		return subtree{count: hi - lo, entries: s.entries[lo:hi]}
	case s.pos > pos:
		if s.prefix.nibble(pos) == nibble {
			return *s
		}
		return subtree{}
	}
	for i := range s.children {
		if s.children[i].nibble == nibble {
			return s.children[i].subtree
		}
	}
	return subtree{}
}

// entries merges leaves and reports the keys on which they differ.
func (c *comparer) entries(subs []subtree) error {
	lists := make([][]Entry, len(subs))
	for i := range subs {
		lists[i] = subs[i].entries
	}
	for {
		var key Key
		found := false
		for _, l := range lists {
			if len(l) > 0 && (!found || l[0].Less(key)) {
				key, found = l[0].Key, true
			}
		}
		if !found {
			return nil
		}
		differ := false
		for i, l := range lists {
			c.events[i] = 0
			if len(l) > 0 && l[0].Key == key {
				c.events[i], lists[i] = l[0].Event, l[1:]
			}
			differ = differ || c.events[i] != c.events[0]
		}
		if differ {
			if err := c.fn(key, c.events); err != nil {
				return err
			}
		}
	}
}
