package canonical

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// The scanner: each function takes the position where something starts and
// returns the position after it, or -1 when it is not canonical there (which
// includes that it is not JSON at all).

func scanValue(in []byte, i, depth int, m mode) int {
	if i >= len(in) {
		return -1
	}
	switch c := in[i]; c {
	case '"':
		return scanString(in, i)
	case '{':
		return scanObject(in, i, depth+1, m)
	case '[':
		return scanArray(in, i, depth+1, m)
	case 't':
		return scanLiteral(in, i, "true")
	case 'f':
		return scanLiteral(in, i, "false")
	case 'n':
		return scanLiteral(in, i, "null")
	default:
		if m == lenient {
			return scanAnyNumber(in, i)
		}
		return scanInteger(in, i)
	}
}

func scanLiteral(in []byte, i int, word string) int {
	if len(in)-i < len(word) || string(in[i:i+len(word)]) != word {
		return -1
	}
	return i + len(word)
}

func scanObject(in []byte, i, depth int, m mode) int {
	if depth > MaxDepth {
		return -1
	}
	i++
	if i < len(in) && in[i] == '}' {
		return i + 1
	}
	var last []byte
	for first := true; ; first = false {
		if i >= len(in) || in[i] != '"' {
			return -1
		}
		end := scanString(in, i)
		if end < 0 || end >= len(in) || in[end] != ':' {
			return -1
		}
		key := in[i+1 : end-1]
		if !first && compareKeys(last, key) >= 0 {
			return -1
		}
		last = key
		if i = scanValue(in, end+1, depth, m); i < 0 || i >= len(in) {
			return -1
		}
		switch in[i] {
		case ',':
			i++
		case '}':
			return i + 1
		default:
			return -1
		}
	}
}

func scanArray(in []byte, i, depth int, m mode) int {
	if depth > MaxDepth {
		return -1
	}
	i++
	if i < len(in) && in[i] == ']' {
		return i + 1
	}
	for {
		if i = scanValue(in, i, depth, m); i < 0 || i >= len(in) {
			return -1
		}
		switch in[i] {
		case ',':
			i++
		case ']':
			return i + 1
		default:
			return -1
		}
	}
}

// scanString scans a string that starts with a quote at i.
func scanString(in []byte, i int) int {
	for i++; i < len(in); {
		i += plainRun(in[i:])
		if i >= len(in) {
			return -1
		}
		switch c := in[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			n := escapeLength(in[i:])
			if n == 0 {
				return -1
			}
			i += n
		case c < 0x20:
			return -1
		default:
			r, n := utf8.DecodeRune(in[i:])
			if r == utf8.RuneError && n == 1 {
				return -1
			}
			i += n
		}
	}
	return -1
}

// plainRun counts the bytes at the start of s that are ASCII, no control
// characters, no quotes and no backslashes. It looks at eight bytes at a time.
func plainRun(s []byte) int {
	const ones = 0x0101010101010101
	const highs = 0x8080808080808080
	n := 0
	for len(s)-n >= 8 {
		x := binary.LittleEndian.Uint64(s[n:])
		quote := x ^ ones*'"'
		slash := x ^ ones*'\\'
		// The lowest bit that is set belongs to the first byte that stops the run: each
		// term marks wrongly only above a byte that it marks rightly.
		stop := (x | (x-ones*0x20)&^x | (quote-ones)&^quote | (slash-ones)&^slash) & highs
		if stop != 0 {
			return n + bits.TrailingZeros64(stop)>>3
		}
		n += 8
	}
	for n < len(s) {
		if c := s[n]; c < 0x20 || c == '"' || c == '\\' || c >= 0x80 {
			break
		}
		n++
	}
	return n
}

// escapeLength is the length of the canonical escape that s starts with, or 0.
//
// spec: appendices §3.1.1 (Grammar: escaped)
func escapeLength(s []byte) int {
	if len(s) < 2 {
		return 0
	}
	switch s[1] {
	case 'b', 't', 'n', 'f', 'r', '"', '\\':
		return 2
	case 'u':
		if len(s) < 6 || s[2] != '0' || s[3] != '0' {
			return 0
		}
		c := s[5]
		digit := c >= '0' && c <= '9'
		switch {
		case s[4] == '1' && (digit || c >= 'a' && c <= 'f'):
			return 6
		case s[4] == '0' && (c >= '0' && c <= '7' || c == 'b' || c == 'e' || c == 'f'):
			return 6
		}
	}
	return 0
}

// scanInteger scans an integer in range; "-0" is not canonical.
func scanInteger(in []byte, i int) int {
	start := i
	if in[i] == '-' {
		i++
	}
	first := i
	var n uint64
	for ; i < len(in) && in[i] >= '0' && in[i] <= '9'; i++ {
		if i-first >= 16 {
			return -1
		}
		n = n*10 + uint64(in[i]-'0')
	}
	switch digits := i - first; {
	case digits == 0:
		return -1
	case in[first] == '0' && (digits > 1 || first > start):
		return -1
	case n > MaxInt:
		return -1
	case i < len(in) && (in[i] == '.' || in[i] == 'e' || in[i] == 'E'):
		return -1
	}
	return i
}

// scanAnyNumber scans a number of the JSON grammar, except "-0", which has
// another form.
func scanAnyNumber(in []byte, i int) int {
	end := numberEnd(in, i)
	if end < 0 || string(in[i:end]) == "-0" {
		return -1
	}
	return end
}

// numberEnd finds the end of the JSON number at i, or -1 if there is none.
func numberEnd(in []byte, i int) int {
	if i < len(in) && in[i] == '-' {
		i++
	}
	first := i
	if i = digitsEnd(in, i); i == first || in[first] == '0' && i > first+1 {
		return -1
	}
	if i < len(in) && in[i] == '.' {
		start := i + 1
		if i = digitsEnd(in, start); i == start {
			return -1
		}
	}
	if i < len(in) && (in[i] == 'e' || in[i] == 'E') {
		i++
		if i < len(in) && (in[i] == '+' || in[i] == '-') {
			i++
		}
		start := i
		if i = digitsEnd(in, start); i == start {
			return -1
		}
	}
	return i
}

func digitsEnd(in []byte, i int) int {
	for i < len(in) && in[i] >= '0' && in[i] <= '9' {
		i++
	}
	return i
}

// compareKeys compares two keys in canonical form (without quotes) by code
// points. The order of UTF-8 bytes is the order of code points; only escapes
// have to be looked through.
func compareKeys(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] == b[i] {
			continue
		}
		if a[i] == '\\' || b[i] == '\\' || i > 0 && a[i-1] == '\\' {
			return compareEscaped(a, b)
		}
		if a[i] < b[i] {
			return -1
		}
		return 1
	}
	return len(a) - len(b)
}

func compareEscaped(a, b []byte) int {
	for len(a) > 0 && len(b) > 0 {
		ca, na := unescapeByte(a)
		cb, nb := unescapeByte(b)
		if ca != cb {
			return int(ca) - int(cb)
		}
		a, b = a[na:], b[nb:]
	}
	return len(a) - len(b)
}

// unescapeByte reads one byte or canonical escape; all of these stand for one byte.
func unescapeByte(s []byte) (c byte, n int) {
	if s[0] != '\\' || len(s) < 2 {
		return s[0], 1
	}
	switch s[1] {
	case 'b':
		return '\b', 2
	case 't':
		return '\t', 2
	case 'n':
		return '\n', 2
	case 'f':
		return '\f', 2
	case 'r':
		return '\r', 2
	case 'u':
		if len(s) >= 6 {
			return hexDigit(s[4])<<4 | hexDigit(s[5]), 6
		}
	}
	return s[1], 2
}

func hexDigit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}
