package eventstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"weft/internal/eventstore/sample"
)

func TestDictionaryIsTheReleasedOne(t *testing.T) {
	sum := sha256.Sum256(dictionary1)
	if got := hex.EncodeToString(sum[:]); got != "0ee17beac4330a5ad92c0d8010795bc8c25453d1c94ea1e0748ef135e1e6eff2" {
		t.Errorf("dictionary 1 has the hash %s: events that are stored already could not be read. Give a new dictionary a new number.", got)
	}
}

func TestCodecRoundTrip(t *testing.T) {
	c, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range []string{"", "{}", `{"a":1}`, strings.Repeat("a", 65536), `{"body":"` + strings.Repeat("hello ", 5000) + `"}`, "\x00\x01\xff"} {
		got, err := c.Decode(c.Encode([]byte(in)))
		if err != nil || string(got) != in {
			t.Errorf("%.20q came back as %.20q (%v)", in, got, err)
		}
	}
	for _, b := range [][]byte{nil, {9}, {jsonZstd1}, {jsonZstd1, 1, 2, 3}, []byte("\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")} {
		if got, err := c.Decode(b); err == nil {
			t.Errorf("%x is read as %q", b, got)
		}
	}
	bomb := c.Encode(bytes.Repeat([]byte("a"), maxJSON+1))
	if got, err := c.Decode(bomb); err == nil {
		t.Errorf("%d bytes become %d", len(bomb), len(got))
	}
}

// TestStoredSizes prints what events take, and holds a plain message to its budget.
func TestStoredSizes(t *testing.T) {
	c, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	type size struct{ n, raw, stored int }
	sizes := map[string]*size{}
	for seed := uint64(1_000_000); seed < 1_000_040; seed++ { // rooms that the dictionary was not made from
		r, err := sample.NewRoom(seed, "11", 8)
		if err != nil {
			t.Fatal(err)
		}
		events, err := r.Start()
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			e, err := r.Message()
			if err != nil {
				t.Fatal(err)
			}
			events = append(events, e)
		}
		for _, e := range events {
			s := sizes[e.Type]
			if s == nil {
				s = &size{}
				sizes[e.Type] = s
			}
			stored := c.Encode(e.JSON())
			s.n, s.raw, s.stored = s.n+1, s.raw+len(e.JSON()), s.stored+len(stored)
			if got, err := c.Decode(stored); err != nil || !bytes.Equal(got, e.JSON()) {
				t.Fatalf("%s came back as %s (%v)", e.JSON(), got, err)
			}
		}
	}
	for _, typ := range []string{"m.room.message", "m.room.encrypted", "m.room.member", "m.reaction", "m.room.power_levels"} {
		s := sizes[typ]
		t.Logf("%-20s %4d events: %d bytes of JSON, %d stored", typ, s.n, s.raw/s.n, s.stored/s.n)
	}
	if s := sizes["m.room.message"]; s.stored/s.n > 490 {
		t.Errorf("a message takes %d bytes, want at most 490", s.stored/s.n)
	}
}

func FuzzDecodeJSON(f *testing.F) {
	c, err := NewCodec()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c.Encode([]byte(`{"type":"m.room.message","content":{"body":"hello"}}`)))
	f.Add([]byte{jsonPlain, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := c.Decode(b)
		if err != nil {
			return
		}
		if len(out) > maxJSON {
			t.Fatalf("%d bytes", len(out))
		}
		again, err := c.Decode(c.Encode(out))
		if err != nil || !bytes.Equal(again, out) {
			t.Fatalf("%q became %q (%v)", out, again, err)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	c, e := benchEvent(b)
	b.SetBytes(int64(len(e)))
	for b.Loop() {
		c.Encode(e)
	}
}

func BenchmarkDecode(b *testing.B) {
	c, e := benchEvent(b)
	stored := c.Encode(e)
	b.SetBytes(int64(len(e)))
	for b.Loop() {
		if _, err := c.Decode(stored); err != nil {
			b.Fatal(err)
		}
	}
}

func benchEvent(b *testing.B) (*Codec, []byte) {
	c, err := NewCodec()
	if err != nil {
		b.Fatal(err)
	}
	r, err := sample.NewRoom(3_000_000, "11", 3)
	if err != nil {
		b.Fatal(err)
	}
	events, err := r.Start()
	if err != nil {
		b.Fatal(err)
	}
	return c, events[len(events)-1].JSON()
}
