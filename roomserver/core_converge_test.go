package roomserver

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"weft/internal/eventstore"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/stateres"
)

// A generated room: several servers write it while the network is cut, so that it forks
// and conflicts. Whoever gets all events, in whatever order and batches, must see the
// same state before each of them, and the same current state once an event has
// merged all branches. (Before that the current states may differ: which events are
// soft failed depends on the order in which they come.) Design, section 1: same
// events, same state.
func TestSameEventsSameState(t *testing.T) {
	versions := []event.RoomVersion{"1", "2", "6", "11", "12"}
	runs := 3
	if testing.Short() {
		runs = 1
	}
	open := func(t *testing.T) func() *sqldb.DB {
		return func() *sqldb.DB { return sqldbtest.Open(t, sqldbtest.SQLiteURL(t)) }
	}
	for _, v := range versions {
		for seed := range runs {
			t.Run(fmt.Sprintf("v%s/%d", v, seed), func(t *testing.T) {
				converge(t, open(t), v, rand.New(rand.NewPCG(uint64(seed), uint64(len(v)))))
			})
		}
	}
}

func converge(t *testing.T, open func() *sqldb.DB, version event.RoomVersion, rng *rand.Rand) {
	w := newWorld(t, open)
	a, b, c := w.node("a"), w.node("b"), w.node("c")
	room := a.create(version, alice)
	const carol id.User = "@carol:c"
	levels := fmt.Sprintf(`{"users":{%q:100,%q:100,%q:50},"state_default":50,"events_default":0}`, alice, bob, carol)
	if version == "12" {
		levels = fmt.Sprintf(`{"users":{%q:100,%q:50},"state_default":50,"events_default":0}`, bob, carol)
	}
	a.send(room, state(alice, "m.room.power_levels", "", levels))
	b.joinFrom(a, room, bob)
	c.joinFrom(a, room, carol)
	for _, e := range c.walkBack(c.tips(room), nil, 1, true) {
		b.mustPush("c", e.Event)
	}
	// Two listen only: one takes each event by itself, the other takes all that come at once.
	single, batched := w.node("single"), w.node("batched")
	for _, n := range []*node{single, batched} {
		n.joinFrom(a, room, id.User("@ear:"+n.name))
	}
	for _, n := range []*node{a, b, c, single, batched} {
		for _, e := range a.walkBack(a.tips(room), nil, 100, true) {
			n.mustPush("a", e.Event)
		}
	}
	base := a.tips(room)
	writers := []struct {
		n    *node
		user id.User
	}{{a, alice}, {b, bob}, {c, carol}}
	var all []*eventstore.Event
	for round := range 3 {
		// The network is cut: each writes for itself.
		fresh := len(all)
		for _, wr := range writers {
			for i := range 2 + rng.IntN(3) {
				events, err := wr.n.trySend(room, conflicting(rng, wr.user, round, i))
				if err == nil {
					all = append(all, events...)
				}
			}
		}
		sameAtOnce(t, room, all[fresh:], single, batched)
		// It heals: all hear of each other, in different orders.
		for _, wr := range writers {
			deliver(t, rng, wr.n, all)
		}
		for _, wr := range writers[1:] {
			for _, e := range all {
				sameStateBefore(t, e.Event, a, wr.n)
			}
		}
		merged := a.forge(room, message(alice, "all together"), on(leaves(all)...))
		for _, wr := range writers {
			wr.n.mustPush("a", merged)
			if got := wr.n.tips(room); !slices.Equal(got, []id.Event{merged.ID}) {
				t.Errorf("%s: the extremities are %v", wr.n.name, got)
			}
			sameRoom(t, room, a, wr.n)
		}
		all = append(all, a.stored(merged.ID))
		for _, n := range []*node{single, batched} {
			n.mustPush("a", merged)
			sameRoom(t, room, a, n)
		}
	}
	for _, e := range all {
		if len(e.PrevEvents) > 1 {
			sameAsNaive(t, a, a.stored(e.ID))
		}
	}
	for _, n := range []*node{a, b, c, single, batched} {
		n.check()
	}
	if len(a.tips(room)) == 0 || slices.Equal(a.tips(room), base) {
		t.Fatal("nothing happened")
	}
}

// sameAtOnce gives events to a server one by one, and to another all at once in the same order: the
// verdicts are the same, those by the current state among them, and so is what becomes of the room.
func sameAtOnce(t *testing.T, room id.Room, list []*eventstore.Event, single, batched *node) {
	t.Helper()
	events := make([]*event.Event, len(list))
	for i, e := range list {
		events[i] = e.Event
		single.push("x", e.Event)
	}
	batched.push("x", events...)
	for _, e := range events {
		one, all := single.stored(e.ID), batched.stored(e.ID)
		if one == nil || all == nil || one.Flags != all.Flags {
			t.Errorf("%s is %+v by itself and %+v among others", e.ID, one, all)
		}
	}
	sameRoom(t, room, single, batched)
}

// conflicting is an event that is likely to conflict with what others do.
func conflicting(rng *rand.Rand, user id.User, round, i int) eventSpec {
	others := []id.User{bob, "@carol:c", "@dora:d"}
	other := others[rng.IntN(len(others))]
	text := fmt.Sprintf("%s-%d-%d", user, round, i)
	switch rng.IntN(8) {
	case 0, 1:
		return state(user, "m.room.topic", "", fmt.Sprintf(`{"topic":%q}`, text))
	case 2:
		return state(user, "org.test", fmt.Sprint(rng.IntN(3)), fmt.Sprintf(`{"v":%q}`, text))
	case 3:
		return state(user, "m.room.join_rules", "", fmt.Sprintf(`{"join_rule":%q}`, []string{"public", "invite"}[rng.IntN(2)]))
	case 4:
		return state(user, "m.room.member", string(other), `{"membership":"leave"}`)
	case 5:
		return state(user, "m.room.member", string(user), fmt.Sprintf(`{"membership":"join","displayname":%q}`, text))
	case 6:
		return state(user, "m.room.member", "@dora:d", fmt.Sprintf(`{"membership":%q}`, []string{"invite", "ban"}[rng.IntN(2)]))
	}
	return message(user, text)
}

// deliver pushes events in a random order, again and again, until no more are taken:
// what comes before its parents is refused the first time.
func deliver(t *testing.T, rng *rand.Rand, n *node, all []*eventstore.Event) {
	t.Helper()
	for _, p := range n.w.peers {
		p.missing = nil // no help from others
	}
	waiting := slices.Clone(all)
	for len(waiting) > 0 {
		rng.Shuffle(len(waiting), func(i, j int) { waiting[i], waiting[j] = waiting[j], waiting[i] })
		var events []*event.Event
		for _, e := range waiting[:1+rng.IntN(len(waiting))] {
			events = append(events, e.Event)
		}
		errs := n.push("x", events...)
		for _, err := range errs {
			if isInternal(err) {
				t.Fatal(err)
			}
		}
		left := slices.DeleteFunc(slices.Clone(waiting), func(e *eventstore.Event) bool {
			s := n.stored(e.ID)
			return s != nil && s.Flags&eventstore.Outlier == 0
		})
		if len(left) == len(waiting) && len(events) == len(waiting) {
			t.Fatalf("%d events are never taken: %v", len(left), errs)
		}
		waiting = left
	}
}

// leaves gives the events that no other refers to.
func leaves(all []*eventstore.Event) []*event.Event {
	var out []*event.Event
	for _, e := range all {
		if !slices.ContainsFunc(all, func(o *eventstore.Event) bool { return slices.Contains(o.PrevEvents, e.ID) }) {
			out = append(out, e.Event)
		}
	}
	return out
}

// sameStateBefore fails unless two servers agree on an event.
func sameStateBefore(t *testing.T, ev *event.Event, a, b *node) {
	t.Helper()
	inA, inB := a.stored(ev.ID), b.stored(ev.ID)
	if (inA.Flags^inB.Flags)&eventstore.Rejected != 0 {
		t.Errorf("%s has flags %d at %s and %d at %s", ev.ID, inA.Flags, a.name, inB.Flags, b.name)
	}
	ids := func(n *node, e *eventstore.Event) []id.Event {
		var out []id.Event
		for _, s := range n.stateAt(e.StateBefore) {
			out = append(out, s.ID)
		}
		slices.Sort(out)
		return out
	}
	if got, want := ids(b, inB), ids(a, inA); !slices.Equal(got, want) {
		t.Errorf("the state before %s is %v at %s and %v at %s", ev.ID, want, a.name, got, b.name)
	}
}

// sameAsNaive resolves the whole states after an event's parents as maps, with all auth
// chains, and compares.
func sameAsNaive(t *testing.T, n *node, e *eventstore.Event) {
	t.Helper()
	events := make(stateres.MapEvents)
	rejected := make(map[id.Event]bool)
	var load func(i id.Event)
	load = func(i id.Event) {
		if events[i] != nil {
			return
		}
		ev := n.stored(i)
		events[i], rejected[i] = ev.Event, rejectedFlag(ev)
		for _, a := range ev.AuthEvents {
			load(a)
		}
	}
	var sets []map[stateres.Key]id.Event
	for _, p := range e.PrevEvents {
		parent := n.stored(p)
		set := make(map[stateres.Key]id.Event)
		list := n.stateAt(parent.StateBefore)
		if parent.IsState && !rejectedFlag(parent) {
			list = append(list, parent)
		}
		for _, s := range list {
			load(s.ID)
			set[stateres.Key{Type: s.Type, StateKey: s.StateKey}] = s.ID
		}
		sets = append(sets, set)
	}
	want, err := stateres.Resolve(e.Rules, sets, events, func(i id.Event) bool { return rejected[i] })
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[stateres.Key]id.Event)
	for _, s := range n.stateAt(e.StateBefore) {
		got[stateres.Key{Type: s.Type, StateKey: s.StateKey}] = s.ID
	}
	if !maps.Equal(got, want) {
		t.Errorf("the state before %s is %v, resolved as a whole it is %v", e.ID, got, want)
	}
}
