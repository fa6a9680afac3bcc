package federationapi

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count the transactions that went out, by what became of them: ok, failed (the other server was not reached, or
// could not take it, so that it comes again) and refused (it does not take it as it is, so that it comes again in parts, or what is to
// blame is dropped).
type metrics struct {
	transactions        *prometheus.CounterVec
	ok, failed, refused prometheus.Counter
}

func newMetrics() metrics {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weft_federation_transactions_total",
		Help: "Transactions sent to other servers, by result: ok, failed (it comes again), refused (it comes again in parts, or what is to blame is dropped).",
	}, []string{"result"})
	return metrics{v, v.WithLabelValues("ok"), v.WithLabelValues("failed"), v.WithLabelValues("refused")}
}

// sent counts a transaction by what the other server said to it.
func (m metrics) sent(err error) {
	switch {
	case err == nil:
		m.ok.Inc()
	case refused(err):
		m.refused.Inc()
	default:
		m.failed.Inc()
	}
}

// backlog is what waits in this process, all destinations of its shards together.
type backlog struct {
	events                   int // in memory
	behind, failing, sending int // destinations
	// lag is how many positions the cursor of the slowest shard is behind the end of the stream, as far as that is known.
	lag int64
}

// backlog looks at each destination for which something waits, in memory.
func (o *outbound) backlog() (b backlog) {
	end := o.heard.Load()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, d := range o.dests {
		b.events += len(d.queue)
		if d.behind {
			b.behind++
		}
		if d.failures > 0 {
			b.failing++
		}
		if d.running {
			b.sending++
		}
	}
	for _, pos := range o.cursors() {
		b.lag = max(b.lag, end-pos)
	}
	return b
}

// backlogMetrics shows how much waits: of what this process owns, so that those of all processes add up.
type backlogMetrics struct {
	o                                     *outbound
	events, behind, failing, sending, lag *prometheus.Desc
}

// register makes the metrics known. A nil registerer means that nobody looks.
func (o *outbound) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	waits := backlogMetrics{
		o:       o,
		events:  desc("weft_federation_queued_events", "Events waiting in memory for other servers."),
		behind:  desc("weft_federation_behind_destinations", "Servers that failed or fell behind and are caught up from disk."),
		failing: desc("weft_federation_failing_destinations", "Servers that failed the last time, and are tried again after a pause."),
		sending: desc("weft_federation_sending_destinations", "Servers being sent to."),
		lag: desc("weft_federation_lag_positions", "Positions of the event stream that were not sent yet to all servers that keep up, "+
			"in the slowest of the shards of this process."),
	}
	for _, c := range []prometheus.Collector{waits, o.metrics.transactions} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("federationapi: metrics: %w", err)
		}
	}
	return nil
}

// Describe implements prometheus.Collector.
func (m backlogMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.events, m.behind, m.failing, m.sending, m.lag} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m backlogMetrics) Collect(ch chan<- prometheus.Metric) {
	b := m.o.backlog()
	gauge := func(d *prometheus.Desc, v int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	gauge(m.events, int64(b.events))
	gauge(m.behind, int64(b.behind))
	gauge(m.failing, int64(b.failing))
	gauge(m.sending, int64(b.sending))
	gauge(m.lag, b.lag)
}
