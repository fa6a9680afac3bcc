package sqldb

import (
	"database/sql"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// times are how long the database takes. The driver's connections observe them (driver.go), below the pool: what a
// statement waits for a connection is not in them, but in what the pool counts itself. To observe one costs some 0.3 µs
// and no memory. Nil: nobody looks.
type times struct {
	all                 *prometheus.HistogramVec
	read, write, commit prometheus.Observer
}

func newTimes() *times {
	t := &times{all: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "weft_db_statement_seconds", Help: "Time of a statement to its first row, or of a commit, the wait for a connection excepted.",
		Buckets: []float64{.0001, .0003, .001, .003, .01, .03, .1, .3, 1, 3, 10},
	}, []string{"kind"})}
	t.read, t.write, t.commit = t.all.WithLabelValues("read"), t.all.WithLabelValues("write"), t.all.WithLabelValues("commit")
	return t
}

// statement notes that one that began at a time has ended.
func (t *times) statement(query string, began time.Time) {
	if t == nil {
		return
	}
	if writes(query) {
		t.write.Observe(time.Since(began).Seconds())
	} else {
		t.read.Observe(time.Since(began).Seconds())
	}
}

// committed notes that a commit that began at a time has ended.
func (t *times) committed(began time.Time) {
	if t != nil {
		t.commit.Observe(time.Since(began).Seconds())
	}
}

// connectionMetrics are what the pools of connections count.
type connectionMetrics struct {
	db                  *DB
	idle, waits, waited *prometheus.Desc
}

// Register shows how long statements and commits take, and what those wait who want a connection. A nil registerer means
// that nobody looks.
func (db *DB) Register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	pools := connectionMetrics{db,
		prometheus.NewDesc("weft_db_connections_idle", "Database connections that are open and not in use.", nil, nil),
		prometheus.NewDesc("weft_db_connection_waits_total", "Times somebody waited for a connection because all were in use.", nil, nil),
		prometheus.NewDesc("weft_db_connection_wait_seconds_total", "Time spent in these waits, all together.", nil, nil),
	}
	for _, c := range []prometheus.Collector{db.times.all, pools} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("sqldb: metrics: %w", err)
		}
	}
	return nil
}

// Describe implements prometheus.Collector.
func (m connectionMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.idle
	ch <- m.waits
	ch <- m.waited
}

// Collect implements prometheus.Collector.
func (m connectionMetrics) Collect(ch chan<- prometheus.Metric) {
	pools := []*sql.DB{m.db.write}
	if m.db.read != m.db.write {
		pools = append(pools, m.db.read)
	}
	var idle, waits int64
	var waited time.Duration
	for _, p := range pools {
		s := p.Stats()
		idle, waits, waited = idle+int64(s.Idle), waits+s.WaitCount, waited+s.WaitDuration
	}
	ch <- prometheus.MustNewConstMetric(m.idle, prometheus.GaugeValue, float64(idle))
	ch <- prometheus.MustNewConstMetric(m.waits, prometheus.CounterValue, float64(waits))
	ch <- prometheus.MustNewConstMetric(m.waited, prometheus.CounterValue, waited.Seconds())
}
