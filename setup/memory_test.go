package setup

import (
	"runtime"
	"testing"
)

func TestMemoryIsReturnedWhenALoadIsOver(t *testing.T) {
	const kept = 20 * mib
	before := heap{allocated: 100 * mib}
	for _, c := range []struct {
		name string
		now  heap
		want bool
	}{
		{"busy", heap{allocated: 200 * mib, free: kept}, false},
		{"quiet, with free memory", heap{allocated: 101 * mib, free: kept}, true},
		{"quiet, with dead objects", heap{allocated: 101 * mib, objects: 40 * mib, live: 10 * mib}, true},
		{"quiet, and all in use", heap{allocated: 101 * mib, objects: 40 * mib, live: 39 * mib, free: mib}, false},
		{"quiet, newer than the last collection", heap{allocated: 101 * mib, objects: 39 * mib, live: 40 * mib}, false},
	} {
		if got := c.now.worthReturning(before); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	// The names that the runtime gives its figures.
	first := readHeap()
	burst := make([]byte, kept)
	runtime.KeepAlive(burst)
	now := readHeap()
	if now.allocated-first.allocated < kept || now.objects == 0 {
		t.Errorf("%+v, then %+v", first, now)
	}
}
