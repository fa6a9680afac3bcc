package httpapi

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"weft/matrix/merr"
)

// Rate is a token bucket: PerSecond tokens flow in, Burst fit.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Limits are the rate limits of the classes of rows. A class that is absent is
// not limited; nil turns all limits off.
type Limits map[Limit]Rate

// DefaultLimits gives limits that a person with several devices never meets.
func DefaultLimits() Limits {
	return Limits{
		LimitDefault:  {PerSecond: 20, Burst: 100},
		LimitMessage:  {PerSecond: 10, Burst: 50},
		LimitLogin:    {PerSecond: 0.2, Burst: 10},
		LimitRegister: {PerSecond: 0.2, Burst: 10},
		LimitJoin:     {PerSecond: 1, Burst: 20},
		LimitMedia:    {PerSecond: 10, Burst: 100},
	}
}

// maxBuckets bounds the table of buckets. When it is full, the least recently
// used of a few entries picked at random gives way, which hands its owner a
// full bucket: a small price for a bounded table.
const (
	maxBuckets  = 20000
	evictSample = 8
)

type bucketKey struct {
	class Limit
	owner string
}

type bucket struct {
	limiter *rate.Limiter
	used    time.Time
}

// limiter holds the buckets of all callers.
type limiter struct {
	limits Limits
	mu     sync.Mutex
	// buckets is guarded by mu.
	buckets map[bucketKey]*bucket
}

func newLimiter(l Limits) *limiter {
	return &limiter{limits: l, buckets: make(map[bucketKey]*bucket)}
}

// allow takes a token, or returns M_LIMIT_EXCEEDED with retry_after_ms.
func (l *limiter) allow(class Limit, owner string, now time.Time) error {
	r, ok := l.limits[class]
	if class == LimitNone || !ok || r.Burst <= 0 {
		return nil
	}
	b := l.bucket(bucketKey{class, owner}, r, now)
	res := b.ReserveN(now, 1)
	wait := res.DelayFrom(now)
	if wait == 0 {
		return nil
	}
	res.CancelAt(now)
	// spec: client-server §2.4 (Rate limiting)
	return merr.LimitExceeded("too many requests").With("retry_after_ms", int64(math.Ceil(float64(wait)/float64(time.Millisecond))))
}

func (l *limiter) bucket(k bucketKey, r Rate, now time.Time) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.buckets[k]; b != nil {
		b.used = now
		return b.limiter
	}
	if len(l.buckets) >= maxBuckets {
		l.evict()
	}
	b := &bucket{limiter: rate.NewLimiter(rate.Limit(r.PerSecond), r.Burst), used: now}
	l.buckets[k] = b
	return b.limiter
}

// evict removes the least recently used of a few entries; a map is walked in
// random order.
func (l *limiter) evict() {
	var oldest bucketKey
	var used time.Time
	n := 0
	for k, b := range l.buckets {
		if n == 0 || b.used.Before(used) {
			oldest, used = k, b.used
		}
		if n++; n == evictSample {
			break
		}
	}
	delete(l.buckets, oldest)
}
