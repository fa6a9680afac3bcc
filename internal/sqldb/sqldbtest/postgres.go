package sqldbtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"weft/internal/sqldb/pgtest"
)

// PostgresURL makes an empty database and returns its URL, which other processes of this machine can use too. It is
// removed at the end of the test. Without PostgreSQL the test is skipped.
//
// It is a schema that the URL selects, because CREATE DATABASE copies 7 MB and takes 0.3 s, CREATE SCHEMA a millisecond.
func PostgresURL(t testing.TB) string {
	t.Helper()
	c := server(t)
	name := fmt.Sprintf("weft_%d", c.count.Add(1))
	if _, err := c.admin.ExecContext(t.Context(), "CREATE SCHEMA "+name); err != nil {
		t.Fatalf("new Postgres database: %v", err)
	}
	t.Cleanup(func() {
		// A transaction of a server that the test killed may still hold locks; the cluster goes away in the end.
		if _, err := c.admin.ExecContext(context.Background(), "DROP SCHEMA "+name+" CASCADE"); err != nil {
			t.Logf("Postgres database %s stays until the end of the tests: %v", name, err)
		}
	})
	return c.URL(url.Values{"search_path": {name}})
}

// shared is the one cluster of a test binary: making one takes a second, too long for each test.
var shared struct {
	once    sync.Once
	cluster *cluster
	err     error
}

func server(t testing.TB) *cluster {
	t.Helper()
	shared.once.Do(func() { shared.cluster, shared.err = start() })
	switch {
	case errors.Is(shared.err, pgtest.ErrMissing):
		t.Skipf("needs PostgreSQL: %v", shared.err)
	case shared.err != nil:
		t.Fatalf("start PostgreSQL: %v", shared.err)
	}
	return shared.cluster
}

type cluster struct {
	*pgtest.Cluster
	admin *sql.DB
	count atomic.Int64
}

// start makes the cluster, which ends with this process.
func start() (*cluster, error) {
	c, err := pgtest.Start(pgtest.Options{})
	if err != nil {
		return nil, err
	}
	admin, err := sql.Open("postgres", c.URL(url.Values{"lock_timeout": {"5s"}, "application_name": {"sqldbtest"}}))
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	admin.SetMaxOpenConns(2)
	return &cluster{Cluster: c, admin: admin}, nil
}
