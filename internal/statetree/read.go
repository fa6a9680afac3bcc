package statetree

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"weft/internal/nid"
)

// Get looks up one key. It reports false when the map does not have it.
func Get(ctx context.Context, l Loader, root Root, key Key) (nid.Event, bool, error) {
	first := top(root)
	for s := &first; s != nil && s.count != 0; s = s.child(key) {
		if !s.loaded() {
			n := *s
			if err := load(ctx, l, &n); err != nil {
				return 0, false, err
			}
			s = &n
		}
		if !s.branch() {
			e, ok := s.find(key)
			return e, ok, nil
		}
	}
	return 0, false, nil
}

// find looks a key up among the entries of a leaf.
func (s *subtree) find(key Key) (nid.Event, bool) {
	i, ok := slices.BinarySearchFunc(s.entries, key, func(e Entry, k Key) int { return e.Compare(k) })
	if !ok {
		return 0, false
	}
	return s.entries[i].Event, true
}

// child gives the child of a branch that a key belongs to, nil when there is none.
func (s *subtree) child(key Key) *subtree {
	if key.prefix(s.pos) != s.prefix {
		return nil
	}
	nibble := key.nibble(s.pos)
	for i := range s.children {
		if s.children[i].nibble == nibble {
			return &s.children[i].subtree
		}
	}
	return nil
}

// GetMany looks up several keys of one map, in their order; 0 stands for a key
// that the map does not have. Nodes are read level by level, one batch each.
func GetMany(ctx context.Context, l Loader, root Root, keys []Key) ([]nid.Event, error) {
	lookups := make([]Lookup, len(keys))
	for i, k := range keys {
		lookups[i] = Lookup{root, k}
	}
	return GetEach(ctx, l, lookups)
}

// Lookup is a key of a map.
type Lookup struct {
	Root Root
	Key  Key
}

// GetEach looks up keys of many maps at once, in their order; 0 stands for a
// key that its map does not have. What the maps share is read once, and nodes are
// read level by level: the number of batches is the depth of the deepest tree,
// not the number of lookups.
func GetEach(ctx context.Context, l Loader, lookups []Lookup) ([]nid.Event, error) {
	out := make([]nid.Event, len(lookups))
	at := make([]*subtree, len(lookups)) // where each lookup stands, nil at its end
	for i, q := range lookups {
		if !q.Root.Empty() {
			s := top(q.Root)
			at[i] = &s
		}
	}
	known, fresh := decodedOf(l), map[Hash]*subtree(nil)
	for {
		wanted := make(map[Hash]*subtree)
		for i, s := range at {
			key := lookups[i].Key
			for s != nil {
				if !s.loaded() {
					n, ok := fresh[s.hash]
					if !ok {
						n, ok = known.get(s.hash)
					}
					if !ok {
						wanted[s.hash] = &subtree{count: s.count, stored: true, hash: s.hash}
						break
					}
					if s.count >= 0 && n.count != s.count {
						return nil, fmt.Errorf("%w: node %s has %d entries, its parent says %d", ErrCorrupt, s.hash, n.count, s.count)
					}
					s = n
				}
				if !s.branch() {
					out[i], _ = s.find(key)
					s = nil
					break
				}
				s = s.child(key)
			}
			at[i] = s
		}
		if len(wanted) == 0 {
			return out, nil
		}
		if err := loadAll(ctx, l, slices.Collect(maps.Values(wanted))); err != nil {
			return nil, err
		}
		known.add(wanted)
		fresh = wanted
	}
}

// maxDecoded bounds the nodes that a Decoded keeps, which are some kilobytes each at most.
const maxDecoded = 1024

// Decoded keeps nodes decoded that lookups went through, for the next lookups on the same ways. Nobody may change
// them. It is safe for concurrent use; the zero value is empty.
type Decoded struct {
	mu    sync.Mutex
	nodes map[Hash]*subtree
}

// Remembering is a Loader whose nodes stay decoded between calls.
type Remembering interface {
	Loader
	Decoded() *Decoded
}

// decodedOf gives where the nodes of a Loader are kept; those of a plain one only for this call.
func decodedOf(l Loader) *Decoded {
	if r, ok := l.(Remembering); ok {
		return r.Decoded()
	}
	return new(Decoded)
}

func (d *Decoded) get(h Hash) (*subtree, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, ok := d.nodes[h]
	return n, ok
}

// add keeps nodes. When there are too many, those that were kept before go.
func (d *Decoded) add(nodes map[Hash]*subtree) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.nodes == nil || len(d.nodes)+len(nodes) > maxDecoded {
		d.nodes = make(map[Hash]*subtree, min(len(nodes), maxDecoded))
	}
	for h, n := range nodes {
		if len(d.nodes) == maxDecoded {
			return // one call went through more than all that is kept
		}
		d.nodes[h] = n
	}
}

// Count gives the number of entries of the map. It reads one node.
func Count(ctx context.Context, l Loader, root Root) (int, error) {
	s := top(root)
	if err := load(ctx, l, &s); err != nil {
		return 0, err
	}
	return s.count, nil
}

// Walk calls fn for every entry in key order. An error of fn ends the walk and is
// returned, except Stop, which ends it without an error.
func Walk(ctx context.Context, l Loader, root Root, fn func(Entry) error) error {
	return WalkFrom(ctx, l, root, Key{}, fn)
}

// WalkFrom is Walk over the entries whose key is from or after it. Pages are made by
// continuing from the key after the last one seen.
func WalkFrom(ctx context.Context, l Loader, root Root, from Key, fn func(Entry) error) error {
	s := top(root)
	err := walk(ctx, l, &s, from, fn)
	if errors.Is(err, Stop) {
		return nil
	}
	return err
}

// WalkType is Walk over the entries of one event type.
func WalkType(ctx context.Context, l Loader, root Root, typ nid.Type, fn func(Entry) error) error {
	return WalkFrom(ctx, l, root, Key{Type: typ}, func(e Entry) error {
		if e.Type != typ {
			return Stop
		}
		return fn(e)
	})
}

func walk(ctx context.Context, l Loader, s *subtree, from Key, fn func(Entry) error) error {
	if s.count == 0 {
		return nil
	}
	if err := load(ctx, l, s); err != nil {
		return err
	}
	if !s.branch() {
		for _, e := range s.entries {
			if e.Less(from) {
				continue
			}
			if err := fn(e); err != nil {
				return err
			}
		}
		return nil
	}
	// Children that lie wholly before `from` are left out, the others are read
	// in one batch.
	start := 0
	if p := from.prefix(s.pos); p == s.prefix {
		for start < len(s.children) && s.children[start].nibble < from.nibble(s.pos) {
			start++
		}
	} else if s.prefix.Less(p) {
		return nil
	}
	// Only the first child is sure to be wanted by a walk that may end early, so
	// the batch doubles as the walk goes on.
	ready := start
	for i, ahead := start, 1; i < len(s.children); i++ {
		if i == ready {
			ready = min(len(s.children), i+ahead)
			ahead *= 4
			subs := make([]*subtree, 0, ready-i)
			for j := i; j < ready; j++ {
				subs = append(subs, &s.children[j].subtree)
			}
			if err := loadAll(ctx, l, subs); err != nil {
				return err
			}
		}
		if err := walk(ctx, l, &s.children[i].subtree, from, fn); err != nil {
			return err
		}
		s.children[i].subtree = subtree{} // the walk holds one path, not the tree
	}
	return nil
}
