package roomserver

import (
	"context"
	"fmt"
	"maps"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/matrix/event"
	"weft/matrix/id"
)

// eventsByID reads events that the caller may refer to. It keeps a sweep from removing the
// outliers among them. Those that are not here are missing in the result.
func (s *Server) eventsByID(ctx context.Context, list []id.Event) (map[id.Event]*eventstore.Event, error) {
	found, err := s.store.EventsByID(ctx, list)
	if err != nil {
		return nil, err
	}
	var spare []nid.Event
	for _, e := range found {
		if e.Flags&eventstore.Unreferenced != 0 {
			spare = append(spare, e.NID)
		}
	}
	if len(spare) == 0 {
		return found, nil
	}
	if err := s.writer.Spare(ctx, spare); err != nil {
		return nil, err
	}
	return s.store.EventsByID(ctx, list)
}

// A draft sees its own events before those of the store.

func rejectedFlag(e *eventstore.Event) bool { return e.Flags&eventstore.Rejected != 0 }

// eventsByID gives those of the events that are known, in the order of the list,
// each once.
func (d *draft) eventsByID(ctx context.Context, list []id.Event) ([]*eventstore.Event, error) {
	var rest []id.Event
	for _, e := range list {
		if d.byID[e] == nil && d.seen[e] == nil && !d.coming[e].absent {
			rest = append(rest, e)
		}
	}
	if len(rest) > 0 {
		stored, err := d.s.eventsByID(ctx, rest)
		if err != nil {
			return nil, fmt.Errorf("loading events: %w", err)
		}
		maps.Copy(d.seen, stored)
	}
	out := make([]*eventstore.Event, 0, len(list))
	seen := make(map[id.Event]bool, len(list))
	for _, i := range list {
		e := d.byID[i]
		if e == nil {
			e = d.seen[i]
		}
		if e != nil && !seen[i] {
			seen[i] = true
			out = append(out, e)
		}
	}
	return out, nil
}

// expect reads at once what receiving some events will ask for.
func (d *draft) expect(ctx context.Context, events ...*event.Event) error {
	var fresh []*event.Event
	var ids []id.Event
	for _, ev := range events {
		if _, ok := d.coming[ev.ID]; !ok {
			fresh, ids = append(fresh, ev), append(ids, ev.ID)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if _, err := d.eventsByID(ctx, mentioned(fresh)); err != nil {
		return err
	}
	referred, err := d.s.store.BackwardAmong(ctx, d.room.NID, ids)
	if err != nil {
		return fmt.Errorf("backward extremities: %w", err)
	}
	redactions, err := d.s.store.PendingRedactions(ctx, ids)
	if err != nil {
		return fmt.Errorf("pending redactions: %w", err)
	}
	if d.coming == nil {
		d.coming = make(map[id.Event]coming, len(ids))
	}
	for _, i := range ids {
		d.coming[i] = coming{absent: d.seen[i] == nil, referred: referred[i], redactions: redactions[i]}
	}
	return nil
}

// mentioned lists events and those that they refer to, each once.
func mentioned(events []*event.Event) []id.Event {
	var out []id.Event
	seen := make(map[id.Event]bool)
	for _, ev := range events {
		for _, list := range [][]id.Event{{ev.ID}, ev.PrevEvents, ev.AuthEvents} {
			for _, i := range list {
				if !seen[i] {
					seen[i] = true
					out = append(out, i)
				}
			}
		}
	}
	return out
}

// events gives events by number, in the order of the list.
func (d *draft) events(ctx context.Context, list []nid.Event) ([]*eventstore.Event, error) {
	if len(d.byNID) == 0 {
		return d.s.store.Events(ctx, list)
	}
	out := make([]*eventstore.Event, len(list))
	var rest []nid.Event
	var at []int
	for i, n := range list {
		if out[i] = d.byNID[n]; out[i] == nil {
			rest, at = append(rest, n), append(at, i)
		}
	}
	stored, err := d.s.store.Events(ctx, rest)
	if err != nil {
		return nil, fmt.Errorf("loading events: %w", err)
	}
	for k, i := range at {
		out[i] = stored[k]
	}
	return out, nil
}

// plain gives events by number as they were before any redaction, in the order of
// the list.
func (d *draft) plain(ctx context.Context, list []nid.Event) ([]*event.Event, error) {
	out := make([]*event.Event, len(list))
	var rest []nid.Event
	var at []int
	for i, n := range list {
		if e := d.byNID[n]; e != nil {
			out[i] = e.Event
		} else {
			rest, at = append(rest, n), append(at, i)
		}
	}
	if len(rest) == 0 {
		return out, nil
	}
	stored, err := d.s.store.Unredacted(ctx, rest)
	if err != nil {
		return nil, fmt.Errorf("loading events: %w", err)
	}
	for k, i := range at {
		out[i] = stored[k]
	}
	return out, nil
}

// judged gives events as state resolution looks at them.
func (d *draft) judged(ctx context.Context, list []nid.Event) ([]eventstore.Judged, error) {
	out := make([]eventstore.Judged, 0, len(list))
	var rest []nid.Event
	for _, n := range list {
		if e := d.byNID[n]; e != nil {
			out = append(out, judgedOf(e))
		} else {
			rest = append(rest, n)
		}
	}
	stored, err := d.s.store.Judged(ctx, rest)
	return append(out, stored...), err
}

// judgedByID is judged for IDs. Those that are not known are left out.
func (d *draft) judgedByID(ctx context.Context, list []id.Event) ([]eventstore.Judged, error) {
	out := make([]eventstore.Judged, 0, len(list))
	var rest []id.Event
	for _, i := range list {
		if e := d.byID[i]; e != nil {
			out = append(out, judgedOf(e))
		} else {
			rest = append(rest, i)
		}
	}
	stored, err := d.s.store.JudgedByID(ctx, rest)
	return append(out, stored...), err
}

func judgedOf(e *eventstore.Event) eventstore.Judged {
	return eventstore.Judged{Event: e.Event, NID: e.NID, Rejected: rejectedFlag(e)}
}

// numbersOf gives the numbers of events, those that are known: events of a state, which nobody
// removes, or such as eventsByID gave.
func (d *draft) numbersOf(ctx context.Context, list []id.Event) ([]nid.Event, error) {
	out := make([]nid.Event, 0, len(list))
	var rest []id.Event
	for _, i := range list {
		if e := d.byID[i]; e != nil {
			out = append(out, e.NID)
		} else if e := d.seen[i]; e != nil {
			out = append(out, e.NID)
		} else {
			rest = append(rest, i)
		}
	}
	if len(rest) == 0 {
		return out, nil
	}
	stored, err := d.s.store.NIDs(ctx, rest)
	for _, n := range stored {
		out = append(out, n)
	}
	return out, err
}

// numbers gives the numbers by which the draft's new events can name their parents.
func (d *draft) numbers(ctx context.Context) (eventstore.Parents, error) {
	p := eventstore.Parents{Auth: make(map[id.Event]nid.Event), Previous: make(map[id.Event]nid.Event)}
	var rest []id.Event
	for _, a := range d.added {
		for _, i := range a.AuthEvents {
			if e := d.byID[i]; e != nil {
				p.Auth[i] = e.NID
			} else if _, ok := p.Auth[i]; !ok {
				rest = append(rest, i)
				p.Auth[i] = 0
			}
		}
		for _, i := range a.PrevEvents {
			if e := d.byID[i]; e != nil {
				p.Previous[i] = e.NID
			} else if e := d.seen[i]; e != nil && e.Flags&eventstore.Outlier == 0 && e.RoomNID == d.room.NID {
				p.Previous[i] = e.NID
			}
		}
	}
	for _, list := range [][]*eventstore.Event{d.tips, d.began} {
		for _, t := range list {
			p.Previous[t.ID] = t.NID
		}
	}
	stored, err := d.s.store.NIDs(ctx, rest)
	if err != nil {
		return p, fmt.Errorf("numbers of auth events: %w", err)
	}
	maps.Copy(p.Auth, stored)
	return p, nil
}

// unredacted gives the events as they were before any redaction, which is what
// the rules judge.
func (d *draft) unredacted(ctx context.Context, list []*eventstore.Event) ([]*event.Event, error) {
	out := make([]*event.Event, len(list))
	var rest []nid.Event
	var at []int
	for i, e := range list {
		out[i] = e.Event
		if e.RedactedBy != 0 && d.byNID[e.NID] == nil {
			rest, at = append(rest, e.NID), append(at, i)
		}
	}
	if len(rest) == 0 {
		return out, nil
	}
	plain, err := d.s.store.Unredacted(ctx, rest)
	if err != nil {
		return nil, fmt.Errorf("loading events: %w", err)
	}
	for k, i := range at {
		out[i] = plain[k]
	}
	return out, nil
}

// authNIDs gives the numbers of events' auth events.
func (d *draft) authNIDs(ctx context.Context, list []nid.Event) (map[nid.Event][]nid.Event, error) {
	var rest []nid.Event
	own := make(map[nid.Event][]nid.Event)
	for _, n := range list {
		if e := d.byNID[n]; e != nil {
			own[n] = e.AuthNIDs
		} else {
			rest = append(rest, n)
		}
	}
	out, err := d.s.store.AuthNIDs(ctx, rest)
	if err != nil {
		return nil, err
	}
	for n, auth := range own {
		out[n] = auth
	}
	return out, nil
}

// pendingRedactions gives the redactions of an event that came before it.
func (d *draft) pendingRedactions(ctx context.Context, target id.Event) ([]*eventstore.Event, error) {
	var out []*eventstore.Event
	for _, a := range d.added {
		if a.Redacts == target {
			out = append(out, a.Event)
		}
	}
	stored, err := d.s.store.Events(ctx, d.coming[target].redactions)
	return append(out, stored...), err
}
