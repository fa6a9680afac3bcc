package sqldb

import (
	"slices"
	"strconv"
	"strings"
)

// ChunkSize is the longest list that one statement should take.
const ChunkSize = 500

// In returns n placeholders in parentheses, counted from `from`: In(3, 2) is "($2,$3,$4)". For n = 0 it is
// "(NULL)", which no value is in.
func In(n, from int) string {
	if n <= 0 {
		return "(NULL)"
	}
	var b strings.Builder
	b.Grow(5*n + 2)
	for i := range n {
		if i == 0 {
			b.WriteByte('(')
		} else {
			b.WriteByte(',')
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(from + i))
	}
	b.WriteByte(')')
	return b.String()
}

// InArgs appends a list to the arguments of a statement and returns the placeholders for it, as In does. The
// list is padded to the next power of two by repeating its last element, so that lists of many lengths share
// few prepared statements: use it for IN (…), where repetition changes nothing, not for VALUES.
func InArgs[T any](args []any, list []T) (string, []any) {
	from := len(args) + 1
	if len(list) == 0 {
		return In(0, from), args
	}
	n := 1
	for n < len(list) {
		n *= 2
	}
	args = slices.Grow(args, n)
	for i := range n {
		args = append(args, list[min(i, len(list)-1)])
	}
	return In(n, from), args
}

// Chunk calls fn with consecutive parts of the list, each of at most ChunkSize elements, until one fails.
func Chunk[T any](list []T, fn func(part []T) error) error {
	for part := range slices.Chunk(list, ChunkSize) {
		if err := fn(part); err != nil {
			return err
		}
	}
	return nil
}

// Values returns the placeholders of a VALUES list, rows of cols each, counted from `from`:
// Values(2, 2, 1) is "($1,$2),($3,$4)".
func Values(rows, cols, from int) string {
	parts := make([]string, rows)
	for i := range parts {
		parts[i] = In(cols, from+i*cols)
	}
	return strings.Join(parts, ",")
}
