package stateres

import (
	"errors"
	"fmt"

	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
)

// Key names an entry of a room's state.
type Key = eventauth.Key

// Events gives events by their IDs: conflicted events and those of auth chains.
type Events interface {
	// Event gives an event; it is an error when the event is not known.
	Event(id.Event) (*event.Event, error)
}

// Prefetcher is what Events may implement too, to load many events at once. The
// events are asked for right afterwards.
type Prefetcher interface {
	Prefetch([]id.Event) error
}

// MapEvents is Events held in a map.
type MapEvents map[id.Event]*event.Event

// Event gives an event of the map.
func (m MapEvents) Event(i id.Event) (*event.Event, error) {
	if e := m[i]; e != nil {
		return e, nil
	}
	return nil, fmt.Errorf("no event %s", i)
}

// Input is what is to be resolved.
type Input struct {
	// Rules are those of the room's version.
	Rules *event.Rules
	// Sides is the number of states.
	Sides int
	// Conflicted holds the keys in which the states differ, and for each of them
	// the event of each side, "" where a side has none.
	Conflicted map[Key][]id.Event
	// Unconflicted gives the event of a key in which all sides agree, "" where no
	// side has one. It is not asked about keys in Conflicted.
	Unconflicted func(Key) (id.Event, error)
	// Events gives events.
	Events Events
	// Rejected says whether an event was rejected when it was received. nil: none.
	Rejected func(id.Event) bool

	// Order gives each event a number that is higher than that of each of its auth
	// events, 0 where it is not known. It makes resolution cheaper and does not
	// change its result. May be nil.
	Order func(id.Event) int64
	// InUnconflictedChain says which of the given events are in the auth chain of
	// some unconflicted event. nil: none. See the package's comment.
	InUnconflictedChain func([]id.Event) (map[id.Event]bool, error)
}

// maxWalk bounds the events that one resolution may look at.
const maxWalk = 2_000_000

var errTooMany = errors.New("the auth chains are too long")

// ResolveConflicted resolves the keys in which states differ. The result holds the
// resolved event of each key of Conflicted; a key that is missing has none. It may
// also hold a key that no side has.
//
// spec: rooms/v1, rooms/v2, rooms/v12 (State resolution)
func ResolveConflicted(in Input) (map[Key]id.Event, error) {
	if in.Rejected == nil {
		in.Rejected = func(id.Event) bool { return false }
	}
	for k, events := range in.Conflicted {
		if len(events) != in.Sides {
			return nil, fmt.Errorf("%d events for %s %q of %d sides", len(events), k.Type, k.StateKey, in.Sides)
		}
	}
	r := &resolver{in: in, events: make(map[id.Event]*event.Event), unconflicted: make(map[Key]*event.Event),
		partial: make(map[Key]*event.Event), checker: eventauth.NewChecker()}
	var err error
	switch in.Rules.StateRes {
	case event.StateResV1:
		err = r.resolveV1()
	default:
		err = r.resolveV2()
	}
	if err != nil {
		return nil, fmt.Errorf("resolving state: %w", err)
	}
	return r.result()
}

// Resolve resolves whole states. Keys without an event must be absent.
func Resolve(rules *event.Rules, sets []map[Key]id.Event, events Events, rejected func(id.Event) bool) (map[Key]id.Event, error) {
	unconflicted, conflicted := split(sets)
	out := make(map[Key]id.Event, len(unconflicted)+len(conflicted))
	for k, e := range unconflicted {
		out[k] = e
	}
	if len(conflicted) == 0 {
		return out, nil
	}
	resolved, err := ResolveConflicted(Input{
		Rules:               rules,
		Sides:               len(sets),
		Conflicted:          conflicted,
		Unconflicted:        func(k Key) (id.Event, error) { return unconflicted[k], nil },
		Events:              events,
		Rejected:            rejected,
		InUnconflictedChain: func(list []id.Event) (map[id.Event]bool, error) { return inChains(list, unconflicted, events) },
	})
	if err != nil {
		return nil, err
	}
	for k, e := range resolved {
		out[k] = e
	}
	return out, nil
}

// split parts states into what all agree in, and the rest by sides.
func split(sets []map[Key]id.Event) (unconflicted map[Key]id.Event, conflicted map[Key][]id.Event) {
	unconflicted, conflicted = make(map[Key]id.Event), make(map[Key][]id.Event)
	for i, set := range sets {
		for k, e := range set {
			if i == 0 {
				unconflicted[k] = e
			}
			if unconflicted[k] == e {
				continue
			}
			conflicted[k] = make([]id.Event, len(sets))
		}
		for k := range unconflicted {
			if _, ok := set[k]; !ok {
				conflicted[k] = make([]id.Event, len(sets))
			}
		}
	}
	for k, sides := range conflicted {
		delete(unconflicted, k)
		for i, set := range sets {
			sides[i] = set[k]
		}
	}
	return unconflicted, conflicted
}

// inChains walks all auth chains of a state and says which of the given events are
// in them, or in the state itself.
func inChains(list []id.Event, state map[Key]id.Event, events Events) (map[id.Event]bool, error) {
	seen := make(map[id.Event]bool)
	var todo []id.Event
	for _, e := range state {
		todo = append(todo, e)
	}
	for len(todo) > 0 {
		next := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[next] {
			continue
		}
		seen[next] = true
		e, err := events.Event(next)
		if err != nil {
			return nil, err
		}
		todo = append(todo, e.AuthEvents...)
	}
	out := make(map[id.Event]bool)
	for _, e := range list {
		if seen[e] {
			out[e] = true
		}
	}
	return out, nil
}
