package cluster

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	lost    prometheus.Counter
	failed  prometheus.Counter
	seconds prometheus.Histogram
}

func newMetrics() metrics {
	return metrics{
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_cluster_leases_lost_total", Help: "Times this node owned nothing because its heartbeats did not reach the database.",
		}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_cluster_heartbeat_failures_total", Help: "Heartbeats that failed.",
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weft_cluster_heartbeat_seconds", Help: "Time to write a heartbeat and to read those of the others, failures excepted.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3},
		}),
	}
}

// Register makes the metrics of the cluster known: the number of live nodes, the share of this one, leases lost, heartbeats
// failed and the time they take. A nil registerer means that nobody looks.
func (c *Cluster) Register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	nodes := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weft_cluster_nodes", Help: "Nodes of the cluster that live, as this node sees it.",
	}, func() float64 { return float64(len(c.view.Load().nodes)) })
	share := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weft_cluster_share", Help: "Part of the work that is this node's own, as it sees it: 0 to 1; 0 without a lease.",
	}, c.share)
	for _, m := range []prometheus.Collector{nodes, share, c.metrics.lost, c.metrics.failed, c.metrics.seconds} {
		if err := reg.Register(m); err != nil {
			return fmt.Errorf("cluster: %w", err)
		}
	}
	return nil
}

// share is the part of the keys that this node owns now.
func (c *Cluster) share() float64 {
	v := c.view.Load()
	if now := c.elapsed(); c.table != nil && (now < v.from || now >= v.until) {
		return 0
	}
	return v.shares()[v.self.ID]
}
