package roomserver

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

const (
	// backfillServers is how many servers are asked before backfill gives up.
	backfillServers = 5
	// backfillFrom is how many backward extremities one request names.
	backfillFrom = 10
	// maxBackfillLimit bounds the events of one request.
	maxBackfillLimit = 100
)

// Backfill implements api.Rooms. One backfill at a time runs in a room: who comes
// meanwhile waits for it and is told that there may be more.
//
// spec: server-server §7 (Backfilling and retrieving missing events)
func (s *Server) Backfill(ctx context.Context, req api.Backfill) (bool, error) {
	room, err := s.store.Room(ctx, req.Room)
	if err != nil {
		return false, err
	}
	if room.Stub {
		return false, merr.NotFound("this server is not in the room %s", req.Room)
	}
	waited, done, err := s.enterBackfill(ctx, req.Room)
	if waited || err != nil {
		return waited, err
	}
	defer done()
	ends, err := s.nearestEnds(ctx, room.NID, req.Before)
	if err != nil || len(ends) == 0 {
		return false, err
	}
	servers, err := s.serversFor(ctx, room.NID, ends)
	if err != nil {
		return false, err
	}
	for _, server := range servers {
		stored, err := s.backfillFrom(ctx, room, server, ends, min(max(req.Limit, 1), maxBackfillLimit))
		if stored || ctx.Err() != nil {
			return stored, ctx.Err()
		}
		if err != nil {
			s.log.WithError(err).WithField("server", server).WithField("room", req.Room).Info("backfill failed")
		}
	}
	return false, nil
}

// enterBackfill waits for a backfill that is under way, or begins one.
func (s *Server) enterBackfill(ctx context.Context, room id.Room) (waited bool, done func(), _ error) {
	s.mu.Lock()
	running := s.backfill[room]
	if running == nil {
		ch := make(chan struct{})
		s.backfill[room] = ch
		s.mu.Unlock()
		return false, func() {
			s.mu.Lock()
			delete(s.backfill, room)
			s.mu.Unlock()
			close(ch)
		}, nil
	}
	s.mu.Unlock()
	select {
	case <-running:
		return true, nil, nil
	case <-ctx.Done():
		return false, nil, ctx.Err()
	}
}

// nearestEnds gives the backward extremities that are nearest to a depth.
func (s *Server) nearestEnds(ctx context.Context, room nid.Room, depth int64) ([]eventstore.BackwardExtremity, error) {
	ends, err := s.store.BackwardExtremities(ctx, room)
	if err != nil {
		return nil, err
	}
	distance := func(e eventstore.BackwardExtremity) int64 { return max(e.Depth-depth, depth-e.Depth) }
	slices.SortStableFunc(ends, func(a, b eventstore.BackwardExtremity) int { return cmp.Compare(distance(a), distance(b)) })
	return ends[:min(len(ends), backfillFrom)], nil
}

// serversFor gives the servers to ask: first that of whoever sent the events
// which refer to what is missing, then others of the room.
func (s *Server) serversFor(ctx context.Context, room nid.Room, ends []eventstore.BackwardExtremity) ([]id.Server, error) {
	nids := make([]nid.Event, len(ends))
	for i, e := range ends {
		nids[i] = e.Event
	}
	events, err := s.store.Events(ctx, nids)
	if err != nil {
		return nil, err
	}
	var out []id.Server
	add := func(server id.Server) {
		if server != "" && server != s.cfg.ServerName && !slices.Contains(out, server) && len(out) < backfillServers {
			out = append(out, server)
		}
	}
	inRoom, err := s.store.Servers(ctx, room)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		if slices.Contains(inRoom, e.Sender.Server()) {
			add(e.Sender.Server())
		}
	}
	for _, server := range inRoom {
		add(server)
	}
	return out, nil
}

// backfillFrom asks one server and stores what it gives.
func (s *Server) backfillFrom(ctx context.Context, room *eventstore.Room, server id.Server, ends []eventstore.BackwardExtremity, limit int) (bool, error) {
	var from []id.Event
	for _, e := range ends {
		if !slices.Contains(from, e.Missing) {
			from = append(from, e.Missing)
		}
	}
	raws, err := s.cfg.Remote.Backfill(ctx, server, room.ID, from, limit)
	if err != nil {
		return false, err
	}
	s.metrics.fetched("backfill", len(raws))
	if len(raws) > limit {
		raws = raws[:limit]
	}
	p := &plan{s: s, room: room, origin: server, has: make(map[id.Event]bool)}
	got := make(map[id.Event]*event.Event)
	if _, err := p.fresh(ctx, raws, got); err != nil {
		return false, err
	}
	for _, ev := range topological(got) {
		if err := p.gatherHistory(ctx, ev, got, ends); err != nil {
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			s.log.WithError(err).WithField("event", ev.ID).Info("a backfilled event cannot be used")
		}
	}
	errs := s.acceptAll(ctx, room.ID, p.list)
	for _, err := range errs {
		if isInternal(err) {
			return false, err
		}
	}
	return len(errs) < len(p.list), nil
}

// gatherHistory plans one event of history.
func (p *plan) gatherHistory(ctx context.Context, ev *event.Event, got map[id.Event]*event.Event, ends []eventstore.BackwardExtremity) error {
	missing, err := p.missingPrevs(ctx, ev)
	if err != nil {
		return err
	}
	in := &incoming{ev: ev, origin: p.origin, mode: inputHistory, pulled: true}
	if len(missing) > 0 {
		known, err := p.stateFromAbove(ctx, ev, got, ends)
		if err != nil {
			return err
		}
		if known != nil {
			in.before = known
			if err := p.fetchAuth(ctx, ev); err != nil {
				return err
			}
			p.put(in)
			return nil
		}
	}
	return p.gatherPulled(ctx, in, missing)
}

// stateFromAbove gives the state before an event from that of an event we have,
// when nothing lies between them but a chain of message events: then nothing has
// changed, and nobody needs to be asked.
func (p *plan) stateFromAbove(ctx context.Context, ev *event.Event, got map[id.Event]*event.Event, ends []eventstore.BackwardExtremity) (*eventstore.Event, error) {
	child := make(map[id.Event]id.Event)
	for _, e := range got {
		for _, prev := range e.PrevEvents {
			if child[prev] != "" || len(e.PrevEvents) > 1 {
				return nil, nil // a fork or a merge
			}
			child[prev] = e.ID
		}
	}
	for at := ev; !at.IsState; {
		if next := got[child[at.ID]]; next != nil {
			at = next
			continue
		}
		for _, e := range ends {
			if e.Missing != at.ID {
				continue
			}
			above, err := p.s.store.Event(ctx, e.Event)
			if err != nil {
				return nil, fmt.Errorf("loading an event: %w", err)
			}
			if len(above.PrevEvents) == 1 && above.HasState {
				return above, nil
			}
		}
		return nil, nil
	}
	return nil, nil
}

// topological orders events so that parents come first, and otherwise by depth.
func topological(set map[id.Event]*event.Event) []*event.Event {
	roots := make([]*event.Event, 0, len(set))
	for _, ev := range set {
		roots = append(roots, ev)
	}
	slices.SortFunc(roots, func(a, b *event.Event) int {
		return cmp.Or(cmp.Compare(a.Depth, b.Depth), cmp.Compare(a.ID, b.ID))
	})
	var out []*event.Event
	done := make(map[id.Event]bool, len(set))
	for _, root := range roots {
		for _, ev := range append(ancestors(root, set), root) {
			if !done[ev.ID] {
				done[ev.ID] = true
				out = append(out, ev)
			}
		}
	}
	return out
}

// FetchEvent implements api.Rooms.
func (s *Server) FetchEvent(ctx context.Context, roomID id.Room, ev id.Event) (nid.Event, error) {
	room, err := s.store.Room(ctx, roomID)
	if err != nil {
		return 0, err
	}
	servers, err := s.serversFor(ctx, room.NID, nil)
	if err != nil {
		return 0, err
	}
	for _, server := range servers {
		n, err := s.store.NID(ctx, ev)
		if err != nil || n != 0 {
			return n, err
		}
		p := &plan{s: s, room: room, origin: server, has: make(map[id.Event]bool)}
		if err := p.fetchOutliers(ctx, []id.Event{ev}, fewEvents*fewEvents); err != nil {
			return 0, err
		}
	}
	n, err := s.store.NID(ctx, ev)
	if err == nil && n == 0 {
		err = merr.NotFound("the event %s could not be found", ev)
	}
	return n, err
}
