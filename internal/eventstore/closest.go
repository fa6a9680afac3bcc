package eventstore

import (
	"context"
	"math"
)

const (
	// timeWindow is how many events on each side of a place are compared.
	timeWindow = 200
	// maxTimeScan bounds the events looked at beyond.
	maxTimeScan = 5_000
)

// Closest finds the event of a room that is nearest to a time in milliseconds: not before it
// or, backward, not after it; nil when there is none. Of several with the same time it is
// the one that comes first in the direction of the search.
//
// Timestamps only roughly follow the order of the graph. The place is found by
// bisection over the depth; around it events are compared one by one, so that in a room
// of a few hundred events the answer is exact.
func (r *Reader) Closest(ctx context.Context, room *Room, ts int64, backward bool) (*Event, error) {
	place, err := r.placeOfTime(ctx, room, ts)
	if err != nil {
		return nil, err
	}
	var best *Event
	for _, down := range []bool{!backward, backward} {
		// The second pass goes into the direction that was asked for, and on until
		// something is found.
		q := HistoryQuery{Room: room.NID, From: place, Backward: down, Limit: timeWindow}
		for seen := 0; seen < maxTimeScan; {
			events, err := r.History(ctx, q)
			if err != nil {
				return nil, err
			}
			for _, e := range events {
				if nearer(best, e, ts, backward) {
					best = e
				}
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
	return best, nil
}

// placeOfTime finds roughly where in a room's order a time lies.
func (r *Reader) placeOfTime(ctx context.Context, room *Room, ts int64) (Position, error) {
	low, high := int64(0), room.Depth+1
	for low < high {
		mid := low + (high-low)/2
		next, err := r.History(ctx, HistoryQuery{Room: room.NID, From: Position{Depth: mid, Stream: math.MinInt64}, Limit: 1})
		if err != nil {
			return Position{}, err
		}
		if len(next) == 0 || next[0].OriginServerTS >= ts {
			high = mid
		} else {
			low = next[0].Depth + 1
		}
	}
	return Position{Depth: low, Stream: math.MinInt64}, nil
}

// nearer tells whether an event is a better answer than the best one so far; one on the
// wrong side of the time is none.
func nearer(best, e *Event, ts int64, backward bool) bool {
	distance := func(e *Event) int64 {
		if backward {
			return ts - e.OriginServerTS
		}
		return e.OriginServerTS - ts
	}
	switch d := distance(e); {
	case d < 0:
		return false
	case best == nil || d < distance(best):
		return true
	case d > distance(best):
		return false
	}
	if backward {
		return best.Position().Less(e.Position())
	}
	return e.Position().Less(best.Position())
}
