package write

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/upkeep"
	"weft/matrix/id"
)

const (
	outliersSQL       = `SELECT event_nid, flags FROM events WHERE stream_pos IS NULL AND event_nid > $1 ORDER BY event_nid LIMIT $2`
	maxOutlierSQL     = `SELECT COALESCE(MAX(event_nid), 0) FROM events WHERE stream_pos IS NULL`
	allOutlierSetsSQL = `SELECT event_nid, auth_nids FROM events WHERE stream_pos IS NULL AND event_nid > $1 ORDER BY event_nid LIMIT $2`
	outlierSetSQL     = `SELECT auth_nids FROM events WHERE event_nid IN `
	membersSQL        = `SELECT room_nid, user_nid, event_nid FROM room_members WHERE (room_nid, user_nid) > ($1, $2)
		ORDER BY room_nid, user_nid LIMIT $3`
	historySQL = `SELECT user_nid, stream_pos, room_nid, event_nid FROM membership_changes
		WHERE (user_nid, stream_pos, room_nid) > ($1, $2, $3) ORDER BY user_nid, stream_pos, room_nid LIMIT $4`
	// The flag is tested again in each statement: somebody may have taken it away.
	flagOutliersSQL   = `UPDATE events SET flags = flags + $1 WHERE stream_pos IS NULL AND (flags & $1) = 0 AND event_nid IN `
	spareOutliersSQL  = `UPDATE events SET flags = flags - $1 WHERE (flags & $1) <> 0 AND event_nid IN `
	deleteOutliersSQL = `DELETE FROM events WHERE stream_pos IS NULL AND (flags & $1) <> 0 AND event_nid IN `
	returningIDs      = ` RETURNING event_nid, event_id`
)

// outlierMarks are the outliers that a sweep looks at.
type outlierMarks struct {
	nids []nid.Event // ascending
	// part: there are more, of which this sweep looks at what they refer to alone.
	part bool
	// used: something refers to it. flagged: at the last sweep nothing did.
	used, flagged []bool
}

// listOutliers lists outliers; where there are too many, those behind a place that depends on the
// seed.
func (w *Writer) listOutliers(ctx context.Context, o SweepOptions) (*outlierMarks, error) {
	m, err := w.readOutliers(ctx, 0, o.MaxOutliers)
	if err != nil || len(m.nids) < o.MaxOutliers {
		return m, err
	}
	var last int64
	if err := w.db.QueryRow(ctx, maxOutlierSQL).Scan(&last); err != nil {
		return nil, err
	}
	m, err = w.readOutliers(ctx, rand.New(rand.NewPCG(o.Seed, 0)).Int64N(last), o.MaxOutliers)
	if m != nil {
		m.part = true
	}
	return m, err
}

func (w *Writer) readOutliers(ctx context.Context, after int64, limit int) (*outlierMarks, error) {
	const page = 10_000
	m := &outlierMarks{}
	for len(m.nids) < limit {
		n := min(page, limit-len(m.nids))
		before := len(m.nids)
		err := query(ctx, w.db, outliersSQL, []any{after, n}, func(row func(...any) error) error {
			var flags eventstore.Flags
			if err := row(&after, &flags); err != nil {
				return err
			}
			m.nids = append(m.nids, nid.Event(after))
			m.flagged = append(m.flagged, flags&eventstore.Unreferenced != 0)
			return nil
		})
		if err != nil {
			return nil, err
		}
		if len(m.nids)-before < n {
			break
		}
	}
	m.used = make([]bool, len(m.nids))
	return m, nil
}

// mark notes that something refers to an event; it reports whether that is news.
func (m *outlierMarks) mark(n nid.Event) bool {
	i, ok := slices.BinarySearch(m.nids, n)
	news := ok && !m.used[i]
	if news {
		m.used[i] = true
	}
	return news
}

func (m *outlierMarks) markSet(set []byte) error {
	list, err := nid.DecodeSet(set)
	for _, n := range list {
		m.mark(n)
	}
	return err
}

// markMembers marks the events of memberships: invites to rooms in which this server is not.
func (w *Writer) markMembers(ctx context.Context, m *outlierMarks) error {
	var room, user, pos int64
	pages := []struct {
		text string
		args func() []any
		scan func(row func(...any) error, event *nid.Event) error
	}{
		{membersSQL, func() []any { return []any{room, user} },
			func(row func(...any) error, event *nid.Event) error { return row(&room, &user, event) }},
		{historySQL, func() []any { return []any{user, pos, room} },
			func(row func(...any) error, event *nid.Event) error { return row(&user, &pos, &room, event) }},
	}
	for _, p := range pages {
		room, user, pos = 0, 0, 0
		_, err := upkeep.Each(ctx, func() (int64, bool, error) {
			n := 0
			err := query(ctx, w.db, p.text, append(p.args(), sweepPage), func(row func(...any) error) error {
				var event nid.Event
				if err := p.scan(row, &event); err != nil {
					return err
				}
				n++
				m.mark(event)
				return nil
			})
			return 0, n == sweepPage, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sweepOutliers closes the marks over the auth events of outliers, deletes those that have no mark
// for the second time, and flags those that have none for the first.
func (w *Writer) sweepOutliers(ctx context.Context, m *outlierMarks) (deleted int64, err error) {
	if m.part {
		if err := w.markByOthers(ctx, m); err != nil {
			return 0, err
		}
	}
	if err := w.follow(ctx, m, func(i int) bool { return m.used[i] }); err != nil {
		return 0, err
	}
	var first, again []nid.Event
	for i, n := range m.nids {
		switch {
		case m.used[i] && m.flagged[i]:
			again = append(again, n)
		case !m.used[i] && !m.flagged[i]:
			first = append(first, n)
		}
	}
	if err := w.setFlag(ctx, spareOutliersSQL, again); err != nil {
		return 0, err
	}
	if err := w.setFlag(ctx, flagOutliersSQL, first); err != nil {
		return 0, err
	}
	// What stays until the next sweep can be read until then: its auth events stay as well.
	for _, n := range first {
		m.mark(n)
	}
	if err := w.follow(ctx, m, func(i int) bool { return !m.flagged[i] }); err != nil {
		return 0, err
	}
	var dead []nid.Event
	for i, n := range m.nids {
		if !m.used[i] {
			dead = append(dead, n)
		}
	}
	slices.Reverse(dead) // an event goes before its auth events, which have lower numbers
	return w.deleteOutliers(ctx, dead)
}

// markByOthers marks the auth events of the outliers that the sweep does not look at: they count as
// used, whatever becomes of them.
func (w *Writer) markByOthers(ctx context.Context, m *outlierMarks) error {
	after := int64(0)
	_, err := upkeep.Each(ctx, func() (int64, bool, error) {
		n := 0
		err := query(ctx, w.db, allOutlierSetsSQL, []any{after, sweepPage}, func(row func(...any) error) error {
			var set []byte
			if err := row(&after, &set); err != nil {
				return err
			}
			n++
			if _, ok := slices.BinarySearch(m.nids, nid.Event(after)); ok {
				return nil
			}
			return m.markSet(set)
		})
		return 0, n == sweepPage, err
	})
	return err
}

// follow marks the auth events of outliers, and theirs in turn.
func (w *Writer) follow(ctx context.Context, m *outlierMarks, from func(i int) bool) error {
	var level []nid.Event
	for i, n := range m.nids {
		if from(i) {
			level = append(level, n)
		}
	}
	for len(level) > 0 {
		var next []nid.Event
		err := sqldb.Chunk(level, func(part []nid.Event) error {
			in, args := sqldb.InArgs(nil, numbers(part))
			return authSets(ctx, w.db, outlierSetSQL+in, args, func(auth nid.Event) {
				if m.mark(auth) {
					next = append(next, auth)
				}
			})
		})
		if err != nil {
			return err
		}
		level = next
	}
	return nil
}

// authSets calls fn for each auth event of the events that a statement gives.
func authSets(ctx context.Context, q sqldb.Querier, text string, args []any, fn func(auth nid.Event)) error {
	return query(ctx, q, text, args, func(row func(...any) error) error {
		var set []byte
		if err := row(&set); err != nil {
			return err
		}
		list, err := nid.DecodeSet(set)
		for _, a := range list {
			fn(a)
		}
		return err
	})
}

func numbers(list []nid.Event) []any {
	out := make([]any, len(list))
	for i, n := range list {
		out[i] = int64(n)
	}
	return out
}

func (w *Writer) setFlag(ctx context.Context, text string, list []nid.Event) error {
	_, err := upkeep.Each(ctx, func() (int64, bool, error) {
		part := list[:min(upkeep.Batch, len(list))]
		list = list[len(part):]
		if len(part) == 0 {
			return 0, false, nil
		}
		in, args := sqldb.InArgs([]any{int64(eventstore.Unreferenced)}, numbers(part))
		_, err := w.db.Exec(ctx, text+in, args...)
		return 0, len(list) > 0, err
	})
	return err
}

func (w *Writer) deleteOutliers(ctx context.Context, list []nid.Event) (int64, error) {
	return upkeep.Each(ctx, func() (int64, bool, error) {
		part := list[:min(upkeep.Batch, len(list))]
		list = list[len(part):]
		if len(part) == 0 {
			return 0, false, nil
		}
		in, args := sqldb.InArgs([]any{int64(eventstore.Unreferenced)}, numbers(part))
		gone := make(map[nid.Event]id.Event)
		err := w.db.Update(ctx, func(tx *sqldb.Tx) error {
			clear(gone)
			return deleteReturning(ctx, tx, deleteOutliersSQL+in, args, gone)
		})
		w.r.Drop(gone)
		return int64(len(gone)), len(list) > 0, err
	})
}

// deleteReturning deletes events and says which.
func deleteReturning(ctx context.Context, tx *sqldb.Tx, text string, args []any, gone map[nid.Event]id.Event) error {
	return query(ctx, tx, text+returningIDs, args, func(row func(...any) error) error {
		var n nid.Event
		var b []byte
		if err := row(&n, &b); err != nil {
			return err
		}
		var err error
		gone[n], err = eventstore.DecodeEventID(b)
		return err
	})
}

// Spare takes the flag Unreferenced from outliers, and from their auth events: somebody is about
// to refer to them. Those that a sweep has just deleted are not brought back, so the events
// must be looked up again after it.
func (w *Writer) Spare(ctx context.Context, events []nid.Event) error {
	err := w.db.Update(ctx, func(tx *sqldb.Tx) error {
		seen := make(map[nid.Event]bool)
		for level := events; len(level) > 0; {
			var next []nid.Event
			err := sqldb.Chunk(level, func(part []nid.Event) error {
				in, args := sqldb.InArgs([]any{int64(eventstore.Unreferenced)}, numbers(part))
				return authSets(ctx, tx, spareOutliersSQL+in+` RETURNING auth_nids`, args, func(auth nid.Event) {
					if !seen[auth] {
						seen[auth] = true
						next = append(next, auth)
					}
				})
			})
			if err != nil {
				return err
			}
			level = next
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("eventstore: keeping %d outliers: %w", len(events), err)
	}
	return nil
}
