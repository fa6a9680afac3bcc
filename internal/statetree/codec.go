package statetree

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"

	"weft/internal/nid"
)

// The first byte of a node is its format; a later format takes other values.
//
//	leaf   = 0x01 group+
//	group  = type delta (the first: the type itself), number of entries, entry+
//	entry  = state key delta (the first of a group: the state key itself),
//	         event delta (zigzag, from the event before it in the node)
//	branch = 0x02 nibble index, prefix type, prefix state key,
//	         bitmap of stored children (2 bytes, big endian),
//	         bitmap of inline children (2 bytes, big endian), child+
//	child  = stored: number of entries, hash (16 bytes)
//	       | inline: number of entries, (type − prefix type,
//	         state key − prefix state key when the types are equal else state
//	         key, event)+
//
// All numbers are unsigned varints in their shortest form. Children stand in the
// order of their nibbles.
const (
	formatLeaf   = 0x01
	formatBranch = 0x02
)

// subtree is a set of entries somewhere in a tree. Exactly one form holds:
// stored (count and hash; not read yet), entries (a leaf or an inline child), or
// branch. The zero subtree is empty.
type subtree struct {
	count   int
	entries []Entry // sorted
	*fork           // of a branch
	hash    Hash    // when stored; also kept on a loaded node that did not change
	stored  bool
}

// fork is what a branch has. Most subtrees in memory are children that were not read, so it is no part of them.
type fork struct {
	children []child // sorted by nibble
	pos      int     // the nibble that tells the children apart
	prefix   Key     // the nibbles before pos
}

type child struct {
	subtree
	nibble uint8
}

func (s *subtree) branch() bool { return s.fork != nil }

// loaded reports whether the subtree's content is in memory.
func (s *subtree) loaded() bool { return s.count == 0 || len(s.entries) > 0 || s.fork != nil }

func hashOf(raw []byte) Hash {
	sum := sha256.Sum256(raw)
	return Hash(sum[:16])
}

func zigzag(v int64) uint64   { return uint64(v<<1) ^ uint64(v>>63) }
func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

// encodeLeaf writes entries, sorted and between 1 and LeafMax of them.
func encodeLeaf(entries []Entry) []byte {
	out := make([]byte, 1, 8+6*len(entries))
	out[0] = formatLeaf
	lastType, lastEvent := nid.Type(0), nid.Event(0)
	for i := 0; i < len(entries); {
		end := i + 1
		for end < len(entries) && entries[end].Type == entries[i].Type {
			end++
		}
		out = binary.AppendUvarint(out, uint64(entries[i].Type-lastType))
		out = binary.AppendUvarint(out, uint64(end-i))
		lastType = entries[i].Type
		lastKey := nid.StateKey(0)
		for ; i < end; i++ {
			out = binary.AppendUvarint(out, uint64(entries[i].StateKey-lastKey))
			out = binary.AppendUvarint(out, zigzag(int64(entries[i].Event-lastEvent)))
			lastKey, lastEvent = entries[i].StateKey, entries[i].Event
		}
	}
	return out
}

// encodeBranch writes a branch whose children are stored or inline.
func encodeBranch(s *subtree) []byte {
	var storedMap, inlineMap uint16
	for i := range s.children {
		if c := &s.children[i]; c.stored {
			storedMap |= 1 << c.nibble
		} else {
			inlineMap |= 1 << c.nibble
		}
	}
	out := make([]byte, 1, 16+20*len(s.children))
	out[0] = formatBranch
	out = binary.AppendUvarint(out, uint64(s.pos))
	out = binary.AppendUvarint(out, uint64(s.prefix.Type))
	out = binary.AppendUvarint(out, uint64(s.prefix.StateKey))
	out = binary.BigEndian.AppendUint16(out, storedMap)
	out = binary.BigEndian.AppendUint16(out, inlineMap)
	for i := range s.children {
		c := &s.children[i]
		out = binary.AppendUvarint(out, uint64(c.count))
		if c.stored {
			out = append(out, c.hash[:]...)
			continue
		}
		for _, e := range c.entries {
			out = binary.AppendUvarint(out, uint64(e.Type-s.prefix.Type))
			base := nid.StateKey(0)
			if e.Type == s.prefix.Type {
				base = s.prefix.StateKey
			}
			out = binary.AppendUvarint(out, uint64(e.StateKey-base))
			out = binary.AppendUvarint(out, uint64(e.Event))
		}
	}
	return out
}

// reader takes numbers off a node; the first failure sticks.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(why string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrCorrupt, why)
	}
	r.b = nil
}

// maxNumber bounds every number in a node, so that sums do not overflow.
const maxNumber = 1 << 61

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	switch {
	case n <= 0:
		r.fail("a number is cut off")
		return 0
	case n > 1 && r.b[n-1] == 0:
		r.fail("a number is not in its shortest form")
		return 0
	}
	r.b = r.b[n:]
	return v
}

// number reads a NID or a delta.
func (r *reader) number() int64 {
	v := r.uvarint()
	if v > maxNumber {
		r.fail("a number is too large")
		return 0
	}
	return int64(v)
}

func (r *reader) bytes(n int) []byte {
	if len(r.b) < n {
		r.fail("the node is cut off")
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

// decode reads a node and checks everything about its shape that can be checked
// without its children.
func decode(raw []byte) (subtree, error) {
	if len(raw) == 0 || len(raw) > MaxNode {
		return subtree{}, fmt.Errorf("%w: %d bytes", ErrCorrupt, len(raw))
	}
	r := &reader{b: raw[1:]}
	var s subtree
	switch raw[0] {
	case formatLeaf:
		s = r.leaf()
	case formatBranch:
		s = r.branch()
	default:
		r.fail(fmt.Sprintf("unknown format %d", raw[0]))
	}
	if r.err == nil && len(r.b) > 0 {
		r.fail("bytes are left over")
	}
	if r.err != nil {
		return subtree{}, r.err
	}
	return s, nil
}

func (r *reader) leaf() subtree {
	entries := make([]Entry, 0, min(LeafMax, len(r.b)/2)) // an entry has two bytes or more
	typ, event := int64(0), int64(0)
	for len(r.b) > 0 && r.err == nil {
		d, n := r.number(), r.number()
		if (d == 0 && len(entries) > 0) || n == 0 || n > int64(LeafMax-len(entries)) || typ+d > maxNumber {
			r.fail("a group is out of order, empty or too long")
			break
		}
		typ += d
		key := int64(0)
		for i := range n {
			kd := r.number()
			if (kd == 0 && i > 0) || key+kd > maxNumber {
				r.fail("entries are out of order")
				break
			}
			key += kd
			event += unzigzag(r.uvarint())
			if event <= 0 || event > maxNumber {
				r.fail("an event number is out of range")
				break
			}
			entries = append(entries, Entry{Key{nid.Type(typ), nid.StateKey(key)}, nid.Event(event)})
		}
	}
	if len(entries) == 0 {
		r.fail("an empty leaf")
	}
	return subtree{count: len(entries), entries: entries}
}

func (r *reader) branch() subtree {
	pos := r.number()
	prefix := Key{nid.Type(r.number()), nid.StateKey(r.number())}
	storedMap := binary.BigEndian.Uint16(r.bytes(2))
	inlineMap := binary.BigEndian.Uint16(r.bytes(2))
	if r.err != nil {
		return subtree{}
	}
	if pos > 31 || prefix.prefix(int(pos)) != prefix {
		r.fail("a prefix that is too long")
		return subtree{}
	}
	if storedMap&inlineMap != 0 || bits.OnesCount16(storedMap|inlineMap) < 2 {
		r.fail("a branch without two children")
		return subtree{}
	}
	s := subtree{fork: &fork{pos: int(pos), prefix: prefix, children: make([]child, 0, bits.OnesCount16(storedMap|inlineMap))}}
	for nibble := uint8(0); nibble < 16 && r.err == nil; nibble++ {
		bit := uint16(1) << nibble
		if (storedMap|inlineMap)&bit == 0 {
			continue
		}
		count := r.number()
		c := child{nibble: nibble}
		c.count = int(count)
		if storedMap&bit != 0 {
			if count <= InlineMax || count > maxNumber/32 {
				r.fail("a stored child of the wrong size")
			}
			c.stored = true
			copy(c.hash[:], r.bytes(len(Hash{})))
		} else {
			if count == 0 || count > InlineMax {
				r.fail("an inline child of the wrong size")
				break
			}
			c.entries = r.inline(int(count), s.fork, nibble)
		}
		s.count += c.count
		s.children = append(s.children, c)
	}
	if s.count <= LeafMax {
		r.fail("a branch of so few entries must be a leaf")
	}
	return s
}

func (r *reader) inline(count int, f *fork, nibble uint8) []Entry {
	entries := make([]Entry, 0, count)
	for range count {
		typ := r.number() + int64(f.prefix.Type)
		key := r.number()
		if typ == int64(f.prefix.Type) {
			key += int64(f.prefix.StateKey)
		}
		e := Entry{Key{nid.Type(typ), nid.StateKey(key)}, nid.Event(r.number())}
		switch {
		case r.err != nil:
			return entries
		case typ > maxNumber || key > maxNumber || e.Event == 0:
			r.fail("an inline entry is out of range")
		case e.prefix(f.pos) != f.prefix || e.nibble(f.pos) != nibble:
			r.fail("an inline entry is in the wrong place")
		case len(entries) > 0 && !entries[len(entries)-1].Less(e.Key):
			r.fail("inline entries are out of order")
		}
		entries = append(entries, e)
	}
	return entries
}

// first gives a key that shares the prefix of every entry under the subtree.
func (s *subtree) first() Key {
	if s.branch() {
		return s.prefix
	}
	return s.entries[0].Key
}
