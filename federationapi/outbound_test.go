package federationapi

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
	"weft/internal/fedclient"
	"weft/internal/stream"
	"weft/matrix/event"
	"weft/matrix/id"
)

func TestBatchesAndOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, bob, oscar)
		sent := room.talk(120)
		net := newNetwork()
		s := w.server(net, quickLimits())
		for i := range 130 {
			w.edu(s, "m.direct_to_device", i, true, "", one)
		}
		w.start(s)
		net.wait(t, "everything arrived", func() bool { return len(net.edus(one)) == 130 && containsAll(net.got(one), sent) })
		seen := map[string]bool{}
		for _, c := range net.to(one, true) {
			if len(c.txn.PDUs) > 50 || len(c.txn.EDUs) > 100 {
				t.Errorf("a transaction of %d PDUs and %d EDUs", len(c.txn.PDUs), len(c.txn.EDUs))
			}
			if seen[c.txn.ID] || c.txn.ID == "" {
				t.Errorf("transaction ID %q twice", c.txn.ID)
			}
			seen[c.txn.ID] = true
		}
		got := net.got(one)
		// Before them went what made the room; nothing twice.
		if len(got) < 120 || !slices.Equal(got[len(got)-120:], sent) {
			t.Errorf("the messages are out of order or repeated: %d events", len(got))
		}
		for i, e := range net.edus(one) {
			if want := fmt.Sprintf("m.direct_to_device %d", i); e != want {
				t.Fatalf("EDU %d is %q, want %q", i, e, want)
			}
		}
		eventually(t, "an idle destination takes no memory", func() bool { return s.waiting() == 0 })
		if n := w.count(`SELECT COUNT(*) FROM fed_edus`); n != 0 {
			t.Errorf("%d EDUs are left", n)
		}
		pos, err := stream.Position(w.ctx(), w.db, stream.Events)
		w.ok(err)
		eventually(t, "the cursor is at the end", func() bool { return w.count(cursorSQL) == pos })
	})
}

// cursorSQL gives how far all shards are.
const cursorSQL = `SELECT COALESCE(MIN(pos), 0) FROM fed_cursor`

func (w *world) count(q string) int64 {
	w.t.Helper()
	var n int64
	w.ok(w.db.QueryRow(context.Background(), q).Scan(&n))
	return n
}

// TestEventsThatFollowEachOther shows that the pause between two looks at the stream depends on what a look took: a pause of its
// greatest length would keep the second event for an hour.
func TestEventsThatFollowEachOther(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room, net := w.newRoom(alice, oscar), newNetwork()
		limits := patientLimits()
		limits.Pace = time.Hour
		w.start(w.server(net, limits))
		var want []id.Event
		for range 5 {
			want = append(want, room.talk(1)...)
			net.waitGot(t, one, want...)
		}
		once(t, net.got(one), want)
	})
}

func TestNobodyIsSentOwnEvents(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar)
		net := newNetwork()
		s := w.server(net, quickLimits())
		w.start(s)
		// tina joins over this server, which has to tell the others.
		room.flags = func(*event.Event) eventstore.Flags { return eventstore.SendOut }
		join := room.member(tina, tina, "join")
		last := room.say(alice, "welcome")
		net.waitGot(t, one, join.ID, last.ID)
		net.waitGot(t, two, last.ID)
		if slices.Contains(net.got(two), join.ID) {
			t.Error("a server was sent its own event")
		}
		w.edu(s, "m.typing", 1, false, "", home, two, two)
		net.wait(t, "the EDU arrived", func() bool { return len(net.edus(two)) > 0 })
		if len(net.to(home, true))+len(net.to(home, false)) > 0 || len(net.edus(two)) != 1 {
			t.Errorf("EDUs: %v", net.edus(two))
		}
	})
}

func TestTransactionIDs(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar)
		room.say(alice, "is anybody there?")
		net := newNetwork()
		net.fails(one)
		s := w.server(net, quickLimits())
		w.edu(s, "m.direct_to_device", 7, true, "", one)
		w.start(s)
		// The very first may be on its way before the stream was read.
		failures := func() []call {
			return slices.DeleteFunc(net.to(one, false), func(c call) bool { return len(c.txn.PDUs) == 0 })
		}
		net.wait(t, "it was tried again", func() bool { return len(failures()) >= 3 })
		failed := failures()
		for _, c := range failed[1:] {
			if c.txn.ID != failed[0].txn.ID || len(c.txn.PDUs) != len(failed[0].txn.PDUs) {
				t.Errorf("a repetition has the ID %s with %d PDUs, the first %s with %d", c.txn.ID, len(c.txn.PDUs), failed[0].txn.ID, len(failed[0].txn.PDUs))
			}
		}
		net.fails()
		net.waitGot(t, one, room.say(alice, "hello").ID)
		eventually(t, "idle", func() bool { return s.waiting() == 0 })
		// The same is typed twice: no repetition.
		before := len(net.to(one, true))
		for n := range 2 {
			w.edu(s, "m.typing", 1, false, "room", one)
			net.wait(t, "the EDU arrived", func() bool { return len(net.to(one, true)) == before+n+1 })
		}
		typed := net.to(one, true)[before:]
		if typed[0].txn.ID == typed[1].txn.ID {
			t.Error("two ephemeral EDUs with the same content look like one transaction")
		}
	})
}

func TestFailureIsRetried(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar, tina)
		net := newNetwork()
		net.fails(one)
		s := w.server(net, quickLimits())
		w.start(s)
		first := room.say(alice, "first")
		net.waitGot(t, two, first.ID)
		net.wait(t, "one was tried several times", func() bool { return len(net.to(one, false)) >= 4 })
		if n := w.count(`SELECT COUNT(*) FROM fed_destinations WHERE server = 'one.example' AND failures > 0`); n != 1 {
			t.Errorf("%d rows say that it is behind", n)
		}
		second := room.say(alice, "second")
		net.waitGot(t, two, second.ID)
		eventually(t, "the cursor does not wait for it", func() bool { return w.count(cursorSQL) == second.StreamPos })
		net.fails()
		net.waitGot(t, one, first.ID, second.ID)
		eventually(t, "its row is gone", func() bool { return w.count(`SELECT COUNT(*) FROM fed_destinations`) == 0 })
		eventually(t, "it is forgotten", func() bool { return s.waiting() == 0 })
		checkOrder(t, net.got(one), first.ID, second.ID)
	})
}

// checkOrder checks the order of first delivery.
func checkOrder(t testing.TB, got []id.Event, want ...id.Event) {
	t.Helper()
	at := -1
	for _, e := range want {
		i := slices.Index(got, e)
		if i <= at {
			t.Errorf("%s came at place %d, its predecessor at %d", e, i, at)
		}
		at = i
	}
}

func TestDestinationAliveEndsThePause(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar, tina)
		net := newNetwork()
		limits := quickLimits()
		limits.MaxBackoff = time.Hour
		// Both failed for long before this server was started.
		s := w.server(net, limits)
		w.behind(s, behindRow{one, 0, 30, time.Now().Add(time.Hour).UnixMilli(), 1},
			behindRow{two, 0, 30, time.Now().Add(time.Hour).UnixMilli(), 1})
		s = w.server(net, limits)
		w.start(s)
		last := room.say(alice, "hello")
		eventually(t, "the stream was read", func() bool { return w.count(cursorSQL) == last.StreamPos })
		if n := len(net.calls); n != 0 {
			t.Fatalf("%d transactions during the pause", n)
		}
		w.ok(s.DestinationAlive(w.ctx(), one))
		net.waitGot(t, one, last.ID)
		if len(net.got(two)) > 0 || net.alive[one] != 1 {
			t.Error("the other's pause ended, or the transport was not told")
		}
		eventually(t, "its row is gone", func() bool { return w.count(`SELECT COUNT(*) FROM fed_destinations`) == 1 })
	})
}

func TestParkedDestinationKeepsItsBackoff(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar)
		net := newNetwork()
		s := w.server(net, quickLimits())
		stop := w.start(s)
		net.waitGot(t, one, room.say(alice, "hello").ID)
		net.fails(one)
		state := func() (parked bool, failures int) {
			s.out.mu.Lock()
			defer s.out.mu.Unlock()
			if d := s.out.dests[one]; d != nil {
				return d.parked, d.failures
			}
			return false, 0
		}
		for n := 1; n <= 3; n++ {
			// Only an EDU that may be lost: when the pause is over nothing is left to
			// send, and still it is known that the server fails.
			eventually(t, "the server is tried again", func() bool {
				w.edu(s, "m.typing", 1, false, "room", one)
				_, failures := state()
				return failures >= n
			})
			eventually(t, "it is parked", func() bool { parked, _ := state(); return parked })
		}
		stop()
		if n := w.count(`SELECT failures FROM fed_destinations WHERE server = 'one.example'`); n < 3 {
			t.Errorf("%d failures are stored", n)
		}
		s = w.server(net, quickLimits())
		w.start(s)
		net.fails()
		last := room.say(alice, "are you there")
		net.waitGot(t, one, last.ID)
		eventually(t, "it is forgotten", func() bool { return s.waiting() == 0 })
	})
}

// Since when a server fails is kept through further failures and restarts, until it can be reached.
func TestFailingSince(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		net := newNetwork()
		net.fails(one)
		began := time.Now().UnixMilli()
		s := w.server(net, quickLimits())
		stop := w.start(s)
		w.edu(s, "m.x", 1, true, "", one)
		const query = `SELECT COALESCE(MAX(failures), 0) FROM fed_destinations`
		since := func() int64 { return w.count(`SELECT COALESCE(MAX(failing_ts), 0) FROM fed_destinations`) }
		eventually(t, "it fails", func() bool { return w.count(query) >= 1 })
		first := since()
		if now := time.Now().UnixMilli(); first < began || first > now {
			t.Errorf("it fails since %d, between %d and %d", first, began, now)
		}
		failures := w.count(query)
		eventually(t, "it fails again", func() bool { return w.count(query) > failures })
		stop()
		failures = w.count(query)
		s = w.server(net, quickLimits())
		w.start(s)
		eventually(t, "it fails after a restart", func() bool { return w.count(query) > failures })
		if again := since(); again != first {
			t.Errorf("it fails since %d, and that was %d", again, first)
		}
		net.fails()
		eventually(t, "it is forgotten", func() bool { return w.count(`SELECT COUNT(*) FROM fed_destinations`) == 0 })
	})
}

func TestQueueOverflow(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar, tina)
		net := newNetwork()
		free, entered := make(chan struct{}), make(chan struct{}, 100)
		net.answers(func(_ context.Context, server id.Server, _ fedclient.Transaction) error {
			if server == one {
				entered <- struct{}{}
				<-free
			}
			return nil
		})
		limits := quickLimits()
		limits.Queue = 5
		s := w.server(net, limits)
		w.start(s)
		first := room.say(alice, "first")
		<-entered
		var want []id.Event
		for range 4 {
			want = append(want, room.talk(10)...)
		}
		net.waitGot(t, two, want...)
		s.out.mu.Lock()
		if n := len(s.out.dests[one].queue); n > 5 {
			t.Errorf("%d events wait in memory", n)
		}
		s.out.mu.Unlock()
		close(free)
		net.waitGot(t, one, want...)
		checkOrder(t, net.got(one), append([]id.Event{first.ID}, want...)...)
		eventually(t, "it keeps up again", func() bool { return s.waiting() == 0 && w.count(`SELECT COUNT(*) FROM fed_destinations`) == 0 })
	})
}

func TestCatchUpIsBounded(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		rooms := []*room{w.newRoom(alice, oscar, bob), w.newRoom(alice, oscar, bob), w.newRoom(alice, oscar, bob)}
		net := newNetwork()
		free, entered := make(chan struct{}), make(chan struct{}, 100)
		net.answers(func(_ context.Context, server id.Server, _ fedclient.Transaction) error {
			entered <- struct{}{}
			<-free
			return nil
		})
		limits := quickLimits()
		limits.Queue, limits.CatchUp, limits.Page = 1, 10, 7
		s := w.server(net, limits)
		w.start(s)
		<-entered
		var all []id.Event
		for range 4 {
			for _, r := range rooms {
				all = append(all, r.talk(5)...)
			}
		}
		kick := rooms[0].member(alice, oscar, "leave")
		after := rooms[0].say(alice, "not for one")
		eventually(t, "the stream was read", func() bool { return s.followed() == after.StreamPos })
		close(free)
		last := []id.Event{all[len(all)-1], all[len(all)-6]}
		net.waitGot(t, one, append(last, kick.ID)...)
		got := net.got(one)
		sent := 0
		for _, e := range all {
			if slices.Contains(got, e) {
				sent++
			}
		}
		// The last of the two rooms that it is in, the last before the kick perhaps, and
		// what was under way when the queue ran over.
		if sent > 8 || slices.Contains(got, after.ID) {
			t.Errorf("%d of %d missed messages were sent", sent, len(all))
		}
		eventually(t, "it keeps up again", func() bool { return s.waiting() == 0 })
		next := rooms[1].say(alice, "and on")
		net.waitGot(t, one, next.ID)
	})
}

func TestCatchUpAfterAnOutage(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar, tina)
		quiet := w.newRoom(alice, tina)
		net := newNetwork()
		net.fails(one)
		limits := quickLimits()
		limits.CatchUp, limits.Page = 20, 16
		s := w.server(net, limits)
		w.start(s)
		quiet.talk(40) // much that does not concern it
		missed := room.talk(100)
		net.waitGot(t, two, missed...)
		net.wait(t, "one was tried", func() bool { return len(net.to(one, false)) > 3 })
		for _, c := range net.to(one, false) {
			if len(c.txn.PDUs) > fedclient.MaxPDUs {
				t.Fatalf("a probe of %d events", len(c.txn.PDUs))
			}
		}
		net.fails()
		net.waitGot(t, one, missed[99])
		got := net.got(one)
		if n := len(got); n > 60 {
			t.Errorf("%d events after the outage", n)
		}
		if len(net.edus(one)) > 0 {
			t.Errorf("EDUs: %v", net.edus(one))
		}
		eventually(t, "it keeps up again", func() bool { return s.waiting() == 0 })
	})
}

func TestDestinationsAreIndependent(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar, tina, theo)
		net := newNetwork()
		net.answers(func(ctx context.Context, server id.Server, _ fedclient.Transaction) error {
			switch server {
			case one:
				<-ctx.Done() // for ever
				return ctx.Err()
			case three:
				return errDown
			}
			return nil
		})
		s := w.server(net, quickLimits())
		stop := w.start(s)
		var want []id.Event
		for range 4 {
			want = append(want, room.talk(50)...)
			net.waitGot(t, two, want...)
		}
		if len(net.to(one, true)) > 0 {
			t.Error("the blocked server got something")
		}
		stop()
		// Nothing is lost for those two.
		net.fails()
		w.start(w.server(net, quickLimits()))
		net.waitGot(t, one, want...)
		net.waitGot(t, three, want...)
		checkOrder(t, net.got(one), want...)
		checkOrder(t, net.got(three), want...)
	})
}

func TestTimeoutMakesABlockedServerFail(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar)
		net := newNetwork()
		net.answers(func(ctx context.Context, _ id.Server, _ fedclient.Transaction) error {
			<-ctx.Done()
			return ctx.Err()
		})
		limits := quickLimits()
		limits.Timeout = time.Millisecond
		w.start(w.server(net, limits))
		last := room.say(alice, "hello")
		net.wait(t, "it failed and was tried again", func() bool { return len(net.to(one, false)) > 1 })
		net.fails()
		net.waitGot(t, one, last.ID)
	})
}

func TestRunEndsPromptlyAndLeavesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar, tina, theo)
		w.edu(w.server(newNetwork(), quickLimits()), "m.direct_to_device", 1, true, "", one)
		before := runtime.NumGoroutine()
		net := newNetwork()
		entered := make(chan struct{}, 1)
		net.answers(func(ctx context.Context, server id.Server, _ fedclient.Transaction) error {
			if server != one {
				return errDown
			}
			entered <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		})
		limits := patientLimits()
		s := w.server(net, limits)
		stop := w.start(s)
		room.say(alice, "hello")
		<-entered
		net.wait(t, "two failed", func() bool { return len(net.to(two, false)) > 0 })
		began := time.Now()
		stop()
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %s", took)
		}
		eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
		// What comes afterwards starts nothing.
		w.edu(s, "m.direct_to_device", 2, true, "", one, two)
		w.ok(s.DestinationAlive(w.ctx(), two))
		if s.out.ctx != nil {
			t.Error("it runs after its end")
		}
		eventually(t, "nothing was started after the end", func() bool { return runtime.NumGoroutine() <= before })
	})
}

func TestLateTimerOfAForgottenDestination(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		s := w.server(newNetwork(), patientLimits())
		o := s.out
		o.mu.Lock()
		defer o.mu.Unlock()
		o.ctx = t.Context()
		old := o.destination(one)
		o.schedule(old)
		if len(o.dests) != 0 {
			t.Fatal("it was not forgotten")
		}
		d := o.destination(one)
		d.queue, d.running = []queued{{1, 1}}, true
		o.schedule(old)
		if o.dests[one] != d || old.running {
			t.Error("the late timer of a destination that was forgotten touched its successor")
		}
	})
}

func TestRefusedTransactions(t *testing.T) {
	cases := []struct {
		name    string
		answer  func(tx fedclient.Transaction) error
		dropped bool
	}{
		{"too large for a proxy", func(tx fedclient.Transaction) error {
			if len(tx.PDUs)+len(tx.EDUs) > 10 {
				return remoteError(http.StatusRequestEntityTooLarge, "M_UNKNOWN")
			}
			return nil
		}, false},
		{"one event is not understood", func(tx fedclient.Transaction) error {
			for _, raw := range tx.PDUs {
				if gjson.GetBytes(raw, "content.body").Str == "message 33" {
					return remoteError(http.StatusBadRequest, "M_BAD_JSON")
				}
			}
			return nil
		}, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				room := w.newRoom(alice, oscar)
				net := newNetwork()
				s := w.server(net, quickLimits())
				w.edu(s, "m.direct_to_device", 1, true, "", one)
				net.answers(func(_ context.Context, _ id.Server, tx fedclient.Transaction) error { return c.answer(tx) })
				sent := room.talk(60)
				w.start(s)
				want := slices.Clone(sent)
				if c.dropped {
					want = slices.Delete(want, 33, 34)
				}
				net.waitGot(t, one, want...)
				net.wait(t, "the EDU arrived", func() bool { return len(net.edus(one)) > 0 })
				checkOrder(t, net.got(one), want...)
				if slices.Contains(net.got(one), sent[33]) == c.dropped {
					t.Errorf("dropped: %t", !c.dropped)
				}
				eventually(t, "it keeps up", func() bool { return s.waiting() == 0 })
			})
		})
	}
}

func TestUnclearRefusalIsNoReasonToDrop(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar)
		net := newNetwork()
		net.answers(func(context.Context, id.Server, fedclient.Transaction) error {
			return remoteError(http.StatusBadRequest, "M_UNKNOWN")
		})
		w.start(w.server(net, quickLimits()))
		sent := room.talk(20)
		net.wait(t, "single events were refused", func() bool {
			n := 0
			for _, c := range net.to(one, false) {
				if len(c.txn.PDUs) == 1 {
					n++
				}
			}
			return n > 2
		})
		net.fails()
		net.waitGot(t, one, sent...)
		checkOrder(t, net.got(one), sent...)
	})
}

func TestEphemeralEDUs(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		net := newNetwork()
		free, entered := make(chan struct{}), make(chan struct{}, 10)
		var down atomic.Bool
		net.answers(func(_ context.Context, server id.Server, _ fedclient.Transaction) error {
			if down.Load() {
				return errDown
			}
			entered <- struct{}{}
			<-free
			return nil
		})
		limits := quickLimits()
		limits.EphemeralEDUs = 4
		limits.MinBackoff, limits.MaxBackoff = time.Hour, time.Hour
		s := w.server(net, limits)
		w.start(s)
		w.edu(s, "m.typing", 0, false, "a", one)
		<-entered
		for n := 1; n <= 3; n++ {
			w.edu(s, "m.typing", n, false, "a", one)
			w.edu(s, "m.typing", 10+n, false, "b", one)
		}
		w.edu(s, "m.presence", 20, false, "a", one)
		w.edu(s, "m.receipt", 21, false, "", one)
		w.edu(s, "m.receipt", 22, false, "", one) // one too many: the oldest goes
		close(free)
		net.wait(t, "they arrived", func() bool { return len(net.edus(one)) == 5 })
		want := []string{"m.typing 0", "m.typing 13", "m.presence 20", "m.receipt 21", "m.receipt 22"}
		if got := net.edus(one); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		eventually(t, "idle", func() bool { return s.waiting() == 0 })
		down.Store(true)
		w.edu(s, "m.presence", 30, false, "", one)
		net.wait(t, "it failed", func() bool { return len(net.to(one, false)) == 1 })
		eventually(t, "the pause began", func() bool {
			s.out.mu.Lock()
			defer s.out.mu.Unlock()
			d := s.out.dests[one]
			return d != nil && d.failures == 1 && !d.running
		})
		w.edu(s, "m.presence", 31, false, "", one) // dropped
		w.edu(s, "m.direct_to_device", 32, true, "", one)
		s.out.mu.Lock()
		if d := s.out.dests[one]; len(d.edus) != 0 {
			t.Errorf("%d EDUs that may be lost wait for a server that is down", len(d.edus))
		}
		// The pause is over.
		d := s.out.dests[one]
		d.retryAt = time.Time{}
		down.Store(false)
		s.out.schedule(d)
		s.out.mu.Unlock()
		net.wait(t, "the durable one arrived", func() bool { return len(net.edus(one)) == 6 })
		if got := net.edus(one)[5]; got != "m.direct_to_device 32" {
			t.Errorf("got %s", got)
		}
	})
}

func TestDurableEDUsAreBounded(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		net := newNetwork()
		net.fails(one)
		limits := patientLimits()
		limits.DurableEDUs, limits.TrimEvery = 10, 4
		s := w.server(net, limits)
		for n := range 60 {
			w.edu(s, "m.direct_to_device", n, true, "", one)
		}
		w.edu(s, "m.direct_to_device", 99, true, "", two)
		if n := w.count(`SELECT COUNT(*) FROM fed_edus WHERE server = 'one.example'`); n < 10 || n > 14 {
			t.Errorf("%d EDUs are kept", n)
		}
		net.fails()
		w.start(s)
		net.wait(t, "they arrived", func() bool { return slices.Contains(net.edus(one), "m.direct_to_device 59") && len(net.edus(two)) == 1 })
		if got := net.edus(one); strings.HasSuffix(got[0], " 0") || !slices.IsSortedFunc(got, func(a, b string) int { return number(a) - number(b) }) {
			t.Errorf("the wrong ones were kept: %v", got)
		}
	})
}

func number(edu string) int {
	var n int
	if _, err := fmt.Sscanf(edu, "m.direct_to_device %d", &n); err != nil {
		panic(err)
	}
	return n
}
