package stateres_test

import (
	"maps"
	"math"
	"sort"

	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/stateres"
	"weft/matrix/stateres/graphtest"
)

type set map[id.Event]bool

// naive resolves by the text of versions 2 to 12, step by step over whole auth
// chains, with nothing but the definitions in mind.
type naive struct {
	r        *event.Rules
	events   stateres.MapEvents
	rejected func(id.Event) bool
}

func (n naive) resolve(sets []graphtest.State) graphtest.State {
	unconflicted := graphtest.State{}
	conflicted := set{}
	for _, s := range sets {
		for k, e := range s {
			same := true
			for _, other := range sets {
				same = same && other[k] == e
			}
			if same {
				unconflicted[k] = e
			} else {
				conflicted[e] = true
			}
		}
	}
	full := maps.Clone(conflicted)
	chains := make([]set, len(sets))
	union := set{}
	for i, s := range sets {
		chains[i] = set{}
		for _, e := range s {
			chains[i][e] = true // see the package's comment
			maps.Copy(chains[i], n.chain(e))
		}
		maps.Copy(union, chains[i])
	}
	for e := range union {
		for _, c := range chains {
			if !c[e] {
				full[e] = true
			}
		}
	}
	if n.r.StateRes == event.StateResV21 {
		for c := range conflicted {
			for x := range n.chain(c) {
				for d := range conflicted {
					if n.chain(x)[d] {
						full[x] = true
					}
				}
			}
		}
	}
	power := set{}
	for e := range full {
		if n.isPower(e) {
			n.within(e, full, power)
		}
	}
	state := graphtest.State{}
	if n.r.StateRes == event.StateResV2 {
		state = maps.Clone(unconflicted)
	}
	n.apply(state, n.powerOrder(power))
	var others []id.Event
	for e := range full {
		if !power[e] {
			others = append(others, e)
		}
	}
	position := n.mainline(state[stateres.Key{Type: eventauth.TypePowerLevels}])
	sort.Slice(others, func(i, j int) bool {
		a, b := others[i], others[j]
		if x, y := position(a), position(b); x != y {
			return x > y
		}
		return n.earlier(a, b)
	})
	n.apply(state, others)
	maps.Copy(state, unconflicted)
	return state
}

func (n naive) chain(e id.Event) set {
	out := set{}
	n.follow(e, out)
	return out
}

func (n naive) follow(e id.Event, out set) {
	for _, a := range n.events[e].AuthEvents {
		if !out[a] {
			out[a] = true
			n.follow(a, out)
		}
	}
}

func (n naive) within(e id.Event, full, out set) {
	out[e] = true
	for _, a := range n.events[e].AuthEvents {
		if full[a] && !out[a] {
			n.within(a, full, out)
		}
	}
}

func (n naive) isPower(i id.Event) bool {
	e := n.events[i]
	switch e.Type {
	case "m.room.power_levels", "m.room.join_rules":
		return true
	case "m.room.member":
		return (e.Membership() == "leave" || e.Membership() == "ban") && e.StateKey != string(e.Sender)
	}
	return false
}

func (n naive) authEvent(e id.Event, typ string) id.Event {
	for _, a := range n.events[e].AuthEvents {
		if n.events[a].Type == typ {
			return a
		}
	}
	return ""
}

func (n naive) level(e id.Event) int64 {
	create := n.events[n.authEvent(e, "m.room.create")]
	if n.r.RoomIDIsCreateHash {
		create = n.events[eventauth.CreateEventID(n.events[e].RoomID)]
	}
	return eventauth.PowerLevelsOf(create, n.events[n.authEvent(e, "m.room.power_levels")]).User(n.events[e].Sender)
}

func (n naive) earlier(a, b id.Event) bool {
	if x, y := n.events[a].OriginServerTS, n.events[b].OriginServerTS; x != y {
		return x < y
	}
	return a < b
}

func (n naive) powerOrder(power set) []id.Event {
	var out []id.Event
	left := maps.Clone(power)
	for len(left) > 0 {
		var best id.Event
		for e := range left {
			ready := true
			for _, a := range n.events[e].AuthEvents {
				ready = ready && !left[a]
			}
			if !ready {
				continue
			}
			if best == "" || n.level(e) > n.level(best) || n.level(e) == n.level(best) && n.earlier(e, best) {
				best = e
			}
		}
		out = append(out, best)
		delete(left, best)
	}
	return out
}

func (n naive) mainline(p id.Event) func(id.Event) int {
	at := map[id.Event]int{}
	for ; p != ""; p = n.authEvent(p, "m.room.power_levels") {
		at[p] = len(at)
	}
	return func(e id.Event) int {
		for {
			if e = n.authEvent(e, "m.room.power_levels"); e == "" {
				return math.MaxInt
			}
			if i, ok := at[e]; ok {
				return i
			}
		}
	}
}

func (n naive) apply(state graphtest.State, list []id.Event) {
	for _, i := range list {
		e := n.events[i]
		auth := eventauth.MapState{}
		if n.r.RoomIDIsCreateHash {
			auth.Put(n.events[eventauth.CreateEventID(e.RoomID)])
		}
		for _, k := range eventauth.NeededKeys(e) {
			for _, a := range e.AuthEvents {
				if x := n.events[a]; x.Type == k.Type && x.StateKey == k.StateKey && !n.rejected(a) {
					auth.Put(x)
				}
			}
			if s, ok := state[k]; ok {
				auth.Put(n.events[s])
			}
		}
		if eventauth.Check(e, auth) == nil {
			state[stateres.Key{Type: e.Type, StateKey: e.StateKey}] = i
		}
	}
}
