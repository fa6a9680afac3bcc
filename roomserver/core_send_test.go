package roomserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"weft/internal/eventstore"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/internal/stream"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

const (
	alice id.User = "@alice:a"
	bob   id.User = "@bob:b"
)

func TestCreateAndSendInEveryVersion(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		for _, v := range event.Versions() {
			t.Run(string(v), func(t *testing.T) {
				a := newWorld(t, open).node("a")
				room := a.create(v, alice)
				before := a.row(room)
				events := a.send(room, message(alice, "hello"), state(alice, "m.room.topic", "", `{"topic":"x"}`))
				if len(events) != 2 || events[1].PrevEvents[0] != events[0].ID || events[1].Depth != events[0].Depth+1 {
					t.Fatalf("not a chain: %v", events)
				}
				if events[0].StreamPos+1 != events[1].StreamPos || events[0].Flags != eventstore.SendOut {
					t.Errorf("positions %d and %d, flags %d", events[0].StreamPos, events[1].StreamPos, events[0].Flags)
				}
				after := a.row(room)
				if after.Revision != before.Revision+1 || after.Depth != events[1].Depth || after.Stub || after.Joined != 1 {
					t.Errorf("the room's row is %+v", after)
				}
				if got := a.stateEvent(room, "m.room.topic", ""); got.ID != events[1].ID {
					t.Errorf("the topic is %s", got.ID)
				}
				a.check()
			})
		}
	})
}

func TestSendRefusedByTheRules(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		a := newWorld(t, open).node("a")
		room := a.create("11", alice)
		tips := a.tips(room)
		_, err := a.trySend(room, message(alice, "kept out with the other"), message("@mallory:a", "hello"))
		if !errors.Is(err, merr.ErrForbidden) {
			t.Fatalf("got %v, want M_FORBIDDEN", err)
		}
		if got := a.tips(room); !slices.Equal(got, tips) {
			t.Errorf("the extremities moved to %v", got)
		}
		if _, err := a.trySend("!nowhere:a", message(alice, "x")); !errors.Is(err, merr.ErrNotFound) {
			t.Errorf("got %v, want M_NOT_FOUND", err)
		}
		a.check()
	})
}

func TestRoomIDsAreNotTakenTwice(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		a := newWorld(t, open).node("a")
		a.create("11", alice)
		_, err := a.createRoom(context.Background(), rulesOf(t, "11"), "!room:a", createSpecs(rulesOf(t, "11"), alice), nil)
		if !errors.Is(err, merr.ErrRoomInUse) {
			t.Fatalf("got %v, want M_ROOM_IN_USE", err)
		}
		a.check()
	})
}

// Rooms whose ID is made from the create event are different rooms, also when a user makes them in one millisecond.
func TestRoomsOfOneMillisecond(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		a := newWorld(t, open).node("a")
		a.cfg.Now = func() time.Time { return time.UnixMilli(1_700_000_000_000) }
		seen := make(map[id.Room]bool)
		for range 5 {
			seen[a.create("12", alice)] = true
		}
		if len(seen) != 5 {
			t.Errorf("%d rooms, want 5", len(seen))
		}
		a.check()
	})
}

func TestClientTransactionsAreIdempotent(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		w := newWorld(t, open)
		a := w.node("a")
		room := a.create("11", alice)
		opt := func(txn string) sendOptions {
			return sendOptions{User: alice, Txn: api.Txn{Device: "D", Scope: "send", ID: txn}}
		}
		send := func(n *node, txn string) id.Event {
			t.Helper()
			events, err := n.sendLocal(context.Background(), room, opt(txn), func(context.Context, *roomView) ([]eventSpec, error) {
				return []eventSpec{message(alice, "x")}, nil
			})
			if err != nil || len(events) != 1 {
				t.Fatalf("%v, %v", events, err)
			}
			return events[0].ID
		}
		first := send(a, "1")
		if again := send(a, "1"); again != first {
			t.Errorf("the same transaction made %s and %s", first, again)
		}
		if other := send(a, "2"); other == first {
			t.Error("another transaction gave the same event")
		}
		// A new process on the same database, as after a crash.
		if again := send(w.nodeOn("a", a.db), "1"); again != first {
			t.Errorf("after a restart the same transaction made %s", again)
		}
		// Many at once, some the same.
		var wg sync.WaitGroup
		var mu sync.Mutex
		made := make(map[string][]id.Event)
		for i := range 40 {
			wg.Go(func() {
				txn := fmt.Sprint("many", i%10)
				ev := send(a, txn)
				mu.Lock()
				defer mu.Unlock()
				made[txn] = append(made[txn], ev)
			})
		}
		wg.Wait()
		for txn, events := range made {
			if len(slices.Compact(slices.Sorted(slices.Values(events)))) != 1 {
				t.Errorf("transaction %s made %v", txn, events)
			}
		}
		a.check()
	})
}

func TestSendsOfOneRoomShareAWriteSet(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		a := newWorld(t, open).node("a")
		room := a.create("11", alice)
		before := a.row(room).Revision
		const n = 50
		// Hold the queue so that all sends wait behind one another.
		release := a.hold(room)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				sender := alice
				if i == 7 {
					sender = "@nobody:a" // refused, and the others go on
				}
				_, err := a.trySend(room, message(sender, fmt.Sprint(i)))
				if (err != nil) != (i == 7) {
					t.Errorf("send %d: %v", i, err)
				}
			})
		}
		for a.queueLen(room) < n {
		}
		release()
		wg.Wait()
		if got := a.row(room).Revision - before; got != 1 {
			t.Errorf("%d write sets for %d sends", got, n)
		}
		pos, err := stream.Position(context.Background(), a.db, stream.Events)
		if err != nil || pos != 5+n-1 {
			t.Errorf("the stream is at %d, %v", pos, err)
		}
		a.check()
	})
}

// Who gives up while his send is computed has nothing sent, and those whose sends go with it lose nothing.
func TestSendThatIsGivenUp(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		a := newWorld(t, open).node("a")
		room := a.create("11", alice)
		release := a.hold(room)
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(context.Background())
		builds := 0
		wg.Go(func() {
			_, err := a.sendLocal(ctx, room, sendOptions{}, func(context.Context, *roomView) ([]eventSpec, error) {
				builds++
				cancel()
				return []eventSpec{message(alice, "given up")}, nil
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("who gave up hears %v", err)
			}
		})
		wg.Go(func() {
			if _, err := a.trySend(room, message(alice, "goes with it")); err != nil {
				t.Error(err)
			}
		})
		for a.queueLen(room) < 2 {
		}
		release()
		wg.Wait()
		a.send(room, message(alice, "after it"))
		pos, err := stream.Position(context.Background(), a.db, stream.Events)
		if err != nil || pos != 5+2 || builds != 1 {
			t.Errorf("the stream is at %d after %d builds, %v", pos, builds, err)
		}
		a.check()
	})
}

type askedLongAgo struct{}

// What was asked too long ago is not sent, also when it goes with something that was asked just now.
func TestSendThatIsTooLate(t *testing.T) {
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		errLate := merr.New(503, "M_UNKNOWN", "too late")
		open := func() *sqldb.DB {
			return sqldbtest.OpenWith(t, newURL(), sqldb.Options{Stale: func(ctx context.Context) error {
				if ctx.Value(askedLongAgo{}) != nil {
					return errLate
				}
				return nil
			}})
		}
		a := newWorld(t, open).node("a")
		room := a.create("11", alice)
		release := a.hold(room)
		var wg sync.WaitGroup
		for i, late := range []bool{false, true, false} {
			ctx, want := context.Background(), error(nil)
			if late {
				ctx, want = context.WithValue(ctx, askedLongAgo{}, true), errLate
			}
			wg.Go(func() {
				_, err := a.sendLocal(ctx, room, sendOptions{}, func(context.Context, *roomView) ([]eventSpec, error) {
					return []eventSpec{message(alice, fmt.Sprint(i))}, nil
				})
				if !errors.Is(err, want) {
					t.Errorf("send %d: %v", i, err)
				}
			})
			for a.queueLen(room) < i+1 {
			}
		}
		release()
		wg.Wait()
		pos, err := stream.Position(context.Background(), a.db, stream.Events)
		if err != nil || pos != 5+2 {
			t.Errorf("the stream is at %d, %v", pos, err)
		}
		a.check()
	})
}

// hold keeps a room's queue busy until release.
func (n *node) hold(room id.Room) (release func()) {
	held, free := make(chan struct{}), make(chan struct{})
	go func() {
		if err := n.inRoom(context.Background(), room, func(context.Context, *roomView) error {
			close(held)
			<-free
			return nil
		}); err != nil {
			n.w.t.Error(err)
		}
	}()
	<-held
	return func() { close(free) }
}

func (n *node) queueLen(room id.Room) int {
	n.queues.mu.Lock()
	defer n.queues.mu.Unlock()
	return len(n.queues.rooms[room])
}

// Two nodes write one room: the fence makes one of them compute again, and no event is
// lost or out of order.
func TestFenceBetweenTwoNodes(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		w := newWorld(t, open)
		one := w.node("a")
		two := w.nodeOn("a", one.db)
		room := one.create("11", alice)
		var wg sync.WaitGroup
		const each = 20
		for k, n := range []*node{one, two} {
			wg.Go(func() {
				for i := range each {
					if _, err := n.trySend(room, state(alice, "org.test", fmt.Sprint(k, i), `{}`)); err != nil {
						t.Errorf("node %d, event %d: %v", k, i, err)
					}
				}
			})
		}
		wg.Wait()
		if got := len(one.current(room)); got != 5+2*each {
			t.Errorf("%d entries in the state", got)
		}
		if got := one.tips(room); len(got) != 1 {
			t.Errorf("%d forward extremities", len(got))
		}
		two.check()
	})
}

// Two nodes on one database, each of which remembers the room: what a node refuses, it refuses by the room as it is, not as
// it was when this node wrote to it last.
func TestRefusalsAreNotStale(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		w := newWorld(t, open)
		one := w.node("a")
		two := w.nodeOn("a", one.db)
		const dora id.User = "@dora:a"
		room := one.create("11", alice)
		two.send(room, message(alice, "remembered by the second node"))
		one.send(room, state(alice, "m.room.member", string(dora), `{"membership":"invite"}`), state(dora, "m.room.member", string(dora), `{"membership":"join"}`))
		two.send(room, message(dora, "let in by the first"))
		one.send(room, state(dora, "m.room.member", string(dora), `{"membership":"leave"}`))
		if _, err := two.trySend(room, message(dora, "after all")); !errors.Is(err, merr.ErrForbidden) {
			t.Errorf("a message after leaving: %v", err)
		}
		err := two.inRoom(context.Background(), room, func(ctx context.Context, v *roomView) error {
			if m, _, err := v.Membership(ctx, dora); err != nil || m != "leave" {
				t.Errorf("the second node sees %q, %v", m, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}
