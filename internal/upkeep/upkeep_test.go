package upkeep_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/internal/upkeep"
)

func quiet() logrus.FieldLogger {
	l := logrus.New()
	l.SetLevel(logrus.PanicLevel)
	return l
}

func TestDeleteWorksInBatches(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db, ctx := open(), t.Context()
		if _, err := db.Exec(ctx, `CREATE TABLE old (a BIGINT, b BIGINT, PRIMARY KEY (a, b))`); err != nil {
			t.Fatal(err)
		}
		const rows = 2*upkeep.Batch + 7
		err := db.Update(ctx, func(tx *sqldb.Tx) error {
			for i := range rows + 5 {
				if _, err := tx.Exec(ctx, `INSERT INTO old (a, b) VALUES ($1, $2)`, i, -i); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		before := db.Stats().Updates
		n, err := upkeep.Delete(ctx, db, `DELETE FROM old WHERE (a, b) IN (SELECT a, b FROM old WHERE a < $1 ORDER BY a LIMIT $2)`, rows)
		if n != rows || err != nil {
			t.Errorf("%d rows went (%v), want %d", n, err, rows)
		}
		if turns := db.Stats().Updates - before; turns != 3 {
			t.Errorf("in %d transactions, want 3", turns)
		}
		var left int
		if err := db.QueryRow(ctx, `SELECT COUNT(*) FROM old`).Scan(&left); err != nil || left != 5 {
			t.Errorf("%d rows are left (%v), want 5", left, err)
		}
		if _, err := upkeep.Delete(ctx, db, `DELETE FROM nothing WHERE a IN (SELECT $1)`); err == nil {
			t.Error("no error for a statement that fails")
		}
	})
}

func TestEachStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	n, err := upkeep.Each(ctx, func() (int64, bool, error) {
		calls++
		if calls == 2 {
			cancel()
		}
		return 3, true, nil
	})
	if n != 6 || !errors.Is(err, context.Canceled) || calls != 2 {
		t.Errorf("%d removed in %d calls, %v", n, calls, err)
	}
}

// Tasks run soon after the start and then in their own time, one at a time; one that fails
// is counted and runs again.
func TestKeeperRunsTasksWhenTheyAreDue(t *testing.T) {
	url := sqldbtest.SQLiteURL(t)
	synctest.Test(t, func(t *testing.T) {
		db, err := sqldb.Open(t.Context(), url, sqldb.Options{})
		if err != nil {
			t.Fatal(err)
		}
		reg := prometheus.NewRegistry()
		k, err := upkeep.New(upkeep.Config{DB: db, Log: quiet(), Metrics: reg})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		var log []string
		running := false
		task := func(kind string, every time.Duration, err error) upkeep.Task {
			return upkeep.Task{Kind: kind, Every: every, Run: func(ctx context.Context) (int64, error) {
				if running {
					t.Error("two tasks at a time")
				}
				running = true
				defer func() { running = false }()
				log = append(log, kind+" "+time.Since(start).String())
				return 2, errors.Join(err, upkeep.Rest(ctx))
			}}
		}
		k.Add(task("often", 2*time.Minute, nil), task("hourly", time.Hour, nil), task("bad", time.Hour, errors.New("no")))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- k.Run(ctx) }()
		time.Sleep(70*time.Minute + time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		often := 0
		var rest []string
		for _, l := range log {
			if strings.HasPrefix(l, "often") {
				often++
			} else {
				rest = append(rest, l)
			}
		}
		want := []string{"hourly 5m0s", "bad 5m0.02s", "hourly 1h5m0.02s", "bad 1h5m0.04s"}
		if !slices.Equal(rest, want) || often != 34 && often != 35 {
			t.Errorf("%d times often, and %v, want %v", often, rest, want)
		}
		removed := map[string]float64{}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				removed[f.GetName()+" "+m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
		if removed["weft_upkeep_removed_total hourly"] != 4 || removed["weft_upkeep_failures_total bad"] != 2 || removed["weft_upkeep_failures_total hourly"] != 0 {
			t.Errorf("metrics %v", removed)
		}
		if err := k.RunAll(t.Context()); err == nil || !strings.Contains(err.Error(), "bad") {
			t.Errorf("RunAll hides a failure: %v", err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

// What another process owns is left to it, but not what each process has of its own.
func TestKeeperLeavesToOthersWhatIsTheirs(t *testing.T) {
	url := sqldbtest.SQLiteURL(t)
	synctest.Test(t, func(t *testing.T) {
		db, err := sqldb.Open(t.Context(), url, sqldb.Options{})
		if err != nil {
			t.Fatal(err)
		}
		k, err := upkeep.New(upkeep.Config{DB: db, Log: quiet(), Owns: func(_, _ string) bool { return false }})
		if err != nil {
			t.Fatal(err)
		}
		var ran []string
		for _, task := range []upkeep.Task{{Kind: "shared", Every: time.Hour}, {Kind: "files", Every: time.Hour, Local: true}} {
			task.Run = func(context.Context) (int64, error) {
				ran = append(ran, task.Kind)
				return 0, nil
			}
			k.Add(task)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 70*time.Minute)
		defer cancel()
		if err := k.Run(ctx); err != nil || !slices.Equal(ran, []string{"files", "files"}) {
			t.Errorf("ran %v (%v)", ran, err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A nil Keeper is one that runs nothing.
func TestNilKeeper(t *testing.T) {
	var k *upkeep.Keeper
	k.Add(upkeep.Task{Kind: "x"})
	k.Count("x", 1)
}

func TestShrink(t *testing.T) {
	db, ctx := sqldbtest.Open(t, sqldbtest.SQLiteURL(t)), t.Context()
	k, err := upkeep.New(upkeep.Config{DB: db, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	fill := func(n int) {
		if _, err := db.Exec(ctx, `INSERT INTO blob (b) WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < $1)
			SELECT zeroblob(100000) FROM c`, n); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.Exec(ctx, `CREATE TABLE blob (b BLOB)`); err != nil {
		t.Fatal(err)
	}
	fill(100)
	if _, err := db.Exec(ctx, `DELETE FROM blob WHERE rowid > 1`); err != nil {
		t.Fatal(err)
	}
	if err := k.Shrink(ctx); err != nil {
		t.Fatal(err)
	}
	if size, err := db.Size(ctx); err != nil || size < 1<<20 || size > 2<<20 {
		t.Errorf("%d bytes are left (%v), want the reserve of 1 MiB", size, err)
	}
}
