package fedclient

import (
	"errors"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"weft/matrix/id"
)

const (
	// circuitThreshold is how many failures in a row open a circuit.
	circuitThreshold = 2
	// A circuit stays open for circuitMin after the first such failure and
	// twice as long after each further one, up to circuitMax.
	circuitMin = 5 * time.Second
	circuitMax = 2 * time.Minute

	defaultCircuits = 8192
)

var errCircuitOpen = errors.New("the server could not be reached a moment ago")

// circuits keep requests that a client waits for from waiting for dead servers
// again and again. They are not the backoff of outbound queues, which is
// longer, durable and somebody else's.
type circuits struct {
	now   func() time.Time
	table *otter.Cache[id.Server, *circuit]
}

type circuit struct {
	mu       sync.Mutex
	failures int
	until    time.Time
}

func newCircuits(entries int, now func() time.Time) (*circuits, error) {
	if entries <= 0 {
		entries = defaultCircuits
	}
	t, err := otter.New(&otter.Options[id.Server, *circuit]{MaximumSize: entries, Executor: func(fn func()) { fn() }})
	if err != nil {
		return nil, err
	}
	return &circuits{now: now, table: t}, nil
}

// allow says whether a request may be tried. When an open circuit's time is
// over one request is let through as a probe, and the others wait for its
// outcome or for the same pause again.
func (c *circuits) allow(s id.Server) error {
	e, ok := c.table.GetIfPresent(s)
	if !ok {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := c.now()
	switch {
	case e.failures < circuitThreshold:
		return nil
	case now.Before(e.until):
		return errCircuitOpen
	}
	e.until = now.Add(circuitMin)
	return nil
}

// failed records that a server could not be reached.
func (c *circuits) failed(s id.Server) {
	e, _ := c.table.ComputeIfAbsent(s, func() (*circuit, bool) { return &circuit{}, false })
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failures++
	if n := e.failures - circuitThreshold; n >= 0 {
		d := circuitMin
		for ; n > 0 && d < circuitMax; n-- {
			d *= 2
		}
		e.until = c.now().Add(min(d, circuitMax))
	}
}

// alive forgets the failures.
func (c *circuits) alive(s id.Server) {
	c.table.Invalidate(s)
}

// MarkAlive says that a server has just been heard of (it sent us a request),
// so that requests to it are tried at once.
func (c *Client) MarkAlive(s id.Server) { c.circuits.alive(s) }
