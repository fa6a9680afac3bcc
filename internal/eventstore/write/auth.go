package write

import (
	"context"
	"fmt"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
)

const (
	setAuthSQL = `UPDATE events SET auth_nids = $2, flags = $3 WHERE event_nid = $1`
	// What was computed with the old value is refused by the room's fence.
	unorderedSQL = `UPDATE rooms SET revision = revision + 1, unordered = $2 WHERE room_nid = $1 AND unordered < $2`
)

// SetAuth completes an event that was stored while some of its auth events were not
// known: the numbers of all of them, and the flags that follow from them.
func (w *Writer) SetAuth(ctx context.Context, tx *sqldb.Tx, e *eventstore.Event) error {
	if _, err := tx.Exec(ctx, setAuthSQL, int64(e.NID), nid.EncodeSet(e.AuthNIDs), int64(e.Flags)); err != nil {
		return fmt.Errorf("eventstore: auth events of %s: %w", e.ID, err)
	}
	if n := len(e.AuthNIDs); n > 0 && e.AuthNIDs[n-1] > e.NID {
		if _, err := tx.Exec(ctx, unorderedSQL, int64(e.RoomNID), int64(e.AuthNIDs[n-1])); err != nil {
			return fmt.Errorf("eventstore: order of the events of room %d: %w", e.RoomNID, err)
		}
	}
	tx.OnCommit(func() { w.r.Forget(e.NID) })
	return nil
}
