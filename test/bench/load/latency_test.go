package load

import (
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	hundred := make(Latencies, 100)
	for i := range hundred {
		hundred[i] = time.Duration(100 - i)
	}
	hundred.Sort()
	for _, c := range []struct {
		l    Latencies
		p    float64
		want time.Duration
	}{
		{nil, 50, 0}, {Latencies{7}, 50, 7}, {Latencies{7}, 99, 7}, {Latencies{1, 2}, 50, 1}, {Latencies{1, 2}, 51, 2},
		{hundred, 50, 50}, {hundred, 95, 95}, {hundred, 99, 99}, {hundred, 99.5, 100}, {hundred, 100, 100}, {hundred, 0, 1},
	} {
		if got := c.l.Percentile(c.p); got != c.want {
			t.Errorf("percentile %v of %d: %d, not %d", c.p, len(c.l), got, c.want)
		}
	}
}
