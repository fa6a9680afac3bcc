package roomserver

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"weft/internal/eventstore"
)

// metrics are what the room server counts. Every bound has one that shows how near
// it is.
type metrics struct {
	fenceLost   prometheus.Counter
	events      *prometheus.CounterVec   // by outcome: accepted, rejected, soft_failed, history
	fetches     *prometheus.CounterVec   // by endpoint
	fetchedSize *prometheus.HistogramVec // events in an answer
	conflicts   prometheus.Histogram
	batch       prometheus.Histogram
	queued      prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	const ns, sub = "weft", "roomserver"
	sizes := prometheus.ExponentialBuckets(1, 4, 9)
	m := &metrics{
		fenceLost: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "fence_lost_total",
			Help: "Drafts that were computed again because another writer was first."}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "events_total",
			Help: "Events stored, by outcome."}, []string{"outcome"}),
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "fetches_total",
			Help: "Requests to other servers for what an event lacked."}, []string{"endpoint"}),
		fetchedSize: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: ns, Subsystem: sub, Name: "fetched_events",
			Help: "Events in an answer to such a request.", Buckets: sizes}, []string{"endpoint"}),
		conflicts: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: ns, Subsystem: sub, Name: "resolved_conflicts",
			Help: "State keys in which resolved states differed.", Buckets: sizes}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: ns, Subsystem: sub, Name: "write_set_events",
			Help: "Events stored together.", Buckets: sizes}),
		queued: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "queued_jobs",
			Help: "Jobs that wait in the queues of all rooms."}),
	}
	for _, outcome := range []string{"accepted", "rejected", "soft_failed", "history"} {
		m.events.WithLabelValues(outcome) // a rate over a counter needs its zero
	}
	for _, endpoint := range []string{"backfill", "event", "event_auth", "get_missing_events", "policy_sign", "state", "state_ids"} {
		m.fetches.WithLabelValues(endpoint)
		m.fetchedSize.WithLabelValues(endpoint)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.fenceLost, m.events, m.fetches, m.fetchedSize, m.conflicts, m.batch, m.queued} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) queueLength(delta int) { m.queued.Add(float64(delta)) }

// count counts what a write set stored.
func (m *metrics) count(added []*addition) {
	m.batch.Observe(float64(len(added)))
	for _, a := range added {
		outcome := "accepted"
		switch {
		case a.Flags&eventstore.Rejected != 0:
			outcome = "rejected"
		case a.Flags&eventstore.SoftFailed != 0:
			outcome = "soft_failed"
		case !a.live:
			outcome = "history"
		}
		m.events.WithLabelValues(outcome).Inc()
	}
}

func (m *metrics) fetched(endpoint string, events int) {
	m.fetches.WithLabelValues(endpoint).Inc()
	m.fetchedSize.WithLabelValues(endpoint).Observe(float64(events))
}
