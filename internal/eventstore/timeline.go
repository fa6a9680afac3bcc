package eventstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"

	"weft/internal/nid"
)

// hidden are the flags of events that clients do not get.
const hidden = int64(Rejected | SoftFailed)

const (
	timelineUpSQL = `SELECT event_nid FROM events WHERE room_nid = $1 AND stream_pos > $2 AND stream_pos <= $3
		AND (flags & $4) = 0 ORDER BY stream_pos LIMIT $5`
	timelineDownSQL = `SELECT event_nid FROM events WHERE room_nid = $1 AND stream_pos > $2 AND stream_pos <= $3
		AND (flags & $4) = 0 ORDER BY stream_pos DESC LIMIT $5`
	historyUpSQL = `SELECT event_nid FROM events WHERE room_nid = $1 AND (depth, stream_pos) > ($2, $3) AND (depth, stream_pos) <= ($4, $5)
		AND stream_pos <= $6 AND (flags & $7) = 0 ORDER BY depth, stream_pos LIMIT $8`
	historyDownSQL = `SELECT event_nid FROM events WHERE room_nid = $1 AND (depth, stream_pos) > ($2, $3) AND (depth, stream_pos) <= ($4, $5)
		AND stream_pos <= $6 AND (flags & $7) = 0 ORDER BY depth DESC, stream_pos DESC LIMIT $8`
	streamSQL = `SELECT stream_pos, event_nid, room_nid, type_nid, flags FROM events WHERE stream_pos > $1 AND stream_pos <= $2
		ORDER BY stream_pos LIMIT $3`
	changedSQL = `SELECT room_nid, MAX(stream_pos) FROM events WHERE stream_pos > $1 AND stream_pos <= $2 AND (flags & $3) = 0
		AND room_nid IN `
	changedTail  = ` GROUP BY room_nid`
	latestSQL    = `SELECT MAX(stream_pos) FROM events WHERE room_nid = $1 AND stream_pos <= $2 AND (flags & $3) = 0`
	placeSQL     = `SELECT depth, stream_pos FROM events WHERE event_nid = $1`
	closestUpSQL = `SELECT event_nid FROM events WHERE room_nid = $1 AND stream_pos <= $2 AND (flags & $3) = 0
		ORDER BY stream_pos DESC LIMIT 1`
)

// Timeline reads a room's events at the stream positions from < pos ≤ to, at most
// limit of them: the earliest, in order; or, backward, the latest, latest first.
// Rejected and soft-failed events are left out; so are backfilled ones unless from is negative.
func (r *Reader) Timeline(ctx context.Context, room nid.Room, from, to int64, limit int, backward bool) ([]*Event, error) {
	q := timelineUpSQL
	if backward {
		q = timelineDownSQL
	}
	list, err := numbers[nid.Event](ctx, r, q, int64(room), from, to, hidden, limit)
	if err != nil {
		return nil, err
	}
	return r.Events(ctx, list)
}

// HistoryQuery asks for a piece of a room's history in topological order. Positions
// name gaps (see Position).
type HistoryQuery struct {
	Room nid.Room
	// From is where to begin, going up (towards newer events), or down with
	// Backward.
	From     Position
	Backward bool
	// To is where to end at the latest; nil: at the end of the room.
	To    *Position
	Limit int
	// MaxStream leaves out events with a greater stream position, so that what
	// arrives while a client pages cannot shift its pages. 0: none are left out.
	MaxStream int64
}

// History reads a piece of a room's history, backfilled events included, rejected
// and soft-failed ones not. The first element is the event next to From.
func (r *Reader) History(ctx context.Context, h HistoryQuery) ([]*Event, error) {
	q, low, high := historyUpSQL, h.From, End()
	if h.To != nil {
		high = *h.To
	}
	if h.Backward {
		q, low, high = historyDownSQL, Start(), h.From
		if h.To != nil {
			low = *h.To
		}
	}
	maxStream := h.MaxStream
	if maxStream == 0 {
		maxStream = math.MaxInt64
	}
	list, err := numbers[nid.Event](ctx, r, q, int64(h.Room), low.Depth, low.Stream, high.Depth, high.Stream, maxStream, hidden, h.Limit)
	if err != nil {
		return nil, err
	}
	return r.Events(ctx, list)
}

// PositionOf gives an event's place in the topological order. It reports false for
// outliers and unknown numbers.
func (r *Reader) PositionOf(ctx context.Context, event nid.Event) (Position, bool, error) {
	var p Position
	var stream sql.NullInt64
	err := r.q.QueryRow(ctx, placeSQL, int64(event)).Scan(&p.Depth, &stream)
	if errors.Is(err, sql.ErrNoRows) {
		return p, false, nil
	}
	if err != nil {
		return p, false, fmt.Errorf("eventstore: position: %w", err)
	}
	p.Stream = stream.Int64
	return p, stream.Valid, nil
}

// LastBefore gives a room's last visible event at or before a stream position, 0
// when there is none: with it a sync token becomes a place in the topological order.
func (r *Reader) LastBefore(ctx context.Context, room nid.Room, pos int64) (nid.Event, error) {
	list, err := numbers[nid.Event](ctx, r, closestUpSQL, int64(room), pos, hidden)
	if err != nil || len(list) == 0 {
		return 0, err
	}
	return list[0], nil
}

// EventStream reads the stream of all rooms at the positions from < pos ≤ to, at most
// limit rows, rejected and soft-failed events included.
func (r *Reader) EventStream(ctx context.Context, from, to int64, limit int) ([]StreamRow, error) {
	var out []StreamRow
	err := r.rows(ctx, streamSQL, []any{max(from, 0), to, limit}, func(row func(...any) error) error {
		var s StreamRow
		err := row(&s.Pos, &s.Event, &s.Room, &s.Type, &s.Flags)
		out = append(out, s)
		return err
	})
	return out, err
}

// RoomsChanged tells which of some rooms have visible events at the stream positions
// from < pos ≤ to, and the last such position of each.
func (r *Reader) RoomsChanged(ctx context.Context, rooms []nid.Room, from, to int64) (map[nid.Room]int64, error) {
	out := make(map[nid.Room]int64)
	for part := range slices.Chunk(rooms, 500) {
		q, args := inList(changedSQL, []any{from, to, hidden}, anys(part))
		err := r.rows(ctx, q+changedTail, args, func(row func(...any) error) error {
			var room nid.Room
			var pos int64
			err := row(&room, &pos)
			out[room] = pos
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// LatestPos gives the stream position of a room's last visible event up to a position,
// 0 when there is none.
func (r *Reader) LatestPos(ctx context.Context, room nid.Room, upTo int64) (int64, error) {
	var pos sql.NullInt64
	if err := r.q.QueryRow(ctx, latestSQL, int64(room), upTo, hidden).Scan(&pos); err != nil {
		return 0, fmt.Errorf("eventstore: latest position: %w", err)
	}
	return pos.Int64, nil
}
