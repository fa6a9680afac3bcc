package nid

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestFixedTypesAreDistinct(t *testing.T) {
	seen := map[string]Type{}
	for n, text := range FixedTypes() {
		if n <= 0 || n >= FirstFreeType {
			t.Errorf("%s has number %d, outside the fixed range", text, n)
		}
		if other, ok := seen[text]; ok {
			t.Errorf("%s has the numbers %d and %d", text, n, other)
		}
		seen[text] = n
	}
}

func TestSetRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOf(rapid.Map(rapid.Int64Range(1, 1<<62), func(v int64) Event { return Event(v) })).Draw(t, "nids")
		got, err := DecodeSet(EncodeSet(in))
		if err != nil {
			t.Fatal(err)
		}
		want := slices.Compact(slices.Sorted(slices.Values(in)))
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

func TestSetIsSmall(t *testing.T) {
	if got := EncodeSet([]Event{1_000_004, 1_000_001, 1_000_002, 1_000_001}); len(got) != 5 {
		t.Errorf("three neighbours take %d bytes, want 5", len(got))
	}
	if got := EncodeSet(nil); got == nil || len(got) != 0 {
		t.Errorf("the empty set is %v, want an empty slice that is not nil", got)
	}
}

func TestDecodeSetRefuses(t *testing.T) {
	for name, b := range map[string][]byte{
		"zero":      {0},
		"repeated":  {5, 0},
		"cut":       {0x80},
		"too large": bytes.Repeat([]byte{0xff}, 9),
		"overflow":  {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 1},
	} {
		if got, err := DecodeSet(b); err == nil {
			t.Errorf("%s: got %v, want an error", name, got)
		}
	}
}

func FuzzDecodeSet(f *testing.F) {
	f.Add([]byte{1, 2, 3})
	f.Add([]byte{0x80, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		set, err := DecodeSet(b)
		if err != nil {
			return
		}
		again, err := DecodeSet(EncodeSet(set))
		if err != nil || !slices.Equal(set, again) {
			t.Fatalf("%v became %v (%v)", set, again, err)
		}
	})
}
