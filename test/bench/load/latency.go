package load

import (
	"math"
	"slices"
	"time"
)

// Latencies are the durations of operations.
type Latencies []time.Duration

// Percentile gives the smallest duration that p percent of the operations did not exceed (the nearest-rank method). The list
// must be sorted; of an empty one it is 0.
func (l Latencies) Percentile(p float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	rank := int(math.Ceil(p / 100 * float64(len(l))))
	return l[min(max(rank, 1), len(l))-1]
}

// Sort sorts the list in place.
func (l Latencies) Sort() { slices.Sort(l) }
