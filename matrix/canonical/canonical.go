package canonical

import (
	"encoding/json"
	"fmt"

	"weft/matrix/merr"
)

// MaxDepth is how deep arrays and objects may stand inside each other. The spec
// sets no limit; without one a few bytes of input could exhaust the stack.
const MaxDepth = 100

// The limits of integers.
//
// spec: appendices §3.1 ("integers in the range [-(2**53)+1, (2**53)-1]")
const (
	MaxInt = 1<<53 - 1
	MinInt = -(1<<53 - 1)
)

// mode says what numbers and keys may be.
type mode uint8

const (
	// strict: integers in range, no fraction, no exponent, no repeated keys.
	strict mode = iota
	// lenient: any JSON number, kept as it is; of repeated keys the last counts.
	lenient
	// values: like strict, but a number that is an integer by value is written as
	// one, however it was spelled.
	values
)

// Canonical returns the canonical form of a JSON text. Text that is canonical
// already is returned itself, without a copy. The error is M_NOT_JSON for text
// that is no JSON, and M_BAD_JSON for JSON that has no canonical form: a float,
// an integer out of range, a repeated key, depth above MaxDepth.
//
// spec: appendices §3.1; rooms/v6 (Canonical JSON): "MUST strictly enforce"
func Canonical(in []byte) ([]byte, error) {
	if IsCanonical(in) {
		return in, nil
	}
	return rewrite(in, strict)
}

// CanonicalLenient is Canonical for room versions 1 to 5: numbers are kept in the
// form received, and of a repeated key the last value counts.
//
// spec: rooms/v1 (Canonical JSON): "MUST NOT strictly enforce"
func CanonicalLenient(in []byte) ([]byte, error) {
	if scanValue(in, 0, 0, lenient) == len(in) {
		return in, nil
	}
	return rewrite(in, lenient)
}

// IsCanonical reports whether the text is in canonical form.
func IsCanonical(in []byte) bool {
	return scanValue(in, 0, 0, strict) == len(in)
}

// Marshal encodes a Go value as canonical JSON. A number that is an integer by
// value is written as one: -0 as 0, 1e10 as 10000000000.
func Marshal(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("canonical: encode %T: %w", v, err)
	}
	if IsCanonical(raw) {
		return raw, nil
	}
	return rewrite(raw, values)
}

func notJSON(at int, what string) error {
	return merr.NotJSON("%s at byte %d", what, at)
}

func badJSON(at int, what string) error {
	return merr.BadJSON("%s at byte %d", what, at)
}
