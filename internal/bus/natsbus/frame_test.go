package natsbus

import (
	"bytes"
	"reflect"
	"testing"
	"time"
)

func TestFrame(t *testing.T) {
	items := []item{
		{kind: itemMessage, name: "updates", data: []byte("x")},
		{kind: itemRequest, number: 1 << 40, name: "rpc.a.B", left: 1500 * time.Millisecond, data: bytes.Repeat([]byte("y"), 300)},
		{kind: itemAnswer, number: 7, status: statusBusy, data: []byte{}},
		{kind: itemCancel, number: 8, name: ""},
		{kind: itemRequest, name: "s", left: time.Millisecond, data: []byte{}},
	}
	var frame []byte
	for _, it := range items {
		if n := len(it.bytes()); n > itemBytes+len(it.name)+len(it.data) {
			t.Errorf("%d bytes are more than was bounded", n)
		}
		frame = it.appendTo(frame)
	}
	rest := frame
	for _, want := range items {
		var got item
		var err error
		if got, rest, err = nextItem(rest); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
	if len(rest) != 0 {
		t.Errorf("%d bytes are left", len(rest))
	}
	// What is left of a second is told as a whole millisecond at least, and hours as one.
	short, long := item{kind: itemRequest, left: -time.Second}, item{kind: itemRequest, left: 100 * time.Hour}
	if got, _, err := nextItem(short.bytes()); err != nil || got.left != time.Millisecond {
		t.Errorf("%v, %v", got.left, err)
	}
	if got, _, err := nextItem(long.bytes()); err != nil || got.left != MaxTimeout {
		t.Errorf("%v, %v", got.left, err)
	}
	first := items[1].bytes()
	for n := range first {
		if got, _, err := nextItem(first[:n]); err == nil {
			t.Errorf("%d of %d bytes are %+v", n, len(first), got)
		}
	}
}

func FuzzFrame(f *testing.F) {
	it := item{kind: itemRequest, number: 3, name: "s", left: time.Second, data: []byte("abc")}
	f.Add(it.bytes())
	f.Add([]byte{itemAnswer, 1, 0, 2, 1, 2, itemCancel, 5, 0})
	f.Add([]byte{itemMessage, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, frame []byte) {
		for len(frame) > 0 {
			it, rest, err := nextItem(frame)
			if err != nil {
				return
			}
			if len(rest) >= len(frame) {
				t.Fatal("an item of nothing")
			}
			if again, left, err := nextItem(it.bytes()); err != nil || len(left) != 0 || again.number != it.number || !bytes.Equal(again.data, it.data) {
				t.Fatalf("%+v became %+v, %v", it, again, err)
			}
			frame = rest
		}
	})
}
