package write

import (
	"context"
	"fmt"
	"sync"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
)

// Writer changes the event store. It is safe for concurrent use.
type Writer struct {
	db     *sqldb.DB
	r      *eventstore.Reader
	codec  *eventstore.Codec
	events *block
	rooms  *block
}

// New makes a writer. r must read the same database.
func New(_ context.Context, db *sqldb.DB, r *eventstore.Reader) (*Writer, error) {
	return &Writer{
		db: db, r: r, codec: r.Codec(),
		events: &block{name: "event", size: 1000},
		rooms:  &block{name: "room", size: 10},
	}, nil
}

// block is a range of reserved numbers.
type block struct {
	name string
	size int64

	mu         sync.Mutex
	next, stop int64
}

const reserveSQL = `UPDATE nid_blocks SET next = next + $2 WHERE name = $1 RETURNING next`

// reserve takes n consecutive numbers from a counter.
func reserve(ctx context.Context, tx *sqldb.Tx, name string, n int64) (first int64, err error) {
	var next int64
	if err := tx.QueryRow(ctx, reserveSQL, name, n).Scan(&next); err != nil {
		return 0, fmt.Errorf("eventstore: reserving %d numbers of kind %s: %w", n, name, err)
	}
	return next - n, nil
}

// take gives n consecutive numbers above after, reserving a new block when the current one is
// too short or too low. What is left of that is lost.
func (b *block) take(ctx context.Context, db *sqldb.DB, n, after int64) (first int64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stop-b.next < n || b.next <= after {
		size := max(n, b.size)
		err := db.Update(ctx, func(tx *sqldb.Tx) (err error) {
			first, err = reserve(ctx, tx, b.name, size)
			return err
		})
		if err != nil {
			return 0, err
		}
		b.next, b.stop = first, first+size
	}
	first = b.next
	b.next += n
	return first, nil
}

// EventNIDs reserves n consecutive numbers for events, higher than after: that of the last of their auth
// events, which another process may have stored. It must not be called inside a transaction.
func (w *Writer) EventNIDs(ctx context.Context, n int, after nid.Event) (first nid.Event, err error) {
	v, err := w.events.take(ctx, w.db, int64(n), int64(after))
	return nid.Event(v), err
}

// RoomNID reserves a number for a room. It must not be called inside a transaction.
func (w *Writer) RoomNID(ctx context.Context) (nid.Room, error) {
	v, err := w.rooms.take(ctx, w.db, 1, 0)
	return nid.Room(v), err
}

// BackfillPositions gives n consecutive stream positions below all that were given
// before: lowest, …, lowest+n-1. They are given out again when tx is rolled back.
func (w *Writer) BackfillPositions(ctx context.Context, tx *sqldb.Tx, n int) (lowest int64, err error) {
	first, err := reserve(ctx, tx, "backfill", int64(n))
	return -(first + int64(n) - 1), err
}

// execIn runs a statement that ends in a list, for every chunk of the list.
func execIn(ctx context.Context, tx *sqldb.Tx, q string, args []any, list []any) error {
	return sqldb.Chunk(list, func(part []any) error {
		in, all := sqldb.InArgs(args[:len(args):len(args)], part)
		_, err := tx.Exec(ctx, q+in, all...)
		return err
	})
}
