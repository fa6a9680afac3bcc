package stateres

import (
	"bytes"
	"crypto/sha1"
	"slices"

	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
)

// resolveV1 is the algorithm of room version 1: power levels, join rules and
// members in turn, each key from its lowest event upwards as long as the next is
// allowed; then everything else, where the highest event that is allowed wins.
//
// spec: rooms/v1 (State resolution)
func (r *resolver) resolveV1() error {
	passes := make([]map[Key][]*event.Event, 4)
	for i := range passes {
		passes[i] = make(map[Key][]*event.Event)
	}
	for k := range r.in.Conflicted {
		events, err := r.conflicted(k)
		if err != nil {
			return err
		}
		// In this version a key that only some states have is no conflict.
		if len(events) == 1 {
			r.apply(events[0])
			continue
		}
		passes[passOf(k)][k] = sortByDepth(events)
	}
	for i, pass := range passes {
		choose := r.climb
		if i == len(passes)-1 {
			choose = r.highest
		}
		// The events of one pass do not count in the choice of the others of it.
		chosen := make([]*event.Event, 0, len(pass))
		for _, events := range pass {
			e, err := choose(events)
			if err != nil {
				return err
			}
			chosen = append(chosen, e)
		}
		for _, e := range chosen {
			r.apply(e)
		}
	}
	return nil
}

func passOf(k Key) int {
	switch k.Type {
	case eventauth.TypePowerLevels:
		return 0
	case eventauth.TypeJoinRules:
		return 1
	case eventauth.TypeMember:
		return 2
	}
	return 3
}

// sortByDepth sorts by ascending depth, then descending SHA-1 of the event ID.
func sortByDepth(events []*event.Event) []*event.Event {
	hashes := make(map[id.Event][sha1.Size]byte, len(events))
	for _, e := range events {
		hashes[e.ID] = sha1.Sum([]byte(e.ID))
	}
	slices.SortFunc(events, func(a, b *event.Event) int {
		switch {
		case a.Depth < b.Depth:
			return -1
		case a.Depth > b.Depth:
			return 1
		}
		x, y := hashes[a.ID], hashes[b.ID]
		return bytes.Compare(y[:], x[:])
	})
	return events
}

// climb takes the first event, and then each next one that is allowed by a state
// with the one before it, until one is not.
func (r *resolver) climb(events []*event.Event) (*event.Event, error) {
	k := keyOf(events[0])
	defer delete(r.partial, k)
	for i, e := range events {
		if i > 0 {
			ok, err := r.allowed(e)
			if err != nil {
				return nil, err
			}
			if !ok {
				return events[i-1], nil
			}
		}
		r.partial[k] = e
	}
	return events[len(events)-1], nil
}

// highest takes the highest event that is allowed.
//
// spec?: nothing is said for the case that none is; servers then take the lowest.
func (r *resolver) highest(events []*event.Event) (*event.Event, error) {
	for _, e := range slices.Backward(events) {
		ok, err := r.allowed(e)
		if err != nil {
			return nil, err
		}
		if ok {
			return e, nil
		}
	}
	return events[0], nil
}
