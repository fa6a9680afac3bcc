package roomserver

import (
	"context"
	"testing"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

// keep runs all upkeep as if a sweep's interval had passed.
func (n *node) keep() {
	n.w.t.Helper()
	n.w.clock.Add(2 * sweepEvery.Milliseconds())
	for _, task := range n.upkeep() {
		if _, err := task.Run(context.Background()); err != nil {
			n.w.t.Errorf("%s: %v", task.Kind, err)
		}
	}
}

func (n *node) unreachable() (nodes, outliers int) {
	n.w.t.Helper()
	nodes, outliers, err := n.store.Unreachable(context.Background())
	if err != nil {
		n.w.t.Fatal(err)
	}
	return nodes, outliers
}

// The state that another server sent, and that led to nothing, goes; a join that uses it in the
// meantime keeps it.
func TestSweepAndJoins(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		w := newWorld(t, open)
		a, b := w.node("a"), w.node("b")
		room := a.create("11", alice)
		a.send(room, state(alice, "m.room.topic", "", `{"topic":"x"}`), message(alice, "before"))
		half := func() {
			t.Helper()
			sp := newSpool(rulesOf(t, "11"), room)
			for _, e := range a.stateAt(a.row(room).CurrentState) {
				if err := sp.AddState(e.JSON()); err != nil {
					t.Fatal(err)
				}
			}
			row, err := b.ensureRoom(context.Background(), sp.rules, room)
			if err == nil {
				_, err = b.storeSpool(context.Background(), row, sp)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		half()
		if _, n := b.unreachable(); n == 0 {
			t.Fatal("nothing to sweep")
		}
		b.keep()
		b.keep()
		if nodes, n := b.unreachable(); nodes+n != 0 {
			t.Errorf("%d nodes and %d outliers are left", nodes, n)
		}
		half()
		b.keep() // marks them; the next one would remove them
		b.joinFrom(a, room, bob)
		for range 3 {
			b.keep()
		}
		b.check()
		sameRoom(t, room, a, b)
		said := b.send(room, message(bob, "hello"))[0]
		a.mustPush("b", said.Event)
		sameRoom(t, room, a, b)
		w.nodeOn("b", b.db).check()
	})
}
