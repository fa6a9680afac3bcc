package eventstore

import (
	"strings"
	"testing"

	"weft/matrix/id"
)

func TestEventIDRoundTrip(t *testing.T) {
	a42 := strings.Repeat("A", 42)
	for _, c := range []struct {
		id    id.Event
		first byte
		size  int
	}{
		{id.Event("$" + a42 + "A"), idURLSafe, 33},
		{id.Event("$" + a42[:41] + "-_"[:1] + "A"), idURLSafe, 33},
		{id.Event("$" + a42[:41] + "/A"), idStandard, 33},
		{id.Event("$" + a42 + "B"), idText, 65},                // bits left over: no hash
		{id.Event("$" + a42[:40] + "+-A"), idText, 65},         // both alphabets
		{id.Event("$" + a42[:41] + "\nA"), idText, 65},         // ignored by lenient decoders
		{id.Event("$" + a42[:30] + ":example.or"), idText, 63}, // versions 1 and 2
		{"$x:example.org", idText, 35},
		{"$", idText, 22},
	} {
		b := EncodeEventID(c.id)
		if b[0] != c.first || len(b) != c.size {
			t.Errorf("%q is %d bytes of kind %d, want %d of kind %d", c.id, len(b), b[0], c.size, c.first)
		}
		if got, err := DecodeEventID(b); err != nil || got != c.id {
			t.Errorf("%q came back as %q (%v)", c.id, got, err)
		}
	}
	for _, b := range [][]byte{nil, {}, {idText}, {idText, 1, 2}, {idURLSafe, 1}, {9, 1, 2}} {
		if got, err := DecodeEventID(b); err == nil {
			t.Errorf("%x is read as %q", b, got)
		}
	}
}

func FuzzEventID(f *testing.F) {
	f.Add("$abc:example.org")
	f.Add("$" + strings.Repeat("A", 43))
	f.Fuzz(func(t *testing.T, s string) {
		if s == "" {
			return
		}
		if got, err := DecodeEventID(EncodeEventID(id.Event(s))); err != nil || string(got) != s {
			t.Fatalf("%q came back as %q (%v)", s, got, err)
		}
	})
}
