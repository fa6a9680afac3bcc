package sqldb_test

import (
	"strings"
	"testing"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

// A SQLite file that is open somewhere is not to be moved, and one that was moved is not opened.
func TestMovedFile(t *testing.T) {
	url := sqldbtest.SQLiteURL(t)
	db, err := sqldb.Open(t.Context(), url, sqldb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(t.Context(), "CREATE TABLE t (a BIGINT)"); err != nil {
		t.Fatal(err)
	}
	if err := sqldb.CheckUnused(t.Context(), url); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("while it is open: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sqldb.CheckUnused(t.Context(), url); err != nil {
		t.Errorf("when it is closed: %v", err)
	}
	if db, err = sqldb.Open(t.Context(), url, sqldb.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := db.MarkMoved(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err := sqldb.Open(t.Context(), url, sqldb.Options{}); err == nil || !strings.Contains(err.Error(), "moved") {
		t.Errorf("opened again: %v, %v", db, err)
	}
	if err := sqldb.CheckUnused(t.Context(), "sqlite:"+t.TempDir()+"/none.db"); err == nil {
		t.Error("a file that is not there is unused")
	}
}
