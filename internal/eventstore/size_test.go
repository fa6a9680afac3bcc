package eventstore_test

import (
	"context"
	"testing"

	"weft/internal/eventstore"
	"weft/internal/eventstore/sample"
	"weft/internal/eventstore/write"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/statetree"
)

// TestBytesPerMessage measures what a plain message takes in the database, indexes
// included, in a room that is in use: rows come in order, the state does not change.
func TestBytesPerMessage(t *testing.T) {
	const messages = 6000
	onBoth(t, func(t *testing.T, w *world) {
		r, err := sample.NewRoom(5_000_000, "11", 8)
		w.ok(err)
		first, err := r.Start()
		w.ok(err)
		home := w.newRoom("11", alice)
		var rows []write.Row
		raw := 0
		start, err := w.w.EventNIDs(w.ctx(), messages)
		w.ok(err)
		for i := range messages {
			ev, err := r.Text(r.Member(i % 8))
			w.ok(err)
			raw += len(ev.JSON())
			rows = append(rows, w.w.Row(&eventstore.Event{
				Event: ev, NID: start + nid.Event(i), RoomNID: home.nid, TypeNID: nid.TypeMessage, StreamPos: int64(1_000_000 + i), HasState: true,
				StateBefore: statetree.Root{1, 2, 3}, AuthNIDs: []nid.Event{1_000, 1_002, 2_000_000 + nid.Event(i%8)},
			}))
		}
		if len(first) == 0 {
			t.Fatal("no members")
		}
		before, err := w.db.Size(w.ctx())
		w.ok(err)
		for part := rows; len(part) > 0; part = part[min(100, len(part)):] {
			w.update(func(ctx context.Context, tx *sqldb.Tx) error {
				return w.w.InsertEvents(ctx, tx, part[:min(100, len(part))])
			})
		}
		after, err := w.db.Size(w.ctx())
		w.ok(err)
		each := (after - before) / messages
		t.Logf("%d bytes of JSON take %d bytes in the database", raw/messages, each)
		limit := int64(700)
		if w.db.Dialect() == sqldb.Postgres {
			limit = 900 // a tuple's header, numbers of 8 bytes each, files that grow ahead
		}
		if each > limit {
			t.Errorf("a message takes %d bytes, want at most %d", each, limit)
		}
	})
}
