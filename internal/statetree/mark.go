package statetree

import (
	"context"
	"encoding/binary"
	"fmt"
)

// Marker finds the nodes that are in use. Its memory is bounded: a Bloom filter of
// the marked nodes and an exact set of recently visited ones. It is not safe for
// concurrent use.
type Marker struct {
	// Entry, if it is set, is called with the entries of the leaves that are visited, each at
	// least once.
	Entry func(Entry)

	l      Loader
	filter []uint64
	seed   uint64
	recent map[Hash]struct{}
	nodes  int64
}

const (
	// filterHashes is the number of bits set per node: good for 32 bits of filter per node,
	// which gives 3 false positives in 10 million; with 10 bits there are 3 in 100.
	filterHashes = 16
	// recentMax bounds the exact set (about 3 MB).
	recentMax = 1 << 16
)

// NewMarker makes a marker that reads nodes from l. size is the filter's size in
// bytes: with 4 per node in use hardly a dead node lives on. The seed should
// differ from sweep to sweep, so that the survivors do.
func NewMarker(l Loader, size int, seed uint64) *Marker {
	return &Marker{l: l, filter: make([]uint64, max(1, size/8)), seed: seed, recent: make(map[Hash]struct{})}
}

// Mark marks every node reachable from root. What it shares with like, a root that was
// marked before and resembles it, is not visited again; the zero root is like nothing.
func (m *Marker) Mark(ctx context.Context, root, like Root) error {
	if root.Empty() || root == like {
		return nil
	}
	s, old := top(root), top(like)
	return m.visit(ctx, &s, &old)
}

// Marked reports whether a node was marked. It errs only towards true.
func (m *Marker) Marked(h Hash) bool {
	for i := range filterHashes {
		word, bit := m.place(h, i)
		if m.filter[word]&bit == 0 {
			return false
		}
	}
	return true
}

// Nodes gives the number of nodes visited so far; nodes visited twice count twice.
func (m *Marker) Nodes() int64 { return m.nodes }

func (m *Marker) place(h Hash, i int) (word int, bit uint64) {
	a := (binary.LittleEndian.Uint64(h[:8]) ^ m.seed) * 0x9e3779b97f4a7c15
	b := binary.LittleEndian.Uint64(h[8:]) | 1
	n := (a + uint64(i)*b) % (uint64(len(m.filter)) * 64)
	return int(n / 64), 1 << (n % 64)
}

// visit marks s and what is below it, except what old, which is marked already,
// shares with it.
func (m *Marker) visit(ctx context.Context, s, old *subtree) error {
	if !s.stored || (old.stored && old.hash == s.hash) {
		return nil
	}
	if _, ok := m.recent[s.hash]; ok {
		return nil
	}
	if len(m.recent) >= recentMax {
		clear(m.recent)
	}
	m.recent[s.hash] = struct{}{}
	m.nodes++
	for i := range filterHashes {
		word, bit := m.place(s.hash, i)
		m.filter[word] |= bit
	}
	if err := load(ctx, m.l, s); err != nil {
		return err
	}
	if !s.branch() {
		if m.Entry != nil {
			for _, e := range s.entries {
				m.Entry(e)
			}
		}
		return nil
	}
	// Bring old to the same place.
	for old.count != 0 {
		if err := load(ctx, m.l, old); err != nil {
			return err
		}
		if !old.branch() || old.pos >= s.pos {
			break
		}
		if next := old.child(s.prefix); next != nil {
			*old = *next
		} else {
			*old = subtree{}
		}
	}
	for i := range s.children {
		var below subtree
		if old.branch() && old.prefix.prefix(s.pos) == s.prefix {
			below = old.part(s.pos, s.children[i].nibble)
		}
		if err := m.visit(ctx, &s.children[i].subtree, &below); err != nil {
			return err
		}
		s.children[i].subtree = subtree{}
	}
	return nil
}

// Visit goes over the nodes of a tree. Below a node for which node gives false it does not go;
// entry is called for the entries of the leaves that it reaches.
func Visit(ctx context.Context, l Loader, root Root, node func(Hash) bool, entry func(Entry)) error {
	var visit func(s *subtree) error
	visit = func(s *subtree) error {
		if s.stored && !node(s.hash) {
			return nil
		}
		if err := load(ctx, l, s); err != nil {
			return err
		}
		if !s.branch() {
			for _, e := range s.entries {
				entry(e)
			}
			return nil
		}
		for i := range s.children {
			if err := visit(&s.children[i].subtree); err != nil {
				return err
			}
			s.children[i].subtree = subtree{}
		}
		return nil
	}
	if root.Empty() {
		return nil
	}
	s := top(root)
	return visit(&s)
}

// Verify checks the whole tree: every node's hash, its shape, the counts, and that
// the shape is the canonical one for its entries. It holds all entries in memory and
// serves tests and WEFT_VERIFY.
func Verify(ctx context.Context, l Loader, root Root) error {
	var entries []Entry
	var visit func(s *subtree) error
	visit = func(s *subtree) error {
		if s.stored {
			raw, err := l.Node(ctx, s.hash)
			if err != nil {
				return fmt.Errorf("statetree: reading node %s: %w", s.hash, err)
			}
			if hashOf(raw) != s.hash {
				return fmt.Errorf("%w: node %s has the hash %s", ErrCorrupt, s.hash, hashOf(raw))
			}
			if err := s.fill(raw); err != nil {
				return err
			}
		}
		if !s.branch() {
			entries = append(entries, s.entries...)
			return nil
		}
		for i := range s.children {
			if err := visit(&s.children[i].subtree); err != nil {
				return err
			}
			s.children[i].subtree = subtree{}
		}
		return nil
	}
	s := top(root)
	if err := visit(&s); err != nil {
		return err
	}
	for i := range entries[:max(0, len(entries)-1)] {
		if !entries[i].Less(entries[i+1].Key) {
			return fmt.Errorf("%w: root %s: entries are out of order at %v", ErrCorrupt, root, entries[i+1].Key)
		}
	}
	want, err := Of(entries)
	if err != nil {
		return err
	}
	if want != root {
		return fmt.Errorf("%w: root %s is not canonical, its entries make %s", ErrCorrupt, root, want)
	}
	return nil
}

// Of gives the root of a map without keeping its nodes.
func Of(entries []Entry) (Root, error) {
	changes := make([]Change, len(entries))
	for i, e := range entries {
		changes[i] = Change(e)
	}
	return Apply(context.Background(), nil, Root{}, changes, NewBatch(nil))
}
