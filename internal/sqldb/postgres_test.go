package sqldb_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

// with sets parameters of a database URL; an even number of names and values.
func with(t *testing.T, raw string, params ...string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	for i := 0; i < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	u.RawQuery = q.Encode()
	return u.String()
}

const bumpSQL = `UPDATE kv SET v = CAST(CAST(v AS BIGINT) + 1 AS TEXT) WHERE k = $1`

// rooms makes rows that stand for rooms, and one that stands for a counter: number 0.
func rooms(t *testing.T, db *sqldb.DB, n int) {
	t.Helper()
	table(t, db)
	for i := range n + 1 {
		exec(t, db, insert, i, "0")
	}
}

// TestLockTimeout: who waits for a lock too long tries a few times more, and then says so.
func TestLockTimeout(t *testing.T) {
	raw := sqldbtest.PostgresURL(t)
	holder, db, ctx := sqldbtest.Open(t, raw), sqldbtest.Open(t, with(t, raw, "lock_timeout", "100ms")), t.Context()
	rooms(t, holder, 2)
	held, free, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- holder.Update(ctx, func(tx *sqldb.Tx) error {
			_, err := tx.Exec(ctx, bumpSQL, 1)
			close(held)
			<-free
			return err
		})
	}()
	<-held
	runs := 0
	err := db.Update(ctx, func(tx *sqldb.Tx) error {
		runs++
		_, err := tx.Exec(ctx, bumpSQL, 1)
		return err
	})
	if err == nil || runs != 5 || !strings.Contains(err.Error(), "55P03") {
		t.Errorf("%d runs, %v", runs, err)
	}
	if _, err := db.Exec(ctx, bumpSQL, 2); err != nil {
		t.Errorf("another room: %v", err)
	}
	close(free)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestReadOnlyServer: a connection to a server that takes no writes any more is dropped, and another found.
func TestReadOnlyServer(t *testing.T) {
	db, ctx := sqldbtest.Open(t, sqldbtest.PostgresURL(t)), t.Context()
	rooms(t, db, 1)
	var sessions []int
	for name, update := range map[string]func(context.Context, func(*sqldb.Tx) error) error{
		"alone": db.Update, "group": db.Group("g").Update,
	} {
		sessions = nil
		if err := update(ctx, func(tx *sqldb.Tx) error {
			var pid int
			if err := tx.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&pid); err != nil {
				return err
			}
			sessions = append(sessions, pid)
			if len(sessions) == 1 {
				if _, err := tx.Exec(ctx, `SET TRANSACTION READ ONLY`); err != nil {
					return err
				}
			}
			_, err := tx.Exec(ctx, bumpSQL, 1)
			return err
		}); err != nil || len(sessions) != 2 || sessions[0] == sessions[1] {
			t.Errorf("%s: sessions %v, %v", name, sessions, err)
		}
	}
	// What a reader may not do is no reason to drop its connection.
	before := db.Stats().Open
	if err := db.View(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, bumpSQL, 1)
		return err
	}); err == nil || errors.Is(err, sqldb.ErrConnectionLost) || db.Stats().Open != before {
		t.Errorf("a write in View: %v, %d connections, before %d", err, db.Stats().Open, before)
	}
}

func TestPostgresSettings(t *testing.T) {
	raw := sqldbtest.PostgresURL(t)
	host := func() string {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		return u.Query().Get("host")
	}()
	for _, c := range []struct {
		name, url, lock, idle string
	}{
		{"default", raw, "3s", "4s"},
		{"one given", with(t, raw, "lock_timeout", "7s"), "7s", "4s"},
		{"in options", with(t, raw, "options", "-c lock_timeout=8s --idle-in-transaction-session-timeout=9s"), "8s", "9s"},
		{"off", with(t, raw, "timeouts", "off"), "0", "0"},
		{"off, one given", with(t, raw, "timeouts", "off", "lock_timeout", "7s"), "7s", "0"},
		{"the first of two hosts is down", with(t, raw, "host", "/nowhere,"+host), "3s", "4s"},
	} {
		db := sqldbtest.Open(t, c.url)
		var lock, idle string
		if err := db.QueryRow(t.Context(), `SELECT current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout')`).
			Scan(&lock, &idle); err != nil || lock != c.lock || idle != c.idle {
			t.Errorf("%s: %s and %s, %v; want %s and %s", c.name, lock, idle, err, c.lock, c.idle)
		}
	}
	if db, err := sqldb.Open(t.Context(), with(t, raw, "timeouts", "on"), sqldb.Options{}); err == nil {
		t.Errorf("timeouts=on opens, %v", db.Close())
	}
	// Where there are several hosts, one that takes no writes is passed over, unless that is asked for.
	readOnly := with(t, raw, "host", host+","+host, "default_transaction_read_only", "on")
	if db, err := sqldb.Open(t.Context(), readOnly, sqldb.Options{}); err == nil {
		t.Errorf("a server that takes no writes was chosen, %v", db.Close())
	}
	sqldbtest.Open(t, with(t, readOnly, "target_session_attrs", "any"))
}
