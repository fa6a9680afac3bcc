package dictzstd

import (
	"errors"
	"math/bits"
)

// fseTable encodes the symbols of one kind.
//
// RFC 8878 §4.1 (FSE)
type fseTable struct {
	log     uint
	states  []uint16
	symbols []fseSymbol
}

// fseSymbol says how a state follows another with a symbol: bits go out such that the state that remains is among the symbol's.
type fseSymbol struct {
	delta uint32 // bits to write, in the upper half, less the least state that writes them
	find  int32  // what leads from the rest of a state to its successor's place
	none  bool   // the table does not have the symbol
}

// newFSETable makes the table of normalized counts, -1 being "less than one".
func newFSETable(counts []int16, log uint) *fseTable {
	size := 1 << log
	t := &fseTable{log: log, states: make([]uint16, size), symbols: make([]fseSymbol, len(counts))}
	spread, top := make([]uint8, size), size-1
	first := make([]int, len(counts)+1) // place of the first state of a symbol
	for s, n := range counts {
		first[s+1] = first[s] + int(max(n, -n))
		if n == -1 {
			spread[top] = uint8(s)
			top--
		}
	}
	step, at := size>>1+size>>3+3, 0
	for s, n := range counts {
		for range max(n, 0) {
			spread[at] = uint8(s)
			for at = (at + step) & (size - 1); at > top; at = (at + step) & (size - 1) {
			}
		}
	}
	next := append([]int(nil), first...)
	for u, s := range spread {
		t.states[next[s]] = uint16(size + u)
		next[s]++
	}
	for s, n := range counts {
		e := &t.symbols[s]
		switch {
		case n == 0:
			e.none = true
		case n == 1 || n == -1:
			e.delta, e.find = uint32(log)<<16-uint32(size), int32(first[s]-1)
		default:
			most := uint32(log) - uint32(bits.Len16(uint16(n-1))-1)
			e.delta, e.find = most<<16-uint32(n)<<most, int32(first[s])-int32(n)
		}
	}
	return t
}

// has tells whether the table has a symbol.
func (t *fseTable) has(symbol uint8) bool {
	return int(symbol) < len(t.symbols) && !t.symbols[symbol].none
}

// start gives the state that ends with a symbol.
func (t *fseTable) start(symbol uint8) uint32 {
	e := &t.symbols[symbol]
	n := (e.delta + 1<<15) >> 16
	return uint32(t.states[int32((n<<16-e.delta)>>n)+e.find])
}

// encode writes a symbol and gives the next state.
func (t *fseTable) encode(w *bitWriter, state uint32, symbol uint8) uint32 {
	e := &t.symbols[symbol]
	n := (state + e.delta) >> 16
	w.add(uint64(state), uint(n))
	return uint32(t.states[int32(state>>n)+e.find])
}

var errDictionary = errors.New("dictzstd: not a dictionary")

// readCounts reads the normalized counts of a table and gives what follows them.
//
// RFC 8878 §4.1.1 (FSE Table Description)
func readCounts(data []byte, most int) (counts []int16, log uint, rest []byte, err error) {
	r := bitReader{data: data}
	log = uint(r.read(4)) + 5
	if log > 9 {
		return nil, 0, nil, errDictionary
	}
	left := 1<<log + 1 // what is not given out yet, and one
	for left > 1 {
		if len(counts) > most || r.at > 8*len(data) {
			return nil, 0, nil, errDictionary
		}
		width := uint(bits.Len(uint(left)))
		few := 1<<width - 1 - left // so many values take one bit less
		n := int(r.read(width - 1))
		if n >= few {
			if n |= int(r.read(1)) << (width - 1); n >= 1<<(width-1) {
				n -= few
			}
		}
		n--
		counts = append(counts, int16(n))
		left -= max(n, -n)
		if n == 0 {
			for more := uint64(3); more == 3; {
				more = r.read(2)
				counts = append(counts, make([]int16, more)...)
			}
		}
	}
	if left != 1 || len(counts) > most+1 {
		return nil, 0, nil, errDictionary
	}
	end := (r.at + 7) / 8
	if end > len(data) {
		return nil, 0, nil, errDictionary
	}
	return counts, log, data[end:], nil
}

// bitReader reads bits, the lowest of each byte first. Beyond the end there are zeros.
type bitReader struct {
	data []byte
	at   int
}

func (r *bitReader) read(n uint) (v uint64) {
	for i := range n {
		if k := r.at / 8; k < len(r.data) {
			v |= uint64(r.data[k]>>(r.at%8)&1) << i
		}
		r.at++
	}
	return v
}

// bitWriter writes bits, the lowest of each byte first; whoever reads them begins at the end.
type bitWriter struct {
	out  []byte
	bits uint64
	n    uint
}

// add writes the lowest n ≤ 32 bits of a value.
func (w *bitWriter) add(v uint64, n uint) {
	w.bits |= (v & (1<<n - 1)) << w.n
	w.n += n
	for w.n >= 8 {
		w.out = append(w.out, byte(w.bits))
		w.bits >>= 8
		w.n -= 8
	}
}

// end writes the mark that tells where to begin.
func (w *bitWriter) end() []byte {
	w.add(1, 1)
	if w.n > 0 {
		w.out = append(w.out, byte(w.bits))
	}
	return w.out
}
