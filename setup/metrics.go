package setup

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"weft/internal/bus"
	"weft/internal/eventstore"
	"weft/internal/sqldb"
)

// sizeTimeout bounds how long a scrape waits for what is asked of the database.
const sizeTimeout = 2 * time.Second

// newRegistry makes the metrics of one server: those of the Go runtime and the
// process, of its database and its bus. Components add theirs.
func newRegistry(version string, db *sqldb.DB, b *bus.Local) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "weft_build_info", Help: "1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version(), "database": string(db.Dialect())},
	})
	info.Set(1)
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), info)
	counter := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value))
	}
	gauge := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	counter("weft_db_updates_total", "Write functions that ended well.", func() float64 { return float64(db.Stats().Updates) })
	counter("weft_db_commits_total", "Write transactions committed.", func() float64 { return float64(db.Stats().Commits) })
	counter("weft_db_retries_total", "Transactions run again after a conflict.", func() float64 { return float64(db.Stats().Retries) })
	gauge("weft_db_queued", "Write functions waiting.", func() float64 { return float64(db.Stats().Queued) })
	gauge("weft_db_connections_in_use", "Database connections in use.", func() float64 { return float64(db.Stats().InUse) })
	for result, value := range map[string]func(sqldb.ReplicaStats) int64{
		"found": func(s sqldb.ReplicaStats) int64 { return s.Found }, "missed": func(s sqldb.ReplicaStats) int64 { return s.Missed },
		"failed": func(s sqldb.ReplicaStats) int64 { return s.Failed }, "passed": func(s sqldb.ReplicaStats) int64 { return s.Passed },
	} {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "weft_db_replica_reads_total", ConstLabels: prometheus.Labels{"result": result},
			Help: "Reads of what replicas may serve: found there; missed or failed there, or passed because no replica was fit to be asked, and so read on the primary.",
		}, func() float64 { return float64(value(db.ReplicaStats())) }))
	}
	gauge("weft_db_replicas_used", "Read replicas that are asked now.", func() float64 { return float64(db.ReplicaStats().Used) })
	gauge("weft_db_bytes", "Size of the database on disk, free pages included; -1 where it cannot be told.", func() float64 {
		ctx, cancel := context.WithTimeout(context.Background(), sizeTimeout)
		defer cancel()
		n, err := db.Size(ctx)
		if err != nil {
			return -1
		}
		return float64(n)
	})
	gauge("weft_db_wal_bytes", "Size of SQLite's write-ahead log; -1 where it cannot be told.", func() float64 {
		n, err := db.WALSize()
		if err != nil {
			return -1
		}
		return float64(n)
	})
	counter("weft_bus_published_total", "Messages published on the bus.", func() float64 { return float64(b.Stats().Published) })
	counter("weft_bus_dropped_total", "Messages a slow subscriber lost; polling makes up for them.", func() float64 { return float64(b.Stats().Dropped) })
	gauge("weft_bus_queued", "Messages waiting for subscribers.", func() float64 { return float64(b.Stats().Queued) })
	return reg
}

// What waits in a table of any length is counted up to countMost rows: some ms of work at the worst. What a scrape asks of the database
// is kept for askEvery, so that it matters little who scrapes, and how often.
const (
	countMost = 10_000
	askEvery  = 5 * time.Second
)

// storeMetrics are those of the event store: its caches, and what other servers sent that waits to be processed. The latter are
// the same on all processes of a server.
type storeMetrics struct {
	events                 *eventstore.Reader
	now                    func() time.Time
	cache, staged, waiting *prometheus.Desc

	mu    sync.Mutex
	total eventstore.StagedTotal
	asked time.Time // when total was read
}

func newStoreMetrics(events *eventstore.Reader, now func() time.Time) *storeMetrics {
	return &storeMetrics{
		events: events, now: now,
		cache: prometheus.NewDesc("weft_cache_bytes", "Size of the caches of events, state and names.", []string{"cache"}, nil),
		staged: prometheus.NewDesc("weft_staged_events",
			"Events of other servers that are stored and wait to be processed, in the whole server, those of the first 10,000 rows; -1 where it cannot be told.",
			nil, nil),
		waiting: prometheus.NewDesc("weft_staged_oldest_seconds", "How long the first of them waits.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (m *storeMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.cache
	ch <- m.staged
	ch <- m.waiting
}

// Collect implements prometheus.Collector.
func (m *storeMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	c := m.events.CacheStats()
	gauge(m.cache, float64(c.EventBytes), "events")
	gauge(m.cache, float64(c.NodeBytes), "state")
	gauge(m.cache, float64(c.NameBytes), "names")
	now := m.now()
	total, err := m.stagedTotal(now)
	if err != nil {
		gauge(m.staged, -1)
		return
	}
	gauge(m.staged, float64(total.Events))
	gauge(m.waiting, age(total.Oldest, now).Seconds())
}

// stagedTotal asks the database, but not again at once.
func (m *storeMetrics) stagedTotal(now time.Time) (eventstore.StagedTotal, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if since := now.Sub(m.asked); since >= 0 && since < askEvery {
		return m.total, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), sizeTimeout)
	defer cancel()
	total, err := m.events.StagedTotal(ctx, countMost)
	if err == nil {
		m.total, m.asked = total, now
	}
	return total, err
}

// age is how long ago something came, by its time in ms; 0 where nothing did.
func age(ms int64, now time.Time) time.Duration {
	if ms == 0 {
		return 0
	}
	return max(0, now.Sub(time.UnixMilli(ms)))
}
