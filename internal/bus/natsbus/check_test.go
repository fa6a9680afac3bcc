package natsbus

import (
	"slices"
	"testing"
)

func TestNumbers(t *testing.T) {
	for _, want := range [][]uint64{nil, {0}, {1}, {7, 8, 1 << 20, 1<<64 - 1}} {
		data := appendNumbers(nil, want, MaxData)
		if got, err := readNumbers(data); err != nil || !slices.Equal(got, want) {
			t.Errorf("%v became %v, %v", want, got, err)
		}
	}
	many := make([]uint64, maxChecked+1)
	for i := range many {
		many[i] = uint64(i) * 1000
	}
	if got, err := readNumbers(appendNumbers(nil, many, MaxData)); err != nil || !slices.Equal(got, many[:maxChecked]) {
		t.Errorf("%d of %d numbers, %v", len(got), len(many), err)
	}
	short := appendNumbers([]byte("x"), many, 1000)
	if got, err := readNumbers(short[1:]); err != nil || len(short) > 1000 || len(got) < 400 || !slices.Equal(got, many[:len(got)]) {
		t.Errorf("%d numbers in %d bytes, %v", len(got), len(short), err)
	}
	for _, bad := range [][]byte{{0x80}, slices.Repeat([]byte{1}, maxChecked+1)} {
		if got, err := readNumbers(bad); err == nil {
			t.Errorf("%d bytes that are none became %d numbers", len(bad), len(got))
		}
	}
}
