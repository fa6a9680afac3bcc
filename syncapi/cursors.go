package syncapi

import (
	"context"
	"fmt"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"

	"weft/internal/cluster"
	"weft/internal/nid"
	"weft/internal/sqldb"
)

const (
	insertCursorSQL = `INSERT INTO sync_followers (name, share, pos)
		SELECT $1, CAST($2 AS INTEGER), COALESCE((SELECT MIN(pos) FROM sync_followers WHERE name = $1), 0) ON CONFLICT (name, share) DO NOTHING`
	readCursorsSQL  = `SELECT share, pos FROM sync_followers WHERE name = $1 AND share IN `
	lockCursorsTail = ` ORDER BY share FOR UPDATE`
	moveCursorsSQL  = `UPDATE sync_followers SET pos = $1 WHERE name = $2 AND share IN `
	lowestCursorSQL = `SELECT MIN(pos) FROM sync_followers WHERE name = $1`
)

// maxShared is of how many rooms it is remembered in which share they are.
const maxShared = 1 << 17

// shareSet is a set of shares of the rooms.
type shareSet uint64

const (
	everyShare shareSet = 1<<cluster.RoomShares - 1
	onlyShare  shareSet = 1
)

func (set shareSet) has(share int) bool { return set&(1<<share) != 0 }

func (set *shareSet) add(share int) { *set |= 1 << share }

// each calls fn with the shares of the set, ascending, until it returns false.
func (set shareSet) each(fn func(share int) bool) {
	for ; set != 0; set &= set - 1 {
		if !fn(bits.TrailingZeros64(uint64(set))) {
			return
		}
	}
}

func (set shareSet) numbers() []int64 {
	list := make([]int64, 0, bits.OnesCount64(uint64(set)))
	for share := range set.each {
		list = append(list, int64(share))
	}
	return list
}

// roomShares tells which share a room is in. Where nobody else writes there is one share.
type roomShares struct {
	s  *Server
	mu sync.RWMutex
	of map[nid.Room]uint8 // immutable, so it may be forgotten
}

// all are the shares that there are.
func (r *roomShares) all() shareSet {
	if r.s.cfg.Shared {
		return everyShare
	}
	return onlyShare
}

// share gives a room's share.
func (r *roomShares) share(ctx context.Context, room nid.Room) (int, error) {
	if !r.s.cfg.Shared {
		return 0, nil
	}
	r.mu.RLock()
	share, ok := r.of[room]
	r.mu.RUnlock()
	if ok {
		return int(share), nil
	}
	name, err := r.s.events.RoomID(ctx, room)
	if err != nil {
		return 0, err
	}
	share = uint8(cluster.RoomShare(string(name)))
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.of) >= maxShared {
		clear(r.of)
	}
	r.of[room] = share
	return int(share), nil
}

// cursor is how far the events of one share are followed. All but the atomic fields is under the follower's lock.
type cursor struct {
	stored int64 // what the database has
	judged int64 // up to here all events are judged
	last   int64 // the latest event that is known, or a later position
	// free is judged where there are events beyond it, else the highest number; epoch changes with what other processes do.
	free, epoch atomic.Int64
}

// touch notes what follows from judged and last.
func (c *cursor) touch() {
	free := int64(math.MaxInt64)
	if c.last > c.judged {
		free = c.judged
	}
	if c.free.Load() != free {
		c.free.Store(free)
	}
}

// cursors are those of all shares.
type cursors struct {
	shares *roomShares
	list   [cluster.RoomShares]cursor
	// seen is up to where it was looked which shares have events.
	seen atomic.Int64
}

// reached tells up to where all events of a share are judged, as far as that is known, without the lock.
func (c *cursors) reached(share int) int64 { return min(c.seen.Load(), c.list[share].free.Load()) }

// behind gives those of some shares that have events that are not judged.
func (c *cursors) behind(of shareSet) (out shareSet) {
	for share := range of.each {
		if s := &c.list[share]; s.last > s.judged {
			out.add(share)
		}
	}
	return out
}

// lowest gives the position up to which all events of some shares are judged; to where there is no share.
func (c *cursors) lowest(of shareSet, to int64) int64 {
	for share := range of.each {
		to = min(to, c.list[share].judged)
	}
	return to
}

// found notes what the database has.
func (c *cursors) found(share int, pos int64) {
	s := &c.list[share]
	if s.stored != pos {
		s.stored, s.judged = pos, pos
		s.epoch.Add(1) // the other process also stored what this one keeps in memory
		s.touch()
	}
}

// advance notes that all events of some shares are judged.
func (c *cursors) advance(of shareSet, to int64) {
	for share := range of.each {
		s := &c.list[share]
		s.judged = max(s.judged, to)
		s.touch()
	}
}

// insertCursors makes the rows of shares that have none: they begin where those that there are have come to.
func insertCursors(ctx context.Context, tx *sqldb.Tx, name string, of shareSet) error {
	for share := range of.each {
		if _, err := tx.Exec(ctx, insertCursorSQL, name, share); err != nil {
			return fmt.Errorf("followers: %w", err)
		}
	}
	return nil
}

// readCursors reads the rows of some shares; lock ends the statement.
func readCursors(ctx context.Context, q sqldb.Querier, name string, of shareSet, lock string, found func(share int, pos int64)) error {
	in, args := sqldb.InArgs([]any{name}, of.numbers())
	rows, err := q.Query(ctx, readCursorsSQL+in+lock, args...)
	if err != nil {
		return fmt.Errorf("followers: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var share int
		var pos int64
		if err := rows.Scan(&share, &pos); err != nil {
			return fmt.Errorf("followers: %w", err)
		}
		found(share, pos)
	}
	return rows.Err()
}

// move writes the rows of some shares that are as they were found, else it returns errMoved, having noted what they are.
func (c *cursors) move(ctx context.Context, tx *sqldb.Tx, of shareSet, to int64) error {
	lock := ""
	if c.shares.s.db.Dialect() == sqldb.Postgres { // who moves the same shares waits for this one, and nobody for each other
		lock = lockCursorsTail
	}
	moved := false
	err := readCursors(ctx, tx, followEvents, of, lock, func(share int, pos int64) {
		moved = moved || pos != c.list[share].stored
		c.found(share, pos)
	})
	if err != nil {
		return err
	}
	if moved {
		return errMoved
	}
	in, args := sqldb.InArgs([]any{to, followEvents}, of.numbers())
	if _, err := tx.Exec(ctx, moveCursorsSQL+in, args...); err != nil {
		return fmt.Errorf("followers: %w", err)
	}
	return nil
}

// hold keeps followers from what they count of a share until the transaction ends: rows of the table unread are locked in any order, here
// and there.
func (c *cursors) hold(ctx context.Context, tx *sqldb.Tx, share int) error {
	if c.shares.s.db.Dialect() != sqldb.Postgres {
		return nil
	}
	return readCursors(ctx, tx, followEvents, 1<<share, lockCursorsTail, func(int, int64) {})
}
