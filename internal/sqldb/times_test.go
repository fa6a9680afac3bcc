package sqldb

import (
	"testing"
	"time"
)

const timed = `SELECT pos FROM stream_positions WHERE name = $1`

// Statements are the hottest path there is.
func TestTimesTakeNoMemory(t *testing.T) {
	all := newTimes()
	if n := testing.AllocsPerRun(100, func() { all.statement(timed, time.Now()) }); n != 0 {
		t.Errorf("%v allocations for a statement", n)
	}
}

func BenchmarkTimes(b *testing.B) {
	all := newTimes()
	b.ReportAllocs()
	for b.Loop() {
		all.statement(timed, time.Now())
	}
}
