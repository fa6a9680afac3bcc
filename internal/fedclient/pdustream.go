package fedclient

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

const (
	// maxElement bounds one value inside a streamed response: a PDU is at most
	// 65,536 bytes in canonical form, and a sender may spell it with escapes
	// and white space.
	//
	// spec: server-server §6.1 (size limits)
	maxElement = 512 << 10
	// maxSkipDepth bounds the nesting of members that are skipped.
	maxSkipDepth = 100
	// DefaultMaxEvents bounds the events of one list in a streamed response.
	DefaultMaxEvents = 2_000_000
)

var errElementTooLarge = fmt.Errorf("one value takes more than %d bytes", maxElement)

// elementReader fails when too much is read between two calls of reset.
type elementReader struct {
	r    io.Reader
	left int
}

func (e *elementReader) Read(p []byte) (int, error) {
	if e.left <= 0 {
		return 0, errElementTooLarge
	}
	if len(p) > e.left {
		p = p[:e.left]
	}
	n, err := e.r.Read(p)
	e.left -= n
	return n, err
}

// objectStream decodes one JSON object whose members are too large to be held:
// arrays are handed out element by element, and memory is bounded by the
// largest element.
type objectStream struct {
	src *elementReader
	dec *json.Decoder
}

func newObjectStream(r io.Reader) *objectStream {
	src := &elementReader{r: r}
	return &objectStream{src: src, dec: json.NewDecoder(src)}
}

// token reads the next token with a fresh allowance.
func (s *objectStream) token() (json.Token, error) {
	s.src.left = maxElement
	t, err := s.dec.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return t, err
}

// delim reads one delimiter.
func (s *objectStream) delim(want json.Delim) error {
	t, err := s.token()
	if err != nil {
		return err
	}
	if t != want {
		return fmt.Errorf("found %v where %q was expected", t, want)
	}
	return nil
}

// object reads the object. For each member it calls field, which must read the
// value by one of the methods below. If pair is set the object stands in the
// old shape [200, {...}].
func (s *objectStream) object(pair bool, field func(name string) error) error {
	if pair {
		if err := s.delim('['); err != nil {
			return err
		}
		if t, err := s.token(); err != nil {
			return err
		} else if _, ok := t.(float64); !ok {
			return fmt.Errorf("found %v where a status was expected", t)
		}
	}
	if err := s.delim('{'); err != nil {
		return err
	}
	seen := map[string]bool{}
	for s.dec.More() {
		t, err := s.token()
		if err != nil {
			return err
		}
		name, ok := t.(string)
		if !ok || seen[name] || len(seen) == maxSkipDepth {
			return fmt.Errorf("the member %v is repeated or one too many", t)
		}
		seen[name] = true
		if err := field(name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := s.delim('}'); err != nil {
		return err
	}
	if pair {
		return s.delim(']')
	}
	return nil
}

// array hands out the elements of an array of objects. The slice belongs to
// the callee.
func (s *objectStream) array(limit int, each func(raw json.RawMessage) error) error {
	if err := s.delim('['); err != nil {
		return err
	}
	for n := 0; s.dec.More(); n++ {
		if n == limit {
			return fmt.Errorf("%w: more than %d elements", ErrResponseTooLarge, limit)
		}
		raw, err := s.value()
		if err != nil {
			return err
		}
		if err := each(raw); err != nil {
			return err
		}
	}
	return s.delim(']')
}

// value reads one value of bounded size.
func (s *objectStream) value() (json.RawMessage, error) {
	s.src.left = maxElement
	var raw json.RawMessage
	if err := s.dec.Decode(&raw); err != nil {
		return nil, err
	}
	return raw, nil
}

// skip passes over a value of any size.
func (s *objectStream) skip() error {
	depth := 0
	for {
		t, err := s.token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			if depth++; depth > maxSkipDepth {
				return fmt.Errorf("nested deeper than %d", maxSkipDepth)
			}
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

// isObject says whether a raw value is a JSON object.
func isObject(raw json.RawMessage) bool {
	return bytes.HasPrefix(bytes.TrimLeft(raw, " \t\r\n"), []byte("{"))
}

// unwrapPair takes the object out of the old shape [200, {...}]; other bodies
// are returned as they are.
//
// spec: server-server §10 (send_join v1), §12 (invite v1), §13 (send_leave v1)
func unwrapPair(body []byte) ([]byte, error) {
	if isObject(body) {
		return body, nil
	}
	var pair []json.RawMessage
	if err := json.Unmarshal(body, &pair); err != nil {
		return nil, err
	}
	if len(pair) != 2 || !isObject(pair[1]) {
		return nil, errors.New("the body is neither an object nor a pair of a status and an object")
	}
	return pair[1], nil
}
