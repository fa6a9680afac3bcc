package setup

import (
	"context"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/sirupsen/logrus"
	"go.uber.org/automaxprocs/maxprocs"
)

const (
	// defaultBudget is the memory a server plans with where the machine says
	// nothing about itself.
	defaultBudget = 1 << 30
	mib           = 1 << 20
)

// SetMemoryLimit sets GOMEMLIMIT for the process: to the configured budget, or
// to nine tenths of what the cgroup or the machine has. A GOMEMLIMIT in the
// environment stays. Only the command calls it: it is the process's, not a
// server's.
func SetMemoryLimit(c *Config) error {
	if os.Getenv("GOMEMLIMIT") != "" {
		return nil
	}
	if c.Memory > 0 {
		debug.SetMemoryLimit(int64(c.Memory))
		return nil
	}
	_, err := memlimit.Set(memlimit.WithRatio(0.9),
		memlimit.WithProvider(memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.FromSystem)))
	if err != nil {
		return fmt.Errorf("memory limit: %w", err)
	}
	return nil
}

// SetProcessors makes a process that is held to a processor or less run Go on one thread at a time. The runtime takes two at
// least, which are up in half the time and then wait: in a cgroup of one processor, as of a fifth, a message cost 15 % more, and one
// in a hundred took twice as long. A GOMAXPROCS in the environment stays. Only the command calls it.
func SetProcessors() error {
	if os.Getenv("GOMAXPROCS") != "" {
		return nil
	}
	quota := math.Inf(1)
	_, err := maxprocs.Set(maxprocs.Min(1), maxprocs.RoundQuotaFunc(func(q float64) int {
		quota = q
		return max(1, int(math.Ceil(q)))
	}))
	if quota > 1 {
		runtime.SetDefaultGOMAXPROCS() // and follows what the cgroup becomes
	}
	if err != nil {
		return fmt.Errorf("processors: %w", err)
	}
	return nil
}

const (
	// memoryTick is how often memory is looked at; a tick in which less than quietBytes were allocated
	// is a quiet one, and spareBytes are worth a collection.
	memoryTick = 10 * time.Second
	quietBytes = 8 * mib
	spareBytes = 8 * mib
)

// ReturnMemory gives memory back to the system when a load is over, until ctx ends. The runtime by itself
// keeps for minutes what a burst needed, and a part of it for as long as nothing happens. Only the
// command calls it.
func ReturnMemory(ctx context.Context, log logrus.FieldLogger) {
	tick := time.NewTicker(memoryTick)
	defer tick.Stop()
	before := readHeap()
	for first := true; ; first = false {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := readHeap()
		if now.worthReturning(before) || first { // what starting took
			debug.FreeOSMemory()
			if err := returnProgram(); err != nil {
				log.WithError(err).Debug("memory is not given back")
			}
		}
		before = now
	}
}

// heap is what the runtime says of its memory, in bytes.
type heap struct {
	allocated     uint64 // ever
	objects, live uint64 // with what is dead already; without, as of the last collection
	free          uint64 // kept from the system and not used
}

func readHeap() heap {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}}
	metrics.Read(s)
	return heap{s[0].Value.Uint64(), s[1].Value.Uint64(), s[2].Value.Uint64(), s[3].Value.Uint64()}
}

func (h heap) worthReturning(before heap) bool {
	dead := h.objects - min(h.objects, h.live)
	return h.allocated-before.allocated < quietBytes && h.free+dead > spareBytes
}

// budget is the memory that the caches may plan with.
func (c *Config) budget() int64 {
	if c.Memory > 0 {
		return int64(c.Memory)
	}
	// A negative limit only reads the present one.
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		return limit
	}
	return defaultBudget
}

// share gives a part of the budget in per mille, within bounds.
func (c *Config) share(perMille, lowest, highest int64) int64 {
	return min(max(c.budget()/1000*perMille, lowest), highest)
}
