package rpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/fxamacker/cbor/v2"

	"weft/internal/sqldb"
	"weft/matrix/merr"
)

// The modes of CBOR: a nil slice or map stays nil, and json.RawMessage is bytes like any other.
var (
	encMode = must(cbor.EncOptions{NilContainers: cbor.NilContainerAsNull}.UserBufferEncMode())
	decMode = must(cbor.DecOptions{MaxArrayElements: 1 << 27, MaxMapPairs: 1 << 27, MaxNestedLevels: 64,
		UTF8: cbor.UTF8DecodeInvalid}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // the options are constants
	}
	return v
}

// Marshal makes an array of values.
func Marshal(values []any) ([]byte, error) {
	msg, err := message(values)
	if err != nil {
		return nil, err
	}
	return msg[headBytes:], nil
}

// headBytes is what a message has before its array: how it stands in it, and of a call the heartbeat that its caller has seen of the
// process that is called.
const headBytes = 1 + 8

// setBeat says in a call of which heartbeat its caller knows, beatOf reads it.
func setBeat(msg []byte, beat int64) { binary.BigEndian.PutUint64(msg[1:headBytes], uint64(beat)) }

func beatOf(msg []byte) int64 {
	if len(msg) < headBytes {
		return 0
	}
	return int64(binary.BigEndian.Uint64(msg[1:headBytes]))
}

// message is Marshal with a head before the array.
func message(values []any) ([]byte, error) {
	if values == nil {
		values = []any{}
	}
	buf := buffers.Get().(*bytes.Buffer) //nolint:forcetypeassert // nothing else is in it
	defer func() {
		if buf.Cap() <= maxBuffer {
			buffers.Put(buf)
		}
	}()
	buf.Reset()
	buf.Write(make([]byte, headBytes)) // formHere
	if err := encMode.MarshalToBuffer(values, buf); err != nil {
		return nil, fmt.Errorf("rpc: encode: %w", err)
	}
	return bytes.Clone(buf.Bytes()), nil
}

// maxBuffer is how large a buffer is kept for the next message.
const maxBuffer = 64 << 10

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// Unmarshal reads an array into pointers. What the other side did not send stays zero, and what it sent
// beyond them is ignored.
func Unmarshal(data []byte, into []any) error {
	n, rest, err := arrayHead(data)
	if err != nil {
		return err
	}
	for i := range min(n, len(into)) {
		if rest, err = decMode.UnmarshalFirst(rest, into[i]); err != nil {
			return fmt.Errorf("rpc: decode value %d: %w", i+1, err)
		}
	}
	return nil
}

var errNoArray = errors.New("rpc: decode: not an array")

// arrayHead reads how many values an array has. They follow in rest. So they are looked at once, each by the decoder of its type.
//
// RFC 8949 §3.1 (major type 4)
func arrayHead(data []byte) (n int, rest []byte, err error) {
	const array, direct = 4, 24
	if len(data) == 0 || data[0]>>5 != array {
		return 0, nil, errNoArray
	}
	info, rest := int(data[0]&31), data[1:]
	if info < direct {
		return info, rest, nil
	}
	size := 1 << (info - direct) // bytes of the number that follows
	if info > direct+2 || len(rest) < size {
		return 0, nil, errNoArray
	}
	for _, b := range rest[:size] {
		n = n<<8 | int(b)
	}
	return n, rest[size:], nil
}

// The kinds of errors that travel.
const (
	plainError    = 0
	matrixError   = 1 // an *merr.Error
	deadlineError = 2 // context.DeadlineExceeded: the component's own deadline
	awayError     = 3 // the database cannot do its work just now
	lateError     = 4 // errLate
)

// sentError is an error as it travels.
type sentError struct {
	Kind   int    `cbor:"1,keyasint"`
	Text   string `cbor:"2,keyasint"`
	Status int    `cbor:"3,keyasint,omitempty"`
	Body   []byte `cbor:"4,keyasint,omitempty"`
}

// remoteError is what became of it: its text, and the value that errors.As finds in it.
type remoteError struct {
	text  string
	value error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.value }

func encodeError(err error) []byte {
	s := sentError{Kind: plainError, Text: err.Error()}
	var m *merr.Error
	switch {
	case errors.As(err, &m):
		if body, mErr := json.Marshal(m); mErr == nil {
			s.Kind, s.Status, s.Body = matrixError, m.Status, body
		}
	case errors.Is(err, context.DeadlineExceeded):
		s.Kind = deadlineError
	case sqldb.Unavailable(err):
		s.Kind = awayError
	case errors.Is(err, errLate):
		s.Kind = lateError
	}
	data, cErr := encMode.Marshal(s)
	if cErr != nil { // of a struct of texts and numbers: it does not happen
		return []byte(s.Text)
	}
	return data
}

func decodeError(data []byte) error {
	var s sentError
	if err := decMode.Unmarshal(data, &s); err != nil {
		return &remoteError{text: string(data)}
	}
	switch s.Kind {
	case matrixError:
		m := decodeMatrixError(s.Status, s.Body)
		if s.Text == m.Error() {
			return m
		}
		return &remoteError{s.Text, m}
	case deadlineError:
		return &remoteError{s.Text, context.DeadlineExceeded}
	case lateError:
		return errLate
	case awayError:
		return &remoteError{s.Text, unavailable("the server cannot reach its data just now; try again")}
	}
	return &remoteError{text: s.Text}
}

// decodeMatrixError keeps numbers and texts of the further fields what they were, and everything else as JSON.
func decodeMatrixError(status int, body []byte) *merr.Error {
	m := &merr.Error{Status: status}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return merr.Decode(status, body)
	}
	for name, raw := range fields {
		var text string
		var number int64
		switch {
		case json.Unmarshal(raw, &text) == nil && name == "errcode":
			m.Code = text
		case json.Unmarshal(raw, &text) == nil && name == "error":
			m.Message = text
		case json.Unmarshal(raw, &number) == nil && string(raw) != "null":
			m = m.With(name, number)
		case raw[0] == '"':
			m = m.With(name, text)
		default:
			m = m.With(name, raw)
		}
	}
	return m
}
