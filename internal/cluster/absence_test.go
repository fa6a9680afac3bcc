package cluster

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestFrozen(t *testing.T) {
	for _, seconds := range []int{6, 59, 70} { // the last: its row is removed meanwhile
		t.Run(fmt.Sprint(seconds), func(t *testing.T) {
			onTables(t, func(t *testing.T, w *world) {
				a, b, c := w.join("rooms"), w.join("rooms"), w.join("rooms")
				w.pass(6, a, b, c)
				w.wantOneOwner(a, b, c)
				w.pass(seconds, a, c)
				if share(b) != 0 {
					t.Fatal("a frozen node owns keys on waking up")
				}
				w.beats(a, c)
				w.wantLive(a, "0 2")
				w.wantOneOwner(a, c)
				w.beats(b, a, c)
				for _, n := range []*node{a, b, c} {
					w.wantLive(n, "0 1 2")
				}
				if share(b) != 0 {
					t.Error("it owns keys while the others may not know")
				}
				w.pass(4, a, b, c)
				w.wantOneOwner(a, b, c)
				w.pass(10, a, b, c)
				for _, n := range []*node{a, b, c} {
					w.wantLive(n, "0 1 2")
				}
			})
		})
	}
}

// What others asked of a node is too late when it was frozen since, or when it was on its way for some heartbeats.
func TestTimely(t *testing.T) {
	onTables(t, func(t *testing.T, w *world) {
		a, b := w.join("rooms"), w.join("rooms")
		w.pass(3, a, b)
		seen := func() int64 {
			n, ok := Node{}, false
			for _, s := range a.All() {
				if s.ID == b.Self().ID {
					n, ok = s.Node, true
				}
			}
			if !ok {
				t.Fatal("a does not know b")
			}
			return n.Beat
		}
		before := seen()
		if !b.Timely(before) {
			t.Error("what a asks now is refused")
		}
		w.pass(3, a, b) // and a reads the table before b writes its row
		if !b.Timely(before) {
			t.Error("what a asked three seconds ago is refused")
		}
		w.pass(1, a, b)
		if b.Timely(before) {
			t.Error("what a asked four seconds ago is taken")
		}
		// Also where heartbeats are late.
		before = seen()
		for range 3 {
			w.pass(1, a)
			w.pass(1, a, b)
		}
		if b.Timely(before) {
			t.Error("what a asked six seconds, but three heartbeats, ago is taken")
		}
		before = seen()
		w.pass(6, a)
		if b.Timely(before) || b.Timely(before+100) {
			t.Error("who wakes up takes what was asked before")
		}
		w.beats(b)
		if b.Timely(before) {
			t.Error("who is back takes what was asked before")
		}
		if w.beats(a); !b.Timely(seen()) {
			t.Error("what a asks, now that it has seen b again, is refused")
		}
	})
	if !Single([]string{"rooms"}).Timely(0) {
		t.Error("a process that is alone refuses something")
	}
}

// What somebody asked of a node is stale when the node was away since for so long that others may have counted it out.
func TestStale(t *testing.T) {
	onTables(t, func(t *testing.T, w *world) {
		a, b := w.join("rooms"), w.join("rooms")
		w.pass(3, a, b)
		asked := b.Begin(t.Context())
		check := func(what string, ctx context.Context, want bool) {
			t.Helper()
			if got := b.Stale(ctx); got != want {
				t.Errorf("%s: stale is %v", what, got)
			}
		}
		check("at once", asked, false)
		w.pass(3, a)
		check("after three seconds without a heartbeat", asked, false)
		w.pass(2, a)
		woken := b.Begin(t.Context())
		check("after five", asked, true)
		check("what nobody asked for", t.Context(), false)
		check("what was asked while it was away", woken, true)
		check("what may have waited for it", b.Begin(t.Context()), true)
		w.now += settleTime
		check("what is asked now", b.Begin(t.Context()), false)
		// All are without the database, or stand still, at the same time.
		asked = b.Begin(t.Context())
		w.pass(60)
		w.beats(a)
		check("after a minute in which nobody had the database", asked, false)
		b.db.putFails = true
		w.now += 6 * time.Second
		check("while it does not answer", asked, true)
	})
	onTables(t, func(t *testing.T, w *world) {
		a := w.join("rooms")
		asked := a.Begin(t.Context())
		w.pass(60)
		if a.Stale(asked) {
			t.Error("a node was away that is alone")
		}
		if w.beats(a); a.Stale(asked) {
			t.Error("a node was away that was alone")
		}
	})
}

// What another node asked is stale when it may have given it up: some time after it asked, and after what it said since.
func TestStaleOfAnotherNode(t *testing.T) {
	onTables(t, func(t *testing.T, w *world) {
		a, b := w.join("rooms"), w.join("rooms")
		w.pass(3, a, b)
		var said time.Duration // by b's clock
		wanted := func() (time.Duration, bool) { return b.elapsed() - said, said != 0 }
		call, cancel := b.Asked(t.Context(), b.view.Load().beat, wanted)
		defer func() { cancel() }()
		check := func(what string, want bool) {
			t.Helper()
			if got := b.Stale(call); got != want || got != errors.Is(context.Cause(call), ErrGivenUp) {
				t.Errorf("%s: stale is %v, %v", what, got, context.Cause(call))
			}
			if b.Stale(context.WithoutCancel(call)) {
				t.Errorf("%s: what is finished though nobody waits is stale", what)
			}
		}
		check("at once", false)
		w.pass(4, a, b)
		check("after four seconds", false)
		said = b.elapsed()
		w.pass(4, a, b)
		check("wanted four seconds ago", false)
		w.pass(1, a, b)
		check("five seconds ago", true)
		said = b.elapsed()
		check("wanted too late", true)
		cancel()
		// A heartbeat that has not ended began after the last one that has.
		said = 0
		call, cancel = b.Asked(t.Context(), b.view.Load().beat+1, wanted)
		check("of the next heartbeat", false)
		w.now += 3 * time.Second
		check("while nobody has the database", false)
		w.pass(6, a, b)
		check("later", true)
	})
	c := Single([]string{"rooms"})
	call, cancel := c.Asked(t.Context(), 0, nil)
	defer cancel()
	if c.Stale(call) {
		t.Error("something is stale in a process that is alone")
	}
}

// A node that could write its row and not read the others' for a while lives from when it can, for the others too.
func TestReadingFailsForAWhile(t *testing.T) {
	onTables(t, func(t *testing.T, w *world) {
		a, b := w.join("rooms"), w.join("rooms")
		w.pass(6, a, b)
		b.db.listFails = true
		for range 3 {
			w.pass(1, a)
			if b.beat(context.Background()) == nil {
				t.Fatal("a heartbeat succeeded that could not read")
			}
		}
		b.db.listFails = false
		w.pass(1, b) // the last one
		for i := range 60 {
			if i%10 == 5 {
				w.beats(a)
			}
			if both := share(a) + share(b); both > keyCount {
				t.Fatalf("%v after its last heartbeat b has %d keys, and a %d of %d", time.Duration(i)*100*time.Millisecond, share(b), share(a), keyCount)
			}
			w.now += 100 * time.Millisecond
		}
		if share(a) != keyCount {
			t.Errorf("a has %d of %d keys", share(a), keyCount)
		}
	})
}
