package write

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/statetree"
	"weft/matrix/event"
	"weft/matrix/id"
)

// ErrFence reports that a room changed since the revision a write was computed on. Load
// the room again and compute anew.
var ErrFence = errors.New("eventstore: the room has changed since")

const (
	insertRoomSQL = `INSERT INTO rooms (room_nid, revision, depth, stub, joined, invited, unordered, room_id, version, current_state, extremities)
		VALUES ($1, 1, 0, 1, 0, 0, 0, $2, $3, $4, $5) ON CONFLICT (room_id) DO NOTHING`
	updateRoomSQL = `UPDATE rooms SET revision = revision + 1, depth = $3, stub = $4, version = $5, current_state = $6, extremities = $7
		WHERE room_nid = $1 AND revision = $2`
	lockRoomSQL  = `SELECT revision FROM rooms WHERE room_nid = $1 FOR UPDATE`
	touchRoomSQL = `UPDATE rooms SET revision = revision + 1 WHERE room_nid = $1 AND revision = $2`
)

// InsertRoom stores a room as a stub with revision 1. It reports false, and does nothing,
// when the room is there already: read it then, it has another number.
func (w *Writer) InsertRoom(ctx context.Context, tx *sqldb.Tx, room nid.Room, roomID id.Room, version event.RoomVersion) (bool, error) {
	empty := statetree.Root{}
	res, err := tx.Exec(ctx, insertRoomSQL, int64(room), string(roomID), string(version), empty[:], nid.EncodeSet(nil))
	if err != nil {
		return false, fmt.Errorf("eventstore: storing room %s: %w", roomID, err)
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// RoomUpdate is what a commit makes of a room.
type RoomUpdate struct {
	NID nid.Room
	// Revision is the one that the update was computed on.
	Revision     int64
	CurrentState statetree.Root
	Extremities  []nid.Event
	Depth        int64
	// Version and Stub: a stub may become a room of another version than its
	// invite said. The version of a room that is no stub must never change.
	Version event.RoomVersion
	Stub    bool
}

// UpdateRoom moves a room on by one revision. ErrFence says that the room is no longer
// at the revision that the update was computed on. It comes first in a transaction: the
// row stays locked to the end of it.
func (w *Writer) UpdateRoom(ctx context.Context, tx *sqldb.Tx, u RoomUpdate) error {
	return fenced(ctx, tx, u.NID, updateRoomSQL, int64(u.NID), u.Revision, u.Depth, u.Stub, string(u.Version),
		u.CurrentState[:], nid.EncodeSet(u.Extremities))
}

// TouchRoom is UpdateRoom without a change: the fence alone.
func (w *Writer) TouchRoom(ctx context.Context, tx *sqldb.Tx, room nid.Room, revision int64) error {
	return fenced(ctx, tx, room, touchRoomSQL, int64(room), revision)
}

// LockRoom keeps other writers of a room out until the transaction ends, whatever its revision is. SQLite has one
// writer anyway.
func (w *Writer) LockRoom(ctx context.Context, tx *sqldb.Tx, room nid.Room) error {
	if w.db.Dialect() == sqldb.SQLite {
		return nil
	}
	var revision int64
	err := tx.QueryRow(ctx, lockRoomSQL, int64(room)).Scan(&revision)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("eventstore: locking room %d: %w", room, err)
	}
	return nil
}

func fenced(ctx context.Context, tx *sqldb.Tx, room nid.Room, q string, args ...any) error {
	res, err := tx.Exec(ctx, q, args...)
	if err != nil {
		return fmt.Errorf("eventstore: updating room %d: %w", room, err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return fmt.Errorf("eventstore: updating room %d: %w", room, err)
	}
	if n == 0 {
		return fmt.Errorf("room %d: %w", room, ErrFence)
	}
	return nil
}
