package natsbus

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// flightTime is how long further calls wait for the first answer to those before them.
const flightTime = 100 * time.Millisecond

// flights are the requests that are gathered. To each node one lot is on its way, and the next one gathers while it has no
// answer: the busier the nodes are, the more go together, as in a group commit. Calls that take long hold the next lot up for
// flightTime at most.
type flights struct {
	mu   sync.Mutex
	next map[string][]*call // by the node's subject, where a lot is on its way
}

// flight is a lot that is on its way.
type flight struct {
	b     *Bus
	to    string
	timer *time.Timer
	over  atomic.Bool
}

func (b *Bus) gather(ctx context.Context, to string, c *call) error {
	b.flights.mu.Lock()
	if next, busy := b.flights.next[to]; busy {
		b.flights.next[to] = append(next, c)
		b.flights.mu.Unlock()
		return nil
	}
	if b.flights.next == nil {
		b.flights.next = make(map[string][]*call)
	}
	b.flights.next[to] = nil
	b.flights.mu.Unlock()
	lot := []*call{c}
	f := b.lift(to, lot)
	err := b.out.putCall(ctx, outCall{to: to, calls: lot})
	if err != nil {
		f.release()
	}
	return err
}

// lift makes a flight of calls that are about to be sent.
func (b *Bus) lift(to string, lot []*call) *flight {
	f := &flight{b: b, to: to}
	b.calls.mu.Lock()
	defer b.calls.mu.Unlock()
	f.timer = time.AfterFunc(flightTime, f.release)
	for _, c := range lot {
		c.flight = f
	}
	return f
}

// release sends those who waited for the flight.
func (f *flight) release() {
	if f == nil || f.over.Swap(true) {
		return
	}
	f.b.calls.mu.Lock() // the timer may end before lift does
	f.timer.Stop()
	f.b.calls.mu.Unlock()
	fs := &f.b.flights
	fs.mu.Lock()
	lot := fs.next[f.to]
	if len(lot) == 0 {
		delete(fs.next, f.to)
		fs.mu.Unlock()
		return
	}
	fs.next[f.to] = nil
	fs.mu.Unlock()
	f.b.lift(f.to, lot)
	f.b.putLater(outCall{to: f.to, calls: lot})
}
