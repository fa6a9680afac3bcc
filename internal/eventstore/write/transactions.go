package write

import (
	"context"
	"fmt"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/upkeep"
	"weft/matrix/id"
)

// Txn is a client's transaction and the event that it made.
type Txn struct {
	User    id.User
	Device  id.Device
	Scope   string
	ID      string
	Event   nid.Event
	Created int64 // milliseconds
}

const (
	insertTxnSQL = `INSERT INTO client_txns (event_nid, txn_key, sender, day, txn_id) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (txn_key) DO NOTHING`
	findTxnSQL = `SELECT event_nid FROM client_txns WHERE txn_key = $1`
	// The numbers of events grow with time, nearly, so no index by time is needed.
	deleteTxnsSQL = `DELETE FROM client_txns WHERE event_nid IN (SELECT event_nid FROM
		(SELECT event_nid, day FROM client_txns ORDER BY event_nid LIMIT $2) AS oldest WHERE day < $1)`
)

// day numbers the days since 2020.
func day(ms int64) int64 {
	const perDay, first = 24 * 60 * 60 * 1000, 18_262
	return ms/perDay - first
}

// PutTxn stores a client's transaction; each makes an event of its own. When it was stored before, the event it made
// then is returned, and the caller must not make another: roll back.
func (w *Writer) PutTxn(ctx context.Context, tx *sqldb.Tx, t Txn) (existing nid.Event, err error) {
	key := eventstore.TxnKey(t.User, t.Device, t.Scope, t.ID)
	res, err := tx.Exec(ctx, insertTxnSQL, int64(t.Event), key, eventstore.TxnSender(t.User, t.Device), day(t.Created), []byte(t.ID))
	if err != nil {
		return 0, fmt.Errorf("eventstore: client transaction: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		return 0, err
	}
	if err := tx.QueryRow(ctx, findTxnSQL, key).Scan(&existing); err != nil {
		return 0, fmt.Errorf("eventstore: client transaction: %w", err)
	}
	return existing, nil
}

// DeleteTxns drops client transactions made before the day of a time in milliseconds, in
// transactions of its own.
func (w *Writer) DeleteTxns(ctx context.Context, before int64) (int64, error) {
	n, err := upkeep.Delete(ctx, w.db, deleteTxnsSQL, day(before))
	if err != nil {
		return n, fmt.Errorf("eventstore: client transactions: %w", err)
	}
	return n, nil
}

const (
	stageSQL   = `INSERT INTO inbound_events (seq, room_nid, received, origin, events, data) VALUES `
	restageSQL = `UPDATE inbound_events SET events = $2, data = $3 WHERE seq = $1`

	unstageSQL          = `DELETE FROM inbound_events WHERE seq IN `
	putInboundTxnSQL    = `INSERT INTO inbound_txns (origin, txn_id, received, response) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`
	deleteInboundTxnSQL = `DELETE FROM inbound_txns WHERE (origin, txn_id) IN
		(SELECT origin, txn_id FROM inbound_txns WHERE received < $1 ORDER BY received LIMIT $2)`
)

// Stage stores events of another server to be processed later. Their Seq is given here.
func (w *Writer) Stage(ctx context.Context, tx *sqldb.Tx, staged []eventstore.Staged) error {
	if len(staged) == 0 {
		return nil
	}
	first, err := reserve(ctx, tx, "inbound", int64(len(staged)))
	if err != nil {
		return err
	}
	rows := make([][]any, len(staged))
	for i, s := range staged {
		rows[i] = []any{first + int64(i), int64(s.Room), s.Received, string(s.Origin), len(s.Events), eventstore.EncodeStaged(s.Events)}
	}
	if err := sqldb.Insert(ctx, tx, stageSQL, rows, ""); err != nil {
		return fmt.Errorf("eventstore: staging events: %w", err)
	}
	return nil
}

// Unstage drops staged events that are processed: of each of some rows, all but the events that it
// still has.
func (w *Writer) Unstage(ctx context.Context, tx *sqldb.Tx, left []eventstore.Staged) error {
	var done []any
	for _, s := range left {
		if len(s.Events) == 0 {
			done = append(done, s.Seq)
			continue
		}
		if _, err := tx.Exec(ctx, restageSQL, s.Seq, len(s.Events), eventstore.EncodeStaged(s.Events)); err != nil {
			return fmt.Errorf("eventstore: staged events: %w", err)
		}
	}
	if err := execIn(ctx, tx, unstageSQL, nil, done); err != nil {
		return fmt.Errorf("eventstore: staged events: %w", err)
	}
	return nil
}

// PutInboundTxn stores the answer to another server's transaction, and reports false where there is one.
func (w *Writer) PutInboundTxn(ctx context.Context, tx *sqldb.Tx, origin id.Server, txnID string, received int64, response []byte) (bool, error) {
	res, err := tx.Exec(ctx, putInboundTxnSQL, string(origin), []byte(txnID), received, w.codec.Encode(response))
	if err != nil {
		return false, fmt.Errorf("eventstore: inbound transaction: %w", err)
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// DeleteInboundTxns drops answers given before a time in milliseconds, in transactions of its
// own.
func (w *Writer) DeleteInboundTxns(ctx context.Context, before int64) (int64, error) {
	n, err := upkeep.Delete(ctx, w.db, deleteInboundTxnSQL, before)
	if err != nil {
		return n, fmt.Errorf("eventstore: inbound transactions: %w", err)
	}
	return n, nil
}
