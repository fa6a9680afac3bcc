package eventstore

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"weft/internal/nid"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	mutableSQL  = `SELECT event_nid, stream_pos, flags, redacted_by, state_before FROM events WHERE event_nid IN `
	recordsSQL  = `SELECT event_nid, room_nid, type_nid, state_key_nid, event_id, auth_nids, json FROM events WHERE event_nid IN `
	verdictSQL  = `SELECT event_nid, stream_pos IS NOT NULL, flags FROM events WHERE event_nid IN `
	nidsSQL     = `SELECT event_id, event_nid FROM events WHERE substr(event_id, 1, 21) IN `
	eventIDsSQL = `SELECT event_nid, event_id FROM events WHERE event_nid IN `
)

// Events reads events in the order of their numbers. A number that leads nowhere
// is an error.
func (r *Reader) Events(ctx context.Context, events []nid.Event) ([]*Event, error) {
	if len(events) == 0 {
		return nil, nil
	}
	found, err := r.present(ctx, events)
	if err != nil {
		return nil, err
	}
	out := make([]*Event, len(events))
	for i, n := range events {
		if out[i] = found[n]; out[i] == nil {
			return nil, missing("event", n)
		}
	}
	return out, nil
}

// present reads those of some events that are here.
func (r *Reader) present(ctx context.Context, events []nid.Event) (map[nid.Event]*Event, error) {
	records, err := r.records(ctx, events)
	if err != nil {
		return nil, err
	}
	rows := make(map[nid.Event]*Event, len(records))
	err = r.chunked(ctx, mutableSQL, nil, keysOf(records), func(row func(...any) error) error {
		e := &Event{}
		var pos sql.NullInt64
		var state []byte
		if err := row(&e.NID, &pos, &e.Flags, &e.RedactedBy, &state); err != nil {
			return err
		}
		e.StreamPos = pos.Int64
		if state != nil {
			e.HasState = true
			if e.StateBefore, err = decodeRoot(state); err != nil {
				return fmt.Errorf("state before event %d: %w", e.NID, err)
			}
		}
		rows[e.NID] = e
		return nil
	})
	if err != nil {
		return nil, err
	}
	for n, e := range rows {
		rec := records[n]
		e.RoomNID, e.TypeNID, e.StateKeyNID, e.AuthNIDs = rec.room, rec.typ, rec.key, rec.auth
		if e.Event, err = r.shown(rec, e.RedactedBy != 0); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// shown gives the form of an event that is to be shown.
func (r *Reader) shown(rec *record, redacted bool) (*event.Event, error) {
	if !redacted {
		return rec.Event, nil
	}
	if e, ok := r.caches.redacted.GetIfPresent(rec.nid); ok {
		return e, nil
	}
	e, err := rec.Redact()
	if err != nil {
		return nil, fmt.Errorf("eventstore: redacting %s: %w", rec.ID, err)
	}
	if r.fill {
		r.caches.redacted.Set(rec.nid, e)
	}
	return e, nil
}

// Unredacted reads events as they were before any redaction, in the order of their
// numbers: for servers' eyes (state resolution, authorization, federation).
func (r *Reader) Unredacted(ctx context.Context, events []nid.Event) ([]*event.Event, error) {
	records, err := r.records(ctx, events)
	if err != nil {
		return nil, err
	}
	out := make([]*event.Event, len(events))
	for i, n := range events {
		if records[n] == nil {
			return nil, missing("event", n)
		}
		out[i] = records[n].Event
	}
	return out, nil
}

// Judged reads events as state resolution looks at them, in the order of their numbers. A number that leads
// nowhere is an error.
func (r *Reader) Judged(ctx context.Context, events []nid.Event) ([]Judged, error) {
	found, err := r.judged(ctx, events)
	if err != nil {
		return nil, err
	}
	out := make([]Judged, len(events))
	for i, n := range events {
		var ok bool
		if out[i], ok = found[n]; !ok {
			return nil, missing("event", n)
		}
	}
	return out, nil
}

// JudgedByID is Judged for IDs. Those that are not here are left out.
func (r *Reader) JudgedByID(ctx context.Context, events []id.Event) ([]Judged, error) {
	nids, err := r.NIDs(ctx, events)
	if err != nil {
		return nil, err
	}
	found, err := r.judged(ctx, slices.Collect(maps.Values(nids)))
	if err != nil {
		return nil, err
	}
	out := make([]Judged, 0, len(found))
	for e, n := range nids {
		if j, ok := found[n]; ok {
			out = append(out, j)
		} else {
			r.Drop(map[nid.Event]id.Event{n: e}) // it was deleted, elsewhere
		}
	}
	return out, nil
}

// judged reads verdicts that may still change; those of events that have their place are remembered.
func (r *Reader) judged(ctx context.Context, events []nid.Event) (map[nid.Event]Judged, error) {
	records, err := r.records(ctx, events)
	if err != nil {
		return nil, err
	}
	out := make(map[nid.Event]Judged, len(records))
	var open []any
	for n, rec := range records {
		if v := atomic.LoadUint32(&rec.verdict); v != verdictOpen {
			out[n] = Judged{rec.Event, n, v == verdictRejected}
		} else {
			open = append(open, int64(n))
		}
	}
	err = r.chunked(ctx, verdictSQL, nil, open, func(row func(...any) error) error {
		var n nid.Event
		var placed bool
		var flags Flags
		if err := row(&n, &placed, &flags); err != nil {
			return err
		}
		rejected := flags&Rejected != 0
		if placed && r.fill {
			records[n].judge(rejected)
		}
		out[n] = Judged{records[n].Event, n, rejected}
		return nil
	})
	return out, err
}

// rawRecord is a record's row before its JSON is parsed.
type rawRecord struct {
	record
	id, set, json []byte
	eventID       id.Event
	packed        *packed
}

// records reads what never changes of events. Unknown numbers are missing in the result.
func (r *Reader) records(ctx context.Context, events []nid.Event) (map[nid.Event]*record, error) {
	out := make(map[nid.Event]*record, len(events))
	var rest []any
	for _, n := range events {
		if _, ok := out[n]; ok {
			continue
		}
		v, ok := r.caches.records.GetIfPresent(n)
		out[n] = v
		if !ok {
			rest = append(rest, int64(n))
		}
	}
	const size = 500
	for ; len(rest) > 0; rest = rest[min(size, len(rest)):] {
		raws, err := r.rawRecords(ctx, rest[:min(size, len(rest))])
		if err != nil {
			return nil, err
		}
		if err := r.parse(ctx, raws, out); err != nil {
			return nil, err
		}
	}
	for n, rec := range out {
		if rec == nil {
			delete(out, n)
		}
	}
	return out, nil
}

// rawRecords reads the rows of records; of those with a replica, the JSON from there.
func (r *Reader) rawRecords(ctx context.Context, events []any) (raws []*rawRecord, err error) {
	if r.immutable.json.Ready() {
		if raws, asked, err := r.splitRecords(ctx, events); asked || err != nil {
			return raws, err
		}
	}
	err = r.each(ctx, recordsSQL, nil, events, func(row func(...any) error) error {
		w := &rawRecord{}
		raws = append(raws, w)
		return row(&w.nid, &w.room, &w.typ, &w.key, &w.id, &w.set, &w.json)
	})
	return raws, err
}

// parse turns rows into records.
func (r *Reader) parse(ctx context.Context, raws []*rawRecord, out map[nid.Event]*record) error {
	rooms := make([]nid.Room, len(raws))
	for i, w := range raws {
		rooms[i] = w.room
	}
	names, err := r.roomNames(ctx, rooms)
	if err != nil {
		return err
	}
	if err := r.open(raws); err != nil {
		return err
	}
	parents, err := r.parentIDs(ctx, raws)
	if err != nil {
		return err
	}
	for _, w := range raws {
		rec, eventID := w.record, w.eventID
		json, err := w.packed.unpack(names[w.room].id, rec.auth, parents)
		if err != nil {
			return fmt.Errorf("eventstore: %s: %w", eventID, err)
		}
		if rec.Event, err = event.ParseStored(json, eventID, names[w.room].rules); err != nil {
			return fmt.Errorf("eventstore: %s: %w", eventID, err)
		}
		out[rec.nid] = &rec
		if r.fill {
			r.caches.records.Set(rec.nid, &rec)
		}
	}
	return nil
}

// Remember puts events that were just stored into the caches, as they were stored: nobody has to read and parse them.
func (r *Reader) Remember(events []*Event) {
	for _, e := range events {
		rec := &record{Event: e.Event, nid: e.NID, room: e.RoomNID, typ: e.TypeNID, key: e.StateKeyNID, auth: e.AuthNIDs}
		if e.StreamPos != 0 {
			rec.judge(e.Flags&Rejected != 0)
		}
		r.caches.records.Set(e.NID, rec)
		r.caches.nids.Set(e.ID, e.NID)
		r.caches.ids.Set(e.NID, e.ID)
	}
}

// open decodes the columns of rows, each for itself.
func (r *Reader) open(raws []*rawRecord) (err error) {
	for _, w := range raws {
		if w.eventID, err = DecodeEventID(w.id); err != nil {
			return err
		}
		if w.record.auth, err = nid.DecodeSet(w.set); err != nil {
			return fmt.Errorf("eventstore: auth events of %s: %w", w.eventID, err)
		}
		if w.packed, err = r.codec.open(w.json, w.nid); err != nil {
			return fmt.Errorf("eventstore: %s: %w", w.eventID, err)
		}
	}
	return nil
}

// parentIDs gives the IDs of all parents that the JSON of rows names by number. Most are in the
// cache, or among the rows.
func (r *Reader) parentIDs(ctx context.Context, raws []*rawRecord) (func(nid.Event) (id.Event, bool), error) {
	known := make(map[nid.Event]id.Event, 2*len(raws))
	for _, w := range raws {
		known[w.nid] = w.eventID
	}
	var rest []nid.Event
	need := func(n nid.Event) {
		if _, ok := known[n]; !ok {
			rest = append(rest, n)
		}
	}
	for _, w := range raws {
		for _, n := range w.packed.previous {
			need(n)
		}
		if len(w.packed.auth) > 0 {
			for _, n := range w.record.auth {
				need(n)
			}
		}
	}
	if len(rest) > 0 {
		found, err := r.eventIDs(ctx, rest)
		if err != nil {
			return nil, err
		}
		for n, e := range found {
			known[n] = e
		}
	}
	return func(n nid.Event) (id.Event, bool) {
		e, ok := known[n]
		return e, ok
	}, nil
}

func keysOf[K ~int64, V any](m map[K]V) []any {
	out := make([]any, 0, len(m))
	for k := range m {
		out = append(out, int64(k))
	}
	return out
}

// Event reads one event by its number.
func (r *Reader) Event(ctx context.Context, event nid.Event) (*Event, error) {
	list, err := r.Events(ctx, []nid.Event{event})
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// EventByID reads one event. One that is not here is M_NOT_FOUND.
func (r *Reader) EventByID(ctx context.Context, event id.Event) (*Event, error) {
	found, err := r.EventsByID(ctx, []id.Event{event})
	if err != nil {
		return nil, err
	}
	if found[event] == nil {
		return nil, merr.NotFound("the event %s is not known here", event)
	}
	return found[event], nil
}

// EventsByID reads events. Those that are not here are missing in the result.
func (r *Reader) EventsByID(ctx context.Context, events []id.Event) (map[id.Event]*Event, error) {
	nids, err := r.NIDs(ctx, events)
	if err != nil {
		return nil, err
	}
	list := make([]nid.Event, 0, len(nids))
	for _, n := range nids {
		list = append(list, n)
	}
	found, err := r.present(ctx, list)
	if err != nil {
		return nil, err
	}
	out := make(map[id.Event]*Event, len(found))
	for i, n := range nids {
		if e := found[n]; e != nil {
			out[i] = e
		} else {
			r.Drop(map[nid.Event]id.Event{n: i}) // it was deleted, elsewhere
		}
	}
	return out, nil
}

// NID gives the number of an event, 0 when it is not here.
func (r *Reader) NID(ctx context.Context, event id.Event) (nid.Event, error) {
	m, err := r.NIDs(ctx, []id.Event{event})
	return m[event], err
}

// NIDs gives the numbers of events. Events that are not here are missing in the result.
func (r *Reader) NIDs(ctx context.Context, events []id.Event) (map[id.Event]nid.Event, error) {
	return lookup(ctx, r, r.caches.nids, nil, events, func(e id.Event) any { return EncodeEventID(e)[:eventIDPrefix] }, nidsSQL,
		func(row func(...any) error) (e id.Event, n nid.Event, err error) {
			var b []byte
			if err := row(&b, &n); err != nil {
				return "", 0, err
			}
			e, err = DecodeEventID(b)
			return e, n, err
		})
}

// EventIDs gives the IDs of events in the same order, without reading their JSON.
// A number that leads nowhere is an error.
func (r *Reader) EventIDs(ctx context.Context, events []nid.Event) ([]id.Event, error) {
	m, err := r.eventIDs(ctx, events)
	if err != nil {
		return nil, err
	}
	out := make([]id.Event, len(events))
	for i, n := range events {
		e, ok := m[n]
		if !ok {
			return nil, missing("event", n)
		}
		out[i] = e
	}
	return out, nil
}

// eventIDs gives the IDs of events. Unknown numbers are missing in the result.
func (r *Reader) eventIDs(ctx context.Context, events []nid.Event) (map[nid.Event]id.Event, error) {
	return lookup(ctx, r, r.caches.ids, nil, events, func(n nid.Event) any { return int64(n) }, eventIDsSQL,
		func(row func(...any) error) (n nid.Event, e id.Event, err error) {
			var b []byte
			if err := row(&n, &b); err != nil {
				return 0, "", err
			}
			e, err = DecodeEventID(b)
			return n, e, err
		})
}
