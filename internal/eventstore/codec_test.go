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
	if got := hex.EncodeToString(sum[:]); got != "5354af7dbe0ee366ed30d0d080dd53478f192ce3a5e4af0138e38c25fa6adf27" {
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
	for _, b := range [][]byte{nil, {9}, {jsonZstd1}, {jsonZstd1, 1, 0, 3}, {jsonZstd1, 2, 0}, {jsonPacked, 0, 'x'}, {jsonPacked, 1, 0x10, 'x'},
		{jsonPacked, 1, 0, markURL32}, {jsonPacked, 1, 0, markAuth}, {jsonPacked, 1, 0, markPrevious}, {jsonPacked, 2, 0, 0, markSame}, {jsonPacked, 2, 1, 0, markAuth},
		{jsonPacked, 2, 0, 9, markURL}, []byte("\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")} {
		if got, err := c.Decode(b); err == nil {
			t.Errorf("%x is read as %q", b, got)
		}
	}
	bomb := c.Encode(bytes.Repeat([]byte("a"), maxJSON+1))
	if got, err := c.Decode(bomb); err == nil {
		t.Errorf("%d bytes become %d", len(bomb), len(got))
	}
}

func FuzzDecodeJSON(f *testing.F) {
	c, err := NewCodec()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c.Encode([]byte(`{"type":"m.room.message","content":{"body":"hello"}}`)))
	f.Add([]byte{jsonPlain, 'x'})
	f.Add(c.Encode([]byte(`{"a":"$` + strings.Repeat("aB3_", 10) + `xyz","b":"` + strings.Repeat("zY8+", 21) + `xy"}`)))
	f.Add([]byte{jsonPacked, 2, 0, 0, markSame})
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
