package differential

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"maps"
	"math"
	"slices"
	"strings"

	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/stateres/graphtest"
)

type set map[id.Event]bool

// model resolves state naively over whole auth chains: by the text or, when theirs
// is set, with the departures that the package's comment lists. Verdicts about
// events come from check.
type model struct {
	*room
	theirs bool
	check  func(e *event.Event, state graphtest.State) bool
}

func (r *room) ourCheck(e *event.Event, state graphtest.State) bool {
	return eventauth.Check(e, r.View(state)) == nil
}

func (r *room) theirCheck(e *event.Event, state graphtest.State) bool {
	ok, err := r.allowed(e, state)
	return ok && err == nil
}

func (m model) resolve(sets []graphtest.State) graphtest.State {
	if m.Rules.StateRes == event.StateResV1 {
		return m.resolveV1(sets)
	}
	unconflicted, conflicted := partition(sets)
	difference := m.difference(sets)
	full := maps.Clone(conflicted)
	for e := range difference {
		if u := m.ByID[e]; unconflicted[keyOf(u)] != e {
			full[e] = true
		}
	}
	state := maps.Clone(unconflicted)
	if m.Rules.StateRes == event.StateResV21 {
		state = graphtest.State{}
		m.addSubgraph(conflicted, full)
	}
	power, times := m.powerEvents(conflicted, difference, full)
	order := m.powerOrder(power)
	if m.theirs {
		order = m.theirPowerOrder(power, times)
	}
	m.apply(state, order)
	var others []id.Event
	for e := range full {
		if !power[e] {
			others = append(others, e)
		}
	}
	m.mainlineOrder(others, state[eventauth.Key{Type: eventauth.TypePowerLevels}])
	m.apply(state, others)
	maps.Copy(state, unconflicted)
	return state
}

// partition parts states into what all agree in and the events of the rest.
func partition(sets []graphtest.State) (unconflicted graphtest.State, conflicted set) {
	unconflicted, conflicted = graphtest.State{}, set{}
	for _, s := range sets {
		for k, e := range s {
			agree := true
			for _, other := range sets {
				agree = agree && other[k] == e
			}
			if agree {
				unconflicted[k] = e
			} else {
				conflicted[e] = true
			}
		}
	}
	return unconflicted, conflicted
}

func keyOf(e *event.Event) eventauth.Key { return eventauth.Key{Type: e.Type, StateKey: e.StateKey} }

func (m model) chain(e id.Event, out set) {
	for _, a := range m.ByID[e].AuthEvents {
		if !out[a] {
			out[a] = true
			m.chain(a, out)
		}
	}
}

// difference is the auth difference.
func (m model) difference(sets []graphtest.State) set {
	chains := make([]set, len(sets))
	union := set{}
	for i, s := range sets {
		chains[i] = set{}
		for _, e := range s {
			m.chain(e, chains[i])
		}
		maps.Copy(union, chains[i])
	}
	out := set{}
	for e := range union {
		for _, c := range chains {
			out[e] = out[e] || !c[e]
		}
		if !out[e] {
			delete(out, e)
		}
	}
	return out
}

func (m model) addSubgraph(conflicted, full set) {
	reaches := make(map[id.Event]bool)
	for e := range m.ByID {
		chain := set{}
		m.chain(e, chain)
		for c := range chain {
			reaches[e] = reaches[e] || conflicted[c]
		}
	}
	for c := range conflicted {
		chain := set{}
		m.chain(c, chain)
		for e := range chain {
			if reaches[e] {
				full[e] = true
			}
		}
	}
}

func isPower(e *event.Event) bool {
	switch e.Type {
	case eventauth.TypePowerLevels, eventauth.TypeJoinRules:
		return true
	case eventauth.TypeMember:
		return (e.Membership() == "leave" || e.Membership() == "ban") && e.StateKey != string(e.Sender)
	}
	return false
}

// powerEvents selects what is ordered by power. Theirs draws in conflicted events
// only; times says how often each stands in the list.
func (m model) powerEvents(conflicted, difference, full set) (power set, times map[id.Event]int) {
	power, times = set{}, make(map[id.Event]int)
	within, drawn := full, set{}
	if m.theirs {
		within = conflicted
	}
	var draw func(e id.Event)
	draw = func(e id.Event) {
		for _, a := range m.ByID[e].AuthEvents {
			if within[a] && !drawn[a] {
				drawn[a], power[a] = true, true
				times[a]++
				draw(a)
			}
		}
	}
	for e := range full {
		if !isPower(m.ByID[e]) {
			continue
		}
		power[e] = true
		if conflicted[e] {
			times[e]++
		}
		if difference[e] {
			times[e]++
		}
		draw(e)
	}
	return power, times
}

func (m model) authEvent(e id.Event, typ string) *event.Event {
	for _, a := range m.ByID[e].AuthEvents {
		if m.ByID[a].Type == typ {
			return m.ByID[a]
		}
	}
	return nil
}

func (m model) level(e id.Event) int64 {
	levels := m.authEvent(e, eventauth.TypePowerLevels)
	if m.theirs && levels == nil {
		return 0
	}
	create := m.authEvent(e, eventauth.TypeCreate)
	if m.Rules.RoomIDIsCreateHash {
		create = m.ByID[eventauth.CreateEventID(m.Room)]
	}
	return eventauth.PowerLevelsOf(create, levels).User(m.ByID[e].Sender)
}

func (m model) byTime(a, b id.Event) int {
	if x, y := m.ByID[a].OriginServerTS, m.ByID[b].OriginServerTS; x != y {
		return int(x - y)
	}
	return strings.Compare(string(a), string(b))
}

func (m model) byPower(a, b id.Event) int {
	if x, y := m.level(a), m.level(b); x > y {
		return -1
	} else if x < y {
		return 1
	}
	return m.byTime(a, b)
}

// powerOrder takes the smallest event whose auth events are taken, again and again.
func (m model) powerOrder(power set) []id.Event {
	left := slices.SortedFunc(maps.Keys(power), m.byPower)
	var out []id.Event
	for len(left) > 0 {
		at := slices.IndexFunc(left, func(e id.Event) bool {
			return !slices.ContainsFunc(m.ByID[e].AuthEvents, func(a id.Event) bool { return slices.Contains(left, a) })
		})
		out = append(out, left[at])
		left = slices.Delete(left, at, at+1)
	}
	return out
}

// theirPowerOrder takes the greatest event that no other names, again and again,
// and builds the list from its end. References count as often as who makes them is
// listed, and are taken back once; what keeps a reference comes first, by power.
func (m model) theirPowerOrder(power set, times map[id.Event]int) []id.Event {
	references := make(map[id.Event]int)
	for e := range power {
		for _, a := range m.ByID[e].AuthEvents {
			references[a] += times[e]
		}
	}
	left := maps.Clone(power)
	var out []id.Event
	for {
		var next id.Event
		for e := range left {
			if references[e] == 0 && (next == "" || m.byPower(e, next) > 0) {
				next = e
			}
		}
		if next == "" {
			break
		}
		delete(left, next)
		out = append(out, next)
		for _, a := range m.ByID[next].AuthEvents {
			references[a]--
		}
	}
	slices.Reverse(out)
	return append(slices.SortedFunc(maps.Keys(left), m.byPower), out...)
}

// mainlineOrder sorts by mainline position, greatest first.
func (m model) mainlineOrder(events []id.Event, levels id.Event) {
	at := make(map[id.Event]int)
	for levels != "" {
		at[levels] = len(at)
		next := m.authEvent(levels, eventauth.TypePowerLevels)
		if next == nil {
			break
		}
		levels = next.ID
	}
	position := func(e id.Event) (int, int) {
		for steps := 0; ; steps++ {
			next := m.authEvent(e, eventauth.TypePowerLevels)
			if next == nil {
				if m.theirs {
					return len(at) - 1, steps
				}
				return math.MaxInt, 0
			}
			e = next.ID
			if i, ok := at[e]; ok {
				return i, steps
			}
		}
	}
	slices.SortFunc(events, func(a, b id.Event) int {
		x, stepsX := position(a)
		y, stepsY := position(b)
		switch {
		case x > y:
			return -1
		case x < y:
			return 1
		case m.theirs && stepsX != stepsY:
			return stepsX - stepsY
		}
		return m.byTime(a, b)
	})
}

// apply is the iterative auth checks.
func (m model) apply(state graphtest.State, list []id.Event) {
	check := m.check
	if m.theirs {
		check = (&carrying{room: m.room}).check
	}
	for _, i := range list {
		e := m.ByID[i]
		auth := graphtest.State{}
		if m.Rules.RoomIDIsCreateHash {
			auth[eventauth.Key{Type: eventauth.TypeCreate}] = eventauth.CreateEventID(m.Room)
		}
		for _, k := range inTheirOrder(e) {
			if s, ok := state[k]; ok {
				auth[k] = s
				continue
			}
			for _, a := range e.AuthEvents {
				if keyOf(m.ByID[a]) != k || m.Rejected[a] {
					continue
				}
				if m.theirs {
					auth[keyOf(e)] = i
				} else {
					auth[k] = a
				}
			}
		}
		if check(e, auth) {
			state[keyOf(e)] = i
		}
	}
}

// carrying is the verdicts of the other implementation one after another. It
// rewrites the join rule that it remembers when it looks at a restricted join, and
// uses what it wrote for the next events as long as these have the same rule.
type carrying struct {
	*room
	rules id.Event
	rule  string // "" when it is the event's own
}

func (c *carrying) check(e *event.Event, auth graphtest.State) bool {
	rules := auth[eventauth.Key{Type: eventauth.TypeJoinRules}]
	if rules != c.rules || rules == "" {
		c.rules, c.rule = rules, ""
	}
	ok, err := c.allowedUnder(e, auth, c.rule)
	if rules != "" && e.Type == eventauth.TypeMember && e.Membership() == "join" && e.StateKey == string(e.Sender) {
		c.rewrite(e, auth, ok && err == nil)
	}
	return ok && err == nil
}

func (c *carrying) rewrite(e *event.Event, auth graphtest.State, allowed bool) {
	rule := c.rule
	if rule == "" {
		rule = joinRule(c.ByID[c.rules])
	}
	before := "leave"
	if m := c.ByID[auth[keyOf(e)]]; m != nil {
		before = m.Membership()
	}
	via, _ := canonical.String(canonical.Get(e.Content(), "join_authorised_via_users_server"))
	switch {
	case rule != "restricted" && rule != "knock_restricted", !c.Rules.RestrictedJoin, before == "ban":
	case before == "join", before == "invite", via == "":
		c.rule = "invite"
	case allowed:
		c.rule = "public"
	}
}

func joinRule(e *event.Event) string {
	rule, _ := canonical.String(canonical.Get(e.Content(), "join_rule"))
	return rule
}

// inTheirOrder sorts the keys that an event needs as the other implementation
// looks them up.
func inTheirOrder(e *event.Event) []eventauth.Key {
	rank := map[string]int{eventauth.TypeCreate: 0, eventauth.TypeJoinRules: 1, eventauth.TypePowerLevels: 2, eventauth.TypeMember: 3}
	keys := eventauth.NeededKeys(e)
	slices.SortFunc(keys, func(a, b eventauth.Key) int {
		return cmp.Or(rank[a.Type]-rank[b.Type], strings.Compare(a.StateKey, b.StateKey))
	})
	return keys
}

// resolveV1 is the algorithm of version 1.
func (m model) resolveV1(sets []graphtest.State) graphtest.State {
	state := graphtest.State{}
	conflicts := make(map[eventauth.Key][]id.Event)
	for _, s := range sets {
		for k, e := range s {
			if !slices.Contains(conflicts[k], e) {
				conflicts[k] = append(conflicts[k], e)
			}
		}
	}
	pass := func(k eventauth.Key) int {
		if i := slices.Index([]string{eventauth.TypePowerLevels, eventauth.TypeJoinRules, eventauth.TypeMember}, k.Type); i >= 0 {
			return i
		}
		return 3
	}
	for k, list := range conflicts {
		if len(list) == 1 {
			state[k] = list[0]
		}
		slices.SortFunc(list, func(a, b id.Event) int {
			if x, y := m.ByID[a].Depth, m.ByID[b].Depth; x != y {
				return int(x - y)
			}
			x, y := sha1.Sum([]byte(a)), sha1.Sum([]byte(b))
			return bytes.Compare(y[:], x[:])
		})
	}
	for p := range 4 {
		chosen := graphtest.State{}
		for k, list := range conflicts {
			if len(list) > 1 && pass(k) == p {
				chosen[k] = m.chooseV1(state, k, list, p == 3)
			}
		}
		maps.Copy(state, chosen)
	}
	return state
}

func (m model) chooseV1(state graphtest.State, k eventauth.Key, list []id.Event, highest bool) id.Event {
	if highest {
		for i := len(list) - 1; i > 0; i-- {
			if m.check(m.ByID[list[i]], state) {
				return list[i]
			}
		}
		return list[0]
	}
	with := maps.Clone(state)
	with[k] = list[0]
	for _, e := range list[1:] {
		if !m.check(m.ByID[e], with) {
			break
		}
		with[k] = e
	}
	return with[k]
}
