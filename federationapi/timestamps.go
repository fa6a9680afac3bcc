package federationapi

import (
	"context"
	"math"

	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/matrix/merr"
)

// GetEventByTimestamp finds the event closest to a time.
//
// spec: server-server §9, GET /_matrix/federation/v1/timestamp_to_event/{roomId}
func (s *Server) GetEventByTimestamp(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := s.memberRoom(ctx, r)
	if err != nil {
		return nil, err
	}
	ts, err := r.QueryInt("ts", -1, 0, 1<<53)
	if err != nil {
		return nil, err
	}
	dir := r.Query().Get("dir")
	if ts < 0 || dir == "" {
		return nil, merr.MissingParam("ts or dir is missing")
	}
	if dir != "f" && dir != "b" {
		return nil, merr.InvalidParam("dir must be f or b")
	}
	best, err := s.closest(ctx, room, ts, dir == "b")
	if err != nil {
		return nil, err
	}
	return map[string]any{"event_id": best.ID, "origin_server_ts": best.OriginServerTS}, nil
}

const (
	// timeWindow is how many events on each side of the place are compared.
	timeWindow = 200
	// maxTimeScan bounds the events looked at beyond.
	maxTimeScan = 5_000
)

// closest finds the event nearest to a time, not before it or, backward, not
// after it.
//
// Timestamps only roughly follow the order of the graph. The place is found by
// bisection over the depth; around it events are compared one by one, so that
// in a room of a few hundred events the answer is exact.
func (s *Server) closest(ctx context.Context, room *eventstore.Room, ts int64, backward bool) (*eventstore.Event, error) {
	low, high := int64(0), room.Depth+1
	for low < high {
		mid := low + (high-low)/2
		next, err := s.Events.History(ctx, eventstore.HistoryQuery{
			Room: room.NID, From: eventstore.Position{Depth: mid, Stream: math.MinInt64}, Limit: 1,
		})
		if err != nil {
			return nil, err
		}
		if len(next) == 0 || next[0].OriginServerTS >= ts {
			high = mid
		} else {
			low = next[0].Depth + 1
		}
	}
	place := eventstore.Position{Depth: low, Stream: math.MinInt64}
	var best *eventstore.Event
	for _, down := range []bool{!backward, backward} {
		// The second pass goes into the direction that was asked for, and on until
		// something is found.
		q := eventstore.HistoryQuery{Room: room.NID, From: place, Backward: down, Limit: timeWindow}
		for seen := 0; seen < maxTimeScan; {
			events, err := s.Events.History(ctx, q)
			if err != nil {
				return nil, err
			}
			for _, e := range events {
				best = nearer(best, e, ts, backward)
				q.From = e.Position()
				if down {
					q.From = q.From.Before()
				}
			}
			if seen += len(events); len(events) < timeWindow || best != nil || down != backward {
				break
			}
		}
	}
	if best == nil {
		return nil, merr.NotFound("no event was found at that time")
	}
	return best, nil
}

// nearer gives the one of two events that is nearer to a time; those on its wrong
// side do not count. Of equally near ones the first of the order stays.
func nearer(best, e *eventstore.Event, ts int64, backward bool) *eventstore.Event {
	off := e.OriginServerTS - ts
	if backward {
		off = -off
	}
	if off < 0 {
		return best
	}
	if best != nil {
		was := best.OriginServerTS - ts
		if backward {
			was = -was
		}
		if was < off || was == off && best.Position().Less(e.Position()) {
			return best
		}
	}
	return e
}
