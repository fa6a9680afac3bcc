package sqldb_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

func files(texts map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for name, text := range texts {
		m[name] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + text)}
	}
	return m
}

const (
	v1 = `CREATE TABLE thing (nid BIGSERIAL PRIMARY KEY, name TEXT NOT NULL UNIQUE, data BYTEA);
		CREATE INDEX thing_data ON thing (data);`
	v2 = `CREATE TABLE pair (a BIGINT NOT NULL, b BIGINT NOT NULL, PRIMARY KEY (a, b)) /*sqlite: WITHOUT ROWID */;
		ALTER TABLE thing ADD COLUMN extra TEXT NOT NULL DEFAULT 'none';`
)

func TestMigrate(t *testing.T) {
	first := files(map[string]string{"00001_first.sql": v1})
	second := files(map[string]string{"migrations/00001_first.sql": v1, "migrations/00002_second.sql": v2})
	broken := files(map[string]string{"00001_first.sql": v1, "00002_second.sql": v2,
		"00003_broken.sql": "CREATE TABLE half (a BIGINT); CREATE NONSENSE;"})
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		url, ctx := newURL(), t.Context()
		db := sqldbtest.Open(t, url)
		if err := db.Migrate(ctx, "things", first); err != nil {
			t.Fatal(err)
		}
		var nid int64
		if err := db.Update(ctx, func(tx *sqldb.Tx) error {
			for _, name := range []string{"b", "B", "a"} {
				if err := tx.QueryRow(ctx, `INSERT INTO thing (name, data) VALUES ($1, $2) RETURNING nid`, name, []byte{1}).Scan(&nid); err != nil {
					return err
				}
			}
			return nil
		}); err != nil || nid != 3 {
			t.Fatalf("nid %d, %v", nid, err)
		}
		for range 2 { // the second time there is nothing to do
			if err := db.Migrate(ctx, "things", second); err != nil {
				t.Fatal(err)
			}
		}
		var first, extra string
		if err := db.QueryRow(ctx, `SELECT name, extra FROM thing ORDER BY name LIMIT 1`).Scan(&first, &extra); err != nil || first != "B" || extra != "none" {
			t.Errorf("first by bytes: %q, %q, %v", first, extra, err)
		}
		// A broken migration leaves nothing behind.
		if err := db.Migrate(ctx, "things", broken); err == nil || !strings.Contains(err.Error(), "version:3") {
			t.Errorf("broken migration: %v", err)
		}
		if _, err := db.Query(ctx, `SELECT a FROM half`); err == nil {
			t.Error("half of a broken migration stayed")
		}
		// Another component has its own versions.
		if err := db.Migrate(ctx, "others", files(map[string]string{"00001_o.sql": "CREATE TABLE other (a BIGINT);"})); err != nil {
			t.Error(err)
		}
		// An older program refuses.
		again := sqldbtest.Open(t, url)
		err := again.Migrate(ctx, "things", files(map[string]string{"00001_first.sql": v1}))
		if err == nil || !strings.Contains(err.Error(), "version 2") || !strings.Contains(err.Error(), "up to 1") {
			t.Errorf("older program: %v", err)
		}
		for _, name := range []string{"", "Things", "a;b", "1a"} {
			if err := db.Migrate(ctx, name, second); err == nil {
				t.Errorf("component %q was accepted", name)
			}
		}
	})
}

// TestMigrateTogether starts several nodes on one empty database.
func TestMigrateTogether(t *testing.T) {
	url := sqldbtest.PostgresURL(t)
	fsys := files(map[string]string{"00001_first.sql": v1, "00002_second.sql": v2})
	var wg sync.WaitGroup
	for range 6 {
		db := sqldbtest.Open(t, url)
		wg.Go(func() {
			for _, component := range []string{"things", "others"} {
				texts := fsys
				if component == "others" {
					texts = files(map[string]string{"00001_o.sql": "CREATE TABLE other (a BIGINT);"})
				}
				if err := db.Migrate(t.Context(), component, texts); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestOldAndNewPrograms: an older program goes on with what a newer one made as far as that says so, and a newer one takes
// nothing away from older ones that still run.
func TestOldAndNewPrograms(t *testing.T) {
	const third = `CREATE TABLE more (a BIGINT);`
	upTo := func(n int) fstest.MapFS {
		m := files(map[string]string{"00001_first.sql": v1})
		if n >= 2 {
			m["00002_second.sql"] = &fstest.MapFile{Data: []byte("-- weft: oldest 1\n-- +goose Up\n" + v2)}
		}
		if n >= 3 {
			m["0003_third.sql"] = &fstest.MapFile{Data: []byte("-- +goose Up\n-- weft: oldest 2\n" + third)}
		}
		if n >= 4 {
			m["00004_fourth.sql"] = &fstest.MapFile{Data: []byte("-- +goose Up\nDROP TABLE more;")}
		}
		return m
	}
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		url, ctx := newURL(), t.Context()
		var running int64 // what the oldest program knows that runs; 0: there is none
		asked := 0
		open := func() *sqldb.DB {
			db, err := sqldb.Open(ctx, url, sqldb.Options{Older: func(_ context.Context, _ *sqldb.DB, component string, oldest int64) error {
				asked++
				if component != "things" {
					t.Errorf("asked for %s", component)
				}
				if running > 0 && running < oldest {
					return errors.New("an older one runs")
				}
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			})
			return db
		}
		migrate := func(db *sqldb.DB, n int, want string) {
			t.Helper()
			err := db.Migrate(ctx, "things", upTo(n))
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Fatalf("a program that knows version %d: %v, want %q", n, err, want)
			}
		}
		oldest := open()
		migrate(oldest, 1, "")
		running = 1
		migrate(open(), 2, "") // it says that programs of version 1 can use it
		migrate(open(), 1, "") // and they can, also when they start after it
		if err := oldest.CheckSchemas(ctx); err != nil || oldest.Schemas() != "things:1" || asked > 0 {
			t.Errorf("the oldest goes on: %v, %q, asked %d times", err, oldest.Schemas(), asked)
		}
		migrate(open(), 3, "an older one runs")
		migrate(open(), 1, "") // nothing was changed
		running = 2
		migrate(open(), 4, "an older one runs") // all that is new is looked at before anything is done
		migrate(open(), 1, "")
		migrate(open(), 3, "")
		migrate(open(), 2, "")
		migrate(open(), 1, "needs a program that knows it up to version 2, this program knows versions up to 1")
		if err := oldest.CheckSchemas(ctx); err == nil || !strings.Contains(err.Error(), "up to version 2") {
			t.Errorf("one that looked before: %v", err)
		}
		running = 0
		migrate(open(), 4, "")
		migrate(open(), 3, "up to version 4")
		migrate(open(), 4, "")
		bad := files(map[string]string{"00001_first.sql": v1, "00002_bad.sql": "-- weft: oldest 3\nCREATE TABLE bad (a BIGINT);"})
		if err := open().Migrate(ctx, "others", bad); err == nil || !strings.Contains(err.Error(), "not 1 to 2") {
			t.Errorf("a migration that needs more than there is: %v", err)
		}
	})
}
