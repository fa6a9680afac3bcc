package syncapi

import (
	"context"
	"errors"

	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/internal/nid"
	"weft/internal/statetree"
	"weft/matrix/merr"
)

const maxContext = 100

// GetEventContext is GET /rooms/{roomId}/context/{eventId}.
//
// spec: client-server §10.6 (Retrieving events near a specific event)
func (s *Server) GetEventContext(ctx context.Context, r *httpapi.Request) (any, error) {
	v, err := s.viewRoom(ctx, r)
	if err != nil {
		return nil, err
	}
	eventID, err := r.EventVar("eventId")
	if err != nil {
		return nil, err
	}
	limit, err := r.QueryInt("limit", defaultMessages, 0, maxContext)
	if err != nil {
		return nil, err
	}
	f, err := parseRoomEventFilter(r.Query().Get("filter"))
	if err != nil {
		return nil, err
	}
	e, err := s.visibleEvent(ctx, v, eventID)
	if err != nil {
		return nil, err
	}
	q := historyQuery{view: v, filter: f, limit: int(limit) / 2, backward: true, backfill: true}
	q.from = place{at: e.Position().Before(), edge: e.Depth}
	if q.ignored, err = s.ignoredUsers(ctx, v.user); err != nil {
		return nil, err
	}
	before, err := s.readHistory(ctx, q)
	if err != nil {
		return nil, err
	}
	q.backward, q.limit = false, int(limit)-q.limit
	q.from.at = e.Position()
	after, err := s.readHistory(ctx, q)
	if err != nil {
		return nil, err
	}
	return s.writeContext(ctx, r, f, e, before, after)
}

func (s *Server) writeContext(ctx context.Context, r *httpapi.Request, f *roomEventFilter, e *eventstore.Event, before, after *history) (any, error) {
	viewer := s.viewerOf(r)
	all := append(append([]*eventstore.Event{e}, before.events...), after.events...)
	last := e
	if n := len(after.events); n > 0 {
		last = after.events[n-1]
	}
	state, err := s.contextState(ctx, f, last, all)
	if err != nil {
		return nil, err
	}
	o := new(output)
	b := o.open()
	b.key("start").string(topoToken(before.end, 0))
	b.key("end").string(topoToken(after.end, 0))
	if err := s.writeEvents(ctx, b.key("events_before"), viewer, nil, before.events); err != nil {
		return nil, err
	}
	options, err := s.dress(ctx, viewer, []*eventstore.Event{e})
	if err != nil {
		return nil, err
	}
	if err := appendEvent(b.key("event"), e, options[0], nil); err != nil {
		return nil, err
	}
	if err := s.writeEvents(ctx, b.key("events_after"), viewer, nil, after.events); err != nil {
		return nil, err
	}
	if err := s.writeEvents(ctx, b.key("state"), viewer, nil, state); err != nil {
		return nil, err
	}
	b.close()
	return httpapi.Response{Raw: o.buf}, nil
}

// contextState gives the state at the last event that is shown.
func (s *Server) contextState(ctx context.Context, f *roomEventFilter, last *eventstore.Event, shown []*eventstore.Event) ([]*eventstore.Event, error) {
	state, err := s.events.StateAfter(last)
	if err != nil {
		return nil, err
	}
	var list []nid.Event
	err = state.Walk(ctx, statetree.Key{}, func(e statetree.Entry) error {
		if !f.LazyLoadMembers || e.Type != nid.TypeMember {
			list = append(list, e.Event)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out, err := s.events.Events(ctx, list)
	if err != nil || !f.LazyLoadMembers {
		return out, err
	}
	members, err := s.membersIn(ctx, state, shown)
	return append(out, members...), err
}

// GetOneRoomEvent is GET /rooms/{roomId}/event/{eventId}.
//
// spec: client-server §10.4 (GET /rooms/{roomId}/event/{eventId})
func (s *Server) GetOneRoomEvent(ctx context.Context, r *httpapi.Request) (any, error) {
	eventID, err := r.EventVar("eventId")
	if err != nil {
		return nil, err
	}
	v, err := s.viewRoom(ctx, r)
	if err != nil {
		return nil, notFoundInstead(err)
	}
	e, err := s.visibleEvent(ctx, v, eventID)
	if err != nil {
		return nil, err
	}
	options, err := s.dress(ctx, s.viewerOf(r), []*eventstore.Event{e})
	if err != nil {
		return nil, err
	}
	o := new(output)
	if err := appendEvent(o, e, options[0], nil); err != nil {
		return nil, err
	}
	return httpapi.Response{Raw: o.buf}, nil
}

// notFoundInstead turns a refusal into M_NOT_FOUND.
//
// spec: client-server §10.4 (GET /rooms/{roomId}/event/{eventId}: 404 "The event was not found or you
// do not have permission to read this event")
func notFoundInstead(err error) error {
	if errors.Is(err, merr.ErrForbidden) {
		return merr.NotFound("there is no such event that you could see")
	}
	return err
}
