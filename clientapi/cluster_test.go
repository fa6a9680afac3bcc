package clientapi

import (
	"context"
	"encoding/json"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft/internal/bus"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/matrix/id"
)

// wire is a node's end of a bus between two nodes. What a node publishes it hears itself; its peer hears it
// unless the wire is cut.
type wire struct {
	*bus.Local
	peer *wire
	cut  *atomic.Bool
}

// Publish implements bus.Bus.
func (w *wire) Publish(topic string, data []byte) {
	w.Local.Publish(topic, data)
	if !w.cut.Load() {
		w.peer.Local.Publish(topic, data)
	}
}

// eachPair runs a test with two nodes over one database, on both databases. cut loses what one says to the other.
func eachPair(t *testing.T, test func(t *testing.T, a, b *env, cut *atomic.Bool)) {
	t.Helper()
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		url := newURL()
		dbA := sqldbtest.Open(t, url)
		dbB := dbA // SQLite has one process
		if dbA.Dialect() == sqldb.Postgres {
			dbB = sqldbtest.Open(t, url)
		}
		cut := new(atomic.Bool)
		wa, wb := &wire{Local: bus.NewLocal(), cut: cut}, &wire{Local: bus.NewLocal(), cut: cut}
		wa.peer, wb.peer = wb, wa
		a := newEnv(t, dbA, func(c *Config) { c.Shared, c.Bus = true, wa })
		b := newEnv(t, dbB, func(c *Config) { c.Shared, c.Bus = true, wb })
		for _, e := range []*env{a, b} {
			t.Cleanup(e.srv.sessions.follow())
			e.look()
		}
		test(t, a, b, cut)
	})
}

func (e *env) look() {
	e.t.Helper()
	if err := e.srv.sessions.look(e.t.Context(), e.db); err != nil {
		e.t.Fatal(err)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("in vain waited until %s", what)
		}
	}
}

// Sessions that end on one node end on another, whether the bus tells of it or not.
func TestSessionsOfTwoNodes(t *testing.T) {
	eachPair(t, func(t *testing.T, a, b *env, cut *atomic.Bool) {
		alice, _ := a.register("alice")
		bob, _ := a.register("bob")
		whoami := func(e *env, token string) int { return e.do("GET", c3+"/account/whoami", token, nil).status }
		cached := func(token string) bool { _, ok := b.srv.sessions.get(tokenHash(token)); return ok }
		use := func(tokens ...string) {
			t.Helper()
			for _, token := range tokens {
				if whoami(b, token) != 200 || !cached(token) {
					t.Fatal("the other node does not remember the session")
				}
			}
		}
		twice := func() { b.look(); b.look() }
		use(alice, bob)
		a.ok("POST", c3+"/logout", alice, obj{})
		until(t, "the bus has told", func() bool { return !cached(alice) })
		if whoami(b, alice) != 401 {
			t.Error("the session goes on")
		}
		twice()
		if !cached(bob) {
			t.Error("what the bus told of made the node forget all")
		}
		cut.Store(true)
		alice = a.login("alice", nil).Get("access_token").Str
		use(alice, bob)
		a.ok("POST", c3+"/logout", alice, obj{})
		b.look()
		if !cached(bob) {
			t.Error("a message that is only late makes the node forget all")
		}
		b.look()
		if whoami(b, alice) != 401 || whoami(b, bob) != 200 {
			t.Error("a session that ended without a message goes on, or another does not")
		}
		use(bob)
		// As the command line does, which is a process of its own.
		line := newEnv(t, a.db, func(c *Config) { c.Shared = true })
		if err := line.srv.SetPassword(t.Context(), "@bob:test", "other password", true); err != nil {
			t.Fatal(err)
		}
		twice()
		if whoami(b, bob) != 401 {
			t.Error("the command line ended a session, which goes on")
		}
	})
}

// A refresh token that is used on two nodes at once gives one pair that works.
func TestRefreshOnTwoNodes(t *testing.T) {
	eachPair(t, func(t *testing.T, a, b *env, _ *atomic.Bool) {
		a.register("alice")
		old := a.login("alice", obj{"refresh_token": true}).Get("refresh_token").Str
		begun, got := make(chan struct{}), make(chan answer, 1)
		go func() {
			<-begun
			got <- b.do("POST", c3+"/refresh", "", obj{"refresh_token": old})
		}()
		var first issued
		err := a.db.Update(t.Context(), func(tx *sqldb.Tx) error { // as node a does
			first = issued{}
			if err := a.srv.refresh(t.Context(), tx, old, &first); err != nil {
				return err
			}
			close(begun)
			if a.db.Dialect() == sqldb.Postgres {
				until(t, "the other node waits, or is through", func() bool { return len(got) > 0 || b.waits() })
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		second := <-got
		var live int
		if err := a.db.QueryRow(t.Context(), `SELECT COUNT(*) FROM access_tokens WHERE replaces <> 0`).Scan(&live); err != nil || live != 1 {
			t.Errorf("%d new pairs (%v), the second answer is %d", live, err, second.status)
		}
	})
}

// waits tells whether a statement waits for a lock (PostgreSQL).
func (e *env) waits() bool {
	var n int
	if err := e.db.QueryRow(context.Background(), `SELECT COUNT(*) FROM pg_locks WHERE NOT granted`).Scan(&n); err != nil {
		e.t.Fatal(err)
	}
	return n > 0
}

func TestListRuleChanges(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		e.register("alice")
		e.register("bob")
		set := func(user id.User, room id.Room, typ string) {
			t.Helper()
			if err := e.srv.SetAccountData(t.Context(), user, room, typ, json.RawMessage(`{}`)); err != nil {
				t.Fatal(err)
			}
		}
		changed := func(from int64, want int) {
			t.Helper()
			if got, err := e.srv.ListRuleChanges(t.Context(), from); err != nil || len(got) != want {
				t.Errorf("from %d: %v (%v), want %d", from, got, err, want)
			}
		}
		set("@alice:test", "", "m.push_rules")
		set("@bob:test", "", "m.other")
		set("@bob:test", "!r:test", "m.push_rules")
		changed(0, 1)
		changed(1, 0)
		set("@bob:test", "", "m.ignored_user_list")
		set("@alice:test", "", "m.ignored_user_list")
		changed(0, 3)
		changed(4, 1)
		if e.db.Dialect() == sqldb.SQLite {
			var n int
			var plan string
			if err := e.db.QueryRow(t.Context(), `EXPLAIN QUERY PLAN `+selectRuleChanges, 0).Scan(&n, &n, &n, &plan); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(plan, "account_data_rules") {
				t.Errorf("the index is not used: %s", plan)
			}
		}
	})
}
