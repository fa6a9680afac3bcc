package rpc

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count the calls that left this process. What is counted once is kept at hand, so that the next time takes no memory; there
// is no more of it than the program has methods.
type metrics struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec

	mu       sync.RWMutex
	counters map[counted]prometheus.Counter
	timers   map[string]prometheus.Observer // by component
}

type counted struct{ service, method, outcome string }

func newMetrics() *metrics {
	return &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "weft", Subsystem: "rpc", Name: "calls_total",
			Help: "Calls of components in other processes, by method and outcome: done, failed (the answer is an error of the server's own), " +
				"elsewhere (the process did not take it, so another was asked), taken over (nobody did, so this process carried it out), " +
				"nobody, lost (the process died with it, or it was lost on the way).",
		}, []string{"component", "method", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "weft", Subsystem: "rpc", Name: "call_seconds",
			Help:    "Time of calls of components in other processes, until one has answered or none did.",
			Buckets: []float64{.0003, .001, .003, .01, .03, .1, .3, 1, 3, 10},
		}, []string{"component"}),
		counters: make(map[counted]prometheus.Counter), timers: make(map[string]prometheus.Observer),
	}
}

// done counts a call.
func (m *metrics) done(c Call, outcome string) {
	key := counted{c.Service, c.Method, outcome}
	m.mu.RLock()
	n := m.counters[key]
	m.mu.RUnlock()
	if n == nil {
		component, _, _ := strings.Cut(c.Service, ".")
		n = m.calls.WithLabelValues(component, c.Service+"."+c.Method, outcome)
		m.mu.Lock()
		m.counters[key] = n
		m.mu.Unlock()
	}
	n.Inc()
}

// took notes how long a call took that began at a time.
func (m *metrics) took(component string, began time.Time) {
	m.mu.RLock()
	o := m.timers[component]
	m.mu.RUnlock()
	if o == nil {
		o = m.seconds.WithLabelValues(component)
		m.mu.Lock()
		m.timers[component] = o
		m.mu.Unlock()
	}
	o.Observe(time.Since(began).Seconds())
}

// Register shows the metrics.
func (r *Router) Register(reg prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{r.metrics.calls, r.metrics.seconds} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("rpc: %w", err)
		}
	}
	return nil
}
