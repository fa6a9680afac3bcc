package syncapi

import (
	"context"
	"fmt"
	"slices"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/matrix/id"
)

const (
	setUnreadSQL = `UPDATE unread SET read_pos = $8, notify = $9, highlight = $10 WHERE user_nid = $1 AND room_nid = $2 AND thread = $3`
	// asReadSQL is where nobody else has read, counted, or taken back meanwhile.
	asReadSQL = ` AND pos = $4 AND read_pos = $5 AND notify = $6 AND highlight = $7`
)

const (
	// recountPage is how many events are judged again at once, maxRecount at most for one receipt. Who reads so
	// little of so much gets the count of the nearer ones.
	recountPage = 200
	maxRecount  = 10_000
)

// readEffect is what a receipt makes of a user's unread counts in a room. It is worked out before the receipt is
// stored, since rules and events must be read for it, and holds only as long as the counts
// reach no further.
type readEffect struct {
	user  id.User
	nid   nid.StateKey
	room  nid.Room
	share int // of the room
	upTo  int64
	rows  []unreadRow
}

// unreadRow is a row of the table unread that a receipt changes; now is what it counts, rest what of it is not read then.
type unreadRow struct {
	thread               string
	number, readPos, pos int64
	now, rest            unreadCount
}

// readEffect works out what a receipt up to a position makes of the counts.
func (s *Server) readEffect(ctx context.Context, room nid.Room, r receipt, upTo int64) (*readEffect, error) {
	user, err := s.events.UserNID(ctx, r.user)
	if err != nil || user == 0 {
		return nil, err
	}
	out := &readEffect{user: r.user, nid: user, room: room, upTo: upTo}
	if out.share, err = s.shares.share(ctx, room); err != nil {
		return nil, err
	}
	if out.rows, err = s.unreadRows(ctx, user, room); err != nil {
		return nil, err
	}
	end := int64(0)
	out.rows = slices.DeleteFunc(out.rows, func(row unreadRow) bool {
		if row.readPos >= upTo || r.thread != "" && row.thread != r.thread {
			return true
		}
		end = max(end, row.pos)
		return false
	})
	if end <= upTo {
		return out, nil
	}
	counts, err := s.recount(ctx, room, eventstore.Member{User: r.user, UserNID: user}, upTo, out.rows)
	for i, row := range out.rows {
		out.rows[i].rest = counts[row.thread]
	}
	return out, err
}

func (s *Server) unreadRows(ctx context.Context, user nid.StateKey, room nid.Room) ([]unreadRow, error) {
	rows, err := s.db.Query(ctx, unreadRowsSQL, int64(user), int64(room))
	if err != nil {
		return nil, fmt.Errorf("reading unread counts: %w", err)
	}
	defer rows.Close()
	var out []unreadRow
	for rows.Next() {
		var row unreadRow
		if err := rows.Scan(&row.number, (*threadColumn)(&row.thread), &row.readPos, &row.pos, &row.now.notify, &row.now.highlight); err != nil {
			return nil, fmt.Errorf("reading unread counts: %w", err)
		}
		out = append(out, row)
	}
	return out, rows.Err()
}

// recount judges again the events of a room after a position, up to where each row of counts reaches.
func (s *Server) recount(ctx context.Context, room nid.Room, m eventstore.Member, from int64, rows []unreadRow) (map[string]unreadCount, error) {
	ends, end := make(map[string]int64, len(rows)), int64(0)
	for _, row := range rows {
		ends[row.thread] = row.pos
		end = max(end, row.pos)
	}
	local, err := s.residents.of(ctx, room)
	if err != nil {
		return nil, err
	}
	m = local.member(m)
	out := make(map[string]unreadCount)
	for judged := 0; from < end && judged < maxRecount; judged += recountPage {
		page, err := s.events.Timeline(ctx, room, from, end, recountPage, false)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			from = e.StreamPos
			thread, o, err := s.follower.judgeFor(ctx, e, local, m)
			if err != nil {
				return nil, err
			}
			if o.Notify && e.StreamPos <= ends[thread] {
				c := out[thread]
				c.add(o)
				out[thread] = c
			}
		}
		if len(page) < recountPage {
			break
		}
	}
	return out, nil
}

// none tells that there is nothing to write.
func (r *readEffect) none() bool { return r == nil || len(r.rows) == 0 }

// store writes the effect. errMoved says that it does not hold any more.
func (r *readEffect) store(ctx context.Context, tx *sqldb.Tx, s *Server) error {
	if err := s.follower.at.hold(ctx, tx, r.share); err != nil {
		return err
	}
	for _, row := range r.rows {
		key := []any{int64(r.nid), int64(r.room), row.number, row.pos, row.readPos, row.now.notify, row.now.highlight}
		q := readSQL(row.number)
		if row.pos > r.upTo {
			q, key = setUnreadSQL, append(key, r.upTo, row.rest.notify, row.rest.highlight)
		}
		res, err := tx.Exec(ctx, q+asReadSQL, key...)
		if err != nil {
			return fmt.Errorf("marking as read: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errMoved
		}
	}
	tx.OnCommit(func() { s.unread.forget(r.nid) })
	return nil
}
