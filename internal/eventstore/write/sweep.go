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
)

// SweepOptions tune a sweep. A zero field gets its default.
type SweepOptions struct {
	// Now is the time in milliseconds.
	Now int64
	// MinInterval is the shortest time since the last sweep began (default 1 hour): what
	// a writer may remember a root for that no row refers to.
	MinInterval time.Duration
	// MaxFilter bounds the memory for marks, in bytes (default 32 MB: enough for 25
	// million nodes; beyond that more dead nodes survive a sweep).
	MaxFilter int64
	// Seed should differ from sweep to sweep.
	Seed uint64
}

// SweepResult tells what a sweep did.
type SweepResult struct {
	// Skipped: the last sweep was too short ago, here or on another node.
	Skipped bool
	// Visited counts nodes that were marked (some more than once), Deleted those
	// that were removed.
	Visited, Deleted int64
}

const (
	beginSweepSQL = `UPDATE state_sweeps SET epoch = epoch + 1, started = $1 WHERE one = 1 AND started <= $2 RETURNING epoch`
	countNodesSQL = `SELECT COUNT(*) FROM state_nodes`
	rootsSQL      = `SELECT event_nid, room_nid, state_before FROM events WHERE event_nid > $1 AND state_before IS NOT NULL
		ORDER BY event_nid LIMIT $2`
	oldNodesSQL   = `SELECT hash FROM state_nodes WHERE hash > $1 AND epoch < $2 ORDER BY hash LIMIT $3`
	deleteNodeSQL = `DELETE FROM state_nodes WHERE epoch < $1 AND hash IN `
)

const (
	sweepPage = 1000
	// lastRoots bounds the rooms whose last root is remembered during a sweep.
	lastRoots = 10_000
)

// Sweep deletes the state nodes that nothing refers to any more. It runs beside
// everything else (the package's text says why that is safe), in small transactions, and
// several nodes may call it: one of them does the work.
func (w *Writer) Sweep(ctx context.Context, o SweepOptions) (SweepResult, error) {
	if o.MinInterval <= 0 {
		o.MinInterval = time.Hour
	}
	if o.MaxFilter <= 0 {
		o.MaxFilter = 32 << 20
	}
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
	var nodes int64
	if err := w.db.QueryRow(ctx, countNodesSQL).Scan(&nodes); err != nil {
		return result, wrapSweep(err)
	}
	r := w.r.Scanning()
	// 10 bits for each node, and some more for those that come meanwhile.
	m := statetree.NewMarker(r, int(min(nodes*3/2+4096, o.MaxFilter)), o.Seed)
	if err := w.mark(ctx, r, m); err != nil {
		return result, wrapSweep(err)
	}
	result.Visited = m.Nodes()
	result.Deleted, err = w.deleteUnmarked(ctx, m, epoch-1)
	return result, wrapSweep(err)
}

func wrapSweep(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("eventstore: sweep: %w", err)
}

// mark marks the current states of all rooms and then the states of all events; the
// order matters.
func (w *Writer) mark(ctx context.Context, r *eventstore.Reader, m *statetree.Marker) error {
	last := make(map[nid.Room]statetree.Root)
	mark := func(room nid.Room, root statetree.Root) error {
		if len(last) >= lastRoots {
			clear(last)
		}
		err := m.Mark(ctx, root, last[room])
		last[room] = root
		return err
	}
	for after := nid.Room(0); ; {
		rooms, err := r.ListRooms(ctx, after, sweepPage)
		if err != nil {
			return err
		}
		for _, room := range rooms {
			if err := mark(room.NID, room.CurrentState); err != nil {
				return err
			}
			after = room.NID
		}
		if len(rooms) < sweepPage {
			break
		}
	}
	type use struct {
		room nid.Room
		root statetree.Root
	}
	for after := int64(0); ; {
		page := make([]use, 0, sweepPage)
		err := query(ctx, w.db, rootsSQL, []any{after, sweepPage}, func(row func(...any) error) error {
			var u use
			var root []byte
			if err := row(&after, &u.room, &root); err != nil {
				return err
			}
			copy(u.root[:], root)
			page = append(page, u)
			return nil
		})
		if err != nil {
			return err
		}
		for _, u := range page {
			if err := mark(u.room, u.root); err != nil {
				return err
			}
		}
		if len(page) < sweepPage {
			return nil
		}
	}
}

// deleteUnmarked deletes the nodes without a mark that are older than an epoch.
func (w *Writer) deleteUnmarked(ctx context.Context, m *statetree.Marker, before int64) (deleted int64, err error) {
	after := []byte{}
	for {
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
			return deleted, err
		}
		var n int64
		err = sqldb.Chunk(dead, func(part []any) error {
			err := w.db.Update(ctx, func(tx *sqldb.Tx) error {
				in, args := sqldb.InArgs([]any{before}, part)
				res, err := tx.Exec(ctx, deleteNodeSQL+in, args...)
				if err != nil {
					return err
				}
				n, err = res.RowsAffected()
				return err
			})
			deleted += n
			return err
		})
		if err != nil {
			return deleted, err
		}
		if seen < sweepPage {
			return deleted, nil
		}
	}
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
