package syncapi

import (
	"io"
	"strconv"

	"github.com/tidwall/gjson"
)

// flushBytes is how much of an answer is collected before it is sent on.
const flushBytes = 32 << 10

// output collects JSON. With w it passes on what it has, bit by bit; without it keeps
// everything.
type output struct {
	buf []byte
	w   io.Writer
}

// flush passes on what was collected, once that is much.
func (o *output) flush() error {
	if o.w == nil || len(o.buf) < flushBytes {
		return nil
	}
	return o.finish()
}

// finish passes on all that was collected.
func (o *output) finish() error {
	if o.w == nil {
		return nil
	}
	_, err := o.w.Write(o.buf)
	o.buf = o.buf[:0]
	return err
}

func (o *output) raw(s string)      { o.buf = append(o.buf, s...) }
func (o *output) bytes(b []byte)    { o.buf = append(o.buf, b...) }
func (o *output) string(s string)   { o.buf = gjson.AppendJSONString(o.buf, s) }
func (o *output) member(key string) { o.string(key); o.buf = append(o.buf, ':') }

// object writes the members of an object and the commas between them.
type object struct {
	o    *output
	some bool
}

// open begins an object.
func (o *output) open() *object {
	o.buf = append(o.buf, '{')
	return &object{o: o}
}

// key begins a member.
func (b *object) key(name string) *output {
	if b.some {
		b.o.buf = append(b.o.buf, ',')
	}
	b.some = true
	b.o.member(name)
	return b.o
}

func (b *object) close() { b.o.buf = append(b.o.buf, '}') }

// events writes {"events":[…]} under a key, from JSON objects.
func events[T ~[]byte](b *object, name string, list []T) {
	o := b.key(name)
	o.raw(`{"events":[`)
	for i, e := range list {
		if i > 0 {
			o.buf = append(o.buf, ',')
		}
		o.bytes(e)
	}
	o.raw(`]}`)
}

// strings writes an array of strings under a key.
func texts[T ~string](b *object, name string, list []T) {
	o := b.key(name)
	o.buf = append(o.buf, '[')
	for i, s := range list {
		if i > 0 {
			o.buf = append(o.buf, ',')
		}
		o.string(string(s))
	}
	o.buf = append(o.buf, ']')
}

func (o *output) int(n int64) { o.buf = strconv.AppendInt(o.buf, n, 10) }

func (o *output) bool(v bool) { o.buf = strconv.AppendBool(o.buf, v) }
