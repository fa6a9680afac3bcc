package eventstore

import (
	"context"
	"slices"

	"weft/internal/nid"
)

const (
	movedSQL = `SELECT m.room_nid, m.user_nid, m.membership, m.event_nid, m.stream_pos, m.local, m.forgotten, k.state_key
		FROM room_members m JOIN state_keys k ON k.state_key_nid = m.user_nid
		WHERE m.stream_pos > $1 AND m.stream_pos <= $2 AND m.membership IN (1, 2, 3, 4, 5) AND m.room_nid IN `
	backfilledSQL = `SELECT stream_pos, event_nid, room_nid, flags FROM events WHERE stream_pos < $1 AND stream_pos < 0
		ORDER BY stream_pos DESC LIMIT $2`
)

// MovedMembers gives the members of some rooms whose present membership, or member
// event, became current at the stream positions from < pos ≤ to. What was current only
// in between is not told.
func (r *Reader) MovedMembers(ctx context.Context, rooms []nid.Room, from, to int64) (map[nid.Room][]Member, error) {
	out := make(map[nid.Room][]Member)
	for part := range slices.Chunk(rooms, 500) {
		q, args := inList(movedSQL, []any{from, to}, anys(part))
		err := r.rows(ctx, q, args, func(row func(...any) error) error {
			var room nid.Room
			m, err := scanMember(func(dest ...any) error { return row(append([]any{&room}, dest...)...) })
			out[room] = append(out[room], m)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Backfilled reads what backfill brought in, latest arrivals last: at most limit rows
// at the stream positions below before, which is 0 for the first page.
func (r *Reader) Backfilled(ctx context.Context, before int64, limit int) ([]StreamRow, error) {
	var out []StreamRow
	err := r.rows(ctx, backfilledSQL, []any{before, limit}, func(row func(...any) error) error {
		var s StreamRow
		err := row(&s.Pos, &s.Event, &s.Room, &s.Flags)
		out = append(out, s)
		return err
	})
	return out, err
}
