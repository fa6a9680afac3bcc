package sqldb_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/sirupsen/logrus"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

// TestFailover: the primary dies in the middle of the work, and a standby takes its place. Who writes waits; nothing that was acknowledged
// is lost, and nothing is there twice.
func TestFailover(t *testing.T) {
	r := sqldbtest.NewReplicated(t)
	db, ctx := sqldbtest.Open(t, r.URL()), t.Context()
	table(t, db)
	r.Synchronous()
	const writers = 8
	var acked [writers][]int
	var total atomic.Int64
	ending, end := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := w; ending.Err() == nil; n += writers {
				_, err := db.Exec(ctx, insert, n, "x")
				switch {
				case err == nil, errors.Is(err, sqldb.ErrUnknownOutcome) && there(t, db, n):
					acked[w] = append(acked[w], n)
					total.Add(1)
				case errors.Is(err, sqldb.ErrUnknownOutcome):
				default:
					t.Errorf("a write failed: %v", err)
					return
				}
			}
		})
	}
	more := func(n int64) {
		at := total.Load()
		sqldbtest.Until(t, "writes", func() bool { return t.Failed() || total.Load() >= at+n })
	}
	more(200)
	r.FailOver(300 * time.Millisecond)
	more(200)
	end()
	wg.Wait()
	for _, list := range acked {
		for _, n := range list {
			if !there(t, db, n) {
				t.Errorf("%d was acknowledged and is lost", n)
			}
		}
	}
	var rows, keys int
	if err := db.QueryRow(ctx, `SELECT count(*), count(DISTINCT k) FROM kv`).Scan(&rows, &keys); err != nil || rows != keys {
		t.Errorf("%d rows with %d keys, %v", rows, keys, err)
	}
}

func there(t *testing.T, db *sqldb.DB, key int) bool {
	return count(t, db, fmt.Sprintf("k = %d", key)) == 1
}

// said is what a log says.
type said struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.text.String(), what)
}

// TestAway: what needs the database waits for it as long as it may, then all fails at once, until it is back.
func TestAway(t *testing.T) {
	r := sqldbtest.NewReplicated(t) // the standby is not named: one server is enough
	var ahead atomic.Int64
	var said said
	log := logrus.New()
	log.SetOutput(&said)
	db, err := sqldb.Open(t.Context(), r.Primary.URL(nil), sqldb.Options{
		Log: log, Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx := t.Context()
	table(t, db)
	write := func(key int) error {
		_, err := db.Exec(ctx, insert, key, "x")
		return err
	}
	stop := func() {
		t.Helper()
		if err := r.Primary.Stop(); err != nil {
			t.Fatal(err)
		}
		sqldbtest.Until(t, "it is gone", func() bool {
			c, err := net.Dial("unix", r.Primary.Dir+"/.s.PGSQL.5432")
			if err == nil {
				_ = c.Close()
			}
			return err != nil
		})
	}
	waits := func(do func() error) <-chan error {
		done := make(chan error, 1)
		go func() { done <- do() }()
		return done
	}
	if err := write(1); err != nil {
		t.Fatal(err)
	}
	stop()
	one, two := waits(func() error { return write(2) }), waits(func() error { return db.QueryRow(ctx, `SELECT 1`).Scan(new(int)) })
	sqldbtest.Until(t, "the log says so", func() bool { return said.count("the database does not answer") == 1 })
	if err := r.Primary.Continue(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(<-one, <-two); err != nil {
		t.Errorf("it waited in vain: %v", err)
	}
	if said.count("the database answers") != 1 {
		t.Error("the log does not say that it is back")
	}
	stop()
	three := waits(func() error { return write(3) })
	limited, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := db.Exec(limited, insert, 4, "x"); err == nil {
		t.Error("a write without a database")
	}
	ahead.Add(int64(sqldb.AwayPatience))
	if err := <-three; !sqldb.Unavailable(err) || !errors.Is(err, sqldb.ErrConnectionLost) {
		t.Errorf("after as long as it may: %v", err)
	}
	began := time.Now()
	if err := write(5); !sqldb.Unavailable(err) || time.Since(began) > sqldb.AwayPatience/2 {
		t.Errorf("when it was away for long: %v after %s", err, time.Since(began))
	}
	var all sync.WaitGroup
	began = time.Now()
	for range 200 { // far more than there may be connections
		all.Go(func() {
			if err := db.QueryRow(ctx, `SELECT 1`).Scan(new(int)); !sqldb.Unavailable(err) {
				t.Errorf("one of many: %v", err)
			}
		})
	}
	if all.Wait(); time.Since(began) > sqldb.AwayPatience/2 {
		t.Errorf("many waited for each other: %s", time.Since(began))
	}
	if err := r.Primary.Continue(); err != nil {
		t.Fatal(err)
	}
	sqldbtest.Until(t, "it is back", func() bool { return write(6) == nil })
}

// TestUnavailable names what passes by itself.
func TestUnavailable(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false}, {errors.New("x"), false}, {sqldb.ErrConnectionLost, true}, {fmt.Errorf("y: %w", sqldb.ErrUnknownOutcome), true}, {sqldb.ErrClosed, true},
		{&pq.Error{Code: "53100"}, true}, {&pq.Error{Code: "53300"}, true}, {&pq.Error{Code: "40P01"}, true}, {&pq.Error{Code: "57P03"}, true},
		{&pq.Error{Code: "23505"}, false}, {&pq.Error{Code: "42703"}, false}, {context.Canceled, false},
	} {
		if got := sqldb.Unavailable(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}

// TestWrongDatabaseIsRefusedAtOnce: nobody waits for what does not come back.
func TestWrongDatabaseIsRefusedAtOnce(t *testing.T) {
	good := sqldbtest.PostgresURL(t)
	for _, url := range []string{strings.Replace(good, "/postgres?", "/nothing?", 1), "postgres://weft@no-such-host.invalid/weft"} {
		if url == good {
			t.Fatalf("%s has no name to change", good)
		}
		began := time.Now()
		db, err := sqldb.Open(t.Context(), url, sqldb.Options{})
		if err == nil {
			t.Errorf("%s was opened", url)
			_ = db.Close()
		}
		if took := time.Since(began); took > sqldb.AwayPatience/2 {
			t.Errorf("%s: %v, after %s", url, err, took)
		}
	}
	for _, err := range []error{x509.UnknownAuthorityError{}, &x509.HostnameError{}} {
		if sqldb.Unavailable(err) {
			t.Errorf("%v is said to pass", err)
		}
	}
}
