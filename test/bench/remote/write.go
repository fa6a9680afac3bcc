package remote

import (
	"bufio"
	"encoding/json"
	"io"
)

// writeBuffer is how much of an answer is put together before it is written.
const writeBuffer = 64 << 10

// object writes a JSON object whose lists of events may be large. The first error
// ends it and is returned by close.
type object struct {
	w     *bufio.Writer
	comma bool
	err   error
}

func newObject(w io.Writer) *object {
	o := &object{w: bufio.NewWriterSize(w, writeBuffer)}
	o.byte('{')
	return o
}

func (o *object) byte(b byte) {
	if o.err == nil {
		o.err = o.w.WriteByte(b)
	}
}

func (o *object) bytes(p []byte) {
	if o.err == nil {
		_, o.err = o.w.Write(p)
	}
}

func (o *object) name(name string) {
	if o.comma {
		o.byte(',')
	}
	o.comma = true
	o.byte('"')
	o.bytes([]byte(name))
	o.bytes([]byte(`":`))
}

// field writes a small value.
func (o *object) field(name string, value any) {
	raw, err := json.Marshal(value)
	if err != nil && o.err == nil {
		o.err = err
	}
	o.raw(name, raw)
}

// raw writes a value that is JSON already.
func (o *object) raw(name string, value []byte) {
	o.name(name)
	o.bytes(value)
}

// events writes a list of events.
func (o *object) events(name string, list []entry) {
	o.list(name, len(list), func(n int) { o.bytes(list[n].json) })
}

// ids writes a list of the events' IDs.
func (o *object) ids(name string, list []entry) {
	o.list(name, len(list), func(n int) {
		o.byte('"')
		o.bytes([]byte(list[n].id)) // an ID from version 3 on is Base64 and needs no escapes
		o.byte('"')
	})
}

func (o *object) list(name string, n int, element func(int)) {
	o.name(name)
	o.byte('[')
	for i := range n {
		if i > 0 {
			o.byte(',')
		}
		element(i)
	}
	o.byte(']')
}

// close writes the end. The error is nil when everything was handed to the
// connection. Whether the last piece of it was taken is not known: whoever has read
// the closing brace may end the stream before the write that brought it returns, and
// then that write fails.
func (o *object) close() error {
	o.byte('}')
	if o.err == nil {
		_ = o.w.Flush()
	}
	return o.err
}

// countingWriter counts what goes through it.
type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
