package sqldb_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lib/pq"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

func TestRetryAfterSerializationFailure(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db, ctx := open(), t.Context()
		table(t, db)
		for name, update := range map[string]func(context.Context, func(*sqldb.Tx) error) error{
			"alone": db.Update, "group": db.Group("g").Update,
		} {
			runs := 0
			err := update(ctx, func(tx *sqldb.Tx) error {
				runs++
				if _, err := tx.Exec(ctx, insert, runs, name); err != nil {
					return err
				}
				if runs < 3 {
					return fmt.Errorf("wrapped: %w", &pq.Error{Code: "40001"})
				}
				return nil
			})
			if err != nil || runs != 3 {
				t.Errorf("%s: %d runs, %v", name, runs, err)
			}
			if n := count(t, db, "v = $1", name); n != 1 {
				t.Errorf("%s: %d rows, want 1", name, n)
			}
			exec(t, db, `DELETE FROM kv`)
		}
		if s := db.Stats(); s.Retries != 4 {
			t.Errorf("%d retries counted, want 4", s.Retries)
		}
	})
}

// TestRetryEnds: a function that is refused for ever gets its error, and its neighbours are not held up by it.
func TestRetryEnds(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db, ctx := open(), t.Context()
		table(t, db)
		g := db.Group("g")
		release := block(t, db, g)
		var wg sync.WaitGroup
		var bad error
		wg.Go(func() {
			bad = g.Update(ctx, func(tx *sqldb.Tx) error { return &pq.Error{Code: "40P01"} })
		})
		waitQueued(t, db, 1)
		for i := range 10 {
			wg.Go(func() {
				if err := g.Update(ctx, func(tx *sqldb.Tx) error {
					_, err := tx.Exec(ctx, insert, i, "x")
					return err
				}); err != nil {
					t.Error(err)
				}
			})
		}
		waitQueued(t, db, 11)
		release()
		wg.Wait()
		var e *pq.Error
		if !errors.As(bad, &e) || e.Code != "40P01" {
			t.Errorf("the refused function got %v", bad)
		}
		if n := count(t, db, "1=1"); n != 10 {
			t.Errorf("%d rows, want 10", n)
		}
	})
}

// TestDeadlock lets two transactions lock each other out; one is refused and runs again.
func TestDeadlock(t *testing.T) {
	db, ctx := sqldbtest.Open(t, sqldbtest.PostgresURL(t)), t.Context()
	table(t, db)
	exec(t, db, insert, 1, "")
	exec(t, db, insert, 2, "")
	var both sync.WaitGroup
	both.Add(2)
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			runs := 0
			if err := db.Update(ctx, func(tx *sqldb.Tx) error {
				runs++
				for n := range 2 {
					if _, err := tx.Exec(ctx, `UPDATE kv SET v = v || 'x' WHERE k = $1`, 1+(i+n)%2); err != nil {
						return err
					}
					if n == 0 && runs == 1 {
						both.Done()
						both.Wait()
					}
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := count(t, db, "v = 'xx'"); n != 2 {
		t.Errorf("%d rows changed twice, want 2", n)
	}
	if s := db.Stats(); s.Retries == 0 {
		t.Error("no retry counted")
	}
}

// TestStalePlan changes a table under prepared statements, as a migration by another node does.
func TestStalePlan(t *testing.T) {
	url := sqldbtest.PostgresURL(t)
	db, other, ctx := sqldbtest.Open(t, url), sqldbtest.Open(t, url), t.Context()
	table(t, db)
	exec(t, db, insert, 1, "x")
	read := func(q sqldb.Querier) error {
		rows, err := q.Query(ctx, `SELECT * FROM kv WHERE k = $1`, 1)
		if err != nil {
			return err
		}
		rows.Next()
		return errors.Join(rows.Err(), rows.Close())
	}
	if err := read(db); err != nil {
		t.Fatal(err)
	}
	exec(t, other, `ALTER TABLE kv ADD COLUMN c1 BIGINT`)
	if err := read(db); err != nil {
		t.Errorf("query after the change: %v", err)
	}
	exec(t, other, `ALTER TABLE kv ADD COLUMN c2 BIGINT`)
	if err := db.Update(ctx, func(tx *sqldb.Tx) error { return read(tx) }); err != nil {
		t.Errorf("transaction after the change: %v", err)
	}
}

func TestIdleConnectionsThatDied(t *testing.T) {
	url := sqldbtest.PostgresURL(t)
	db, other, ctx := sqldbtest.Open(t, url), sqldbtest.Open(t, url), t.Context()
	table(t, db)
	kill := func() {
		t.Helper()
		if err := other.QueryRow(ctx, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE application_name = 'weft' AND pid <> pg_backend_pid()`).Scan(new(int)); err != nil {
			t.Fatal(err)
		}
	}
	kill()
	if err := db.Update(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, insert, 1, "x")
		return err
	}); err != nil {
		t.Errorf("Update: %v", err)
	}
	kill()
	if n := count(t, db, "1=1"); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
	kill()
	if err := db.View(ctx, func(tx *sqldb.Tx) error { return tx.QueryRow(ctx, `SELECT 1`).Scan(new(int)) }); err != nil {
		t.Errorf("View: %v", err)
	}
	// All connections of the pool, idle.
	if err := errors.Join(nested(ctx, db, 15)...); err != nil {
		t.Fatal(err)
	}
	kill()
	if err := db.View(ctx, func(tx *sqldb.Tx) error { return tx.QueryRow(ctx, `SELECT 1`).Scan(new(int)) }); err != nil {
		t.Errorf("View: %v", err)
	}
	// And one that dies in the middle of a transaction.
	runs := 0
	if err := db.Update(ctx, func(tx *sqldb.Tx) error {
		if runs++; runs == 1 {
			kill()
		}
		_, err := tx.Exec(ctx, insert, 2, "x")
		return err
	}); err != nil || runs != 2 {
		t.Errorf("Update: %d runs, %v", runs, err)
	}
	err := db.View(ctx, func(tx *sqldb.Tx) error {
		kill()
		return tx.QueryRow(ctx, `SELECT 1`).Scan(new(int))
	})
	if !errors.Is(err, sqldb.ErrConnectionLost) {
		t.Errorf("View: %v", err)
	}
}

// nested opens that many connections at once.
func nested(ctx context.Context, db *sqldb.DB, n int) (errs []error) {
	if n == 0 {
		return nil
	}
	err := db.View(ctx, func(tx *sqldb.Tx) error {
		errs = nested(ctx, db, n-1)
		return tx.QueryRow(ctx, `SELECT 1`).Scan(new(int))
	})
	return append(errs, err)
}

// proxy stands between client and server, and cuts a connection when the client sends certain bytes.
type proxy struct{ next atomic.Pointer[cut] }

type cut struct {
	at      string
	deliver bool // the server still gets the bytes, but the client gets no answer
	silent  bool // the connection stays, and what the client sends is taken, but leads nowhere
}

func startProxy(t *testing.T, serverURL string) (*proxy, string) {
	t.Helper()
	u, err := url.Parse(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	server := filepath.Join(q.Get("host"), ".s.PGSQL.5432")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("unix", server)
			if err != nil {
				client.Close()
				return
			}
			wg.Go(func() { io.Copy(client, up); client.Close() })
			wg.Go(func() { p.forward(up, client); up.Close() })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	q.Set("host", "127.0.0.1")
	q.Set("port", fmt.Sprint(l.Addr().(*net.TCPAddr).Port))
	u.RawQuery = q.Encode()
	return p, u.String()
}

func (p *proxy) forward(server, client net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if c := p.next.Load(); c != nil && bytes.Contains(buf[:n], []byte(c.at)) && p.next.CompareAndSwap(c, nil) {
			if c.silent {
				io.Copy(io.Discard, client)
				return
			}
			client.Close()
			if c.deliver {
				server.Write(buf[:n])
			}
			return
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

func TestConnectionLost(t *testing.T) {
	p, url := startProxy(t, sqldbtest.PostgresURL(t))
	db, ctx := sqldbtest.Open(t, url), t.Context()
	table(t, db)
	update := func(key int) (runs int, err error) {
		err = db.Update(ctx, func(tx *sqldb.Tx) error {
			runs++
			_, err := tx.Exec(ctx, insert, key, "x")
			return err
		})
		return runs, err
	}
	// Before the commit: nothing was written, it runs again.
	p.next.Store(&cut{at: "INSERT"})
	if runs, err := update(1); err != nil || runs != 2 {
		t.Errorf("lost before the commit: %d runs, %v", runs, err)
	}
	// During the commit: nobody knows, and it must not run again.
	const commit = "COMMIT\x00"
	p.next.Store(&cut{at: commit})
	if runs, err := update(2); !errors.Is(err, sqldb.ErrUnknownOutcome) || runs != 1 {
		t.Errorf("lost during the commit: %d runs, %v", runs, err)
	}
	p.next.Store(&cut{at: commit, deliver: true})
	if runs, err := update(3); !errors.Is(err, sqldb.ErrUnknownOutcome) || runs != 1 {
		t.Errorf("lost during the commit: %d runs, %v", runs, err)
	}
	p.next.Store(&cut{at: commit})
	if err := db.Group("g").Update(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, insert, 4, "x")
		return err
	}); !errors.Is(err, sqldb.ErrUnknownOutcome) {
		t.Errorf("group lost during the commit: %v", err)
	}
	// This one waits for the row lock of the commit that was delivered, so its outcome is visible after.
	if _, err := db.Exec(ctx, insert+` ON CONFLICT (k) DO NOTHING`, 3, "another"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if n := count(t, db, "k IN (1, 3) AND v = 'x'"); n != 2 {
		t.Errorf("%d rows, want 2", n)
	}
	if n := count(t, db, "k IN (2, 4)"); n != 0 {
		t.Errorf("%d rows whose commit never arrived", n)
	}
}
