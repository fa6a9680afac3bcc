package pgtest

import (
	"database/sql"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"testing"
)

func TestClusterLivesAndIsRemoved(t *testing.T) {
	for _, c := range []struct {
		name  string
		o     Options
		fsync string
	}{{"for tests", Options{}, "off"}, {"durable", Options{Durable: true}, "on"}} {
		t.Run(c.name, func(t *testing.T) {
			cluster, err := Start(c.o)
			if errors.Is(err, ErrMissing) {
				t.Skipf("needs PostgreSQL: %v", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			db, err := sql.Open("postgres", cluster.URL(url.Values{"application_name": {"test"}}))
			if err != nil {
				t.Fatal(err)
			}
			var fsync string
			if err := db.QueryRowContext(t.Context(), "SHOW fsync").Scan(&fsync); err != nil || fsync != c.fsync {
				t.Errorf("fsync is %q (%v), not %q", fsync, err, c.fsync)
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
			if pid, err := cluster.PID(); err != nil || pid <= 1 {
				t.Errorf("process ID %d, %v", pid, err)
			}
			if err := cluster.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(cluster.Dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is still there: %v", cluster.Dir, err)
			}
		})
	}
}
