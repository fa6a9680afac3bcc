package sqldbtest

import (
	"path/filepath"
	"testing"

	"weft/internal/sqldb"
)

// Run runs a test as the subtests "sqlite" and "postgres". Each call of open gives a new, empty
// database, which is closed and removed at the end of the subtest.
func Run(t *testing.T, test func(t *testing.T, open func() *sqldb.DB)) {
	t.Helper()
	RunURL(t, func(t *testing.T, newURL func() string) {
		test(t, func() *sqldb.DB {
			t.Helper()
			return Open(t, newURL())
		})
	})
}

// RunURL is Run for tests that open the database themselves, such as those that open it twice. Each call of
// newURL names a new, empty database.
func RunURL(t *testing.T, test func(t *testing.T, newURL func() string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		test(t, func() string {
			t.Helper()
			return SQLiteURL(t)
		})
	})
	t.Run("postgres", func(t *testing.T) {
		server(t)
		test(t, func() string {
			t.Helper()
			return PostgresURL(t)
		})
	})
}

// Open opens a database and closes it at the end of the test.
func Open(t testing.TB, url string) *sqldb.DB {
	t.Helper()
	return OpenWith(t, url, sqldb.Options{})
}

// OpenWith is Open with options.
func OpenWith(t testing.TB, url string, o sqldb.Options) *sqldb.DB {
	t.Helper()
	db, err := sqldb.Open(t.Context(), url, o)
	if err != nil {
		t.Fatalf("open %s: %v", url, err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close %s: %v", url, err)
		}
	})
	return db
}

// SQLiteURL names a database file that does not exist yet, in a folder removed at the end of the test.
func SQLiteURL(t testing.TB) string {
	t.Helper()
	return "sqlite:" + filepath.Join(t.TempDir(), "weft.db")
}
