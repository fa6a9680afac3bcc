package sqldbtest

import (
	"database/sql"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"weft/internal/sqldb/pgtest"
)

// Replicated is a PostgreSQL of its own with a standby that replays what the primary writes.
type Replicated struct {
	t                *testing.T
	Primary, Standby *pgtest.Cluster
	primary, standby *sql.DB
}

// NewReplicated makes a primary and a standby, which end with the test. Without PostgreSQL the test is skipped.
func NewReplicated(t *testing.T) *Replicated {
	t.Helper()
	r := &Replicated{t: t}
	start := func(o pgtest.Options) (*pgtest.Cluster, *sql.DB) {
		t.Helper()
		c, err := pgtest.Start(o)
		if errors.Is(err, pgtest.ErrMissing) {
			t.Skipf("needs PostgreSQL: %v", err)
		}
		if err != nil {
			t.Fatalf("start PostgreSQL: %v", err)
		}
		db, err := sql.Open("postgres", c.URL(url.Values{"application_name": {"sqldbtest"}}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := errors.Join(db.Close(), c.Close()); err != nil {
				t.Error(err)
			}
		})
		return c, db
	}
	r.Primary, r.primary = start(pgtest.Options{Standbys: true})
	r.Standby, r.standby = start(pgtest.Options{Primary: r.Primary})
	return r
}

// URLs gives the URLs of the database on both.
func (r *Replicated) URLs() (primary, standby string) { return r.Primary.URL(nil), r.Standby.URL(nil) }

// URL names both servers, for who uses that which takes writes.
func (r *Replicated) URL() string {
	return strings.Replace(r.Primary.URL(nil), url.QueryEscape(r.Primary.Dir), url.QueryEscape(r.Primary.Dir+","+r.Standby.Dir), 1)
}

// Synchronous makes the primary acknowledge a commit when the standby has it too.
func (r *Replicated) Synchronous() {
	r.t.Helper()
	for _, query := range []string{`ALTER SYSTEM SET synchronous_standby_names = '*'`, `SELECT pg_reload_conf()`} {
		if _, err := r.primary.ExecContext(r.t.Context(), query); err != nil {
			r.t.Fatal(err)
		}
	}
	r.await(r.primary, `SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'`)
}

// FailOver ends the primary without a word, and makes the standby take writes after a pause.
func (r *Replicated) FailOver(pause time.Duration) {
	r.t.Helper()
	if err := r.Primary.Stop(); err != nil {
		r.t.Fatal(err)
	}
	Until(r.t, "the primary is gone", func() bool { return r.primary.PingContext(r.t.Context()) != nil })
	away := time.NewTimer(pause)
	defer away.Stop()
	<-away.C
	if _, err := r.standby.ExecContext(r.t.Context(), `SELECT pg_promote()`); err != nil {
		r.t.Fatal(err)
	}
	r.await(r.standby, `SELECT NOT pg_is_in_recovery()`)
}

// Pause makes the standby stop to replay what it gets. It goes on answering.
func (r *Replicated) Pause() {
	r.t.Helper()
	if _, err := r.standby.ExecContext(r.t.Context(), `SELECT pg_wal_replay_pause()`); err != nil {
		r.t.Fatal(err)
	}
	r.await(r.standby, `SELECT pg_get_wal_replay_pause_state() = 'paused'`)
}

// Resume makes the standby go on, and waits until it has replayed all.
func (r *Replicated) Resume() {
	r.t.Helper()
	if _, err := r.standby.ExecContext(r.t.Context(), `SELECT pg_wal_replay_resume()`); err != nil {
		r.t.Fatal(err)
	}
	r.CatchUp()
}

// CatchUp waits until the standby has replayed all that was committed.
func (r *Replicated) CatchUp() {
	r.t.Helper()
	var at string
	if err := r.primary.QueryRowContext(r.t.Context(), `SELECT CAST(pg_current_wal_insert_lsn() AS TEXT)`).Scan(&at); err != nil {
		r.t.Fatal(err)
	}
	r.await(r.standby, `SELECT pg_last_wal_replay_lsn() >= CAST($1 AS pg_lsn)`, at)
}

// Stop stops the standby, and waits until nothing answers.
func (r *Replicated) Stop() {
	r.t.Helper()
	if err := r.Standby.Stop(); err != nil {
		r.t.Fatal(err)
	}
	Until(r.t, "the standby is gone", func() bool { return r.standby.PingContext(r.t.Context()) != nil })
}

// Continue starts the standby again, and waits until it answers.
func (r *Replicated) Continue() {
	r.t.Helper()
	if err := r.Standby.Continue(); err != nil {
		r.t.Fatal(err)
	}
	Until(r.t, "the standby answers", func() bool { return r.standby.PingContext(r.t.Context()) == nil })
	r.CatchUp()
}

// await waits until a query says true.
func (r *Replicated) await(db *sql.DB, query string, args ...any) {
	r.t.Helper()
	Until(r.t, query, func() bool {
		var done bool
		if err := db.QueryRowContext(r.t.Context(), query, args...).Scan(&done); err != nil {
			r.t.Fatalf("%s: %v", query, err)
		}
		return done
	})
}

// Until waits until something is so.
func Until(t testing.TB, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !so(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}
