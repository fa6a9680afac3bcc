package write

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/statetree"
	"weft/internal/upkeep"
)

// SweepOptions tune a sweep. A zero field gets its default.
type SweepOptions struct {
	// Now is the time in milliseconds.
	Now int64
	// MinInterval is the shortest time since the last sweep began (default 1 hour): what
	// a writer may remember a root or an outlier for that no row refers to.
	MinInterval time.Duration
	// MaxFilter bounds the memory for marks of nodes, in bytes (default 32 MB: enough for 8
	// million; beyond that more dead nodes survive a sweep).
	MaxFilter int64
	// MaxOutliers bounds the outliers that one sweep looks at (default 1 million, for which it
	// needs some 20 MB). Where there are more, each sweep takes others.
	MaxOutliers int
	// Seed should differ from sweep to sweep.
	Seed uint64
}

func (o SweepOptions) withDefaults() SweepOptions {
	if o.MinInterval <= 0 {
		o.MinInterval = time.Hour
	}
	if o.MaxFilter <= 0 {
		o.MaxFilter = 32 << 20
	}
	if o.MaxOutliers <= 0 {
		o.MaxOutliers = 1_000_000
	}
	return o
}

// SweepResult tells what a sweep did.
type SweepResult struct {
	// Skipped: the last sweep was too short ago, here or on another node.
	Skipped bool
	// Visited counts nodes that were marked (some more than once), Deleted those
	// that were removed.
	Visited, Deleted int64
	// Outliers counts the outliers that were removed.
	Outliers int64
}

const (
	beginSweepSQL = `UPDATE state_sweeps SET epoch = epoch + 1, started = $1 WHERE one = 1 AND started <= $2 RETURNING epoch`
	countNodesSQL = `SELECT COUNT(*) FROM state_nodes`
	usersSQL      = `SELECT event_nid, room_nid, state_before, auth_nids FROM events WHERE event_nid > $1 AND stream_pos IS NOT NULL
		ORDER BY event_nid LIMIT $2`
	oldNodesSQL   = `SELECT hash FROM state_nodes WHERE hash > $1 AND epoch < $2 ORDER BY hash LIMIT $3`
	deleteNodeSQL = `DELETE FROM state_nodes WHERE epoch < $1 AND hash IN `
)

const (
	sweepPage = 1000
	// lastRoots bounds the rooms whose last root is remembered during a sweep.
	lastRoots = 10_000
)

// Sweep deletes the state nodes and the outliers that nothing refers to any more. It runs beside
// everything else (the package's text says why that is safe), in small transactions with pauses, and
// several nodes may call it: one of them does the work. One that is interrupted has done no
// harm; the next begins again.
//
//  1. raise the epoch
//  2. list the outliers
//  3. mark what is in use, by going through rooms, events and memberships
//  4. delete the nodes without a mark that were written two epochs ago
//  5. delete the outliers without a mark that had none at the last sweep either
func (w *Writer) Sweep(ctx context.Context, o SweepOptions) (SweepResult, error) {
	o = o.withDefaults()
	var result SweepResult
	var epoch int64
	err := w.db.Update(ctx, func(tx *sqldb.Tx) error {
		err := tx.QueryRow(ctx, beginSweepSQL, o.Now, o.Now-o.MinInterval.Milliseconds()).Scan(&epoch)
		result.Skipped = errors.Is(err, sql.ErrNoRows)
		if result.Skipped {
			return nil
		}
		return err
	})
	if err != nil || result.Skipped {
		return result, wrapSweep(err)
	}
	s := &sweep{w: w, r: w.r.Scanning().Primary(), last: make(map[nid.Room]statetree.Root)}
	if s.outliers, err = w.listOutliers(ctx, o); err != nil {
		return result, wrapSweep(err)
	}
	var nodes int64
	if err := w.db.QueryRow(ctx, countNodesSQL).Scan(&nodes); err != nil {
		return result, wrapSweep(err)
	}
	// 32 bits for each node, and some more for those that come meanwhile.
	s.nodes = statetree.NewMarker(s.r, int(min(nodes*4+4096, o.MaxFilter)), o.Seed)
	s.nodes.Entry = func(e statetree.Entry) { s.outliers.mark(e.Event) }
	if err := s.mark(ctx); err != nil {
		return result, wrapSweep(err)
	}
	result.Visited = s.nodes.Nodes()
	if result.Deleted, err = w.deleteUnmarked(ctx, s.nodes, epoch-1); err != nil {
		return result, wrapSweep(err)
	}
	result.Outliers, err = w.sweepOutliers(ctx, s.outliers)
	return result, wrapSweep(err)
}

func wrapSweep(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("eventstore: sweep: %w", err)
}

// sweep is one sweep under way.
type sweep struct {
	w        *Writer
	r        *eventstore.Reader
	nodes    *statetree.Marker
	outliers *outlierMarks
	last     map[nid.Room]statetree.Root // the root that was marked last
}

// mark marks what is in use: the current states of all rooms, then the states of all events and
// their auth events (the order matters), then the members' events.
func (s *sweep) mark(ctx context.Context) error {
	for after := nid.Room(0); ; {
		rooms, err := s.r.ListRooms(ctx, after, sweepPage)
		if err != nil {
			return err
		}
		for _, room := range rooms {
			if err := s.state(ctx, room.NID, room.CurrentState); err != nil {
				return err
			}
			after = room.NID
		}
		if len(rooms) < sweepPage {
			break
		}
	}
	for after := int64(0); ; {
		n, err := s.users(ctx, &after)
		if err != nil {
			return err
		}
		if n < sweepPage {
			break
		}
		if err := upkeep.Rest(ctx); err != nil {
			return err
		}
	}
	return s.w.markMembers(ctx, s.outliers)
}

func (s *sweep) state(ctx context.Context, room nid.Room, root statetree.Root) error {
	if len(s.last) >= lastRoots {
		clear(s.last)
	}
	err := s.nodes.Mark(ctx, root, s.last[room])
	s.last[room] = root
	return err
}

// users marks what a page of events that have a place in their room uses.
func (s *sweep) users(ctx context.Context, after *int64) (n int, err error) {
	type use struct {
		room nid.Room
		root statetree.Root
	}
	page := make([]use, 0, sweepPage)
	err = query(ctx, s.w.db, usersSQL, []any{*after, sweepPage}, func(row func(...any) error) error {
		var u use
		var root, auth []byte
		if err := row(after, &u.room, &root, &auth); err != nil {
			return err
		}
		n++
		if root != nil {
			copy(u.root[:], root)
			page = append(page, u)
		}
		return s.outliers.markSet(auth)
	})
	if err != nil {
		return n, err
	}
	for _, u := range page {
		if err := s.state(ctx, u.room, u.root); err != nil {
			return n, err
		}
	}
	return n, nil
}

// deleteUnmarked deletes the nodes without a mark that are older than an epoch.
func (w *Writer) deleteUnmarked(ctx context.Context, m *statetree.Marker, before int64) (deleted int64, err error) {
	after := []byte{}
	return upkeep.Each(ctx, func() (int64, bool, error) {
		var dead []any
		seen := 0
		err := query(ctx, w.db, oldNodesSQL, []any{after, before, sweepPage}, func(row func(...any) error) error {
			var b []byte
			if err := row(&b); err != nil {
				return err
			}
			seen++
			after = b
			var h statetree.Hash
			copy(h[:], b)
			if !m.Marked(h) {
				dead = append(dead, b)
			}
			return nil
		})
		if err != nil {
			return 0, false, err
		}
		deleted := int64(0)
		err = sqldb.Chunk(dead, func(part []any) error {
			in, args := sqldb.InArgs([]any{before}, part)
			res, err := w.db.Exec(ctx, deleteNodeSQL+in, args...)
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			deleted += n
			return err
		})
		return deleted, seen == sweepPage, err
	})
}

// query calls fn for every row.
func query(ctx context.Context, q sqldb.Querier, text string, args []any, fn func(row func(...any) error) error) (err error) {
	rows, err := q.Query(ctx, text, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := fn(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}
