package stateres

import (
	"slices"

	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
)

// resolveV2 is the algorithm of room versions 2 to 11, and of version 12, which
// starts from an empty state and adds the conflicted state subgraph:
//
//  1. the full conflicted set; of it, the power events and what they depend on, in
//     reverse topological power ordering
//  2. the iterative auth checks over these
//  3. all others by the mainline ordering, based on the power levels of step 2
//  4. the iterative auth checks over those
//  5. the unconflicted state put over the result (done by result)
//
// spec: rooms/v2, rooms/v12 (State resolution, Algorithm)
func (r *resolver) resolveV2() error {
	full, err := r.fullConflictedSet()
	if err != nil {
		return err
	}
	power := powerEvents(full)
	ordered, err := r.powerOrdering(power)
	if err != nil {
		return err
	}
	if err := r.authChecks(ordered); err != nil {
		return err
	}
	others := make([]*event.Event, 0, len(full)-len(power))
	for i, e := range full {
		if power[i] == nil {
			others = append(others, e)
		}
	}
	if others, err = r.mainlineOrdering(others); err != nil {
		return err
	}
	return r.authChecks(others)
}

// authChecks is the iterative auth checks algorithm.
func (r *resolver) authChecks(events []*event.Event) error {
	for _, e := range events {
		ok, err := r.allowed(e)
		if err != nil {
			return err
		}
		if ok {
			r.apply(e)
		}
	}
	return nil
}

// powerEvents selects the power events of the full conflicted set, and what of it
// is in their auth chains.
//
// spec?: chains are followed within the set; see the package's comment.
func powerEvents(full map[id.Event]*event.Event) map[id.Event]*event.Event {
	out := make(map[id.Event]*event.Event)
	var todo []*event.Event
	for _, e := range full {
		if isPower(e) {
			todo = append(todo, e)
		}
	}
	for len(todo) > 0 {
		e := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if out[e.ID] != nil {
			continue
		}
		out[e.ID] = e
		for _, a := range e.AuthEvents {
			if next := full[a]; next != nil && out[a] == nil {
				todo = append(todo, next)
			}
		}
	}
	return out
}

// isPower says whether an event is a power event: one that may take abilities away.
//
// spec?: only with an empty state key; see the package's comment.
func isPower(e *event.Event) bool {
	switch e.Type {
	case eventauth.TypePowerLevels, eventauth.TypeJoinRules:
		return e.StateKey == ""
	case eventauth.TypeMember:
		m := e.Membership()
		return (m == "leave" || m == "ban") && string(e.Sender) != e.StateKey
	}
	return false
}

// authEvent finds an event among the auth events of another, nil if there is none.
func (r *resolver) authEvent(e *event.Event, k Key) (*event.Event, error) {
	for _, i := range e.AuthEvents {
		a, err := r.event(i)
		if err != nil {
			return nil, err
		}
		if a.IsState && keyOf(a) == k {
			return a, nil
		}
	}
	return nil, nil
}

// senderLevel gives the power level of an event's sender by its auth events.
func (r *resolver) senderLevel(e *event.Event) (int64, error) {
	powerLevels, err := r.authEvent(e, Key{Type: eventauth.TypePowerLevels})
	if err != nil {
		return 0, err
	}
	var create *event.Event
	if e.Rules.RoomIDIsCreateHash {
		create, err = r.event(eventauth.CreateEventID(e.RoomID))
	} else {
		create, err = r.authEvent(e, Key{Type: eventauth.TypeCreate})
	}
	if err != nil {
		return 0, err
	}
	return r.checker.PowerLevels(create, powerLevels).User(e.Sender), nil
}

// ranked is an event with what the orderings compare.
type ranked struct {
	e *event.Event
	// level is the sender's power level (power ordering).
	level int64
	// position is that in the mainline (mainline ordering).
	position int
	// waits counts the auth events that come before it (power ordering).
	waits int
}

// before compares origin_server_ts, then event IDs.
func (a *ranked) before(b *ranked) int {
	switch {
	case a.e.OriginServerTS < b.e.OriginServerTS:
		return -1
	case a.e.OriginServerTS > b.e.OriginServerTS:
		return 1
	case a.e.ID < b.e.ID:
		return -1
	case a.e.ID > b.e.ID:
		return 1
	}
	return 0
}

// byPower is the relation of the power ordering: greater power levels first.
func byPower(a, b *ranked) int {
	switch {
	case a.level > b.level:
		return -1
	case a.level < b.level:
		return 1
	}
	return a.before(b)
}

// byMainline is the relation of the mainline ordering: greater positions first.
func byMainline(a, b *ranked) int {
	switch {
	case a.position > b.position:
		return -1
	case a.position < b.position:
		return 1
	}
	return a.before(b)
}

// powerOrdering is the reverse topological power ordering: Kahn's algorithm, which
// takes the smallest of all events whose auth events (within the set) are taken.
func (r *resolver) powerOrdering(set map[id.Event]*event.Event) ([]*event.Event, error) {
	nodes := make(map[id.Event]*ranked, len(set))
	followers := make(map[id.Event][]*ranked)
	ready := &heapOf[*ranked]{less: func(a, b *ranked) bool { return byPower(a, b) < 0 }}
	for i, e := range set {
		level, err := r.senderLevel(e)
		if err != nil {
			return nil, err
		}
		n := &ranked{e: e, level: level}
		nodes[i] = n
		for at, a := range e.AuthEvents {
			if set[a] == nil || slices.Contains(e.AuthEvents[:at], a) {
				continue
			}
			n.waits++
			followers[a] = append(followers[a], n)
		}
		if n.waits == 0 {
			ready.push(n)
		}
	}
	out := make([]*event.Event, 0, len(set))
	for {
		for ready.len() > 0 {
			n := ready.pop()
			delete(nodes, n.e.ID)
			out = append(out, n.e)
			for _, f := range followers[n.e.ID] {
				if f.waits--; f.waits == 0 {
					ready.push(f)
				}
			}
		}
		if len(nodes) == 0 {
			return out, nil
		}
		// Event IDs that are no hashes (versions 1 and 2) can be made to form a
		// circle. Breaking it at the smallest event keeps the result a function of
		// the set.
		var smallest *ranked
		for _, n := range nodes {
			if n.waits > 0 && (smallest == nil || byPower(n, smallest) < 0) {
				smallest = n
			}
		}
		smallest.waits = 0
		ready.push(smallest)
	}
}
