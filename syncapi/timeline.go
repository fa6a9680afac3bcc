package syncapi

import (
	"context"
	"math"

	"weft/internal/clientevent"
	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/matrix/id"
)

const (
	// timelineRounds bounds how often a timeline is read on because a filter left too
	// little of it.
	timelineRounds = 10
	timelinePage   = 50
)

// timelineQuery asks for the latest events of a room.
type timelineQuery struct {
	room     nid.Room
	from, to int64 // stream positions: from < pos ≤ to; 0: from the beginning
	limit    int
	filter   *roomEventFilter
	user     id.User
	ignored  map[id.User]bool
	// piece has all events from < pos ≤ to; nil: they are read.
	piece *piece
}

// timeline is a piece of a room's history, oldest event first.
type timeline struct {
	events  []*eventstore.Event
	limited bool
	// prev is the place before the first event, and deepest a depth that nothing before it
	// exceeds.
	prev    eventstore.Position
	deepest int64
	// piece is where the events come from, or nil.
	piece *piece
}

// readTimeline reads the latest events of a room that a user may see and a filter lets pass.
// It ends where events are missing, so that what a client gets has no holes
// that it does not know of.
func (s *Server) readTimeline(ctx context.Context, q timelineQuery) (*timeline, error) {
	t := &timeline{deepest: math.MaxInt64, piece: q.piece}
	var oldest *eventstore.Event // that was looked at
	gaps, err := s.gaps(ctx, q)
	if err != nil {
		return nil, err
	}
	size := timelinePage
	if q.filter.plain() {
		size = q.limit + 1
	}
	to, done := q.to, false
	for round := 0; !done; round++ {
		if round == timelineRounds {
			t.limited = true
			break
		}
		page, err := s.timelinePage(ctx, q, to, size)
		if err != nil {
			return nil, err
		}
		passed, err := s.passing(ctx, q, page)
		if err != nil {
			return nil, err
		}
		for i, e := range page {
			if passed[i] {
				if len(t.events) >= q.limit {
					t.limited, done = true, true
					break
				}
				t.events = append(t.events, e)
			}
			oldest = e
			if gaps[e.NID] {
				t.limited, done = true, true
				break
			}
		}
		if len(page) < size {
			break
		}
		to = page[len(page)-1].StreamPos - 1
	}
	if q.from == 0 && oldest != nil && oldest.TypeNID != nid.TypeCreate && !t.limited {
		t.limited = true // what backfill brought in is before it
	}
	if err := s.placePrev(ctx, q, t, oldest); err != nil {
		return nil, err
	}
	for i, j := 0, len(t.events)-1; i < j; i, j = i+1, j-1 {
		t.events[i], t.events[j] = t.events[j], t.events[i]
	}
	return t, nil
}

// timelinePage gives the latest events of a query up to a position, latest first.
func (s *Server) timelinePage(ctx context.Context, q timelineQuery, to int64, size int) ([]*eventstore.Event, error) {
	if q.piece == nil {
		return s.events.Timeline(ctx, q.room, max(q.from, 0), to, size, true)
	}
	page := q.piece.events
	for len(page) > 0 && page[0].StreamPos > to {
		page = page[1:]
	}
	return page[:min(size, len(page))], nil
}

// placePrev finds the place before a timeline whose events are latest first.
func (s *Server) placePrev(ctx context.Context, q timelineQuery, t *timeline, oldest *eventstore.Event) error {
	switch {
	case len(t.events) > 0 && t.limited:
		t.prev = t.events[len(t.events)-1].Position().Before()
		return nil
	case oldest != nil && len(t.events) == 0 && q.limit > 0:
		t.prev = oldest.Position().Before()
		return nil
	case len(t.events) > 0:
		t.prev = oldest.Position().Before()
		return nil
	}
	last, err := s.events.LastBefore(ctx, q.room, q.to)
	if err != nil || last == 0 {
		return err
	}
	t.prev, _, err = s.events.PositionOf(ctx, last)
	return err
}

func (s *Server) gaps(ctx context.Context, q timelineQuery) (map[nid.Event]bool, error) {
	if q.piece != nil {
		return q.piece.gaps, nil
	}
	return gapsOf(ctx, s.events, q.room)
}

// gapsOf gives the events of a room whose parents are missing.
func gapsOf(ctx context.Context, r *eventstore.Reader, room nid.Room) (map[nid.Event]bool, error) {
	list, err := r.BackwardExtremities(ctx, room)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	out := make(map[nid.Event]bool, len(list))
	for _, b := range list {
		out[b.Event] = true
	}
	return out, nil
}

// passing tells which events of a page the user may see and the filter lets pass.
func (s *Server) passing(ctx context.Context, q timelineQuery, page []*eventstore.Event) ([]bool, error) {
	out, err := s.events.CanSeeMany(ctx, q.user, page)
	if err != nil {
		return nil, err
	}
	for i, e := range page {
		out[i] = out[i] && q.filter.allows(e) && !hiddenSender(q.ignored, e)
	}
	if q.filter.relational() {
		err = s.filterRelated(ctx, q.filter, page, out)
	}
	return out, err
}

// hiddenSender tells whether an event is not shown because the user ignores its sender.
//
// spec: client-server §11.21.2 (Ignoring users): "state events will still be sent"
func hiddenSender(ignored map[id.User]bool, e *eventstore.Event) bool {
	return !e.IsState && ignored[e.Sender]
}

// writeEvents writes events, with what stands beside them, as a JSON array.
func (s *Server) writeEvents(ctx context.Context, o *output, v clientevent.Viewer, fields fieldFilter, list []*eventstore.Event) error {
	return s.writePiece(ctx, o, v, fields, list, nil)
}

// writePiece is writeEvents for events of a piece.
func (s *Server) writePiece(ctx context.Context, o *output, v clientevent.Viewer, fields fieldFilter, list []*eventstore.Event, p *piece) error {
	options, err := s.dressPiece(ctx, v, list, p)
	if err != nil {
		return err
	}
	o.raw(`[`)
	for i, e := range list {
		if i > 0 {
			o.raw(`,`)
		}
		if err := appendEvent(o, e, options[i], fields); err != nil {
			return err
		}
	}
	o.raw(`]`)
	return nil
}

func appendEvent(o *output, e *eventstore.Event, options clientevent.Options, fields fieldFilter) error {
	if fields == nil {
		o.buf = clientevent.Append(o.buf, e, options)
		return nil
	}
	kept, err := fields.apply(clientevent.Make(e, options))
	if err != nil {
		return err
	}
	o.bytes(kept)
	return nil
}
