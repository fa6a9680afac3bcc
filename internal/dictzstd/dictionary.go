package dictzstd

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/klauspost/compress/huff0"
)

const (
	dictMagic = "\x37\xa4\x30\xec"

	// MaxContent is how much text of a dictionary is used: its places are 16 bits.
	MaxContent = 1 << 15

	longLog, shortLog = 14, 13 // of the tables of the dictionary's places
)

// Dictionary is a dictionary that is ready for use by many goroutines at once.
type Dictionary struct {
	id      uint32
	content []byte
	repeats [3]uint32
	// The last places in the content of what has a hash, plus one.
	long  [1 << longLog]uint16
	short [1 << shortLog]uint16

	literals, offsets, matches *fseTable
	pool                       sync.Pool // of *encoder
}

// NewDictionary reads a dictionary with its codes.
//
// RFC 8878 §6 (Dictionary Format)
func NewDictionary(data []byte) (*Dictionary, error) {
	if len(data) < 8 || string(data[:4]) != dictMagic {
		return nil, errDictionary
	}
	d := &Dictionary{id: binary.LittleEndian.Uint32(data[4:])}
	known, rest, err := huff0.ReadTable(data[8:], nil)
	if err != nil {
		return nil, fmt.Errorf("dictzstd: codes of literals: %w", err)
	}
	for _, t := range []struct {
		table   **fseTable
		symbols int
	}{{&d.offsets, 32}, {&d.matches, len(matchCodes)}, {&d.literals, len(literalCodes)}} {
		var counts []int16
		var log uint
		if counts, log, rest, err = readCounts(rest, t.symbols-1); err != nil {
			return nil, err
		}
		*t.table = newFSETable(counts, log)
	}
	if len(rest) < 12 || d.id == 0 {
		return nil, errDictionary
	}
	d.content = rest[12:]
	for i := range d.repeats {
		if d.repeats[i] = binary.LittleEndian.Uint32(rest[4*i:]); d.repeats[i] == 0 || int64(d.repeats[i]) > int64(len(d.content)) {
			return nil, errDictionary
		}
	}
	if len(d.content) > MaxContent || len(d.content) < 8 {
		return nil, fmt.Errorf("dictzstd: a dictionary of %d bytes", len(d.content))
	}
	for i := range len(d.content) - 7 {
		v := binary.LittleEndian.Uint64(d.content[i:])
		d.long[hashLong(v, longLog)] = uint16(i + 1)
		d.short[hashShort(v, shortLog)] = uint16(i + 1)
	}
	d.pool.New = func() any {
		e := &encoder{d: d, known: &huff0.Scratch{Reuse: huff0.ReusePolicyMust}, fresh: &huff0.Scratch{Reuse: huff0.ReusePolicyNone}}
		e.known.TransferCTable(known)
		return e
	}
	return d, nil
}

// hashLong hashes six bytes, hashShort four.
func hashLong(v uint64, log uint) uint32  { return uint32((v << 16) * 227718039650203 >> (64 - log)) }
func hashShort(v uint64, log uint) uint32 { return uint32(v) * 2654435761 >> (32 - log) }
