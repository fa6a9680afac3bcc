package cache

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

// entry is a value, or the announcement of somebody who is reading it.
type entry[V any] struct {
	value V
	mark  uint64 // not 0: being read
	until time.Time
}

// Cache is a bounded cache of values that can change. It is safe for concurrent use. The values are shared: whoever
// gets one must not change it.
type Cache[K comparable, V any] struct {
	entries *otter.Cache[K, entry[V]]
	marks   atomic.Uint64
	life    time.Duration
	now     func() time.Time
}

// entryCost is roughly what the cache itself keeps for an entry, in bytes.
const entryCost = 150

// New makes a cache of so many bytes, in which an entry lives for a time. weigh estimates a value's bytes.
func New[K comparable, V any](bytes int64, life time.Duration, now func() time.Time, weigh func(K, V) int) (*Cache[K, V], error) {
	entries, err := otter.New(&otter.Options[K, entry[V]]{
		MaximumWeight: uint64(bytes),
		Weigher:       func(k K, e entry[V]) uint32 { return uint32(min(entryCost+weigh(k, e.value), 1<<30)) },
	})
	if err != nil {
		return nil, fmt.Errorf("making a cache: %w", err)
	}
	return &Cache[K, V]{entries: entries, life: life, now: now}, nil
}

// Get gives a value that is there.
func (c *Cache[K, V]) Get(k K) (V, bool) {
	e, ok := c.entries.GetIfPresent(k)
	if !ok || e.mark != 0 || c.now().After(e.until) {
		var none V
		return none, false
	}
	return e.value, true
}

// Begin announces that the values of some keys are being read. The function that it returns puts one of them
// in, unless it changed in between.
func (c *Cache[K, V]) Begin(keys ...K) (put func(K, V)) {
	e := entry[V]{mark: c.marks.Add(1), until: c.now().Add(c.life)}
	for _, k := range keys {
		c.entries.Set(k, e)
	}
	return func(k K, v V) {
		c.entries.ComputeIfPresent(k, func(now entry[V]) (entry[V], otter.ComputeOp) {
			if now.mark != e.mark {
				return now, otter.CancelOp
			}
			return entry[V]{value: v, until: e.until}, otter.WriteOp
		})
	}
}

// Load gives a value that is there, or reads it. An error is not kept.
func (c *Cache[K, V]) Load(k K, read func() (V, error)) (V, error) {
	if v, ok := c.Get(k); ok {
		return v, nil
	}
	put := c.Begin(k)
	v, err := read()
	if err == nil {
		put(k, v)
	}
	return v, err
}

// Change makes a value that is there another one, or drops it where fn reports false. Call it after the commit.
func (c *Cache[K, V]) Change(k K, fn func(V) (V, bool)) {
	c.entries.ComputeIfPresent(k, func(e entry[V]) (entry[V], otter.ComputeOp) {
		if e.mark != 0 {
			return e, otter.InvalidateOp
		}
		v, keep := fn(e.value)
		if !keep {
			return e, otter.InvalidateOp
		}
		return entry[V]{value: v, until: e.until}, otter.WriteOp
	})
}

// Drop forgets a value, and one that is being read. Call it after the commit.
func (c *Cache[K, V]) Drop(k K) { c.entries.Invalidate(k) }

// Clear forgets all.
func (c *Cache[K, V]) Clear() { c.entries.InvalidateAll() }
