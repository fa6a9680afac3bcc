package write

import (
	"context"
	"fmt"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
)

const setAuthSQL = `UPDATE events SET auth_nids = $2, flags = $3 WHERE event_nid = $1`

// SetAuth completes an event that was stored while some of its auth events were not
// known: the numbers of all of them, and the flags that follow from them.
func (w *Writer) SetAuth(ctx context.Context, tx *sqldb.Tx, e *eventstore.Event) error {
	if _, err := tx.Exec(ctx, setAuthSQL, int64(e.NID), nid.EncodeSet(e.AuthNIDs), int64(e.Flags)); err != nil {
		return fmt.Errorf("eventstore: auth events of %s: %w", e.ID, err)
	}
	tx.OnCommit(func() { w.r.Forget(e.NID) })
	return nil
}
