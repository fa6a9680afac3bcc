package natsbus

import (
	"encoding/binary"
	"errors"
	"time"
)

// What travels in one NATS message is a frame: one item after the other. An item is
//
//	message   0, topic, data
//	request   1, number, subject, milliseconds that are left, data
//	answer    2, number, status, data
//	cancel    3, number, subject
//
// where numbers and lengths are varints, and texts and data have their length before them. A call's number is its caller's.
type item struct {
	kind   byte
	number uint64
	name   string // a topic or a subject
	left   time.Duration
	status byte
	data   []byte // lies in the frame
}

const (
	itemMessage = byte(iota)
	itemRequest
	itemAnswer
	itemCancel
)

// itemBytes bounds what an item takes beside its name and its data.
const itemBytes = 4 + 3*binary.MaxVarintLen64

// appendTo appends the item to a frame.
func (it *item) appendTo(frame []byte) []byte {
	frame = append(frame, it.kind)
	if it.kind != itemMessage {
		frame = binary.AppendUvarint(frame, it.number)
	}
	if it.kind != itemAnswer {
		frame = append(binary.AppendUvarint(frame, uint64(len(it.name))), it.name...)
	}
	switch it.kind {
	case itemRequest:
		frame = binary.AppendUvarint(frame, uint64(max(1, (it.left+time.Millisecond-1)/time.Millisecond)))
	case itemAnswer:
		frame = append(frame, it.status)
	case itemCancel:
		return frame
	}
	return append(binary.AppendUvarint(frame, uint64(len(it.data))), it.data...)
}

// bytes is the item alone.
func (it *item) bytes() []byte {
	return it.appendTo(make([]byte, 0, itemBytes+len(it.name)+len(it.data)))
}

var errFrame = errors.New("natsbus: a message that is no frame")

// nextItem reads the first item of a frame and gives the rest.
func nextItem(frame []byte) (it item, rest []byte, err error) {
	r := reader{rest: frame}
	it.kind = r.byte()
	if it.kind > itemCancel {
		return it, nil, errFrame
	}
	if it.kind != itemMessage {
		it.number = r.uvarint()
	}
	if it.kind != itemAnswer {
		it.name = string(r.bytes())
	}
	switch it.kind {
	case itemRequest:
		it.left = time.Duration(min(r.uvarint(), uint64(MaxTimeout/time.Millisecond))) * time.Millisecond
	case itemAnswer:
		it.status = r.byte()
	}
	if it.kind != itemCancel {
		it.data = r.bytes()
	}
	if r.failed {
		return it, nil, errFrame
	}
	return it, r.rest, nil
}

// reader takes a frame apart. After a failure everything is empty.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.failed = true
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.failed, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.failed, r.rest = true, nil
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}
