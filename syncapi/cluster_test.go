package syncapi

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"weft/internal/bus"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/internal/stream"
)

// wire is a node's end of a bus between two nodes. What a node publishes it hears itself; its peer hears it
// unless the wire is cut.
type wire struct {
	*bus.Local
	peer *wire
	cut  *atomic.Bool
}

// newWires makes both ends.
func newWires() (a, b *wire) {
	cut := new(atomic.Bool)
	a, b = &wire{Local: bus.NewLocal(), cut: cut}, &wire{Local: bus.NewLocal(), cut: cut}
	a.peer, b.peer = b, a
	return a, b
}

// Publish implements bus.Bus.
func (w *wire) Publish(topic string, data []byte) {
	w.Local.Publish(topic, data)
	if !w.cut.Load() {
		w.peer.Local.Publish(topic, data)
	}
}

// pair is two nodes over one database. They share the fakes of the other components.
type pair struct {
	a, b *env
	// cut loses what one node publishes on the way to the other.
	cut *atomic.Bool
}

// eachPair runs a test with two nodes, on both databases.
func eachPair(t *testing.T, test func(t *testing.T, p pair)) {
	t.Helper()
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		url := newURL()
		dbA := sqldbtest.Open(t, url)
		dbB := dbA // SQLite has one process
		if dbA.Dialect() == sqldb.Postgres {
			dbB = sqldbtest.Open(t, url)
		}
		wa, wb := newWires()
		a := newNode(t, dbA, wa, func(_ *env, c *Config) { c.Shared = true })
		b := newNode(t, dbB, wb, func(e *env, c *Config) {
			c.Shared = true
			e.keys, e.todev, e.out = a.keys, a.todev, a.out
			e.accounts = a.accounts
			c.Accounts, c.Keys, c.ToDevice, c.Outbound = a.accounts, a.keys, a.todev, a.out
		})
		test(t, pair{a, b, wa.cut})
	})
}

// at is a room as another node writes it.
func (r *room) at(e *env) *room {
	other := *r
	other.env = e
	return &other
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

// A node that looked at a receipt before another node moved it on must not move it back.
func TestReceiptsOfTwoNodes(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		r := p.a.newRoom(alice)
		r.member(bob, "join")
		first, second, third := r.say(alice, "1"), r.say(alice, "2"), r.say(alice, "3")
		p.a.want(bob, 200, "", "POST", r.path("/receipt/m.read/"+string(first.ID)), obj{})
		begun, posted := make(chan struct{}), make(chan reply, 1)
		go func() {
			<-begun
			posted <- p.b.do(bob, "POST", r.path("/receipt/m.read/"+string(second.ID)), obj{})
		}()
		p.a.ok(p.a.db.Update(t.Context(), func(tx *sqldb.Tx) error { // as node a does for the third
			pos, err := stream.Advance(t.Context(), tx, stream.Receipts, 1)
			if err != nil {
				return err
			}
			close(begun)
			if p.a.db.Dialect() == sqldb.Postgres {
				until(t, "the other node waits for the counter", p.b.waits)
			}
			_, err = tx.Exec(t.Context(), upsertReceiptSQL, pos, int64(r.nid), 0, 1, third.StreamPos, string(bob), "", string(third.ID))
			return err
		}))
		expect(t, "status", (<-posted).status, 200)
		var at int64
		p.a.ok(p.a.db.QueryRow(t.Context(), receiptPosSQL, int64(r.nid), string(bob), 0, "").Scan(&at))
		expect(t, "receipt", at, third.StreamPos)
	})
}

// waits tells whether a statement waits for a lock (PostgreSQL).
func (e *env) waits() bool {
	var n int
	e.ok(e.db.QueryRow(context.Background(), `SELECT COUNT(*) FROM pg_locks WHERE NOT granted`).Scan(&n))
	return n > 0
}
