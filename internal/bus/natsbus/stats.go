package natsbus

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats counts since the start. Calls are not messages.
type Stats struct {
	Connected  bool   // the client and its server, embedded or external, are connected
	Routes     int    // nodes that this one has a route to; 0 with an external NATS
	Published  uint64 // messages of the bus given to NATS
	Received   uint64 // messages of the bus from other nodes, without those that were dropped
	Dropped    uint64 // messages of the bus that were lost on this node: a full queue, too large, unreadable
	Reconnects uint64 // times that the client lost its server and found one again
}

// Stats returns the counters.
func (b *Bus) Stats() Stats {
	s := Stats{
		Connected:  b.nc.IsConnected(),
		Published:  b.out.published.Load(),
		Received:   b.received.Load(),
		Dropped:    b.dropped.Load() + b.out.dropped.Load(),
		Reconnects: b.reconnects.Load(),
	}
	if n, err := b.messages.Dropped(); err == nil {
		s.Dropped += uint64(n)
	}
	if b.srv != nil {
		s.Routes = b.srv.NumRemotes()
	}
	return s
}

// Register exports the counters as weft_cluster_bus_…
func (b *Bus) Register(reg prometheus.Registerer) error {
	const ns, sub = "weft", "cluster_bus"
	counter := func(name, help string, value func(Stats) uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help},
			func() float64 { return float64(value(b.Stats())) })
	}
	for _, c := range []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "routes",
			Help: "Nodes that this one has a route to (with an external NATS: 1 while connected)."}, func() float64 {
			s := b.Stats()
			if b.srv == nil && s.Connected {
				return 1
			}
			return float64(s.Routes)
		}),
		counter("published_total", "Messages given to NATS.", func(s Stats) uint64 { return s.Published }),
		counter("received_total", "Messages from other nodes.", func(s Stats) uint64 { return s.Received }),
		counter("dropped_total", "Messages lost on this node: a full queue, too large, unreadable.", func(s Stats) uint64 { return s.Dropped }),
		counter("reconnects_total", "Times that the client lost its NATS server and found one again.", func(s Stats) uint64 { return s.Reconnects }),
	} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("natsbus: metrics: %w", err)
		}
	}
	return nil
}
