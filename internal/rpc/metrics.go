package rpc

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count the calls that left this process.
type metrics struct{ calls *prometheus.CounterVec }

func newMetrics() *metrics {
	return &metrics{prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "weft", Subsystem: "rpc", Name: "calls_total",
		Help: "Calls of components in other processes, by method and outcome: done, elsewhere (the process did not take it, so another was asked), " +
			"taken over (nobody did, so this process carried it out), nobody, lost (the process died with it).",
	}, []string{"method", "outcome"})}
}

func (m *metrics) done(c Call, outcome string) {
	m.calls.WithLabelValues(c.Service+"."+c.Method, outcome).Inc()
}

// Register shows the metrics.
func (r *Router) Register(reg prometheus.Registerer) error {
	if err := reg.Register(r.metrics.calls); err != nil {
		return fmt.Errorf("rpc: %w", err)
	}
	return nil
}
