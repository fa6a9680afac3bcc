package differential

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	gmsl "github.com/matrix-org/gomatrixserverlib"

	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/stateres"
	"weft/matrix/stateres/graphtest"
)

// big is a room with many members and two branches with conflicting events.
type big struct {
	rules    *event.Rules
	events   stateres.MapEvents
	pdus     map[id.Event]gmsl.PDU
	all      []gmsl.PDU
	base     graphtest.State
	branches [2]graphtest.State
	at       int64
}

type content = map[string]any

func (b *big) add(t testing.TB, s graphtest.State, name, typ, key, sender string, c content, auth ...string) {
	t.Helper()
	b.at++
	ids := []string{}
	for _, a := range auth {
		ids = append(ids, "$"+a)
	}
	raw, err := canonical.Marshal(content{
		"type": typ, "state_key": key, "sender": sender, "content": c, "room_id": "!room:x", "depth": b.at,
		"origin_server_ts": b.at, "prev_events": []string{}, "auth_events": ids, "hashes": content{}, "signatures": content{},
	})
	if err != nil {
		t.Fatal(err)
	}
	i := id.Event("$" + name)
	e, err := event.ParseStored(raw, i, b.rules)
	if err != nil {
		t.Fatal(err)
	}
	pdu, err := gmsl.MustGetRoomVersion(gmsl.RoomVersion(b.rules.Version)).NewEventFromTrustedJSONWithEventID(string(i), raw, false)
	if err != nil {
		t.Fatal(err)
	}
	b.events[i], b.pdus[i] = e, pdu
	b.all = append(b.all, pdu)
	s[stateres.Key{Type: typ, StateKey: key}] = i
}

func newBig(t testing.TB, members, conflicts int) *big {
	rules, err := event.Version("10")
	if err != nil {
		t.Fatal(err)
	}
	b := &big{rules: rules, events: stateres.MapEvents{}, pdus: make(map[id.Event]gmsl.PDU), base: graphtest.State{}}
	const ann, bob = "@ann:x", "@bob:x"
	levels := content{"users": content{ann: 100, bob: 50}, "ban": 50, "kick": 50, "state_default": 50}
	b.add(t, b.base, "create", "m.room.create", "", ann, content{"creator": ann, "room_version": "10"})
	b.add(t, b.base, "ann", "m.room.member", ann, ann, content{"membership": "join"}, "create")
	b.add(t, b.base, "levels", "m.room.power_levels", "", ann, levels, "create", "ann")
	b.add(t, b.base, "rules", "m.room.join_rules", "", ann, content{"join_rule": "public"}, "create", "ann", "levels")
	b.add(t, b.base, "bob", "m.room.member", bob, bob, content{"membership": "join"}, "create", "rules", "levels")
	for i := range members {
		u := fmt.Sprintf("@user%d:x", i)
		b.add(t, b.base, u, "m.room.member", u, u, content{"membership": "join"}, "create", "rules", "levels")
	}
	for side := range b.branches {
		s := graphtest.State{}
		for k, e := range b.base {
			s[k] = e
		}
		b.branches[side] = s
		for i := range conflicts {
			u, name := fmt.Sprintf("@user%d:x", i), fmt.Sprintf("conflict%d-%d", side, i)
			switch i % 3 {
			case 0:
				b.add(t, s, name, "m.room.member", u, u, content{"membership": "join", "displayname": name}, "create", "rules", "levels", u)
			case 1:
				b.add(t, s, name, "m.room.member", u, bob, content{"membership": []string{"ban", "leave"}[side]}, "create", "bob", "levels", u)
			default:
				b.add(t, s, name, "my.state", fmt.Sprint(i), bob, content{"n": name}, "create", "bob", "levels")
			}
		}
	}
	return b
}

// input is how a server calls Weft: it knows what differs.
func (b *big) input() stateres.Input {
	conflicted := make(map[stateres.Key][]id.Event)
	for k, e := range b.branches[0] {
		if other := b.branches[1][k]; other != e {
			conflicted[k] = []id.Event{e, other}
		}
	}
	return stateres.Input{Rules: b.rules, Sides: 2, Conflicted: conflicted, Events: b.events,
		Order:        func(i id.Event) int64 { return b.events[i].Depth },
		Unconflicted: func(k stateres.Key) (id.Event, error) { return b.branches[0][k], nil }}
}

func (b *big) theirs(t testing.TB) []gmsl.PDU {
	lists := make([][]gmsl.PDU, 2)
	for i, s := range b.branches {
		for _, e := range s {
			lists[i] = append(lists[i], b.pdus[e])
		}
	}
	list, err := gmsl.ResolveConflictsNew("10", lists, b.all, userOf, func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// cpu is the processor time that the process has used.
func cpu(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestCost: two branches of 100 conflicting events in a room of 10,000 members, by
// both implementations: the same result, and at least ten times less CPU time. Weft
// is measured as a server calls it, and with whole states as the other wants them.
func TestCost(t *testing.T) {
	b := newBig(t, 10_000, 100)
	start := cpu(t)
	theirs := stateOf(b.theirs(t))
	other := cpu(t) - start

	const runs = 20
	start = cpu(t)
	var whole graphtest.State
	for range runs {
		var err error
		if whole, err = stateres.Resolve(b.rules, b.branches[:], b.events, nil); err != nil {
			t.Fatal(err)
		}
	}
	ours := (cpu(t) - start) / runs
	in := b.input()
	start = cpu(t)
	for range runs {
		if _, err := stateres.ResolveConflicted(in); err != nil {
			t.Fatal(err)
		}
	}
	difference := (cpu(t) - start) / runs
	for k, e := range whole {
		if theirs[k] != e {
			t.Fatalf("%v is %s, theirs %s", k, e, theirs[k])
		}
	}
	t.Logf("resolving a room of 10,000 members with two forks of 100 conflicting events: gomatrixserverlib %v CPU, Weft %v (whole states), %v (as a server calls it): %.0f and %.0f times less",
		other, ours, difference, float64(other)/float64(ours), float64(other)/float64(difference))
	if other < 10*ours || other < 10*difference {
		t.Error("less than ten times")
	}
}

func BenchmarkResolve(b *testing.B) {
	room := newBig(b, 10_000, 100)
	in := room.input()
	b.Run("weft", func(b *testing.B) {
		for b.Loop() {
			if _, err := stateres.ResolveConflicted(in); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("weft-whole-states", func(b *testing.B) {
		for b.Loop() {
			if _, err := stateres.Resolve(room.rules, room.branches[:], room.events, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("gomatrixserverlib", func(b *testing.B) {
		for b.Loop() {
			room.theirs(b)
		}
	})
}
