package canonical

import (
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// writer reads any JSON and appends its canonical form to out.
type writer struct {
	in   []byte
	pos  int
	out  []byte
	mode mode
	// members is a stack: the members of the objects that are open.
	members []member
	scratch []byte
}

// member is where a member of an object was written in out: its key without
// quotes, and the end of its value. It begins at key-1, with the quote.
type member struct{ key, keyEnd, end int }

func rewrite(in []byte, m mode) ([]byte, error) {
	w := writer{in: in, mode: m, out: make([]byte, 0, len(in))}
	if err := w.value(0); err != nil {
		return nil, err
	}
	if w.skipSpace(); w.pos < len(in) {
		return nil, notJSON(w.pos, "text after the end of the value")
	}
	return w.out, nil
}

func (w *writer) skipSpace() {
	for w.pos < len(w.in) {
		switch w.in[w.pos] {
		case ' ', '\t', '\n', '\r':
			w.pos++
		default:
			return
		}
	}
}

// peek skips space and gives the next byte, or 0 at the end (NUL is nowhere valid).
func (w *writer) peek() byte {
	w.skipSpace()
	if w.pos < len(w.in) {
		return w.in[w.pos]
	}
	return 0
}

func (w *writer) value(depth int) error {
	switch c := w.peek(); {
	case c == '"':
		return w.string()
	case c == '{':
		return w.object(depth + 1)
	case c == '[':
		return w.array(depth + 1)
	case c == '-' || c >= '0' && c <= '9':
		return w.number()
	}
	for _, word := range [...]string{"true", "false", "null"} {
		if end := scanLiteral(w.in, w.pos, word); end >= 0 {
			w.out = append(w.out, word...)
			w.pos = end
			return nil
		}
	}
	if w.pos >= len(w.in) {
		return notJSON(w.pos, "the text ends where a value should stand")
	}
	return notJSON(w.pos, "no value")
}

func (w *writer) array(depth int) error {
	if depth > MaxDepth {
		return badJSON(w.pos, "nested too deeply")
	}
	w.pos++
	w.out = append(w.out, '[')
	for first := true; ; first = false {
		switch c := w.peek(); {
		case c == ']' && first:
			w.pos++
			w.out = append(w.out, ']')
			return nil
		case first:
		case c == ',':
			w.pos++
			w.out = append(w.out, ',')
		case c == ']':
			w.pos++
			w.out = append(w.out, ']')
			return nil
		default:
			return notJSON(w.pos, "neither a comma nor the end of the array")
		}
		if err := w.value(depth); err != nil {
			return err
		}
	}
}

func (w *writer) object(depth int) error {
	if depth > MaxDepth {
		return badJSON(w.pos, "nested too deeply")
	}
	start, base := w.pos, len(w.members)
	begin := len(w.out)
	w.pos++
	w.out = append(w.out, '{')
	for first := true; ; first = false {
		c := w.peek()
		if c == '}' {
			w.pos++
			w.out = append(w.out, '}')
			break
		}
		if !first {
			if c != ',' {
				return notJSON(w.pos, "neither a comma nor the end of the object")
			}
			w.pos++
			w.out = append(w.out, ',')
			c = w.peek()
		}
		if c != '"' {
			return notJSON(w.pos, "no key")
		}
		if err := w.member(depth); err != nil {
			return err
		}
	}
	err := w.arrange(start, begin, w.members[base:])
	w.members = w.members[:base]
	return err
}

func (w *writer) member(depth int) error {
	m := member{key: len(w.out) + 1}
	if err := w.string(); err != nil {
		return err
	}
	m.keyEnd = len(w.out) - 1
	if w.peek() != ':' {
		return notJSON(w.pos, "no colon after the key")
	}
	w.pos++
	w.out = append(w.out, ':')
	if err := w.value(depth); err != nil {
		return err
	}
	m.end = len(w.out)
	w.members = append(w.members, m)
	return nil
}

// arrange puts the members of the object that was written at begin in order, and
// deals with repeated keys. start is where the object began in the input.
func (w *writer) arrange(start, begin int, members []member) error {
	key := func(m member) []byte { return w.out[m.key:m.keyEnd] }
	sorted := true
	for i := 1; i < len(members) && sorted; i++ {
		sorted = compareKeys(key(members[i-1]), key(members[i])) < 0
	}
	if sorted {
		return nil
	}
	slices.SortStableFunc(members, func(a, b member) int { return compareKeys(key(a), key(b)) })
	w.scratch = append(w.scratch[:0], '{')
	for i, m := range members {
		if i+1 < len(members) && compareKeys(key(m), key(members[i+1])) == 0 {
			if w.mode != lenient {
				return badJSON(start, "a key is repeated in the object")
			}
			continue
		}
		if len(w.scratch) > 1 {
			w.scratch = append(w.scratch, ',')
		}
		w.scratch = append(w.scratch, w.out[m.key-1:m.end]...)
	}
	w.out = append(append(w.out[:begin], w.scratch...), '}')
	return nil
}

func (w *writer) string() error {
	start := w.pos
	w.pos++
	w.out = append(w.out, '"')
	for w.pos < len(w.in) {
		n := plainRun(w.in[w.pos:])
		w.out = append(w.out, w.in[w.pos:w.pos+n]...)
		w.pos += n
		if w.pos >= len(w.in) {
			break
		}
		switch c := w.in[w.pos]; {
		case c == '"':
			w.pos++
			w.out = append(w.out, '"')
			return nil
		case c == '\\':
			if err := w.escape(); err != nil {
				return err
			}
		case c < 0x20:
			return notJSON(w.pos, "a control character in a string")
		default:
			r, n := utf8.DecodeRune(w.in[w.pos:])
			if r == utf8.RuneError && n == 1 {
				return notJSON(w.pos, "no valid UTF-8")
			}
			w.out = append(w.out, w.in[w.pos:w.pos+n]...)
			w.pos += n
		}
	}
	return notJSON(start, "a string without an end")
}

// escape reads one escape and writes the character it stands for.
func (w *writer) escape() error {
	start := w.pos
	if w.pos+1 >= len(w.in) {
		return notJSON(start, "an escape without an end")
	}
	c := w.in[w.pos+1]
	w.pos += 2
	switch c {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		w.out = append(w.out, '\\', c)
	case '/':
		w.out = append(w.out, '/')
	case 'u':
		r, ok := w.hex4()
		if !ok {
			return notJSON(start, "an escape without four hexadecimal digits")
		}
		if utf16.IsSurrogate(r) {
			if w.pos+1 >= len(w.in) || w.in[w.pos] != '\\' || w.in[w.pos+1] != 'u' {
				return notJSON(start, "half of a surrogate pair")
			}
			w.pos += 2
			low, ok := w.hex4()
			if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
				return notJSON(start, "half of a surrogate pair")
			}
		}
		w.out = appendRune(w.out, r)
	default:
		return notJSON(start, "an unknown escape")
	}
	return nil
}

func (w *writer) hex4() (rune, bool) {
	if w.pos+4 > len(w.in) {
		return 0, false
	}
	var r rune
	for _, c := range w.in[w.pos : w.pos+4] {
		d := hexDigit(c)
		if d == 0xff {
			return 0, false
		}
		r = r<<4 | rune(d)
	}
	w.pos += 4
	return r, true
}

// appendRune appends a character in its shortest form inside a string.
func appendRune(out []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	switch {
	case r == '"' || r == '\\':
		return append(out, '\\', byte(r))
	case r >= 0x20:
		return utf8.AppendRune(out, r)
	case r == '\b':
		return append(out, '\\', 'b')
	case r == '\t':
		return append(out, '\\', 't')
	case r == '\n':
		return append(out, '\\', 'n')
	case r == '\f':
		return append(out, '\\', 'f')
	case r == '\r':
		return append(out, '\\', 'r')
	default:
		return append(out, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
	}
}

// AppendString appends s as a canonical JSON string, quotes included. Bytes that
// are no UTF-8 become U+FFFD.
func AppendString(out []byte, s string) []byte {
	out = append(out, '"')
	for _, r := range s {
		out = appendRune(out, r)
	}
	return append(out, '"')
}
