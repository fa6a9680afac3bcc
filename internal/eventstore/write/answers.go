package write

import (
	"context"
	"fmt"

	"weft/internal/sqldb"
	"weft/matrix/id"
)

const setInboundTxnSQL = `UPDATE inbound_txns SET response = $3 WHERE origin = $1 AND txn_id = $2`

// SetInboundTxn replaces the answer to another server's transaction, once more is
// known about its events.
func (w *Writer) SetInboundTxn(ctx context.Context, tx *sqldb.Tx, origin id.Server, txnID string, response []byte) error {
	if _, err := tx.Exec(ctx, setInboundTxnSQL, string(origin), []byte(txnID), w.codec.Encode(response)); err != nil {
		return fmt.Errorf("eventstore: inbound transaction: %w", err)
	}
	return nil
}
