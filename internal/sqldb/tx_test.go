package sqldb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

func TestViewSeesOneSnapshot(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db, ctx := open(), t.Context()
		table(t, db)
		exec(t, db, insert, 1, "a")
		err := db.View(ctx, func(tx *sqldb.Tx) error {
			if n := count(t, tx, "1=1"); n != 1 {
				t.Errorf("%d rows at first", n)
			}
			exec(t, db, insert, 2, "b")
			if n := count(t, tx, "1=1"); n != 1 {
				t.Errorf("%d rows in the same snapshot", n)
			}
			if n := count(t, db, "1=1"); n != 2 {
				t.Errorf("%d rows outside of the snapshot", n)
			}
			_, err := tx.Exec(ctx, insert, 3, "c")
			if err == nil {
				t.Error("a View could write")
			}
			return errBusiness
		})
		if !errors.Is(err, errBusiness) {
			t.Errorf("View returned %v", err)
		}
		if n := count(t, db, "1=1"); n != 2 {
			t.Errorf("%d rows at the end", n)
		}
	})
}

func TestViewPanicsReachTheCaller(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db := open()
		func() {
			defer func() {
				if v := recover(); v != "on purpose" {
					t.Errorf("recovered %v", v)
				}
			}()
			_ = db.View(t.Context(), func(tx *sqldb.Tx) error { panic("on purpose") })
		}()
		if s := db.Stats(); s.InUse != 0 {
			t.Errorf("%d connections still in use", s.InUse)
		}
	})
}

func TestUpdateIsAllOrNothing(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db, ctx := open(), t.Context()
		table(t, db)
		var leaked *sqldb.Tx
		hooks := 0
		for _, end := range []func() error{func() error { return errBusiness }, func() error { panic("on purpose") }} {
			err := db.Update(ctx, func(tx *sqldb.Tx) error {
				leaked = tx
				tx.OnCommit(func() { hooks++ })
				if _, err := tx.Exec(ctx, insert, 1, "x"); err != nil {
					return err
				}
				if n := count(t, tx, "k = $1", 1); n != 1 {
					t.Errorf("a transaction does not see its own row")
				}
				return end()
			})
			var p *sqldb.PanicError
			if !errors.Is(err, errBusiness) && !errors.As(err, &p) {
				t.Errorf("Update: %v", err)
			}
		}
		if n := count(t, db, "1=1"); n != 0 || hooks != 0 {
			t.Errorf("%d rows and %d hooks of transactions that failed", n, hooks)
		}
		if _, err := leaked.Exec(ctx, insert, 2, "late"); !errors.Is(err, sql.ErrTxDone) {
			t.Errorf("a transaction works after its end: %v", err)
		}
		if err := leaked.QueryRow(ctx, `SELECT 1`).Scan(new(int)); err == nil {
			t.Error("a transaction reads after its end")
		}
	})
}

func TestHookPanicHarmsNobody(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db := open()
		table(t, db)
		ran := false
		if err := db.Update(t.Context(), func(tx *sqldb.Tx) error {
			tx.OnCommit(func() { panic("on purpose") })
			tx.OnCommit(func() { ran = true })
			_, err := tx.Exec(t.Context(), insert, 1, "x")
			return err
		}); err != nil || !ran {
			t.Errorf("Update: %v; the second hook ran: %v", err, ran)
		}
	})
}

func TestStatementRules(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db, ctx := open(), t.Context()
		table(t, db)
		exec(t, db, insert, 1, "x")
		exec(t, db, insert, 2, "y")
		// Writing outside of Update.
		if err := db.QueryRow(ctx, insert+` RETURNING k`, 3, "z").Scan(new(int)); err == nil {
			t.Error("Query could write")
		}
		// A second statement while a result is open: lib/pq would mix them up.
		err := db.View(ctx, func(tx *sqldb.Tx) error {
			rows, err := tx.Query(ctx, `SELECT k FROM kv WHERE k > $1 ORDER BY k`, 0)
			if err != nil {
				return err
			}
			rows.Next()
			if err := tx.QueryRow(ctx, `SELECT v FROM kv WHERE k = $1`, 1).Scan(new(string)); err == nil || !strings.Contains(err.Error(), "still open") {
				t.Errorf("second statement: %v", err)
			}
			if err := rows.Close(); err != nil {
				return err
			}
			return tx.QueryRow(ctx, `SELECT v FROM kv WHERE k = $1`, 1).Scan(new(string))
		})
		if err != nil {
			t.Error(err)
		}
		if err := db.QueryRow(ctx, `SELECT v FROM kv WHERE k = $1`, 9).Scan(new(string)); !errors.Is(err, sql.ErrNoRows) {
			t.Errorf("no row: %v", err)
		}
		if _, err := db.Exec(ctx, insert, 1, "again"); !sqldb.IsUniqueViolation(err) {
			t.Errorf("same key: %v", err)
		}
		if _, err := db.Exec(ctx, `NONSENSE`); err == nil || sqldb.IsUniqueViolation(err) {
			t.Errorf("nonsense: %v", err)
		}
	})
}

func TestCancelledContext(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db := open()
		table(t, db)
		ctx, cancel := context.WithCancel(t.Context())
		err := db.Update(ctx, func(tx *sqldb.Tx) error {
			if _, err := tx.Exec(ctx, insert, 1, "gone"); err != nil {
				return err
			}
			cancel()
			_, err := tx.Exec(ctx, insert, 2, "gone")
			return err
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Update: %v", err)
		}
		if err := db.View(ctx, func(tx *sqldb.Tx) error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("View: %v", err)
		}
		if err := db.QueryRow(ctx, `SELECT 1`).Scan(new(int)); !errors.Is(err, context.Canceled) {
			t.Errorf("QueryRow: %v", err)
		}
		exec(t, db, insert, 3, "kept")
		if n := count(t, db, "1=1"); n != 1 {
			t.Errorf("%d rows, want 1", n)
		}
	})
}

// TestManyStatements uses more texts than a connection keeps.
func TestManyStatements(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db, ctx := open(), t.Context()
		for range 2 {
			err := db.View(ctx, func(tx *sqldb.Tx) error {
				for i := range 400 {
					var n int
					if err := tx.QueryRow(ctx, fmt.Sprintf(`SELECT CAST($1 AS BIGINT) + %d`, i), 1).Scan(&n); err != nil || n != i+1 {
						return fmt.Errorf("statement %d: %d, %w", i, n, err)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestReopenedDatabaseHasItsRows(t *testing.T) {
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		url := newURL()
		db := sqldbtest.Open(t, url)
		table(t, db)
		exec(t, db, insert, 1, "x")
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if n := count(t, sqldbtest.Open(t, url), "k = 1"); n != 1 {
			t.Errorf("%d rows, want 1", n)
		}
	})
}

// TestSQLiteFilesAfterUpdate opens a copy of the files as they are right after Update returned, as a
// killed process would leave them.
func TestSQLiteFilesAfterUpdate(t *testing.T) {
	url := sqldbtest.SQLiteURL(t)
	db := sqldbtest.Open(t, url)
	table(t, db)
	for i := range 50 {
		exec(t, db, insert, i, "x")
	}
	path, dir := strings.TrimPrefix(url, "sqlite:"), t.TempDir()
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "copy.db"+suffix), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(t, sqldbtest.Open(t, "sqlite:"+filepath.Join(dir, "copy.db")), "1=1"); n != 50 {
		t.Errorf("%d rows in the copy, want 50", n)
	}
}

func TestSizeAndVacuum(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db, ctx := open(), t.Context()
		table(t, db)
		for i := range 40 {
			exec(t, db, insert, i, strings.Repeat("x", 100_000))
		}
		full, err := db.Size(ctx)
		if err != nil || full < 100_000 {
			t.Fatalf("size %d, %v", full, err)
		}
		exec(t, db, `DELETE FROM kv WHERE k >= $1`, 1)
		for _, keep := range []int64{full / 2, 0} {
			if err := db.Vacuum(ctx, keep); err != nil {
				t.Fatal(err)
			}
			after, err := db.Size(ctx)
			if err != nil || db.Dialect() == sqldb.SQLite && (after > keep+full/10 || after < keep) {
				t.Errorf("size %d after vacuum down to %d free, %d before, %v", after, keep, full, err)
			}
		}
		if n := count(t, db, "1=1"); n != 1 {
			t.Errorf("%d rows, want 1", n)
		}
	})
}

// A reader that never ends keeps SQLite's log from being begun anew; when there is none, the log is emptied.
func TestTruncateWAL(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db, ctx := open(), t.Context()
		table(t, db)
		fill := func(from int) {
			for i := range 20 {
				exec(t, db, insert, from+i, strings.Repeat("x", 100_000))
			}
		}
		size := func() int64 {
			n, err := db.WALSize()
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		fill(0)
		if db.Dialect() == sqldb.Postgres {
			if err := db.TruncateWAL(ctx, 0); err != nil || size() != 0 {
				t.Errorf("Postgres: %v, %d bytes", err, size())
			}
			return
		}
		if err := db.TruncateWAL(ctx, 1<<30); err != nil || size() == 0 {
			t.Errorf("below the limit: %v, %d bytes", err, size())
		}
		err := db.View(ctx, func(tx *sqldb.Tx) error {
			var n int
			if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM kv`).Scan(&n); err != nil {
				return err
			}
			fill(100)
			if err := db.TruncateWAL(ctx, 0); err != nil || size() == 0 {
				t.Errorf("while it is read: %v, %d bytes", err, size())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.TruncateWAL(ctx, 0); err != nil || size() != 0 {
			t.Errorf("when nobody reads: %v, %d bytes", err, size())
		}
		if n := count(t, db, "1=1"); n != 40 {
			t.Errorf("%d rows, want 40", n)
		}
		fill(200) // and it is written again
	})
}

func TestLists(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{sqldb.In(3, 2), "($2,$3,$4)"}, {sqldb.In(0, 1), "(NULL)"}, {sqldb.In(1, 10), "($10)"},
		{sqldb.Values(2, 2, 1), "($1,$2),($3,$4)"}, {sqldb.Values(1, 1, 3), "($3)"},
	} {
		if c.got != c.want {
			t.Errorf("%s, want %s", c.got, c.want)
		}
	}
	list := make([]int, 1201)
	var parts []int
	if err := sqldb.Chunk(list, func(part []int) error { parts = append(parts, len(part)); return nil }); err != nil ||
		fmt.Sprint(parts) != "[500 500 201]" {
		t.Errorf("chunks %v, %v", parts, err)
	}
	if err := sqldb.Chunk(list, func([]int) error { return errBusiness }); !errors.Is(err, errBusiness) {
		t.Errorf("error of a chunk: %v", err)
	}
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db := open()
		table(t, db)
		exec(t, db, `INSERT INTO kv (k, v) VALUES `+sqldb.Values(6, 2, 1), 0, "a", 1, "a", 2, "a", 3, "a", 4, "a", 5, "b")
		for n, want := range []int{0, 1, 2, 3, 4, 5, 5, 5} {
			in, args := sqldb.InArgs([]any{"a"}, []int{0, 1, 2, 3, 4, 5, 6}[:min(n, 7)])
			if got := count(t, db, `v = $1 AND k IN `+in, args...); got != want {
				t.Errorf("%d keys found %d rows with %s, want %d", n, got, in, want)
			}
		}
	})
}
