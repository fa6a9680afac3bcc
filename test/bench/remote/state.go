package remote

import (
	"fmt"
	"maps"

	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/stateres"
)

// key names an entry of a room's state.
type key = eventauth.Key

// state is the state of a room at some point: the events that the room began with,
// as far as they were there, and what changed since. It is immutable.
type state struct {
	// began is how many of the beginning's events are in the state.
	began int
	// changed holds the keys that differ from the beginning; "" where a key has no
	// event any more.
	changed map[key]id.Event
}

// with gives the state after a state event.
func (st state) with(e *event.Event) state {
	if !e.IsState {
		return st
	}
	changed := maps.Clone(st.changed)
	if changed == nil {
		changed = make(map[key]id.Event, 1)
	}
	changed[key{Type: e.Type, StateKey: e.StateKey}] = e.ID
	return state{st.began, changed}
}

// lookUp gives the event of a key in a state, "" when there is none.
func (r *Room) lookUp(st state, k key) id.Event {
	if e, ok := st.changed[k]; ok {
		return e
	}
	if at, ok := r.beginning(k); ok && at < st.began {
		return r.events.list[at].id
	}
	return ""
}

// beginning gives the position of the event of a key in the state that the room
// began with. Members are found by their number, so that there is no map of them.
func (r *Room) beginning(k key) (at int, ok bool) {
	if at, ok := r.initial[k]; ok {
		return at, true
	}
	if k.Type != eventauth.TypeMember {
		return 0, false
	}
	n, ok := r.s.memberNumber(id.User(k.StateKey))
	if !ok || n < 1 || n >= r.opts.Members {
		return 0, false
	}
	return len(r.initial) + n - 1, true
}

// replaced gives the positions of the beginning's events that are not in a state any
// more.
func (r *Room) replaced(st state) map[int]bool {
	out := make(map[int]bool)
	for k := range st.changed {
		if at, ok := r.beginning(k); ok {
			out[at] = true
		}
	}
	return out
}

// view is a state as the authorisation rules ask for it.
type view struct {
	r   *Room
	st  state
	err error
}

// Get gives the state event of a key, nil when there is none, or an error occurred.
func (v *view) Get(typ, stateKey string) *event.Event {
	eventID := v.r.lookUp(v.st, key{Type: typ, StateKey: stateKey})
	if eventID == "" {
		return nil
	}
	e, err := v.r.event(eventID)
	if err != nil {
		v.err = err
	}
	return e
}

// allowed applies the authorisation rules to an event, against the state before it
// and about its auth events.
func (r *Room) allowed(e *event.Event, before state) error {
	auth := make([]*event.Event, 0, len(e.AuthEvents))
	for _, a := range e.AuthEvents {
		ev, err := r.event(a)
		if err != nil {
			return err
		}
		auth = append(auth, ev)
	}
	if err := eventauth.CheckAuthEvents(e, auth, nil); err != nil {
		return err
	}
	v := &view{r: r, st: before}
	if err := r.checker.Check(e, v); err != nil {
		return err
	}
	return v.err
}

// before gives the state before an event with certain parents: theirs, resolved.
func (r *Room) before(prev []id.Event) (state, error) {
	states := make([]state, 0, len(prev))
	for _, p := range prev {
		st, err := r.after(p)
		if err != nil {
			return state{}, err
		}
		states = append(states, st)
	}
	return r.resolve(states)
}

// after gives the state after an event.
func (r *Room) after(eventID id.Event) (state, error) {
	if n := r.recent[eventID]; n != nil {
		return n.after, nil
	}
	at, ok := r.events.index[eventID]
	if !ok {
		return state{}, fmt.Errorf("remote: no event %s in the room %s", eventID, r.ID)
	}
	return state{began: at + 1}, nil
}

// resolve makes one state of several. What differs between them is found in what
// changed since the room began, so it costs nothing that the room has many members.
func (r *Room) resolve(states []state) (state, error) {
	if len(states) == 0 {
		return state{}, fmt.Errorf("remote: an event without parents in the room %s", r.ID)
	}
	first := states[0]
	conflicted := make(map[key][]id.Event)
	for _, st := range states {
		if st.began != first.began {
			return state{}, fmt.Errorf("remote: the room %s forks before it was complete", r.ID)
		}
		for k := range st.changed {
			sides := make([]id.Event, len(states))
			same := true
			for n := range states {
				sides[n] = r.lookUp(states[n], k)
				same = same && sides[n] == sides[0]
			}
			if !same {
				conflicted[k] = sides
			}
		}
	}
	if len(conflicted) == 0 {
		return first, nil
	}
	resolved, err := stateres.ResolveConflicted(stateres.Input{
		Rules: r.rules, Sides: len(states), Conflicted: conflicted, Events: roomEvents{r},
		Unconflicted: func(k key) (id.Event, error) { return r.lookUp(first, k), nil },
		InUnconflictedChain: func(list []id.Event) (map[id.Event]bool, error) {
			return r.inUnconflictedChain(list, first, conflicted)
		},
	})
	if err != nil {
		return state{}, fmt.Errorf("remote: room %s: %w", r.ID, err)
	}
	changed := maps.Clone(first.changed)
	if changed == nil {
		changed = make(map[key]id.Event)
	}
	for k := range conflicted {
		changed[k] = ""
	}
	maps.Copy(changed, resolved)
	return state{first.began, changed}, nil
}

// roomEvents gives stateres a room's events.
type roomEvents struct{ r *Room }

// Event implements stateres.Events.
func (e roomEvents) Event(eventID id.Event) (*event.Event, error) { return e.r.event(eventID) }

// inUnconflictedChain says which events are in the state where all sides agree, or in
// its auth chain. The joins of the beginning all name the same auth events, so one
// stands for all.
func (r *Room) inUnconflictedChain(list []id.Event, st state, conflicted map[key][]id.Event) (map[id.Event]bool, error) {
	var seeds []id.Event
	for k, e := range st.changed {
		if _, ok := conflicted[k]; !ok && e != "" {
			seeds = append(seeds, e)
		}
	}
	for k := range r.initial {
		if _, ok := conflicted[k]; ok {
			continue
		}
		if e := r.lookUp(st, k); e != "" {
			seeds = append(seeds, e)
		}
	}
	if st.began > len(r.initial) {
		seeds = append(seeds, r.events.list[len(r.initial)].id)
	}
	chain, err := r.authChain(seeds)
	if err != nil {
		return nil, err
	}
	out := make(map[id.Event]bool)
	for _, i := range list {
		e, err := r.event(i)
		if err != nil {
			return nil, err
		}
		k := key{Type: e.Type, StateKey: e.StateKey}
		_, isConflicted := conflicted[k]
		if chain[i] || !isConflicted && r.lookUp(st, k) == i {
			out[i] = true
		}
	}
	return out, nil
}

// authChain gives the auth events of events, and theirs, and so on.
func (r *Room) authChain(of []id.Event) (map[id.Event]bool, error) {
	chain := make(map[id.Event]bool)
	todo := append([]id.Event(nil), of...)
	for len(todo) > 0 {
		next := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		e, err := r.event(next)
		if err != nil {
			return nil, err
		}
		for _, a := range e.AuthEvents {
			if !chain[a] {
				chain[a] = true
				todo = append(todo, a)
			}
		}
	}
	return chain, nil
}

// served is a chain as other servers are given it: from version 12 on with the create
// event, which authorises all others without being named by them.
func (r *Room) served(chain map[id.Event]bool) map[id.Event]bool {
	if r.rules.RoomIDIsCreateHash {
		chain[eventauth.CreateEventID(r.ID)] = true
	}
	return chain
}

// stateAuthChain gives the auth chain of a whole state.
func (r *Room) stateAuthChain(st state) (map[id.Event]bool, error) {
	var seeds []id.Event
	for _, e := range st.changed {
		if e != "" {
			seeds = append(seeds, e)
		}
	}
	for at := range min(st.began, len(r.initial)) {
		seeds = append(seeds, r.events.list[at].id)
	}
	if st.began > len(r.initial) {
		seeds = append(seeds, r.events.list[len(r.initial)].id) // a member's join; all are alike
	}
	return r.authChain(seeds)
}
