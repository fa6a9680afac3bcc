package stateres_test

import (
	"fmt"
	"testing"

	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/stateres"
	"weft/matrix/stateres/graphtest"
)

// big is a room of many members and a long history of power levels, with two forks
// of conflicting events.
type big struct {
	*room
	order    map[id.Event]int64
	base     graphtest.State
	one, two graphtest.State
}

func newBig(t testing.TB, v event.RoomVersion, members, history, forks int) *big {
	w := &big{room: newRoom(t, v), order: make(map[id.Event]int64)}
	base := w.begin()
	at := int64(10)
	levels := "levels"
	put := func(s graphtest.State, name, typ, key, sender string, c content, auth ...string) {
		i := w.add(name, typ, key, sender, c, at, auth...)
		at++
		s[stateres.Key{Type: typ, StateKey: key}] = i
	}
	for i := range members {
		if i%max(1, members/history) == 0 {
			next := fmt.Sprintf("levels%d", i)
			put(base, next, "m.room.power_levels", "", ann, w.levels(content{bob: 50 + i%2}), "ann", levels)
			levels = next
		}
		u := fmt.Sprintf("@user%d:x", i)
		put(base, u[1:], "m.room.member", u, u, content{"membership": "join"}, "rules", levels)
	}
	w.base, w.one, w.two = base, w.state(base), w.state(base)
	for i := range forks {
		u := fmt.Sprintf("@user%d:x", i)
		for side, s := range []graphtest.State{w.one, w.two} {
			name := fmt.Sprintf("fork%d-%d", side, i)
			switch i % 4 {
			case 0:
				put(s, name, "m.room.topic", "", bob, content{"topic": name}, "bob", levels)
			case 1:
				put(s, name, "m.room.member", u, u, content{"membership": "join", "displayname": name}, "rules", levels, u[1:])
			case 2:
				membership := []string{"ban", "leave"}[side]
				put(s, name, "m.room.member", u, bob, content{"membership": membership}, "bob", levels, u[1:])
			default:
				put(s, name, "my.state", name[6:], bob, content{"n": name}, "bob", levels)
			}
		}
	}
	put(w.one, "levelsA", "m.room.power_levels", "", ann, w.levels(content{bob: 40}), "ann", levels)
	put(w.two, "levelsB", "m.room.power_levels", "", ann, w.levels(content{bob: 60}), "ann", levels)
	for i, e := range w.events {
		w.order[i] = e.Depth
	}
	return w
}

// input is the call of a server that knows what differs.
func (w *big) input(counted *counting) stateres.Input {
	conflicted := make(map[stateres.Key][]id.Event)
	for side, s := range []graphtest.State{w.one, w.two} {
		for k, e := range s {
			if w.one[k] == w.two[k] {
				continue
			}
			if conflicted[k] == nil {
				conflicted[k] = make([]id.Event, 2)
			}
			conflicted[k][side] = e
		}
	}
	return stateres.Input{Rules: w.r, Sides: 2, Conflicted: conflicted, Events: counted,
		Unconflicted: func(k stateres.Key) (id.Event, error) { counted.lookups++; return w.one[k], nil }}
}

// counting counts what a resolution asks for.
type counting struct {
	stateres.MapEvents
	loads, lookups int
}

func (c *counting) Event(i id.Event) (*event.Event, error) {
	c.loads++
	return c.MapEvents.Event(i)
}

// TestCost: what is loaded depends on what differs, not on the room's size; with an
// order not even on its history.
func TestCost(t *testing.T) {
	for _, v := range []event.RoomVersion{"1", "2", "11", "12"} {
		small, large := newBig(t, v, 400, 4, 40), newBig(t, v, 4000, 400, 40)
		var loads [2][2]int
		for i, w := range []*big{small, large} {
			for j, ordered := range []bool{true, false} {
				c := &counting{MapEvents: w.events}
				in := w.input(c)
				if ordered {
					in.Order = func(i id.Event) int64 { return w.order[i] }
				}
				if _, err := stateres.ResolveConflicted(in); err != nil {
					t.Fatal(err)
				}
				loads[i][j] = c.loads + c.lookups
			}
		}
		t.Logf("version %s: events and keys asked for: %d of 400 members, %d of 4000; without an order %d, %d",
			v, loads[0][0], loads[1][0], loads[0][1], loads[1][1])
		if loads[1][0] > loads[0][0]+8 {
			t.Errorf("version %s: %d loads in a big room, %d in a small one", v, loads[1][0], loads[0][0])
		}
		// Without an order the history of power levels (400 events) is walked.
		if loads[1][1] > loads[0][1]+3*400 {
			t.Errorf("version %s: %d loads in a big room, %d in a small one, without an order", v, loads[1][1], loads[0][1])
		}
	}
}

// BenchmarkResolve resolves two forks of 100 conflicting events in a room of 10,000
// members, as a server does that knows what differs.
func BenchmarkResolve(b *testing.B) {
	for _, v := range []event.RoomVersion{"1", "11", "12"} {
		w := newBig(b, v, 10_000, 50, 100)
		for _, ordered := range []bool{true, false} {
			b.Run(fmt.Sprintf("v%s/ordered=%v", v, ordered), func(b *testing.B) {
				in := w.input(&counting{MapEvents: w.events})
				if ordered {
					in.Order = func(i id.Event) int64 { return w.order[i] }
				}
				b.ReportAllocs()
				for b.Loop() {
					if _, err := stateres.ResolveConflicted(in); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
