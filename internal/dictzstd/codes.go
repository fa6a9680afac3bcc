package dictzstd

import "math/bits"

// code is a range of values that have one symbol: the lowest of them, and how many further bits tell which.
type code struct {
	base uint32
	bits uint8
}

// The codes of literals lengths and match lengths beyond those that stand for one value each.
//
// RFC 8878 §3.1.1.3.2.1.1 (Sequence Codes for Lengths and Offsets)
var (
	literalCodes = [...]code{16: {16, 1}, {18, 1}, {20, 1}, {22, 1}, {24, 2}, {28, 2}, {32, 3}, {40, 3}, {48, 4}, {64, 6}, {128, 7}, {256, 8}, {512, 9},
		{1024, 10}, {2048, 11}, {4096, 12}, {8192, 13}, {16384, 14}, {32768, 15}, {65536, 16}}
	matchCodes = [...]code{32: {35, 1}, {37, 1}, {39, 1}, {41, 1}, {43, 2}, {47, 2}, {51, 3}, {59, 3}, {67, 4}, {83, 4}, {99, 5}, {131, 7}, {259, 8}, {515, 9},
		{1027, 10}, {2051, 11}, {4099, 12}, {8195, 13}, {16387, 14}, {32771, 15}, {65539, 16}}
)

const minMatch = 3 // the match length whose code is 0

// The symbols of the values below some, and the codes of the values above them by their highest bit.
var (
	literalSymbols [64]uint8
	matchSymbols   [131]uint8
)

func init() {
	for s := range literalCodes {
		if s < 16 {
			literalCodes[s] = code{base: uint32(s)}
		}
		fill(literalSymbols[:], literalCodes[s], s)
	}
	for s := range matchCodes {
		if s < 32 {
			matchCodes[s] = code{base: uint32(s) + minMatch}
		}
		fill(matchSymbols[:], matchCodes[s], s)
	}
}

func fill(symbols []uint8, c code, s int) {
	for v := int(c.base); v < min(len(symbols), int(c.base)+1<<c.bits); v++ {
		symbols[v] = uint8(s)
	}
}

func literalSymbol(n uint32) uint8 {
	if n < uint32(len(literalSymbols)) {
		return literalSymbols[n]
	}
	return uint8(bits.Len32(n)) + 18
}

func matchSymbol(n uint32) uint8 {
	if n < uint32(len(matchSymbols)) {
		return matchSymbols[n]
	}
	return uint8(bits.Len32(n-minMatch)) + 35
}

// The counts of the tables that need no description.
//
// RFC 8878 §3.1.1.3.2.2 (Default Distributions)
var (
	defaultLiterals = newFSETable([]int16{4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1}, 6)
	defaultMatches  = newFSETable([]int16{1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
		-1, -1, -1, -1, -1, -1, -1}, 6)
	defaultOffsets = newFSETable([]int16{1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1}, 5)
)
