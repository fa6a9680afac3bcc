package canonical

import (
	"bytes"
	"strconv"
)

// number reads a number and writes it as the mode demands.
func (w *writer) number() error {
	start := w.pos
	end := numberEnd(w.in, start)
	if end < 0 {
		return notJSON(start, "a malformed number")
	}
	w.pos = end
	text := w.in[start:end]
	switch {
	case string(text) == "-0":
		// spec: appendices §3.1 ("negative zero -0 MUST NOT appear"; the example turns it into 0)
		w.out = append(w.out, '0')
		return nil
	case w.mode == lenient, scanInteger(text, 0) == len(text):
		w.out = append(w.out, text...)
		return nil
	case w.mode == values:
		if n, ok := Integer(text); ok && n >= MinInt && n <= MaxInt {
			w.out = strconv.AppendInt(w.out, n, 10)
			return nil
		}
	}
	if bytes.ContainsAny(text, ".eE") {
		return badJSON(start, "a number that is not written as an integer")
	}
	return badJSON(start, "an integer out of range")
}

// Integer gives the value of a JSON number that is an integer by value, however
// it is spelled: 3, 3.0, 30e-1. ok is false when it is none, or does not fit.
func Integer(text []byte) (n int64, ok bool) {
	if numberEnd(text, 0) != len(text) || len(text) == 0 {
		return 0, false
	}
	if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		return n, true
	}
	digits, exponent, negative, ok := decimal(text)
	if !ok {
		return 0, false
	}
	for len(digits) > 0 && digits[len(digits)-1] == '0' {
		digits = digits[:len(digits)-1]
		exponent++
	}
	digits = bytes.TrimLeft(digits, "0")
	if len(digits) == 0 {
		return 0, true
	}
	if exponent < 0 || exponent+len(digits) > 19 {
		return 0, false
	}
	if negative {
		digits = append([]byte{'-'}, digits...)
	}
	for range exponent {
		digits = append(digits, '0')
	}
	if n, err := strconv.ParseInt(string(digits), 10, 64); err == nil {
		return n, true
	}
	return 0, false
}

// decimal takes a number apart: its digits without the point, and the power of
// ten that they are multiplied by. ok is false when the exponent is absurd.
func decimal(text []byte) (digits []byte, exponent int, negative, ok bool) {
	if text[0] == '-' {
		negative, text = true, text[1:]
	}
	if i := bytes.IndexAny(text, "eE"); i >= 0 {
		e, err := strconv.ParseInt(string(text[i+1:]), 10, 32)
		if err != nil {
			return nil, 0, false, false
		}
		exponent, text = int(e), text[:i]
	}
	whole, fraction, _ := bytes.Cut(text, []byte("."))
	digits = append(append(make([]byte, 0, len(text)+19), whole...), fraction...)
	return digits, exponent - len(fraction), negative, true
}
