package sqldb_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

// await waits until a query of one number gives what is wanted.
func await(t *testing.T, db *sqldb.DB, want int, query string, args ...any) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		var n int
		if err := db.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d, want %d", query, n, want)
		}
	}
}

const deadlockSQL = `SELECT CAST(deadlocks AS BIGINT) FROM pg_stat_database WHERE datname = current_database()`

func lockOf(row int) sqldb.Lock {
	if row == 0 {
		return sqldb.Lock{Class: 2}
	}
	return sqldb.Lock{Class: 1, Key: fmt.Sprintf("%04d", row)}
}

func bump(ctx context.Context, row int) sqldb.Step {
	return sqldb.Step{Lock: lockOf(row), Run: func(tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, bumpSQL, row)
		return err
	}}
}

// TestNodesDoNotDeadlock has two nodes write the same few rooms in random order, each time with the counter after it.
func TestNodesDoNotDeadlock(t *testing.T) {
	const nRooms, writers, each = 6, 24, 30
	raw := sqldbtest.PostgresURL(t)
	watch := sqldbtest.Open(t, raw)
	rooms(t, watch, nRooms)
	var before int64
	if err := watch.QueryRow(t.Context(), deadlockSQL).Scan(&before); err != nil {
		t.Fatal(err)
	}
	var nodes []*sqldb.DB
	for range 2 {
		db, err := sqldb.Open(t.Context(), with(t, raw, "application_name", "node"), sqldb.Options{})
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, db)
	}
	var wg sync.WaitGroup
	for w := range writers {
		g := nodes[w%2].Group("events")
		rng := rand.New(rand.NewPCG(1, uint64(w)))
		wg.Go(func() {
			for range each {
				if err := g.Steps(t.Context(), bump(t.Context(), 1+rng.IntN(nRooms)), bump(t.Context(), 0)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var commits int64
	for i, db := range nodes {
		s := db.Stats()
		if s.Retries+s.Reruns != 0 {
			t.Errorf("node %d: %d retries, %d reruns", i, s.Retries, s.Reruns)
		}
		commits += s.Commits
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	if n := count(t, watch, "k = 0 AND v = $1", fmt.Sprint(writers*each)); n != 1 {
		t.Error("the counter does not count all writes")
	}
	// A session hands in its figures at the latest when it ends.
	await(t, watch, 0, `SELECT count(*) FROM pg_stat_activity WHERE application_name = $1`, "node")
	var after int64
	if err := watch.QueryRow(t.Context(), deadlockSQL).Scan(&after); err != nil {
		t.Fatal(err)
	}
	if after != before {
		t.Errorf("%d deadlocks", after-before)
	}
	t.Logf("%d writes in %d commits", writers*each, commits)
}

// TestStepsFail queues writes that fail in their first or second step among others.
func TestStepsFail(t *testing.T) {
	const n = 20
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db, ctx := open(), t.Context()
		rooms(t, db, n)
		g := db.Group("test")
		release := block(t, db, g)
		errs := make([]error, n+1)
		var published, ran []int
		var wg sync.WaitGroup
		for row := n; row > 0; row-- {
			first, second := bump(ctx, row), bump(ctx, 0)
			switch row {
			case 5: // a fence that refuses
				first.Run = func(tx *sqldb.Tx) error {
					_, err := tx.Exec(ctx, `UPDATE kv SET v = '7' WHERE k = $1 AND v = $2`, 5, "other")
					return errors.Join(err, errBusiness)
				}
			case 9, 12: // after the first step wrote
				second.Run = func(tx *sqldb.Tx) error { return errBusiness }
			case 14: // a statement fails
				second.Run = func(tx *sqldb.Tx) error {
					_, err := tx.Exec(ctx, insert, 1, "twice")
					return err
				}
			}
			run := second.Run
			second.Run = func(tx *sqldb.Tx) error {
				tx.OnCommit(func() { published = append(published, row) })
				if row == 1 {
					ran = append(ran, row)
				}
				return run(tx)
			}
			wg.Go(func() { errs[row] = g.Steps(ctx, first, second) })
			waitQueued(t, db, n+1-row)
		}
		release()
		wg.Wait()
		var want []int
		for row := 1; row <= n; row++ {
			good := !slices.Contains([]int{5, 9, 12, 14}, row)
			if good {
				want = append(want, row)
			}
			if (errs[row] == nil) != good {
				t.Errorf("write %d: %v", row, errs[row])
			}
		}
		if !errors.Is(errs[5], errBusiness) || !errors.Is(errs[9], errBusiness) || !sqldb.IsUniqueViolation(errs[14]) {
			t.Errorf("wrong errors: %v, %v, %v", errs[5], errs[9], errs[14])
		}
		slices.Reverse(want) // in the order in which they came, as they end with the same lock
		if !slices.Equal(published, want) {
			t.Errorf("published %v, want %v", published, want)
		}
		if got := count(t, db, "k > 0 AND v = '1'"); got != len(want) {
			t.Errorf("%d rooms changed, want %d", got, len(want))
		}
		if got := count(t, db, "k = 0 AND v = $1", fmt.Sprint(len(want))); got != 1 {
			t.Error("the counter is not the number of writes")
		}
		t.Logf("%d reruns; the first room's second step ran %d times", db.Stats().Reruns, len(ran))
	})
}

// TestFrozenNode: a node that stops in the middle of a transaction holds the others up no longer than the timeout.
func TestFrozenNode(t *testing.T) {
	raw := sqldbtest.PostgresURL(t)
	frozen := sqldbtest.Open(t, with(t, raw, "idle_in_transaction_session_timeout", "300ms"))
	db, ctx := sqldbtest.Open(t, raw), t.Context()
	rooms(t, db, 1)
	held, thaw, done := make(chan struct{}), make(chan struct{}), make(chan error)
	runs := 0
	go func() {
		done <- frozen.Group("events").Steps(ctx, sqldb.Step{Lock: lockOf(1), Run: func(tx *sqldb.Tx) error {
			runs++
			_, err := tx.Exec(ctx, bumpSQL, 1)
			if runs == 1 {
				close(held)
				<-thaw
			}
			return err
		}}, bump(ctx, 0))
	}()
	<-held
	start := time.Now()
	if err := db.Group("events").Steps(ctx, bump(ctx, 1), bump(ctx, 0)); err != nil {
		t.Error(err)
	}
	t.Logf("waited %v", time.Since(start).Round(10*time.Millisecond))
	close(thaw)
	if err := <-done; err != nil || runs != 2 {
		t.Errorf("the frozen node's write: %d runs, %v", runs, err)
	}
	if n := count(t, db, "v = '2'"); n != 2 {
		t.Errorf("%d rows were written by both, want 2", n)
	}
}

// TestFrozenQueue: of the transactions of a frozen node that wait for one lock, none gets it after the one that had it was ended.
func TestFrozenQueue(t *testing.T) {
	const queued = 5
	const idle = 2 * time.Second
	raw, ctx := sqldbtest.PostgresURL(t), t.Context()
	db := sqldbtest.Open(t, with(t, raw, "lock_timeout", "20s"))
	frozen := sqldbtest.Open(t, with(t, raw, "application_name", "frozen queue",
		"idle_in_transaction_session_timeout", idle.String(), "lock_timeout", "500ms"))
	rooms(t, db, 1)
	if err := errors.Join(nested(ctx, frozen, queued+1)...); err != nil { // opens the connections
		t.Fatal(err)
	}
	held, thaw := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	freeze := func(then func()) {
		wg.Go(func() {
			runs := 0
			if err := frozen.Update(ctx, func(tx *sqldb.Tx) error {
				_, err := tx.Exec(ctx, bumpSQL, 1)
				if runs++; runs == 1 {
					then()
					<-thaw
				}
				return err
			}); err != nil {
				t.Error(err)
			}
		})
	}
	freeze(func() { close(held) })
	<-held
	for range queued {
		freeze(func() {})
	}
	await(t, db, queued, `SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'`, "frozen queue")
	start := time.Now()
	if _, err := db.Exec(ctx, bumpSQL, 1); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 2*idle {
		t.Errorf("waited %v, as if for several transactions", took)
	}
	close(thaw)
	wg.Wait()
	if n := count(t, db, "k = 1 AND v = $1", fmt.Sprint(queued+2)); n != 1 {
		t.Error("not each write was applied once")
	}
}
