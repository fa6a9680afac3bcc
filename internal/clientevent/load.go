package clientevent

import (
	"context"
	"slices"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/statetree"
	"weft/matrix/event"
	"weft/matrix/id"
)

// Viewer is who gets the events.
type Viewer struct {
	User   id.User
	Device id.Device // empty: transaction IDs are left out
	// Now is the time in milliseconds.
	Now    int64
	Format Format
}

// Load looks up what stands beside each event of a page for a viewer, in the
// order of the events. The number of queries does not grow with the page.
// Relations are left to the caller.
func Load(ctx context.Context, r *eventstore.Reader, v Viewer, events []*eventstore.Event) ([]Options, error) {
	out := make([]Options, len(events))
	for i := range out {
		out[i] = Options{Format: v.Format, Now: v.Now}
	}
	if len(events) == 0 {
		return out, nil
	}
	if err := loadStates(ctx, r, v, events, out); err != nil {
		return nil, err
	}
	return out, loadTxnIDs(ctx, r, v, events, out)
}

// places remembers which lookup of a page belongs to which event; -1: none.
type places struct{ replaced, member int }

// loadStates fills in what the states before the events tell, and redactions.
func loadStates(ctx context.Context, r *eventstore.Reader, v Viewer, events []*eventstore.Event, out []Options) error {
	me, err := r.UserNID(ctx, v.User)
	if err != nil {
		return err
	}
	var lookups []statetree.Lookup
	at := make([]places, len(events))
	for i, e := range events {
		at[i] = places{-1, -1}
		if !e.HasState {
			continue
		}
		if e.IsState {
			at[i].replaced = len(lookups)
			lookups = append(lookups, statetree.Lookup{Root: e.StateBefore, Key: e.Key()})
		}
		if me != 0 && (e.TypeNID != nid.TypeMember || e.StateKeyNID != me) {
			at[i].member = len(lookups)
			lookups = append(lookups, statetree.Lookup{Root: e.StateBefore, Key: statetree.Key{Type: nid.TypeMember, StateKey: me}})
		}
	}
	found, err := statetree.GetEach(ctx, r, lookups)
	if err != nil {
		return err
	}
	var memberships, shown []nid.Event
	for i, e := range events {
		if p := at[i].member; p >= 0 && found[p] != 0 {
			memberships = append(memberships, found[p])
		}
		if p := at[i].replaced; p >= 0 && found[p] != 0 && found[p] != e.NID {
			shown = append(shown, found[p])
		}
		if e.RedactedBy != 0 {
			shown = append(shown, e.RedactedBy)
		}
	}
	byNID, err := readEach(ctx, r, shown)
	if err != nil {
		return err
	}
	// A redaction leaves the membership, so what does not change of the events will do.
	members, err := unredacted(ctx, r, memberships)
	if err != nil {
		return err
	}
	for i, e := range events {
		o := &out[i]
		if e.RedactedBy != 0 {
			o.Redaction = byNID[e.RedactedBy]
		}
		if p := at[i].replaced; p >= 0 && found[p] != 0 && found[p] != e.NID {
			o.Replaced = byNID[found[p]]
		}
		o.Membership = membershipAt(v, e, at[i].member, found, members)
	}
	return nil
}

// membershipAt gives the viewer's membership at an event, changes by the event included.
//
// spec: client-server §6.3.1 (unsigned.membership)
func membershipAt(v Viewer, e *eventstore.Event, place int, found []nid.Event, members map[nid.Event]*event.Event) string {
	m := ""
	switch {
	case v.User == "" || !e.HasState:
		return ""
	case e.Type == "m.room.member" && e.IsState && e.StateKey == string(v.User):
		m = e.Membership()
	case place >= 0 && found[place] != 0:
		m = members[found[place]].Membership()
	}
	if m == "" {
		return "leave"
	}
	return m
}

// distinct leaves each number once.
func distinct(list []nid.Event) []nid.Event {
	slices.Sort(list)
	return slices.Compact(list)
}

// readEach reads events, each once.
func readEach(ctx context.Context, r *eventstore.Reader, numbers []nid.Event) (map[nid.Event]*eventstore.Event, error) {
	list, err := r.Events(ctx, distinct(numbers))
	if err != nil || len(list) == 0 {
		return nil, err
	}
	out := make(map[nid.Event]*eventstore.Event, len(list))
	for _, e := range list {
		out[e.NID] = e
	}
	return out, nil
}

// unredacted is readEach for events as they were before any redaction.
func unredacted(ctx context.Context, r *eventstore.Reader, numbers []nid.Event) (map[nid.Event]*event.Event, error) {
	numbers = distinct(numbers)
	list, err := r.Unredacted(ctx, numbers)
	if err != nil {
		return nil, err
	}
	out := make(map[nid.Event]*event.Event, len(list))
	for i, e := range list {
		out[numbers[i]] = e
	}
	return out, nil
}

// loadTxnIDs fills in the transaction IDs of what the viewer's device sent.
func loadTxnIDs(ctx context.Context, r *eventstore.Reader, v Viewer, events []*eventstore.Event, out []Options) error {
	if v.Device == "" {
		return nil
	}
	var mine []nid.Event
	for _, e := range events {
		if e.Sender == v.User {
			mine = append(mine, e.NID)
		}
	}
	if len(mine) == 0 {
		return nil
	}
	txns, err := r.TxnIDs(ctx, v.User, v.Device, mine)
	if err != nil {
		return err
	}
	for i, e := range events {
		out[i].TxnID = txns[e.NID]
	}
	return nil
}
