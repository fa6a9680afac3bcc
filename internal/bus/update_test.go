package bus

import (
	"reflect"
	"strings"
	"testing"

	"weft/internal/stream"
)

// TestUpdateForm: an update arrives as it was, also with what a later form adds, and what is cut off is none.
func TestUpdateForm(t *testing.T) {
	for _, u := range []Update{
		{Stream: "s"}, {Stream: stream.Events, Pos: -1},
		{Stream: stream.Events, Pos: 1 << 62, Rooms: []string{"!a:b", ""}, Users: []string{"@u:x"}, Servers: []string{"y", "z"}, Lot: "\x00\xff"},
		{Stream: stream.ToDevice, Pos: 7, Users: strings.Split(strings.Repeat("@user:example.org ", 5000), " ")},
	} {
		b := u.encode()
		got, ok := decodeUpdate(b)
		if !ok || !reflect.DeepEqual(got, u) {
			t.Errorf("%+v became %+v, %v", u, got, ok)
		}
		if got, ok = decodeUpdate(append(b[:len(b):len(b)], "further"...)); !ok || !reflect.DeepEqual(got, u) {
			t.Errorf("with more after it %+v became %+v, %v", u, got, ok)
		}
		for i := range min(len(b), 100) {
			if got, ok := decodeUpdate(b[:i]); ok {
				t.Errorf("the first %d bytes of %+v are %+v", i, u, got)
			}
		}
	}
}

func FuzzDecodeUpdate(f *testing.F) {
	f.Add(Update{Stream: stream.Events, Pos: 5, Rooms: []string{"!a:b"}, Lot: "x"}.encode())
	f.Add([]byte("\x01\x00\x00\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		u, ok := decodeUpdate(b)
		if !ok {
			return
		}
		if again, ok := decodeUpdate(u.encode()); !ok || !reflect.DeepEqual(again, u) {
			t.Errorf("%+v, then %+v", u, again)
		}
	})
}

func BenchmarkUpdate(b *testing.B) {
	u := Update{Stream: stream.Events, Pos: 123456, Rooms: []string{"!abcdefghijklmnopqrst:example.org"}, Lot: "0123456789abcdefgh"}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = u.encode()
		}
	})
	data := u.encode()
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = decodeUpdate(data)
		}
	})
}
