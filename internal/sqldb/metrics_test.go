package sqldb_test

import (
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

// gathered gives the metrics of a registry: of a histogram how often it was observed, by its name and the value of its label.
func gathered(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			out[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

func TestStatementsAreTimed(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db, reg := open(), prometheus.NewRegistry()
		table(t, db)
		if err := db.Register(reg); err != nil {
			t.Fatal(err)
		}
		ctx, before := t.Context(), gathered(t, reg)
		// more gives what was observed since the last time.
		more := func() (got [3]float64) {
			now := gathered(t, reg)
			for i, kind := range []string{"read", "write", "commit"} {
				got[i] = now["weft_db_statement_seconds "+kind] - before["weft_db_statement_seconds "+kind]
			}
			before = now
			return got
		}
		var n int
		if err := db.QueryRow(ctx, "SELECT COUNT(*) FROM kv").Scan(&n); err != nil {
			t.Fatal(err)
		}
		if got := more(); got != [3]float64{1, 0, 0} {
			t.Errorf("a read: %v", got)
		}
		if err := db.View(ctx, func(tx *sqldb.Tx) error { return tx.QueryRow(ctx, "SELECT COUNT(*) FROM kv").Scan(&n) }); err != nil {
			t.Fatal(err)
		}
		if got := more(); got != [3]float64{1, 0, 0} {
			t.Errorf("a read in a transaction: %v", got)
		}
		if _, err := db.Exec(ctx, insert, 1, "value"); err != nil {
			t.Fatal(err)
		}
		if got := more(); got[1] != 1 || got[2] != 1 {
			t.Errorf("a write: %v", got)
		}
		onPurpose := errors.New("on purpose")
		if err := db.Update(ctx, func(tx *sqldb.Tx) error {
			_, err := tx.Exec(ctx, insert, 2, "value")
			return errors.Join(err, onPurpose)
		}); !errors.Is(err, onPurpose) {
			t.Fatal(err)
		}
		if got := more(); got[1] != 1 || got[2] != 0 {
			t.Errorf("a write that is undone: %v", got)
		}
	})
}

func TestWaitsForConnectionsAreCounted(t *testing.T) {
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		const conns = 3
		db, err := sqldb.Open(t.Context(), newURL(), sqldb.Options{MaxConns: conns})
		if err != nil {
			t.Fatal(err)
		}
		reg := prometheus.NewRegistry()
		if err := errors.Join(db.Register(reg), db.Register(nil)); err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		var one int
		held, release, done := make(chan struct{}), make(chan struct{}), make(chan error, conns+1)
		view := func(fn func()) {
			done <- db.View(ctx, func(tx *sqldb.Tx) error {
				fn()
				return nil
			})
		}
		for range conns {
			go view(func() {
				held <- struct{}{}
				<-release
			})
		}
		for range conns {
			<-held
		}
		if got := gathered(t, reg); got["weft_db_connection_waits_total"] != 0 {
			t.Errorf("nobody waits yet: %v", got)
		}
		go view(func() {})
		for end := time.Now().Add(20 * time.Second); gathered(t, reg)["weft_db_connection_waits_total"] != 1; runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatalf("a wait is not counted: %v", gathered(t, reg))
			}
		}
		close(release)
		for range conns + 1 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if err := db.QueryRow(ctx, "SELECT 1").Scan(&one); err != nil {
			t.Fatal(err)
		}
		if got := gathered(t, reg); got["weft_db_connection_wait_seconds_total"] <= 0 || got["weft_db_connections_idle"] < 1 {
			t.Errorf("afterwards: %v", got)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}
