package sqldb_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

// table makes a small table; the tests below share its shape.
func table(t testing.TB, db *sqldb.DB) {
	t.Helper()
	blob := "BYTEA"
	if db.Dialect() == sqldb.SQLite {
		blob = "BLOB"
	}
	exec(t, db, `CREATE TABLE kv (k BIGINT PRIMARY KEY, v TEXT NOT NULL, b `+blob+`)`)
}

func exec(t testing.TB, db *sqldb.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.Exec(context.Background(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func count(t testing.TB, q sqldb.Querier, where string, args ...any) int {
	t.Helper()
	var n int
	if err := q.QueryRow(context.Background(), `SELECT count(*) FROM kv WHERE `+where, args...).Scan(&n); err != nil {
		t.Fatalf("count where %s: %v", where, err)
	}
	return n
}

const insert = `INSERT INTO kv (k, v) VALUES ($1, $2)`

func TestOpenRefusesUnknownURLs(t *testing.T) {
	for _, url := range []string{"", "weft.db", "mysql://u:secret@h/db", "sqlite:", "sqlite:/nonexistent/folder/weft.db",
		"postgres://127.0.0.1:1/none?sslmode=disable"} {
		db, err := sqldb.Open(t.Context(), url, sqldb.Options{})
		if err == nil {
			t.Errorf("Open(%q) succeeded", url)
			db.Close()
			continue
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("Open(%q) tells the password: %v", url, err)
		}
	}
}

func TestSQLitePathsWithOddCharacters(t *testing.T) {
	for _, name := range []string{"a b.db", "what?.db", "50%.db", "#1.db", "ü.db"} {
		db := sqldbtest.Open(t, "sqlite:"+t.TempDir()+"/"+name)
		table(t, db)
		if n := count(t, db, "1=1"); n != 0 {
			t.Errorf("%s: %d rows", name, n)
		}
	}
}

func TestSQLiteSettings(t *testing.T) {
	db := sqldbtest.Open(t, "sqlite::memory:")
	want := map[string]string{"journal_mode": "wal", "foreign_keys": "0", "auto_vacuum": "2", "query_only": "1"}
	for pragma, value := range want {
		var got string
		if err := db.QueryRow(t.Context(), "SELECT * FROM pragma_"+pragma).Scan(&got); err != nil || got != value {
			t.Errorf("reader's %s = %q, %v; want %q", pragma, got, err, value)
		}
	}
	want = map[string]string{"synchronous": "2", "query_only": "0", "wal_autocheckpoint": "4000", "cache_size": "-8192"}
	err := db.Update(t.Context(), func(tx *sqldb.Tx) error {
		for pragma, value := range want {
			var got string
			if err := tx.QueryRow(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != value {
				t.Errorf("writer's %s = %q, %v; want %q", pragma, got, err, value)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestValues(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db, ctx := open(), t.Context()
		table(t, db)
		type named string
		blob := []byte{0, 1, 0xff, '\\'}
		// Placeholders out of order and repeated.
		exec(t, db, `INSERT INTO kv (b, v, k) VALUES ($3, $2, $1)`, 7, named("x"), blob)
		exec(t, db, `INSERT INTO kv (k, v, b) VALUES ($1, CAST($2 AS TEXT) || CAST($2 AS TEXT), $3)`, int64(8), "y", []byte(nil))
		exec(t, db, insert, true, "a bool is 1")
		if n := count(t, db, `k = 1 AND v = 'a bool is 1'`); n != 1 {
			t.Errorf("true was not stored as 1")
		}
		var v named
		var b []byte
		var is bool
		if err := db.QueryRow(ctx, `SELECT v, b, k FROM kv WHERE k = $1 OR k = $1 ORDER BY k`, 7).Scan(&v, &b, new(int64)); err != nil {
			t.Fatal(err)
		}
		if v != "x" || !bytes.Equal(b, blob) {
			t.Errorf("read %q, %x", v, b)
		}
		if err := db.QueryRow(ctx, `SELECT v, b FROM kv WHERE k = 8`).Scan(&v, &b); err != nil || v != "yy" || b != nil {
			t.Errorf("read %q, %v, %v; want yy and nil", v, b, err)
		}
		if err := db.QueryRow(ctx, `SELECT k FROM kv WHERE k = $1`, 1).Scan(&is); err != nil || !is {
			t.Errorf("1 as bool: %v, %v", is, err)
		}
		var raw sql.RawBytes
		rows, err := db.Query(ctx, `SELECT b FROM kv WHERE k = $1`, 7)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			if err := rows.Scan(&raw); err != nil || !bytes.Equal(raw, blob) {
				t.Errorf("raw %x, %v", raw, err)
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Error(err)
		}
		if _, err := db.Exec(ctx, insert, 9, time.Now()); err == nil || !strings.Contains(err.Error(), "milliseconds") {
			t.Errorf("a time was accepted: %v", err)
		}
		// LIKE and order go by bytes on both.
		for i, s := range []string{"B", "a", "b", "ä", "A"} {
			exec(t, db, insert, 100+i, "o"+s)
		}
		if n := count(t, db, `v LIKE $1`, "oa%"); n != 1 {
			t.Errorf("LIKE found %d rows, want 1", n)
		}
	})
}
