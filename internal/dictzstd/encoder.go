package dictzstd

import (
	"encoding/binary"
	"math/bits"

	"github.com/klauspost/compress/huff0"
)

const (
	// MaxText is the length of the longest text that is taken.
	MaxText = 1<<14 - 1

	textLog = 11 // of the tables of the text's own places
	good    = 24 // who has found a match of this length looks no further
)

// encoder is what one goroutine compresses with.
type encoder struct {
	d *Dictionary
	// known has the dictionary's codes of literals, fresh makes codes that suit them.
	known, fresh *huff0.Scratch
	text         []byte
	// The last places in the text of what has a hash, plus one.
	long, short [1 << textLog]uint16

	lits []byte
	seqs []sequence
}

// sequence is some literals and a match after them.
type sequence struct {
	literals, match uint32
	offset          uint32 // as it is written: 1 to 3 repeat one before, others are 3 more than the distance
	ls, ms, os      uint8  // the symbols of the three
}

// Append compresses text and appends the frame, without its magic number, to dst. It reports false, and appends nothing, where the frame
// would not be shorter than the text, and of a text that it does not take.
func (d *Dictionary) Append(dst, text []byte) ([]byte, bool) {
	if len(text) > MaxText || len(text) < 8 {
		return dst, false
	}
	e := d.pool.Get().(*encoder) //nolint:forcetypeassert // nothing else is in the pool
	defer d.pool.Put(e)
	e.text = text
	e.find()
	out, ok := e.frame(dst)
	e.text = nil
	if !ok || len(out)-len(dst) >= len(text) {
		return dst, false
	}
	return out, true
}

// find makes sequences of the text. What is left after the last one is literals.
func (e *encoder) find() {
	e.lits, e.seqs = e.lits[:0], e.seqs[:0]
	clear(e.long[:])
	clear(e.short[:])
	text, rep := e.text, e.d.repeats
	from := 0 // the first byte that is in no sequence yet
	end := len(text) - 8
	for at := 0; at <= end; {
		length, distance := e.match(at, from, rep[0])
		if length == 0 {
			at += 1 + (at-from)>>6 // what does not compress is passed faster
			continue
		}
		if length < good && at < end {
			// One byte later there may be a longer one.
			if next, d := e.match(at+1, from, rep[0]); next > length+1 {
				at, length, distance = at+1, next, d
			}
		}
		for at > from && e.before(at, distance) { // it may have begun earlier
			at, length = at-1, length+1
		}
		s := sequence{literals: uint32(at - from), match: uint32(length), offset: distance + 3}
		if distance == rep[0] && at > from {
			s.offset = 1
		} else {
			rep[2], rep[1], rep[0] = rep[1], rep[0], distance
		}
		s.ls, s.ms, s.os = literalSymbol(s.literals), matchSymbol(s.match), uint8(bits.Len32(s.offset)-1)
		e.seqs = append(e.seqs, s)
		e.lits = append(e.lits, text[from:at]...)
		next := at + length
		for at += 1; at < next && at <= end; at += 2 {
			e.note(at, binary.LittleEndian.Uint64(text[at:]))
		}
		at, from = next, next
	}
	e.lits = append(e.lits, text[from:]...)
}

// note keeps a place of the text for later matches.
func (e *encoder) note(at int, v uint64) {
	e.long[hashLong(v, textLog)] = uint16(at + 1)
	e.short[hashShort(v, textLog)] = uint16(at + 1)
}

// match gives the longest match at a place, and how far before it is; no length where there is none. rep is the distance of the last
// match, whose repetition takes the fewest bits.
func (e *encoder) match(at, from int, rep uint32) (length int, distance uint32) {
	v := binary.LittleEndian.Uint64(e.text[at:])
	size := len(e.d.content)
	long, short := &e.long[hashLong(v, textLog)], &e.short[hashShort(v, textLog)]
	own, ownShort := int(*long), int(*short)
	*long, *short = uint16(at+1), uint16(at+1)
	if at > from && int(rep) <= at+size {
		if n := e.same(at, int(rep)); n >= 4 {
			length, distance = n+1, rep // it saves a byte and more
		}
	}
	if length < good && own > 0 {
		length, distance = e.longer(at, at+1-own, 6, length, distance)
	}
	if p := int(e.d.long[hashLong(v, longLog)]); length < good && p > 0 {
		length, distance = e.longer(at, at+size+1-p, 6, length, distance)
	}
	if length == 0 && ownShort > 0 {
		length, distance = e.longer(at, at+1-ownShort, 4, length, distance)
	}
	if p := int(e.d.short[hashShort(v, shortLog)]); length < 6 && p > 0 {
		length, distance = e.longer(at, at+size+1-p, 5, length, distance)
	}
	if length > 0 && distance == rep && at > from {
		length--
	}
	return length, distance
}

// longer takes a match at a distance where it has least bytes or more, and more than the best one.
func (e *encoder) longer(at, distance, least, best int, other uint32) (int, uint32) {
	if n := e.same(at, distance); n >= least && n > best {
		return n, uint32(distance)
	}
	return best, other
}

// same tells how many bytes at a place are those a distance before it.
func (e *encoder) same(at, distance int) (n int) {
	text := e.text
	if p := at - distance; p < 0 { // it begins in the dictionary, and may go on in the text
		dict := e.d.content[len(e.d.content)+p:]
		n = common(text[at:], dict)
		if n < len(dict) {
			return n
		}
		return n + common(text[at+n:], text)
	}
	return common(text[at:], text[at-distance:])
}

// before tells whether the byte before a place is the one a distance before that.
func (e *encoder) before(at int, distance uint32) bool {
	p := at - 1 - int(distance)
	if p >= 0 {
		return e.text[at-1] == e.text[p]
	}
	p += len(e.d.content)
	return p >= 0 && e.text[at-1] == e.d.content[p]
}

// common tells with how many equal bytes two texts begin.
func common(a, b []byte) (n int) {
	for len(a)-n >= 8 && len(b)-n >= 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
		n += 8
	}
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// frame writes a frame of one block.
//
// RFC 8878 §3.1.1 (Zstandard Frames)
func (e *encoder) frame(dst []byte) ([]byte, bool) {
	const singleSegment = 1 << 5
	size, out := len(e.text), dst
	head := len(out)
	out = append(out, singleSegment)
	switch id := e.d.id; {
	case id < 1<<8:
		out[head] |= 1
		out = append(out, byte(id))
	case id < 1<<16:
		out[head] |= 2
		out = binary.LittleEndian.AppendUint16(out, uint16(id))
	default:
		out[head] |= 3
		out = binary.LittleEndian.AppendUint32(out, id)
	}
	if size < 256 {
		out = append(out, byte(size))
	} else {
		out[head] |= 1 << 6
		out = binary.LittleEndian.AppendUint16(out, uint16(size-256))
	}
	block := len(out)
	out = append(out, 0, 0, 0)
	out, ok := e.literals(out)
	if !ok {
		return dst, false
	}
	out = e.sequences(out)
	const last, compressed = 1, 2 << 1
	h := uint32(len(out)-block-3)<<3 | compressed | last
	out[block], out[block+1], out[block+2] = byte(h), byte(h>>8), byte(h>>16)
	return out, true
}

// The kinds of literals.
const (
	rawLiterals        = 0
	compressedLiterals = 2 // after a description of their codes
	treelessLiterals   = 3 // with the dictionary's codes
)

// literals writes the literals, with the codes of the dictionary unless they do badly, as with what is encrypted.
//
// RFC 8878 §3.1.1.3.1 (Literals Section)
func (e *encoder) literals(out []byte) ([]byte, bool) {
	const (
		few   = 16   // literals that are not compressed
		worth = 128  // literals that may be worth a description
		many  = 1024 // literals that are in four streams
	)
	n := len(e.lits)
	if n <= few {
		return append(append(out, byte(rawLiterals|n<<3)), e.lits...), true
	}
	compress, format, width, head := huff0.Compress1X, uint64(0), 10, 3
	if n >= many {
		compress, format, width, head = huff0.Compress4X, 2, 14, 4
	}
	kind := uint64(treelessLiterals)
	packed, _, err := compress(e.lits, e.known)
	if n >= worth && (err != nil || len(packed) > n*11/16) {
		if other, _, otherErr := compress(e.lits, e.fresh); otherErr == nil && (err != nil || len(other) < len(packed)) {
			kind, packed, err = compressedLiterals, other, nil
		}
	}
	if err != nil || len(packed) >= n { // they are as they are
		if n < 32 {
			out = append(out, byte(rawLiterals|n<<3))
		} else if n < 1<<12 {
			out = binary.LittleEndian.AppendUint16(out, uint16(rawLiterals|1<<2|n<<4))
		} else {
			return out, false
		}
		return append(out, e.lits...), true
	}
	h := kind | format<<2 | uint64(n)<<4 | uint64(len(packed))<<(4+width)
	for range head {
		out = append(out, byte(h))
		h >>= 8
	}
	return append(out, packed...), true
}

// sequences writes the sequences.
//
// RFC 8878 §3.1.1.3.2 (Sequences Section)
func (e *encoder) sequences(out []byte) []byte {
	n := len(e.seqs)
	if n < 128 {
		out = append(out, byte(n))
	} else {
		out = append(out, byte(n>>8+128), byte(n))
	}
	if n == 0 {
		return out
	}
	lt, mt, ot := e.d.literals, e.d.matches, e.d.offsets
	const repeat, predefined = 3, 0
	lm, mm, om := byte(repeat), byte(repeat), byte(repeat)
	for i := range e.seqs { // a symbol that the dictionary has no code for is in the tables that need no description
		s := &e.seqs[i]
		if !lt.has(s.ls) {
			lt, lm = defaultLiterals, predefined
		}
		if !mt.has(s.ms) {
			mt, mm = defaultMatches, predefined
		}
		if !ot.has(s.os) {
			ot, om = defaultOffsets, predefined
		}
	}
	out = append(out, lm<<6|om<<4|mm<<2)
	w := bitWriter{out: out}
	s := &e.seqs[n-1]
	ms, os, ls := mt.start(s.ms), ot.start(s.os), lt.start(s.ls)
	w.extra(s)
	for i := n - 2; i >= 0; i-- {
		s = &e.seqs[i]
		os, ms, ls = ot.encode(&w, os, s.os), mt.encode(&w, ms, s.ms), lt.encode(&w, ls, s.ls)
		w.extra(s)
	}
	w.add(uint64(ms), mt.log)
	w.add(uint64(os), ot.log)
	w.add(uint64(ls), lt.log)
	return w.end()
}

// extra writes what the symbols of a sequence leave open.
func (w *bitWriter) extra(s *sequence) {
	l, m := literalCodes[s.ls], matchCodes[s.ms]
	w.add(uint64(s.literals-l.base), uint(l.bits))
	w.add(uint64(s.match-m.base), uint(m.bits))
	w.add(uint64(s.offset), uint(s.os))
}
