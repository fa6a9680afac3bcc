package dbcopy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"weft/internal/dbcopy"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

const schema = `-- +goose Up
CREATE TABLE kinds (
    "user" TEXT   NOT NULL,
    n      BIGINT NOT NULL,
    data   BYTEA,
    f      DOUBLE PRECISION,
    note   TEXT,
    PRIMARY KEY ("user", n)
) /*sqlite: WITHOUT ROWID */;
CREATE TABLE queue (
    seq  BIGSERIAL PRIMARY KEY,
    what TEXT NOT NULL
);
CREATE TABLE counters (
    name TEXT   NOT NULL PRIMARY KEY,
    pos  BIGINT NOT NULL
);
INSERT INTO counters (name, pos) VALUES ('events', 0);
`

func open(t *testing.T, url string) *sqldb.DB {
	t.Helper()
	db, err := sqldb.Open(t.Context(), url, sqldb.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, db.Close()) })
	must(t, db.Migrate(t.Context(), "test", fstest.MapFS{"00001_test.sql": {Data: []byte(schema)}}))
	return db
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var options = dbcopy.Options{
	Skip: func(name string) bool {
		return strings.HasPrefix(name, "goose_") || name == "migration_lock" || name == "schema_needs"
	},
	Telling:  []string{"kinds", "queue"},
	Progress: func(dbcopy.Table) {},
}

// fill puts some thousand rows in.
func fill(t *testing.T, db *sqldb.DB) {
	t.Helper()
	must(t, db.Update(t.Context(), func(tx *sqldb.Tx) error {
		for i := range 3000 {
			var data, f, note any
			if i%3 > 0 {
				data, f, note = bytes.Repeat([]byte{0, byte(i), 255}, i%2000), float64(i)/3, fmt.Sprintf("é%d\n'\"\\", i)
			}
			if _, err := tx.Exec(t.Context(), `INSERT INTO kinds ("user", n, data, f, note) VALUES ($1, $2, $3, $4, $5)`,
				fmt.Sprint("u", i%7), int64(i)-1<<62, data, f, note); err != nil {
				return err
			}
			if _, err := tx.Exec(t.Context(), `INSERT INTO queue (what) VALUES ($1)`, fmt.Sprint(i)); err != nil {
				return err
			}
		}
		_, err := tx.Exec(t.Context(), `UPDATE counters SET pos = 41`)
		return err
	}))
}

func TestCopy(t *testing.T) {
	from := open(t, "sqlite:"+filepath.Join(t.TempDir(), "from.db"))
	to := open(t, sqldbtest.PostgresURL(t))
	fill(t, from)
	done, err := dbcopy.Copy(t.Context(), from, to, options)
	must(t, err)
	if len(done) != 3 || done[1].Name != "kinds" || done[1].Rows != 3000 || done[0].Rows != 1 {
		t.Errorf("copied %+v", done)
	}
	var pos, seq, sum int64
	must(t, to.QueryRow(t.Context(), "SELECT pos FROM counters").Scan(&pos))
	must(t, to.Update(t.Context(), func(tx *sqldb.Tx) error {
		return tx.QueryRow(t.Context(), "INSERT INTO queue (what) VALUES ('next') RETURNING seq").Scan(&seq)
	}))
	must(t, to.QueryRow(t.Context(), `SELECT SUM(LENGTH(data)) FROM kinds WHERE "user" = 'u3'`).Scan(&sum))
	var want int64
	must(t, from.QueryRow(t.Context(), `SELECT SUM(LENGTH(data)) FROM kinds WHERE "user" = 'u3'`).Scan(&want))
	if pos != 41 || seq != 3001 || sum != want || sum == 0 {
		t.Errorf("position %d, the next number %d, %d bytes of %d", pos, seq, sum, want)
	}
	// What is there is not overwritten.
	if _, err := dbcopy.Copy(t.Context(), from, to, options); !errors.Is(err, dbcopy.ErrNotEmpty) {
		t.Errorf("a second copy: %v", err)
	}
	if unfinished, err := dbcopy.Unfinished(t.Context(), to); err != nil || unfinished {
		t.Errorf("unfinished %v, %v", unfinished, err)
	}
}

// A copy that is broken off is not taken for a whole one.
func TestBrokenOff(t *testing.T) {
	from := open(t, "sqlite:"+filepath.Join(t.TempDir(), "from.db"))
	to := open(t, sqldbtest.PostgresURL(t))
	fill(t, from)
	ctx, cancel := context.WithCancel(t.Context())
	o := options
	o.Progress = func(table dbcopy.Table) {
		if table.Name == "kinds" {
			cancel()
		}
	}
	if _, err := dbcopy.Copy(ctx, from, to, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("broken off: %v", err)
	}
	if unfinished, err := dbcopy.Unfinished(t.Context(), to); err != nil || !unfinished {
		t.Errorf("unfinished %v, %v", unfinished, err)
	}
	if _, err := dbcopy.Copy(t.Context(), from, to, options); !errors.Is(err, dbcopy.ErrUnfinished) {
		t.Errorf("copy again: %v", err)
	}
}

func TestRefused(t *testing.T) {
	from := open(t, "sqlite:"+filepath.Join(t.TempDir(), "from.db"))
	to := open(t, sqldbtest.PostgresURL(t))
	_, err := from.Exec(t.Context(), "CREATE TABLE more (x BIGINT)")
	must(t, err)
	if _, err := dbcopy.Copy(t.Context(), from, to, options); err == nil || !strings.Contains(err.Error(), "same tables") {
		t.Errorf("a table that the target lacks: %v", err)
	}
	_, err = to.Exec(t.Context(), "CREATE TABLE more (y BIGINT)")
	must(t, err)
	if _, err := dbcopy.Copy(t.Context(), from, to, options); err == nil || !strings.Contains(err.Error(), "same columns") {
		t.Errorf("other columns: %v", err)
	}
}
