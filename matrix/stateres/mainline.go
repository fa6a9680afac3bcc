package stateres

import (
	"math"
	"slices"

	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
)

// notInMainline is the position of events whose power levels are none of the
// mainline: further back than all.
const notInMainline = math.MaxInt

// mainline is the succession of power levels events that a state's power levels go
// back to. It is extended only as far as somebody asks.
type mainline struct {
	r *resolver
	// position is known for the events of the mainline, and for power levels events
	// that were asked about.
	position map[id.Event]int
	// tail is the last event of the mainline as far as it is known, nil when it is
	// known to its end; length is how many are known.
	tail   *event.Event
	length int
}

func (r *resolver) newMainline() (*mainline, error) {
	k := Key{Type: eventauth.TypePowerLevels}
	start := r.partial[k]
	if start == nil && r.in.Rules.StateRes != event.StateResV21 {
		var err error
		if start, err = r.common(k); err != nil {
			return nil, err
		}
	}
	m := &mainline{r: r, position: make(map[id.Event]int)}
	if start != nil {
		m.position[start.ID] = 0
		m.tail, m.length = start, 1
	}
	return m, nil
}

// extend adds the next event to the mainline.
func (m *mainline) extend() error {
	next, err := m.r.authEvent(m.tail, Key{Type: eventauth.TypePowerLevels})
	if err != nil {
		return err
	}
	if next != nil {
		if _, seen := m.position[next.ID]; seen { // a circle of forged event IDs
			next = nil
		}
	}
	m.tail = next
	if next != nil {
		m.position[next.ID] = m.length
		m.length++
	}
	return nil
}

// find gives the position of a power levels event; ok is false when it is not in
// the mainline.
func (m *mainline) find(e *event.Event) (position int, ok bool, err error) {
	for {
		if p, known := m.position[e.ID]; known {
			return p, true, nil
		}
		if m.tail == nil || m.passed(e.ID) {
			return 0, false, nil
		}
		if err := m.extend(); err != nil {
			return 0, false, err
		}
	}
}

// passed says whether the order of events shows that what follows in the mainline
// is older than the event.
func (m *mainline) passed(i id.Event) bool {
	if m.r.in.Order == nil {
		return false
	}
	tail, at := m.r.in.Order(m.tail.ID), m.r.in.Order(i)
	return tail > 0 && at > 0 && tail < at
}

// of gives the mainline position of an event: that of the nearest power levels
// event, going back by auth events, which is in the mainline.
func (m *mainline) of(e *event.Event, known map[id.Event]int) (int, error) {
	position := notInMainline
	var passed []id.Event
	for {
		next, err := m.r.authEvent(e, Key{Type: eventauth.TypePowerLevels})
		if err != nil {
			return 0, err
		}
		if next == nil || slices.Contains(passed, next.ID) {
			break
		}
		p, ok, err := m.find(next)
		if err != nil {
			return 0, err
		}
		if !ok {
			p, ok = known[next.ID]
		}
		if ok {
			position = p
			break
		}
		passed = append(passed, next.ID)
		e = next
	}
	for _, i := range passed {
		known[i] = position
	}
	return position, nil
}

// mainlineOrdering sorts by the mainline of the partially resolved state.
func (r *resolver) mainlineOrdering(events []*event.Event) ([]*event.Event, error) {
	m, err := r.newMainline()
	if err != nil {
		return nil, err
	}
	known := make(map[id.Event]int)
	list := make([]*ranked, len(events))
	for i, e := range events {
		position, err := m.of(e, known)
		if err != nil {
			return nil, err
		}
		list[i] = &ranked{e: e, position: position}
	}
	slices.SortFunc(list, byMainline)
	for i, n := range list {
		events[i] = n.e
	}
	return events, nil
}
