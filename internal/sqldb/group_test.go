package sqldb_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

// block makes a group busy until release is called, so that what comes next waits and shares a transaction.
func block(t *testing.T, db *sqldb.DB, g *sqldb.Group) (release func()) {
	t.Helper()
	running, free, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var once sync.Once
	go func() {
		done <- g.Update(context.Background(), func(tx *sqldb.Tx) error {
			once.Do(func() { close(running) })
			<-free
			return nil
		})
	}()
	<-running
	return func() {
		t.Helper()
		close(free)
		if err := <-done; err != nil {
			t.Errorf("the blocking function failed: %v", err)
		}
	}
}

// waitQueued waits until n functions are in the queue.
func waitQueued(t *testing.T, db *sqldb.DB, n int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); db.Stats().Queued < n; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d functions queued, want %d", db.Stats().Queued, n)
		}
	}
}

var errBusiness = errors.New("no")

// TestGroupIsolation queues functions that fail in every way among others, and expects each to get its own answer.
func TestGroupIsolation(t *testing.T) {
	fails := map[int]func(tx *sqldb.Tx, ctx context.Context) error{
		3: func(tx *sqldb.Tx, ctx context.Context) error { return errBusiness }, // before it wrote
		17: func(tx *sqldb.Tx, ctx context.Context) error { // after it wrote
			_, err := tx.Exec(ctx, insert, 1017, "gone")
			return errors.Join(err, errBusiness)
		},
		23: func(tx *sqldb.Tx, ctx context.Context) error { // a statement failed
			_, err := tx.Exec(ctx, insert, 0, "twice")
			return err
		},
		24: func(tx *sqldb.Tx, ctx context.Context) error { // a statement failed, and the function goes on
			_, _ = tx.Exec(ctx, insert, 0, "twice")
			return nil
		},
		31: func(tx *sqldb.Tx, ctx context.Context) error {
			if _, err := tx.Exec(ctx, insert, 1031, "gone"); err != nil {
				return err
			}
			panic("on purpose")
		},
		37: func(tx *sqldb.Tx, ctx context.Context) error { // a query failed before anything was written
			_, err := tx.Query(ctx, `SELECT nothing FROM nowhere WHERE k = $1`, 1)
			return err
		},
		41: func(tx *sqldb.Tx, ctx context.Context) error { // a result left open
			_, err := tx.Query(ctx, `SELECT k FROM kv WHERE k >= $1`, 0)
			return err
		},
	}
	const n = 60
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db, ctx := open(), t.Context()
		table(t, db)
		g := db.Group("test")
		release := block(t, db, g)
		errs := make([]error, n)
		var published []int
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				errs[i] = g.Update(ctx, func(tx *sqldb.Tx) error {
					tx.OnCommit(func() { published = append(published, i) })
					if fail := fails[i]; fail != nil {
						return fail(tx, ctx)
					}
					_, err := tx.Exec(ctx, insert, i, "kept")
					return err
				})
			})
			waitQueued(t, db, i+1) // so that they run in this order
		}
		before := db.Stats()
		release()
		wg.Wait()

		var want []int
		for i, err := range errs {
			if fails[i] == nil {
				want = append(want, i)
			}
			if (err != nil) != (fails[i] != nil) {
				t.Errorf("function %d: %v", i, err)
			}
		}
		if got := count(t, db, "1=1"); got != len(want) {
			t.Errorf("%d rows, want %d", got, len(want))
		}
		if !slices.Equal(published, want) {
			t.Errorf("published after commit: %v, want %v", published, want)
		}
		var p *sqldb.PanicError
		if !errors.As(errs[31], &p) || p.Value != "on purpose" || len(p.Stack) == 0 {
			t.Errorf("the panic came back as %v", errs[31])
		}
		if !errors.Is(errs[3], errBusiness) || !errors.Is(errs[17], errBusiness) || !sqldb.IsUniqueViolation(errs[23]) ||
			!sqldb.IsUniqueViolation(errs[24]) || sqldb.IsUniqueViolation(errs[17]) {
			t.Errorf("wrong errors: %v, %v, %v, %v", errs[3], errs[17], errs[23], errs[24])
		}
		after := db.Stats()
		t.Logf("%d functions in %d commits, %d reruns", after.Updates-before.Updates, after.Commits-before.Commits, after.Reruns-before.Reruns)
	})
}

func TestGroupSharesCommits(t *testing.T) {
	const n = 100
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db := open()
		table(t, db)
		g := db.Group("test")
		if g != db.Group("test") {
			t.Error("a group's name gives another group")
		}
		release := block(t, db, g)
		before := db.Stats()
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				if err := g.Update(t.Context(), func(tx *sqldb.Tx) error {
					_, err := tx.Exec(t.Context(), insert, i, "x")
					return err
				}); err != nil {
					t.Error(err)
				}
			})
		}
		waitQueued(t, db, n)
		release()
		wg.Wait()
		after := db.Stats()
		// One, unless the machine is so slow that the time bound of a batch cuts in.
		if commits := after.Commits - before.Commits; commits > n/4 {
			t.Errorf("%d functions took %d commits", n, commits)
		}
		if got := count(t, db, "1=1"); got != n {
			t.Errorf("%d rows, want %d", got, n)
		}
	})
}

func TestGroupCancelWhileQueued(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db := open()
		table(t, db)
		g := db.Group("test")
		release := block(t, db, g)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		var ran atomic.Bool
		go func() {
			done <- g.Update(ctx, func(tx *sqldb.Tx) error { ran.Store(true); return nil })
		}()
		waitQueued(t, db, 1)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		release()
		if err := g.Update(ctx, func(tx *sqldb.Tx) error { ran.Store(true); return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled before: %v", err)
		}
		if err := g.Update(t.Context(), func(tx *sqldb.Tx) error { return nil }); err != nil {
			t.Errorf("the group does not go on: %v", err)
		}
		if ran.Load() {
			t.Error("a cancelled function ran")
		}
	})
}

func TestGroupFullQueueBlocks(t *testing.T) {
	db := sqldbtest.Open(t, "sqlite::memory:")
	table(t, db)
	g := db.Group("")
	release := block(t, db, g)
	const queue = 1024
	var wg sync.WaitGroup
	for i := range queue {
		wg.Go(func() {
			if err := g.Update(t.Context(), func(tx *sqldb.Tx) error {
				_, err := tx.Exec(t.Context(), insert, i, "x")
				return err
			}); err != nil {
				t.Error(err)
			}
		})
	}
	waitQueued(t, db, queue)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- g.Update(ctx, func(tx *sqldb.Tx) error { return nil }) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for a place in the queue: %v", err)
	}
	release()
	wg.Wait()
	if n := count(t, db, "1=1"); n != queue {
		t.Errorf("%d rows, want %d", n, queue)
	}
}

func TestGoexitInFunction(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db := open()
		table(t, db)
		g := db.Group("test")
		done := make(chan error, 1)
		go func() {
			done <- g.Update(context.Background(), func(tx *sqldb.Tx) error {
				if _, err := tx.Exec(context.Background(), insert, 1, "gone"); err != nil {
					return err
				}
				runtime.Goexit()
				return nil
			})
		}()
		if err := <-done; err == nil {
			t.Error("the function ended its goroutine, and Update succeeded")
		}
		if err := g.Update(t.Context(), func(tx *sqldb.Tx) error {
			_, err := tx.Exec(t.Context(), insert, 2, "kept")
			return err
		}); err != nil {
			t.Errorf("the group does not go on: %v", err)
		}
		if n := count(t, db, "1=1"); n != 1 {
			t.Errorf("%d rows, want 1", n)
		}
	})
}

func TestCloseFinishesWhatIsQueued(t *testing.T) {
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		url := newURL()
		db, err := sqldb.Open(t.Context(), url, sqldb.Options{})
		if err != nil {
			t.Fatal(err)
		}
		table(t, db)
		g := db.Group("test")
		release := block(t, db, g)
		const n = 20
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				if err := g.Update(context.Background(), func(tx *sqldb.Tx) error {
					_, err := tx.Exec(context.Background(), insert, i, "x")
					return err
				}); err != nil {
					t.Error(err)
				}
			})
		}
		waitQueued(t, db, n)
		closed := make(chan error)
		go func() { closed <- db.Close() }()
		release()
		if err := <-closed; err != nil {
			t.Error(err)
		}
		wg.Wait()
		for name, update := range map[string]func(context.Context, func(*sqldb.Tx) error) error{
			"Update": db.Update, "Group": g.Update, "another Group": db.Group("late").Update,
		} {
			if err := update(context.Background(), func(tx *sqldb.Tx) error { return nil }); !errors.Is(err, sqldb.ErrClosed) {
				t.Errorf("%s after Close: %v", name, err)
			}
		}
		if err := db.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		if got := count(t, sqldbtest.Open(t, url), "1=1"); got != n {
			t.Errorf("%d rows after reopening, want %d", got, n)
		}
	})
}

// TestConcurrentWrites has many writers change one row, through all ways there are.
func TestConcurrentWrites(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db := open()
		table(t, db)
		exec(t, db, `CREATE TABLE counter (n BIGINT NOT NULL)`)
		exec(t, db, `INSERT INTO counter (n) VALUES (0)`)
		const writers, each = 16, 15
		var wg sync.WaitGroup
		for w := range writers {
			update := []func(context.Context, func(*sqldb.Tx) error) error{db.Update, db.Group("a").Update, db.Group("b").Update}[w%3]
			wg.Go(func() {
				for i := range each {
					key := w*each + i
					if err := update(t.Context(), func(tx *sqldb.Tx) error {
						if _, err := tx.Exec(t.Context(), insert, key, fmt.Sprint(w)); err != nil {
							return err
						}
						var n int
						return tx.QueryRow(t.Context(), `UPDATE counter SET n = n + $1 RETURNING n`, 1).Scan(&n)
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		var n int
		if err := db.QueryRow(t.Context(), `SELECT n FROM counter`).Scan(&n); err != nil || n != writers*each {
			t.Errorf("counter %d, %v; want %d", n, err, writers*each)
		}
		if got := count(t, db, "1=1"); got != writers*each {
			t.Errorf("%d rows, want %d", got, writers*each)
		}
	})
}
