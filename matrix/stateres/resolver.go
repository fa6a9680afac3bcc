package stateres

import (
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
)

// resolver is one resolution.
type resolver struct {
	in Input
	// events are those that were loaded.
	events map[id.Event]*event.Event
	// unconflicted remembers what Input.Unconflicted said.
	unconflicted map[Key]*event.Event
	// partial is the partially resolved state, without what is unconflicted.
	partial map[Key]*event.Event
	checker *eventauth.Checker
}

// event gives an event, which is loaded once.
func (r *resolver) event(i id.Event) (*event.Event, error) {
	if e := r.events[i]; e != nil {
		return e, nil
	}
	e, err := r.in.Events.Event(i)
	if err != nil {
		return nil, err
	}
	if len(r.events) >= maxWalk {
		return nil, errTooMany
	}
	r.events[i] = e
	return e, nil
}

// prefetch announces events that will be asked for, those that are not loaded.
func (r *resolver) prefetch(list []id.Event) error {
	p, ok := r.in.Events.(Prefetcher)
	if !ok {
		return nil
	}
	missing := make([]id.Event, 0, len(list))
	for _, i := range list {
		if r.events[i] == nil {
			missing = append(missing, i)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return p.Prefetch(missing)
}

// common gives the unconflicted event of a key, nil if there is none.
func (r *resolver) common(k Key) (*event.Event, error) {
	if _, ok := r.in.Conflicted[k]; ok {
		return nil, nil
	}
	if e, ok := r.unconflicted[k]; ok {
		return e, nil
	}
	i, err := r.in.Unconflicted(k)
	if err != nil {
		return nil, err
	}
	var e *event.Event
	if i != "" {
		if e, err = r.event(i); err != nil {
			return nil, err
		}
	}
	r.unconflicted[k] = e
	return e, nil
}

// conflicted gives the distinct events of a conflicted key.
func (r *resolver) conflicted(k Key) ([]*event.Event, error) {
	seen := make(map[id.Event]bool)
	var out []*event.Event
	for _, i := range r.in.Conflicted[k] {
		if i == "" || seen[i] {
			continue
		}
		seen[i] = true
		e, err := r.event(i)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// allConflicted lists the events of all conflicted keys.
func (r *resolver) allConflicted() []id.Event {
	var out []id.Event
	for _, sides := range r.in.Conflicted {
		for _, i := range sides {
			if i != "" {
				out = append(out, i)
			}
		}
	}
	return out
}

// apply puts an event into the partially resolved state.
func (r *resolver) apply(e *event.Event) { r.partial[keyOf(e)] = e }

// result is the partially resolved state with the unconflicted state put over it,
// as far as it differs from the latter.
func (r *resolver) result() (map[Key]id.Event, error) {
	out := make(map[Key]id.Event, len(r.partial))
	for k, e := range r.partial {
		if _, ok := r.in.Conflicted[k]; !ok {
			u, err := r.common(k)
			if err != nil {
				return nil, err
			}
			if u != nil {
				continue
			}
		}
		out[k] = e.ID
	}
	return out, nil
}

// view is the state that an event is authorised against: the partially resolved
// state; then, except in 2.1, the unconflicted state; then the event's own auth
// events that were not rejected (not in version 1).
type view struct {
	r *resolver
	e *event.Event
	// base: the unconflicted state counts. own: the event's auth events count.
	base, own bool
	err       error
}

// Get gives the state event of a key, nil when there is none, or an error occurred.
func (v *view) Get(typ, stateKey string) *event.Event {
	e, err := v.get(Key{Type: typ, StateKey: stateKey})
	if err != nil && v.err == nil {
		v.err = err
	}
	return e
}

func (v *view) get(k Key) (*event.Event, error) {
	if e := v.r.partial[k]; e != nil {
		return e, nil
	}
	if v.base {
		if e, err := v.r.common(k); err != nil || e != nil {
			return e, err
		}
	}
	if k.Type == eventauth.TypeCreate && v.e.Rules.RoomIDIsCreateHash {
		// The room ID stands for the create event, which auth_events do not name.
		return v.r.event(eventauth.CreateEventID(v.e.RoomID))
	}
	if !v.own {
		return nil, nil
	}
	for _, i := range v.e.AuthEvents {
		a, err := v.r.event(i)
		if err != nil {
			return nil, err
		}
		if a.IsState && keyOf(a) == k && !v.r.in.Rejected(i) {
			return a, nil
		}
	}
	return nil, nil
}

// allowed authorises an event against the partially resolved state.
func (r *resolver) allowed(e *event.Event) (bool, error) {
	v := &view{r: r, e: e, base: r.in.Rules.StateRes != event.StateResV21, own: r.in.Rules.StateRes != event.StateResV1}
	err := r.checker.Check(e, v)
	if v.err != nil {
		return false, v.err
	}
	return err == nil, nil
}

func keyOf(e *event.Event) Key { return Key{Type: e.Type, StateKey: e.StateKey} }
