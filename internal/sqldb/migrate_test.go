package sqldb_test

import (
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
