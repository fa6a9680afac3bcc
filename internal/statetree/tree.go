package statetree

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"

	"weft/internal/nid"
)

// Limits of the shape. Changing one changes every root hash: it needs a new node
// version.
const (
	// LeafMax is the greatest number of entries in one leaf.
	LeafMax = 32
	// InlineMax is the greatest number of entries of a child that is written into
	// its parent branch.
	InlineMax = 3
	// MaxNode bounds the size of a node in bytes, whatever it holds.
	MaxNode = 2048
)

// Hash names a node: the first 16 bytes of the SHA-256 of its bytes.
type Hash [16]byte

// String gives the hash in hexadecimal, for logs and errors.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Root names a map: the hash of its top node. The zero Root is the empty map.
type Root Hash

// String gives the root in hexadecimal, for logs and errors.
func (r Root) String() string { return hex.EncodeToString(r[:]) }

// Empty reports whether the map has no entries.
func (r Root) Empty() bool { return r == Root{} }

// Key is a place in the state of a room.
type Key struct {
	Type     nid.Type
	StateKey nid.StateKey
}

// Less orders keys by type and then by state key.
func (k Key) Less(o Key) bool {
	if k.Type != o.Type {
		return k.Type < o.Type
	}
	return k.StateKey < o.StateKey
}

// Compare is negative, zero or positive as k sorts before, with or after o.
func (k Key) Compare(o Key) int {
	switch {
	case k == o:
		return 0
	case k.Less(o):
		return -1
	}
	return 1
}

// nibble gives the i-th 4 bits of the key, the most significant being number 0.
func (k Key) nibble(i int) uint8 {
	if i < 16 {
		return uint8(uint64(k.Type) >> (60 - 4*i) & 15)
	}
	return uint8(uint64(k.StateKey) >> (60 - 4*(i-16)) & 15)
}

// common gives the number of leading nibbles that two keys share, 32 when they
// are equal.
func (k Key) common(o Key) int {
	if x := uint64(k.Type) ^ uint64(o.Type); x != 0 {
		return bits.LeadingZeros64(x) / 4
	}
	if x := uint64(k.StateKey) ^ uint64(o.StateKey); x != 0 {
		return 16 + bits.LeadingZeros64(x)/4
	}
	return 32
}

// prefix gives the key with all nibbles from number n on set to zero.
func (k Key) prefix(n int) Key {
	return Key{Type: nid.Type(keep(uint64(k.Type), n)), StateKey: nid.StateKey(keep(uint64(k.StateKey), n-16))}
}

// keep clears all but the first n nibbles.
func keep(v uint64, n int) uint64 {
	switch {
	case n <= 0:
		return 0
	case n >= 16:
		return v
	}
	return v &^ (1<<(64-4*n) - 1)
}

// Entry is one place of the state and the event that fills it.
type Entry struct {
	Key
	Event nid.Event
}

// Change sets one place of the state; Event 0 removes it.
type Change struct {
	Key
	Event nid.Event
}

// Loader gives the bytes of stored nodes.
type Loader interface {
	// Node returns the bytes of one node. They must not be changed. A node that
	// is not there is an error that wraps ErrMissing.
	Node(ctx context.Context, h Hash) ([]byte, error)
}

// BatchLoader is a Loader that reads many nodes at once. Walks and comparisons
// use it when the Loader they are given has it.
type BatchLoader interface {
	Loader
	// Nodes returns the bytes of the nodes in the order of the hashes, at most
	// a few hundred of them. A node that is not there is an error that wraps ErrMissing.
	Nodes(ctx context.Context, hashes []Hash) ([][]byte, error)
}

// ErrMissing reports a node that a tree names and the Loader does not have.
var ErrMissing = errors.New("statetree: node is missing")

// ErrCorrupt reports bytes that are no node, or a node that breaks the
// canonical shape.
var ErrCorrupt = errors.New("statetree: node is corrupt")

// Stop ends a walk early without an error when a callback returns it.
//
//lint:ignore ST1012 a signal, not a failure
var Stop = errors.New("statetree: stop")

// Batch collects the nodes that Apply made. It is a BatchLoader over the Loader it
// was made with, so that several changes can be applied one after another before
// anything is stored.
type Batch struct {
	under   Loader
	nodes   map[Hash][]byte
	decoded Decoded
}

// NewBatch makes an empty batch whose reads fall through to under.
func NewBatch(under Loader) *Batch {
	return &Batch{under: under, nodes: make(map[Hash][]byte)}
}

// Node implements Loader.
func (b *Batch) Node(ctx context.Context, h Hash) ([]byte, error) {
	if n, ok := b.nodes[h]; ok {
		return n, nil
	}
	if b.under == nil {
		return nil, fmt.Errorf("%w: %s", ErrMissing, h)
	}
	return b.under.Node(ctx, h)
}

// Nodes implements BatchLoader.
func (b *Batch) Nodes(ctx context.Context, hashes []Hash) ([][]byte, error) {
	out := make([][]byte, len(hashes))
	var rest []Hash
	var at []int
	for i, h := range hashes {
		if n, ok := b.nodes[h]; ok {
			out[i] = n
			continue
		}
		rest, at = append(rest, h), append(at, i)
	}
	if len(rest) == 0 {
		return out, nil
	}
	if b.under == nil {
		return nil, fmt.Errorf("%w: %s", ErrMissing, rest[0])
	}
	got, err := loadMany(ctx, b.under, rest)
	if err != nil {
		return nil, err
	}
	for i, n := range got {
		out[at[i]] = n
	}
	return out, nil
}

// Decoded implements Remembering.
func (b *Batch) Decoded() *Decoded { return &b.decoded }

// Len gives the number of nodes collected.
func (b *Batch) Len() int { return len(b.nodes) }

// Bytes gives the size of the nodes collected, names included.
func (b *Batch) Bytes() int {
	total := 0
	for _, n := range b.nodes {
		total += len(n) + len(Hash{})
	}
	return total
}

// Hashes gives the names of the collected nodes in ascending order, which is the
// order to store them in: writers that lock rows in one order never lock each
// other out.
func (b *Batch) Hashes() []Hash {
	return slices.SortedFunc(maps.Keys(b.nodes), func(x, y Hash) int { return bytes.Compare(x[:], y[:]) })
}

// Get gives a collected node.
func (b *Batch) Get(h Hash) (node []byte, ok bool) {
	node, ok = b.nodes[h]
	return node, ok
}

// All yields the collected nodes in no particular order.
func (b *Batch) All(yield func(Hash, []byte) bool) {
	for h, n := range b.nodes {
		if !yield(h, n) {
			return
		}
	}
}

// Keep drops every collected node that is not reachable from one of the roots:
// what intermediate steps left behind. Nodes under those that are not in the batch
// are not looked at.
func (b *Batch) Keep(roots ...Root) error {
	kept := make(map[Hash][]byte, len(b.nodes))
	var visit func(h Hash) error
	visit = func(h Hash) error {
		raw, ok := b.nodes[h]
		if !ok || kept[h] != nil {
			return nil
		}
		kept[h] = raw
		n, err := decode(raw)
		if err != nil {
			return err
		}
		if !n.branch() {
			return nil
		}
		for i := range n.children {
			if c := &n.children[i]; c.stored {
				if err := visit(c.hash); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for _, r := range roots {
		if err := visit(Hash(r)); err != nil {
			return err
		}
	}
	b.nodes = kept
	return nil
}

// batchSize bounds the nodes asked for at once.
const batchSize = 500

// loadMany reads nodes, at once when the loader can.
func loadMany(ctx context.Context, l Loader, hashes []Hash) ([][]byte, error) {
	out := make([][]byte, 0, len(hashes))
	many, ok := l.(BatchLoader)
	for len(hashes) > 0 {
		n := min(len(hashes), batchSize)
		if !ok || n == 1 {
			raw, err := l.Node(ctx, hashes[0])
			if err != nil {
				return nil, err
			}
			out, hashes = append(out, raw), hashes[1:]
			continue
		}
		got, err := many.Nodes(ctx, hashes[:n])
		if err != nil {
			return nil, err
		}
		if len(got) != n {
			return nil, fmt.Errorf("statetree: the loader gave %d nodes for %d hashes", len(got), n)
		}
		out, hashes = append(out, got...), hashes[n:]
	}
	return out, nil
}
