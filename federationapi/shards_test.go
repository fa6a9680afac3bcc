package federationapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/fedclient"
	"weft/internal/stream"
	"weft/matrix/id"
)

func TestShardsStayTheSame(t *testing.T) {
	// Processes of all versions must agree.
	for server, want := range map[id.Server]int{one: 9, two: 2, three: 14, "matrix.org": 12, "[2001:db8::1]:8448": 13} {
		if got := shardOf(server); got != want {
			t.Errorf("%s is in shard %d, want %d", server, got, want)
		}
	}
	var count [Shards]int
	for i := range 16_000 {
		count[shardOf(id.Server(fmt.Sprintf("host%d.example.org", i)))]++
	}
	for n, c := range count {
		if c < 800 || c > 1200 {
			t.Errorf("%d of 16,000 servers in shard %d", c, n)
		}
	}
}

// quiet is for what must happen without a poll.
func quiet() Limits {
	l := quickLimits()
	l.Poll = time.Hour
	return l
}

func TestSharedDestinationsGetEventsOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar, tina, theo)
		net := newNetwork()
		mine := []int{shardOf(one)}
		rest := slices.DeleteFunc(allShards(), func(n int) bool { return n == shardOf(one) })
		a := w.node(net, quiet(), w.bus, mine...).start(w, true)
		b := w.node(net, quiet(), w.bus, rest...).start(w, true)
		var want []id.Event
		for range 20 {
			want = append(want, room.talk(7)...)
		}
		for _, server := range servers {
			net.waitGot(t, server, want...)
			once(t, net.got(server), want)
		}
		if a.transactions(two)+a.transactions(three)+b.transactions(one) > 0 {
			t.Error("a node sent to another's destination")
		}
		pos, err := stream.Position(w.ctx(), w.db, stream.Events)
		w.ok(err)
		eventually(t, "all cursors are at the end, and nothing is left in memory", func() bool {
			return w.count(cursorSQL) == pos && a.waiting() == 0 && b.waiting() == 0
		})
	})
}

func TestShardMovesWhileEventsFlow(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar, tina, theo)
		net := newNetwork()
		// One that is refused, since another node was quicker, takes the shard again after the next look.
		limits := quiet()
		limits.Poll = 200 * time.Millisecond
		nodes := []*node{w.node(net, limits, w.bus, allShards()...), w.node(net, limits, w.bus), w.node(net, limits, w.bus)}
		for _, n := range nodes {
			n.start(w, true)
		}
		var want []id.Event
		for i := range 30 {
			want = append(want, room.talk(4)...)
			from, to := nodes[i%3], nodes[(i+1)%3]
			from.lots.set(false, false, allShards()...)
			if i%5 == 0 { // as it should be
				eventually(t, "they are given up", func() bool { return len(from.holds()) == 0 })
			}
			to.lots.set(true, false, allShards()...)
		}
		for _, server := range servers {
			net.waitGot(t, server, want...)
			checkOrder(t, firsts(net.got(server)), want...)
		}
	})
}

func TestHandingOverInPeaceRepeatsNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar, tina, theo)
		net := newNetwork()
		limits := quiet()
		limits.Save = time.Hour // only the handing over saves
		a := w.node(net, limits, w.bus, allShards()...).start(w, true)
		b := w.node(net, limits, w.bus).start(w, true)
		var want []id.Event
		for i := range 4 {
			want = append(want, room.talk(9)...)
			for _, server := range servers {
				net.waitGot(t, server, want...)
			}
			from, to := a, b
			if i%2 == 1 {
				from, to = b, a
			}
			eventually(t, "idle", func() bool { return from.waiting() == 0 })
			from.lots.set(false, false, allShards()...)
			at := want[len(want)-1]
			eventually(t, "the cursors are written", func() bool {
				e, err := w.r.EventByID(w.ctx(), at)
				return err == nil && w.count(cursorSQL) == e.StreamPos
			})
			to.lots.set(true, false, allShards()...)
			to.share(t, one)
		}
		for _, server := range servers {
			once(t, net.got(server), want)
		}
	})
}

func TestBothBelieveThatTheyOwn(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar, tina, theo)
		net := newNetwork()
		net.fails(three)
		a := w.node(net, quickLimits(), w.bus, allShards()...).start(w, true)
		b := w.node(net, quickLimits(), w.bus, allShards()...).start(w, true)
		var want []id.Event
		for i := range 20 {
			want = append(want, room.talk(4)...)
			w.edu(a.Server, "m.direct_to_device", i, true, "", one)
			net.waitGot(t, one, want[len(want)-1])
		}
		a.lots.set(false, false, allShards()...)
		b.share(t, one)
		net.fails()
		for _, server := range servers {
			net.waitGot(t, server, want...)
			checkOrder(t, firsts(net.got(server)), want...)
		}
		net.wait(t, "the EDUs arrived", func() bool {
			for i := range 20 {
				if !slices.Contains(net.edus(one), fmt.Sprint("m.direct_to_device ", i)) {
					return false
				}
			}
			return true
		})
	})
}

func TestFrozenOwnerIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar, tina)
		net := newNetwork()
		frozen := quiet()
		frozen.Save = time.Hour
		a := w.node(net, frozen, w.bus, allShards()...).start(w, true)
		first := room.talk(5)
		net.waitGot(t, one, first...)
		net.waitGot(t, two, first...)
		old := a.share(t, one)
		oldTwo := a.share(t, two)
		// a sleeps and still believes; b finds that the lease ran out, and one fails.
		net.fails(one)
		b := w.node(net, quiet(), w.bus, allShards()...).start(w, true)
		b.share(t, one)
		eventually(t, "one is behind", func() bool { return w.count(`SELECT COUNT(*) FROM fed_destinations`) == 1 })
		before := w.count(`SELECT pos FROM fed_destinations`)
		// a wakes up.
		for _, sh := range []*share{old, oldTwo} {
			refused, err := a.out.store.setCursors(w.ctx(), []cursor{{sh.n, sh.owner, 1_000_000}})
			w.ok(err)
			if !refused[sh.n] {
				t.Error("the cursor of a shard that another node took was moved")
			}
		}
		if n := w.count(`SELECT MAX(pos) FROM fed_cursor`); n >= 1_000_000 {
			t.Errorf("a cursor is at %d", n)
		}
		if err := a.out.store.deleteBehind(w.ctx(), old, one); !errors.Is(err, errFenced) {
			t.Errorf("removing a destination: %v", err)
		}
		if err := a.out.store.setBehind(w.ctx(), old, behindRow{one, 1_000_000, 0, 0, 0}); !errors.Is(err, errFenced) {
			t.Errorf("storing a destination: %v", err)
		}
		if n := w.count(`SELECT pos FROM fed_destinations`); n != before {
			t.Errorf("the destination is at %d, was at %d", n, before)
		}
		// It finds out when it saves by itself, and leaves the shards alone.
		a.out.mu.Lock()
		for _, sh := range a.out.shares {
			sh.saved = 0
		}
		a.out.mu.Unlock()
		w.ok(a.out.saveCursors(w.ctx()))
		eventually(t, "it gave them up", func() bool { return len(a.holds()) == 0 })
		sent := a.transactions(two)
		net.fails()
		more := room.talk(5)
		for _, server := range []id.Server{one, two} {
			net.waitGot(t, server, append(first, more...)...)
		}
		if a.transactions(two) != sent {
			t.Error("it still sends")
		}
	})
}

func TestNodeDies(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar, tina, theo)
		net := newNetwork()
		net.answers(func(ctx context.Context, server id.Server, _ fedclient.Transaction) error {
			switch server {
			case one:
				<-ctx.Done()
				return ctx.Err()
			case three:
				return errDown
			}
			return nil
		})
		limits := quickLimits()
		limits.Queue = 5
		a := w.node(net, limits, w.bus, allShards()...).start(w, false)
		w.edu(a.Server, "m.direct_to_device", 1, true, "", one, three)
		var want []id.Event
		for range 4 {
			want = append(want, room.talk(10)...)
			net.waitGot(t, two, want...)
		}
		a.halt()
		want = append(want, room.talk(3)...)
		net.fails()
		w.node(net, limits, w.bus, allShards()...).start(w, true)
		for _, server := range servers {
			net.waitGot(t, server, want...)
			checkOrder(t, firsts(net.got(server)), want...)
		}
		for _, server := range []id.Server{one, three} {
			net.wait(t, "the EDU arrived", func() bool { return slices.Contains(net.edus(server), "m.direct_to_device 1") })
		}
	})
}

// TestTakenAndGivenUpByAnother: the owner learns of it, and of what the other left
// behind, although the stream stands still.
func TestTakenAndGivenUpByAnother(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar)
		net := newNetwork()
		a := w.node(net, quickLimits(), w.bus, allShards()...).start(w, true)
		b := w.node(net, quickLimits(), w.bus).start(w, true)
		net.waitGot(t, one, room.talk(3)...)
		pos, err := stream.Position(w.ctx(), w.db, stream.Events)
		w.ok(err)
		eventually(t, "the cursors are at the end", func() bool { return w.count(cursorSQL) == pos && a.waiting() == 0 })
		net.fails(one)
		b.lots.set(true, false, shardOf(one))
		b.share(t, one)
		w.edu(b.Server, "m.direct_to_device", 1, true, "", one)
		eventually(t, "it is left behind", func() bool { return w.count(`SELECT COUNT(*) FROM fed_destinations`) == 1 })
		b.lots.set(false, false, shardOf(one))
		eventually(t, "it is given up", func() bool { return len(b.holds()) == 0 })
		net.fails()
		eventually(t, "nothing is left on disk", func() bool {
			w.ok(a.DestinationAlive(w.ctx(), one))
			d := w.snapshot()
			return len(d.behind) == 0 && len(d.edus) == 0
		})
	})
}

func TestOwnershipIsLookedAtBeforeEachTransaction(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar)
		net := newNetwork()
		free, entered := make(chan struct{}), make(chan struct{}, 100)
		net.answers(func(context.Context, id.Server, fedclient.Transaction) error {
			entered <- struct{}{}
			<-free
			return nil
		})
		limits := patientLimits()
		a := w.node(net, limits, w.bus, allShards()...).start(w, true)
		first := room.talk(1)
		<-entered
		more := room.talk(120)
		eventually(t, "they wait", func() bool {
			a.out.mu.Lock()
			defer a.out.mu.Unlock()
			d := a.out.dests[one]
			return d != nil && len(d.queue) >= 120
		})
		// The lease runs out, and nobody says so.
		a.lots.set(false, true, allShards()...)
		close(free)
		eventually(t, "the shards are given up", func() bool { return len(a.holds()) == 0 })
		if n := a.transactions(one); n != 1 {
			t.Errorf("%d transactions", n)
		}
		w.node(net, limits, w.bus, allShards()...).start(w, true)
		net.waitGot(t, one, append(first, more...)...)
		// What was on its way when the shards were given up may come again: nobody could note that it arrived.
		once(t, net.got(one), more)
	})
}

func TestTakenShardsAtDifferentPlaces(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar, tina, theo)
		net := newNetwork()
		limits := quiet()
		limits.Page, limits.Queue = 5, 1000
		a := w.node(net, limits, w.bus, shardOf(two)).start(w, true)
		want := room.talk(43)
		net.waitGot(t, two, want...)
		if len(net.got(one))+len(net.got(three)) > 0 {
			t.Fatal("sent to destinations of nobody")
		}
		// One lies behind; of three all but the end was sent already.
		mark, err := w.r.EventByID(w.ctx(), want[30])
		w.ok(err)
		_, err = w.db.Exec(w.ctx(), `INSERT INTO fed_cursor (shard, owner, pos) VALUES ($1, 7, $2)`, shardOf(three), mark.StreamPos)
		w.ok(err)
		a.lots.set(true, false, shardOf(one), shardOf(three))
		net.waitGot(t, one, want...)
		net.waitGot(t, three, want[31:]...)
		want = append(want, room.talk(20)...)
		for _, server := range servers {
			net.waitGot(t, server, want[31:]...)
		}
		once(t, net.got(one), want)
		once(t, net.got(two), want)
		once(t, net.got(three), want[31:])
		if slices.Contains(net.got(three), want[30]) {
			t.Error("what lies before the cursor was sent again")
		}
	})
}

// TestTakenShardGetsWhatCameBeforeAKick: the process has read the kick already when
// it reads the stream for the shard that it took.
func TestTakenShardGetsWhatCameBeforeAKick(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar, tina, theo)
		net := newNetwork()
		limits := quiet()
		limits.Page = 3
		a := w.node(net, limits, w.bus, shardOf(two)).start(w, true)
		want := room.talk(10)
		net.waitGot(t, two, want...)
		want = append(want, room.member(alice, theo, "leave").ID)
		after := room.talk(10)
		net.waitGot(t, two, append(want, after...)...)
		a.lots.set(true, false, shardOf(three))
		net.waitGot(t, three, want...)
		eventually(t, "all is read", func() bool { return a.waiting() == 0 })
		once(t, net.got(three), append(want, after...)[:len(want)])
		if slices.Contains(net.got(three), after[0]) {
			t.Error("it got what came after the kick")
		}
	})
}

func TestShardAheadOfTheStreamThatIsFollowed(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar, tina)
		net := newNetwork()
		limits := quiet()
		limits.Page = 5
		want := room.talk(30)
		mark, err := w.r.EventByID(w.ctx(), want[17])
		w.ok(err)
		a := w.node(net, limits, w.bus, shardOf(one), shardOf(two))
		_, err = w.db.Exec(w.ctx(), `INSERT INTO fed_cursor (shard, owner, pos) VALUES ($1, 7, $2)`, shardOf(one), mark.StreamPos)
		w.ok(err)
		a.start(w, true)
		net.waitGot(t, two, want...)
		net.waitGot(t, one, want[18:]...)
		if slices.Contains(net.got(one), want[17]) {
			t.Error("what lies before the cursor was sent again")
		}
	})
}

func TestEDUsMadeElsewhere(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		net := newNetwork()
		a := w.node(net, quiet(), w.bus, allShards()...).start(w, true)
		a.share(t, one)
		told := &counting{Bus: w.bus, n: map[string]int{}}
		b := w.node(net, quiet(), told).start(w, true)
		for n := range 5 {
			w.edu(b.Server, "m.direct_to_device", n, true, "", one, two)
			w.edu(b.Server, "m.receipt", 10+n, false, "", one)
		}
		net.wait(t, "they arrived", func() bool { return len(net.edus(one)) == 10 && len(net.edus(two)) == 5 })
		if b.transactions(one)+b.transactions(two) > 0 || b.waiting() > 0 {
			t.Error("the wrong node sent, or remembers")
		}
		eventually(t, "no row is left", func() bool { return w.count(`SELECT COUNT(*) FROM fed_edus`) == 0 })
		// Messages are bounded.
		sent := told.count(TopicEphemeral)
		b.out.publish(TopicEphemeral, notice{Servers: []id.Server{one}, EDU: []byte(`"` + strings.Repeat("x", maxForwarded) + `"`)})
		if n := told.count(TopicEphemeral); n != sent {
			t.Error("a large EDU went over the bus")
		}
		b.out.publish(TopicEDUs, notice{Servers: make([]id.Server, 2*maxMessageServers+1)})
		if n := told.count(TopicEDUs); n != 5+3 {
			t.Errorf("%d messages about durable EDUs", n)
		}
	})
}

func TestDurableEDUArrivesWithoutTheBus(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		net := newNetwork()
		a := w.node(net, quickLimits(), deaf{w.bus}, allShards()...).start(w, true)
		a.share(t, one)
		b := w.node(net, quickLimits(), deaf{w.bus}).start(w, true)
		w.edu(b.Server, "m.direct_to_device", 1, true, "", one, two)
		net.wait(t, "it arrived", func() bool { return len(net.edus(one)) > 0 && len(net.edus(two)) > 0 })
	})
}

// TestEDUDeliveredByTwo: the second who removes it does not remove one that came since.
func TestEDUDeliveredByTwo(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		st := w.server(newNetwork(), quiet()).out.store
		put := func(body string) []storedEDU {
			w.ok(st.putEDU(w.ctx(), []byte(body), []id.Server{one}, nil))
			list, err := st.listEDUs(w.ctx(), one, 10)
			w.ok(err)
			if len(list) != 1 || string(list[0].edu) != body {
				t.Fatalf("there is %v", list)
			}
			return list
		}
		first := put(`{"n":1}`)
		w.ok(st.deleteEDUs(w.ctx(), first))
		put(`{"n":2}`)
		w.ok(st.deleteEDUs(w.ctx(), first))
		if left := w.count(`SELECT COUNT(*) FROM fed_edus`); left != 1 {
			t.Error("the second is gone")
		}
	})
}

func TestDurableEDUsMadeElsewhereAreBounded(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		limits := patientLimits()
		limits.DurableEDUs, limits.TrimEvery = 10, 4
		b := w.node(newNetwork(), limits, w.bus)
		for n := range 60 {
			w.edu(b.Server, "m.direct_to_device", n, true, "", one)
		}
		if n := w.count(`SELECT COUNT(*) FROM fed_edus`); n < 10 || n > 14 {
			t.Errorf("%d EDUs are kept", n)
		}
	})
}

func TestHeardElsewhere(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar, tina)
		net := newNetwork()
		net.fails(one)
		limits := quiet()
		limits.MaxBackoff = time.Hour
		a := w.node(net, limits, w.bus, allShards()...).start(w, true)
		want := room.talk(3)
		net.waitGot(t, two, want...)
		eventually(t, "it is known to fail", func() bool { return w.count(`SELECT COUNT(*) FROM fed_destinations`) == 1 })
		eventually(t, "its pause is long", func() bool {
			a.out.mu.Lock()
			defer a.out.mu.Unlock()
			d := a.out.dests[one]
			if d == nil || d.running {
				return false
			}
			d.stopTimer()
			d.retryAt = time.Now().Add(time.Hour)
			return true
		})
		net.fails()
		told := &counting{Bus: w.bus, n: map[string]int{}}
		b := w.node(net, limits, told).start(w, true)
		hear := func(server id.Server) {
			for range 100 {
				w.ok(b.DestinationAlive(w.ctx(), server))
			}
		}
		hear(two)
		w.ok(b.out.look(w.ctx()))
		hear(two)
		if n := told.count(TopicAlive); n != 0 {
			t.Errorf("%d messages about a server that is well", n)
		}
		hear(one)
		if n := told.count(TopicAlive); n != 1 {
			t.Errorf("%d messages about a server that fails", n)
		}
		net.waitGot(t, one, want...)
		// Heard from before it was known to fail.
		eventually(t, "it is well", func() bool { return w.count(`SELECT COUNT(*) FROM fed_destinations`) == 0 })
		w.ok(b.out.look(w.ctx()))
		w.ok(b.out.look(w.ctx()))
		hear(one)
		w.behind(a.Server, behindRow{one, 0, 1, 0, 1})
		w.ok(b.out.look(w.ctx()))
		if n := told.count(TopicAlive); n != 2 {
			t.Errorf("%d messages, want one more", n)
		}
	})
}
