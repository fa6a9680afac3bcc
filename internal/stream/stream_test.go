package stream_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/internal/stream"
)

const insertSQL = `INSERT INTO entry (pos, writer) VALUES ($1, $2)`

var errOnPurpose = errors.New("on purpose")

func open(t *testing.T, url string) *sqldb.DB {
	t.Helper()
	db := sqldbtest.Open(t, url)
	if err := stream.Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	return db
}

func position(t *testing.T, q sqldb.Querier, s stream.Name) int64 {
	t.Helper()
	pos, err := stream.Position(context.Background(), q, s)
	if err != nil {
		t.Fatal(err)
	}
	return pos
}

func TestAdvance(t *testing.T) {
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		db, ctx := open(t, newURL()), t.Context()
		if pos := position(t, db, stream.Events); pos != 0 {
			t.Errorf("a new stream is at %d", pos)
		}
		advance := func(s stream.Name, n, want int64, end error) {
			t.Helper()
			err := db.Update(ctx, func(tx *sqldb.Tx) error {
				first, err := stream.Advance(ctx, tx, s, n)
				if err == nil && first != want {
					t.Errorf("%s: first position %d, want %d", s, first, want)
				}
				if pos := position(t, tx, s); err == nil && pos != first+n-1 {
					t.Errorf("%s: the writer itself sees position %d, want %d", s, pos, first+n-1)
				}
				return errors.Join(err, end)
			})
			if !errors.Is(err, end) {
				t.Errorf("%s: advance by %d: %v", s, n, err)
			}
		}
		advance(stream.Events, 1, 1, nil)
		advance(stream.Events, 5, 2, nil)
		advance(stream.Receipts, 2, 1, nil)
		advance(stream.Events, 3, 7, errOnPurpose) // rolled back: given out again
		advance(stream.Events, 1, 7, nil)
		for _, n := range []int64{0, -1} {
			if err := db.Update(ctx, func(tx *sqldb.Tx) error {
				_, err := stream.Advance(ctx, tx, stream.Events, n)
				return err
			}); err == nil {
				t.Errorf("advance by %d succeeded", n)
			}
		}
		all, err := stream.Positions(ctx, db)
		if err != nil || len(all) != 2 || all[stream.Events] != 7 || all[stream.Receipts] != 2 {
			t.Errorf("positions %v, %v", all, err)
		}
		if err := stream.Migrate(ctx, db); err != nil {
			t.Errorf("second migration: %v", err)
		}
		if pos := position(t, db, stream.Events); pos != 7 {
			t.Errorf("position %d after the second migration", pos)
		}
	})
}

// TestNoReaderPassesAnUncommittedRow has writers that write, fail and take their time, in several ways and through
// two handles (as two nodes on one Postgres), while readers check at each look that the rows up to the position
// they see are all there.
func TestNoReaderPassesAnUncommittedRow(t *testing.T) {
	const writers, each, readers = 8, 20, 2
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		url, ctx := newURL(), t.Context()
		db := open(t, url)
		nodes := []*sqldb.DB{db, db}
		if db.Dialect() == sqldb.Postgres {
			nodes[1] = open(t, url)
		}
		if _, err := db.Exec(ctx, `CREATE TABLE entry (pos BIGINT PRIMARY KEY, writer BIGINT NOT NULL)`); err != nil {
			t.Fatal(err)
		}
		var written, published atomic.Int64
		var writing, reading sync.WaitGroup
		for w := range writers {
			node := nodes[w%2]
			update := node.Update
			if w%4 >= 2 {
				update = node.Group("events").Update
			}
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			writing.Go(func() {
				for range each {
					n, fail, slow := rng.Int64N(3)+1, rng.IntN(5) == 0, rng.IntN(4) == 0
					err := update(ctx, func(tx *sqldb.Tx) error { return write(ctx, tx, int64(w), n, fail, slow, &published) })
					switch {
					case err == nil && !fail:
						written.Add(n)
					case !fail || !errors.Is(err, errOnPurpose):
						t.Errorf("writer %d: %v", w, err)
					}
				}
			})
		}
		stop := make(chan struct{})
		var looks atomic.Int64
		for r := range readers {
			reading.Go(func() {
				var last int64
				for done := false; !done; {
					select {
					case <-stop:
						done = true // one more look, at the end
					default:
					}
					pos, err := look(ctx, nodes[r%2], r%2 == 0, last)
					if err != nil {
						t.Errorf("reader %d: %v", r, err)
						return
					}
					last = pos
					looks.Add(1)
				}
				if last != written.Load() {
					t.Errorf("reader %d ended at %d, written %d", r, last, written.Load())
				}
			})
		}
		writing.Wait()
		close(stop)
		reading.Wait()
		if published.Load() != written.Load() {
			t.Errorf("%d positions published, %d written", published.Load(), written.Load())
		}
		t.Logf("%d rows written, looked %d times", written.Load(), looks.Load())
	})
}

// write takes n positions and writes their rows, the highest first, so that a transaction that could be seen
// half done would be caught.
func write(ctx context.Context, tx *sqldb.Tx, writer, n int64, fail, slow bool, published *atomic.Int64) error {
	first, err := stream.Advance(ctx, tx, stream.Events, n)
	if err != nil {
		return err
	}
	for i := n - 1; i >= 0; i-- {
		if _, err := tx.Exec(ctx, insertSQL, first+i, writer); err != nil {
			return err
		}
	}
	if slow {
		var sum int64
		if err := tx.QueryRow(ctx, `WITH RECURSIVE r (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 300)
			SELECT sum(i) FROM r`).Scan(&sum); err != nil {
			return err
		}
	}
	if fail {
		return errOnPurpose
	}
	tx.OnCommit(func() { published.Add(n) })
	return nil
}

// look reads the position and the rows up to it, and checks that none is missing.
func look(ctx context.Context, db *sqldb.DB, inView bool, last int64) (pos int64, err error) {
	read := func(q sqldb.Querier) error {
		if pos, err = stream.Position(ctx, q, stream.Events); err != nil {
			return err
		}
		var n, lowest, highest int64
		err := q.QueryRow(ctx, `SELECT count(*), coalesce(min(pos), 0), coalesce(max(pos), 0) FROM entry WHERE pos <= $1`, pos).
			Scan(&n, &lowest, &highest)
		if err != nil {
			return err
		}
		if n != pos || highest != pos || pos > 0 && lowest != 1 {
			return fmt.Errorf("position %d is visible, but there are %d rows up to it, from %d to %d", pos, n, lowest, highest)
		}
		if pos < last {
			return fmt.Errorf("the position went back from %d to %d", last, pos)
		}
		return nil
	}
	if inView {
		return pos, db.View(ctx, func(tx *sqldb.Tx) error { return read(tx) })
	}
	return pos, read(db)
}

func TestNamesAreDistinct(t *testing.T) {
	names := stream.Names()
	slices.Sort(names)
	if len(slices.Compact(names)) != len(stream.Names()) {
		t.Errorf("two streams share a name: %v", names)
	}
}

func BenchmarkAdvance64(b *testing.B) {
	for _, dialect := range []string{"sqlite", "postgres"} {
		b.Run(dialect, func(b *testing.B) {
			url := ""
			if dialect == "sqlite" {
				url = sqldbtest.SQLiteURL(b)
			} else {
				url = sqldbtest.PostgresURL(b)
			}
			db := sqldbtest.Open(b, url)
			if err := stream.Migrate(b.Context(), db); err != nil {
				b.Fatal(err)
			}
			if _, err := db.Exec(b.Context(), `CREATE TABLE entry (pos BIGINT PRIMARY KEY, writer BIGINT NOT NULL)`); err != nil {
				b.Fatal(err)
			}
			for name, update := range map[string]func(context.Context, func(*sqldb.Tx) error) error{
				"alone": db.Update, "group": db.Group("events").Update,
			} {
				b.Run(name, func(b *testing.B) {
					var next, published atomic.Int64
					var wg sync.WaitGroup
					for range 64 {
						wg.Go(func() {
							for next.Add(1) <= int64(b.N) {
								if err := update(context.Background(), func(tx *sqldb.Tx) error {
									return write(context.Background(), tx, 1, 1, false, false, &published)
								}); err != nil {
									b.Error(err)
								}
							}
						})
					}
					wg.Wait()
				})
			}
		})
	}
}
