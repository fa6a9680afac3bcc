package rpc_test

import (
	"testing"

	"weft/internal/rpc"
)

// TestValues: as many values as there are arrive, whatever the other side expects.
func TestValues(t *testing.T) {
	for _, n := range []int{0, 1, 2, 23, 24, 255, 256, 65_535, 65_536} {
		values := make([]any, n)
		for i := range values {
			values[i] = i
		}
		data, err := rpc.Marshal(values)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []int{0, 1, n, n + 1} {
			got, into := make([]int, want), make([]any, want)
			for i := range into {
				got[i], into[i] = -1, &got[i]
			}
			if err := rpc.Unmarshal(data, into); err != nil {
				t.Fatalf("%d values into %d: %v", n, want, err)
			}
			for i, v := range got {
				if i < n && v != i || i >= n && v != -1 {
					t.Fatalf("%d values into %d: the one at %d is %d", n, want, i, v)
				}
			}
		}
		if n > 0 {
			if err := rpc.Unmarshal(data[:len(data)-1], make([]any, 0)); err != nil {
				t.Errorf("what nobody wants matters: %v", err)
			}
		}
	}
	var text string
	for _, bad := range []string{"", "\x01", "\x9f\x01\xff", "\x98", "\x9b\x00\x00\x00\x00\x00\x00\x00\x01\x01", "\x81", "\x81\x01", "\x82\x61a"} {
		err := rpc.Unmarshal([]byte(bad), []any{&text, new(int)})
		if err == nil {
			t.Errorf("%x was read", bad)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte("\x82\x61a\x05"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var text string
		var n int
		var m map[string][]byte
		_ = rpc.Unmarshal(data, []any{&text, &n, &m}) // it ends
	})
}
