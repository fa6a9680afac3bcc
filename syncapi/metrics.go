package syncapi

import (
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// requests counts those of /sync that are here: each is either at work (it reads, or writes its answer) or asleep.
type requests struct{ working, asleep atomic.Int64 }

// register adds the component's metrics. A nil registerer means that nobody looks.
func (s *Server) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	gauge := func(name, help string, value func() int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	for _, c := range []prometheus.Collector{
		gauge("weft_sync_waiting", "Sync requests that wait for something to happen.", s.requests.asleep.Load),
		gauge("weft_sync_working", "Sync requests that read, or write their answer.", s.requests.working.Load),
		gauge("weft_sync_follower_lag_positions", "Positions of the event stream from which relations and notifications were not derived yet, "+
			"while it is this process's turn to do it; 0 while it is another's.", s.follower.lag),
		gauge("weft_presence_users", "Users whose presence is kept in memory.", func() int64 { return int64(s.presence.count()) }),
	} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("syncapi: metrics: %w", err)
		}
	}
	return nil
}
