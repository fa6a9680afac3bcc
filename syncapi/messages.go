package syncapi

import (
	"context"
	"math"
	"slices"

	"weft/internal/clientevent"
	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/internal/nid"
	"weft/internal/statetree"
	"weft/matrix/id"
	"weft/matrix/merr"
	roomapi "weft/roomserver/api"
)

const (
	defaultMessages = 10
	maxMessages     = 1000
	// messageRounds bounds how often history is read on because a filter left too little, and
	// backfillRounds how often other servers are asked, for one page.
	messageRounds  = 10
	backfillRounds = 5
	backfillLimit  = 100
)

// history is a page of a room's history, in the direction of the paging.
type history struct {
	events []*eventstore.Event
	// end is the place after the last event that was looked at; more tells that there may be
	// more behind it.
	end  eventstore.Position
	more bool
}

// historyQuery asks for such a page.
type historyQuery struct {
	view     *roomView
	from     place
	to       *eventstore.Position
	backward bool
	limit    int
	filter   *roomEventFilter
	ignored  map[id.User]bool
	backfill bool
}

// readHistory reads a page of what the user may see and the filter lets pass.
func (s *Server) readHistory(ctx context.Context, q historyQuery) (*history, error) {
	h := &history{end: q.from.at, more: true}
	size := q.limit
	if !q.filter.plain() {
		size = max(q.limit, timelinePage)
	}
	size = min(size, 500)
	for round := 0; round < messageRounds && h.more && len(h.events) < q.limit; round++ {
		page, err := s.historyPage(ctx, q, h.end, size)
		if err != nil {
			return nil, err
		}
		passed, err := s.passing(ctx, timelineQuery{filter: q.filter, user: q.view.user, ignored: q.ignored}, page)
		if err != nil {
			return nil, err
		}
		h.more = len(page) == size
		for i, e := range page {
			if len(h.events) == q.limit {
				h.more = true
				break
			}
			h.end = e.Position()
			if q.backward {
				h.end = h.end.Before()
			}
			if passed[i] {
				h.events = append(h.events, e)
			}
			if q.backward && e.TypeNID == nid.TypeCreate {
				h.more = false
			}
		}
	}
	return h, nil
}

// historyPage reads a page as it is in the store. Going backward it first asks other
// servers for what is missing within the page, or just before it.
func (s *Server) historyPage(ctx context.Context, q historyQuery, from eventstore.Position, size int) ([]*eventstore.Event, error) {
	query := eventstore.HistoryQuery{Room: q.view.NID, From: from, Backward: q.backward, To: q.to, Limit: size, MaxStream: q.from.maxStream}
	if last := q.view.last; last != 0 && (query.MaxStream == 0 || query.MaxStream > last) {
		query.MaxStream = last
	}
	for round := 0; ; round++ {
		page, err := s.events.History(ctx, query)
		if err != nil || !q.backward || !q.backfill || s.cfg.Rooms == nil || round == backfillRounds {
			return page, err
		}
		depth, gap, err := s.gapIn(ctx, q, from, page)
		if err != nil || !gap {
			return page, err
		}
		stored, err := s.cfg.Rooms.Backfill(ctx, roomapi.Backfill{Room: q.view.ID, Before: min(depth, math.MaxInt64-1), Limit: backfillLimit})
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			s.log.WithError(err).WithField("room", q.view.ID).Info("history could not be fetched from other servers")
			return page, nil
		}
		if !stored {
			return page, nil
		}
	}
}

// gapIn tells whether events are missing within a page of history, or just before it, and
// the depth of what refers to them.
func (s *Server) gapIn(ctx context.Context, q historyQuery, from eventstore.Position, page []*eventstore.Event) (depth int64, gap bool, _ error) {
	ends, err := s.events.BackwardExtremities(ctx, q.view.NID)
	if err != nil || len(ends) == 0 {
		return 0, false, err
	}
	refers := func(b eventstore.BackwardExtremity) bool { return b.Depth == q.from.edge }
	if q.from.edge != 0 && from == q.from.at && slices.ContainsFunc(ends, refers) {
		return q.from.edge, true, nil
	}
	for _, e := range page {
		if slices.ContainsFunc(ends, func(b eventstore.BackwardExtremity) bool { return b.Event == e.NID }) {
			return e.Depth, true, nil
		}
	}
	// The place before an event whose parents are missing.
	return from.Depth, len(page) == 0, nil
}

// GetRoomEvents is GET /rooms/{roomId}/messages.
//
// spec: client-server §10.5 (GET /rooms/{roomId}/messages)
func (s *Server) GetRoomEvents(ctx context.Context, r *httpapi.Request) (any, error) {
	v, err := s.viewRoom(ctx, r)
	if err != nil {
		return nil, err
	}
	q := historyQuery{view: v, backfill: true}
	if q.backward, err = direction(r, ""); err != nil {
		return nil, err
	}
	limit, err := r.QueryInt("limit", defaultMessages, 0, maxMessages)
	if err != nil {
		return nil, err
	}
	if q.filter, err = parseRoomEventFilter(r.Query().Get("filter")); err != nil {
		return nil, err
	}
	if q.limit = int(limit); q.filter.Limit != nil && r.Query().Get("limit") == "" {
		q.limit = q.filter.limit(defaultMessages, maxMessages)
	}
	from := r.Query().Get("from")
	if from == "" {
		if q.from.at = eventstore.Start(); q.backward {
			q.from.at = eventstore.End()
		}
	} else if q.from, err = s.parsePlace(ctx, v.NID, from, q.backward); err != nil {
		return nil, err
	}
	if to := r.Query().Get("to"); to != "" {
		end, err := s.parsePlace(ctx, v.NID, to, false)
		if err != nil {
			return nil, err
		}
		q.to = &end.at
	}
	if q.ignored, err = s.ignoredUsers(ctx, v.user); err != nil {
		return nil, err
	}
	h, err := s.readHistory(ctx, q)
	if err != nil {
		return nil, err
	}
	return s.writeMessages(ctx, r, &q, h, from)
}

// direction reads dir: whether to go backward. def is taken where it is absent; without a
// def that is an error.
func direction(r *httpapi.Request, def string) (backward bool, err error) {
	dir := r.Query().Get("dir")
	if dir == "" {
		dir = def
	}
	switch dir {
	case "b":
		return true, nil
	case "f":
		return false, nil
	case "":
		return false, merr.MissingParam("the parameter dir is missing")
	}
	return false, merr.InvalidParam("dir is neither b nor f")
}

func (s *Server) writeMessages(ctx context.Context, r *httpapi.Request, q *historyQuery, h *history, from string) (any, error) {
	viewer := s.viewerOf(r)
	o := new(output)
	b := o.open()
	if err := s.writeEvents(ctx, b.key("chunk"), viewer, nil, h.events); err != nil {
		return nil, err
	}
	if from == "" {
		from = topoToken(q.from.at, q.from.maxStream)
	}
	b.key("start").string(from)
	if h.more || !q.backward && len(h.events) > 0 {
		b.key("end").string(topoToken(h.end, q.from.maxStream))
	}
	if q.filter.LazyLoadMembers && len(h.events) > 0 {
		newest := h.events[0]
		if !q.backward {
			newest = h.events[len(h.events)-1]
		}
		members, err := s.sendersOf(ctx, newest, h.events)
		if err != nil {
			return nil, err
		}
		if err := s.writeEvents(ctx, b.key("state"), viewer, nil, members); err != nil {
			return nil, err
		}
	}
	b.close()
	return httpapi.Response{Raw: o.buf}, nil
}

// viewerOf is the client that makes a request, for endpoints that show room IDs.
func (s *Server) viewerOf(r *httpapi.Request) clientevent.Viewer {
	return clientevent.Viewer{User: r.Session.User, Device: r.Session.Device, Now: s.nowMS()}
}

// sendersOf gives the member events of those who sent some events, in the state after one of them.
func (s *Server) sendersOf(ctx context.Context, at *eventstore.Event, list []*eventstore.Event) ([]*eventstore.Event, error) {
	if !at.HasState {
		return nil, nil
	}
	state, err := s.events.StateAfter(at)
	if err != nil {
		return nil, err
	}
	return s.membersIn(ctx, state, list)
}

func (s *Server) membersIn(ctx context.Context, state *eventstore.State, list []*eventstore.Event) ([]*eventstore.Event, error) {
	var senders []string
	for _, e := range list {
		if !slices.Contains(senders, string(e.Sender)) {
			senders = append(senders, string(e.Sender))
		}
	}
	numbers, err := s.events.StateKeyNIDs(ctx, senders)
	if err != nil {
		return nil, err
	}
	var keys []statetree.Key
	for _, u := range senders {
		if n := numbers[u]; n != 0 {
			keys = append(keys, statetree.Key{Type: nid.TypeMember, StateKey: n})
		}
	}
	found, err := state.NIDs(ctx, keys)
	if err != nil {
		return nil, err
	}
	return s.events.Events(ctx, slices.DeleteFunc(found, func(n nid.Event) bool { return n == 0 }))
}
