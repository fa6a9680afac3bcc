package sqldb_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

func TestApart(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db := open()
		table(t, db)
		own, err := db.Apart()
		if err != nil {
			t.Fatal(err)
		}
		write := func() error {
			_, err := own.Exec(t.Context(), insert, 1, "x")
			return err
		}
		if err := write(); err != nil || count(t, own, "k = 1") != 1 {
			t.Errorf("%v", err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		if err := write(); !errors.Is(err, sqldb.ErrClosed) {
			t.Errorf("when the other is closed: %v", err)
		}
		if _, err := db.Apart(); db.Dialect() == sqldb.Postgres && !errors.Is(err, sqldb.ErrClosed) {
			t.Errorf("of one that is closed: %v", err)
		}
	})
}

// What has a connection of its own waits neither for those who have all others nor for a server that says nothing.
func TestApartDoesNotWait(t *testing.T) {
	p, url := startProxy(t, sqldbtest.PostgresURL(t))
	const conns = 3
	db, err := sqldb.Open(t.Context(), url, sqldb.Options{MaxConns: conns})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	own, err := db.Apart()
	if err != nil {
		t.Fatal(err)
	}
	table(t, db)
	release := make(chan struct{})
	ended, begun := make(chan error, conns), make(chan bool)
	for range conns {
		go func() {
			ended <- db.View(t.Context(), func(*sqldb.Tx) error {
				begun <- true
				<-release
				return nil
			})
		}()
		<-begun
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := own.Exec(ctx, insert, 1, "x"); err != nil {
		t.Errorf("while all connections are in use: %v", err)
	}
	close(release)
	for range conns {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	p.next.Store(&cut{at: "DELETE", silent: true})
	began := time.Now()
	if _, err := own.Exec(ctx, `DELETE FROM kv WHERE k = $1`, 1); err != nil || time.Since(began) > 10*time.Second {
		t.Errorf("on a connection that says nothing: %v after %s", err, time.Since(began))
	}
	if n := count(t, db, "k = 1"); n != 0 || p.next.Load() != nil {
		t.Errorf("%d rows", n)
	}
}
