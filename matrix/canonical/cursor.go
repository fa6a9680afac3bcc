package canonical

import "bytes"

// Cursor walks over the members of a canonical object, or the elements of a
// canonical array, without copying. On text that is not canonical it may stop
// early or give parts that mean nothing, but it never reads outside of the text.
//
//	for c := canonical.Object(obj); c.Next(); {
//		use(c.Key(), c.Value())
//	}
type Cursor struct {
	in    []byte
	array bool
	open  bool
	// KeyStart is where the member begins: at the quote of its key. ValueStart and
	// End bound the value. All are offsets in the text given to Object or Array.
	KeyStart, ValueStart, End int
}

// Object starts a walk over the members of an object. On anything else the walk
// is empty.
func Object(in []byte) Cursor {
	return Cursor{in: in, open: len(in) > 1 && in[0] == '{'}
}

// Array starts a walk over the elements of an array. On anything else the walk
// is empty.
func Array(in []byte) Cursor {
	return Cursor{in: in, array: true, open: len(in) > 1 && in[0] == '['}
}

// Next moves to the next member or element, and reports whether there is one.
func (c *Cursor) Next() bool {
	if !c.open {
		return false
	}
	c.open = c.next()
	return c.open
}

func (c *Cursor) next() bool {
	i := c.End
	// After the first member a comma must stand here; the opening bracket stands
	// where a comma would.
	if i >= len(c.in) || i > 0 && c.in[i] != ',' {
		return false
	}
	i++
	c.KeyStart = i
	if !c.array {
		if i >= len(c.in) || c.in[i] != '"' {
			return false
		}
		i = skipString(c.in, i)
		if i >= len(c.in) || c.in[i] != ':' {
			return false
		}
		i++
	}
	c.ValueStart = i
	c.End = skipValue(c.in, i)
	return c.End > i
}

// Key is the key of the member, without its quotes, as it is written: escapes
// are not resolved.
func (c *Cursor) Key() []byte { return c.in[c.KeyStart+1 : c.ValueStart-2] }

// Value is the value of the member or element.
func (c *Cursor) Value() []byte { return c.in[c.ValueStart:c.End] }

// skipString gives the position after the string that starts at i, or len(in).
func skipString(in []byte, i int) int {
	for i++; i < len(in); {
		n := bytes.IndexByte(in[i:], '"')
		if n < 0 {
			return len(in)
		}
		i += n + 1
		slashes := 0
		for j := i - 2; j >= 0 && in[j] == '\\'; j-- {
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
	}
	return len(in)
}

// skipValue gives the position after the value that starts at i.
func skipValue(in []byte, i int) int {
	if i >= len(in) {
		return len(in)
	}
	switch in[i] {
	case '"':
		return skipString(in, i)
	case '{', '[':
		return skipNested(in, i)
	}
	for i < len(in) && in[i] != ',' && in[i] != '}' && in[i] != ']' {
		i++
	}
	return i
}

func skipNested(in []byte, i int) int {
	depth := 0
	for i < len(in) {
		switch in[i] {
		case '"':
			i = skipString(in, i)
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
		i++
	}
	return len(in)
}

// Get finds a member of a canonical object by a key that needs no escapes. It
// returns nil when there is none.
func Get(obj []byte, key string) []byte {
	for c := Object(obj); c.Next(); {
		if string(c.Key()) == key {
			return c.Value()
		}
	}
	return nil
}

// String gives the value of a canonical JSON string. ok is false when the value
// is no string.
func String(value []byte) (s string, ok bool) {
	if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
		return "", false
	}
	value = value[1 : len(value)-1]
	return unescape(value), true
}

// unescape resolves the escapes of the inside of a canonical string.
func unescape(s []byte) string {
	if bytes.IndexByte(s, '\\') < 0 {
		return string(s)
	}
	out := make([]byte, 0, len(s))
	for len(s) > 0 {
		c, n := unescapeByte(s)
		out = append(out, c)
		s = s[n:]
	}
	return string(out)
}

// Set puts a member into a copy of a canonical object, at its place in the order
// and in the place of one with the same key. What is no object counts as an
// empty one. value must be canonical.
func Set(obj []byte, key string, value []byte) []byte {
	quoted := AppendString(nil, key)
	bare := quoted[1 : len(quoted)-1]
	out := make([]byte, 0, len(obj)+len(quoted)+len(value)+4)
	out = append(out, '{')
	placed := false
	put := func(k, v []byte) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, k...), ':'), v...)
	}
	for c := Object(obj); c.Next(); {
		order := compareKeys(c.Key(), bare)
		if order >= 0 && !placed {
			put(quoted, value)
			placed = true
		}
		if order != 0 {
			put(obj[c.KeyStart:c.ValueStart-1], c.Value())
		}
	}
	if !placed {
		put(quoted, value)
	}
	return append(out, '}')
}
