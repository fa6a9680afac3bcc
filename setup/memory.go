package setup

import (
	"fmt"
	"math"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
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
