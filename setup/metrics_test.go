package setup

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weft/internal/eventstore"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

// Scrapes may come as often as they like.
func TestStagedEventsAreNotCountedAtEachScrape(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db, now := open(), time.UnixMilli(1_700_000_000_000)
		if err := eventstore.Migrate(t.Context(), db); err != nil {
			t.Fatal(err)
		}
		events, err := eventstore.Open(db, eventstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		reg := prometheus.NewRegistry()
		if err := reg.Register(newStoreMetrics(events, func() time.Time { return now })); err != nil {
			t.Fatal(err)
		}
		value := func(name string) (v float64) {
			t.Helper()
			families, err := reg.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				if f.GetName() == name {
					v = f.GetMetric()[0].GetGauge().GetValue()
				}
			}
			return v
		}
		put := func(seq, n int) {
			t.Helper()
			if _, err := db.Exec(t.Context(), fmt.Sprintf(`INSERT INTO inbound_events (seq, received, room_nid, events, origin, data)
				VALUES (%d, %d, 1, %d, 'away', CAST('x' AS BYTEA))`, seq, now.UnixMilli(), n)); err != nil {
				t.Fatal(err)
			}
		}
		put(1, 3)
		if n, age := value("weft_staged_events"), value("weft_staged_oldest_seconds"); n != 3 || age != 0 {
			t.Errorf("%v events wait for %v s", n, age)
		}
		put(2, 4)
		now = now.Add(askEvery - 1)
		if n, age := value("weft_staged_events"), value("weft_staged_oldest_seconds"); n != 3 || age < 4.9 {
			t.Errorf("soon after: %v events wait for %v s", n, age)
		}
		now = now.Add(1)
		if n, age := value("weft_staged_events"), value("weft_staged_oldest_seconds"); n != 7 || age != askEvery.Seconds() {
			t.Errorf("later: %v events wait for %v s", n, age)
		}
	})
}
