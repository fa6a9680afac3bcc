package write

import (
	"context"
	"fmt"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/statetree"
	"weft/matrix/id"
)

// Row is an event ready to be stored. Making one compresses the event, which is
// better done before the transaction.
type Row struct {
	// Event is read when the row is stored, so its stream position may be set late.
	Event *eventstore.Event
	json  []byte
}

// Row prepares an event. Of Event all fields count but RedactedBy's effect: the JSON
// must be the one that was received, not a redacted form. Without parents the
// JSON takes more room.
func (w *Writer) Row(e *eventstore.Event, parents eventstore.Parents) Row {
	return Row{Event: e, json: w.codec.EncodeEvent(e, parents)}
}

const (
	insertEventSQL = `INSERT INTO events (event_nid, room_nid, type_nid, state_key_nid, depth, stream_pos, flags, redacted_by,
		event_id, state_before, auth_nids, json) VALUES `
	placeEventSQL = `UPDATE events SET stream_pos = $2, flags = $3, state_before = $4 WHERE event_nid = $1`
	redactSQL     = `UPDATE events SET redacted_by = $2 WHERE event_nid = $1 AND redacted_by = 0`
)

// place gives the columns of an event's place: NULL where it has none.
func place(e *eventstore.Event) (pos, state any) {
	if e.StreamPos != 0 {
		pos = e.StreamPos
	}
	if e.HasState {
		state = e.StateBefore[:]
	}
	return pos, state
}

// InsertEvents stores events. An event whose ID or number is there already is a
// unique violation (sqldb.IsUniqueViolation).
func (w *Writer) InsertEvents(ctx context.Context, tx *sqldb.Tx, rows []Row) error {
	values := make([][]any, len(rows))
	for i, r := range rows {
		e := r.Event
		pos, state := place(e)
		values[i] = []any{
			int64(e.NID), int64(e.RoomNID), int64(e.TypeNID), int64(e.StateKeyNID), e.Depth, pos, int64(e.Flags), int64(e.RedactedBy),
			eventstore.EncodeEventID(e.ID), state, nid.EncodeSet(e.AuthNIDs), r.json,
		}
	}
	if err := sqldb.Insert(ctx, tx, insertEventSQL, values, ""); err != nil {
		return fmt.Errorf("eventstore: storing %d events: %w", len(rows), err)
	}
	return nil
}

// PlaceEvents gives events that are stored already a new stream position, state before and
// flags: outliers that found their place in the room.
func (w *Writer) PlaceEvents(ctx context.Context, tx *sqldb.Tx, events []*eventstore.Event) error {
	for _, e := range events {
		pos, state := place(e)
		if _, err := tx.Exec(ctx, placeEventSQL, int64(e.NID), pos, int64(e.Flags), state); err != nil {
			return fmt.Errorf("eventstore: placing %s: %w", e.ID, err)
		}
	}
	return nil
}

// SetRedacted notes the redaction that hides an event. The first one counts.
func (w *Writer) SetRedacted(ctx context.Context, tx *sqldb.Tx, target, by nid.Event) error {
	if _, err := tx.Exec(ctx, redactSQL, int64(target), int64(by)); err != nil {
		return fmt.Errorf("eventstore: redaction: %w", err)
	}
	return nil
}

const (
	addPendingSQL    = `INSERT INTO pending_redactions (target, redaction_nid) VALUES ($1, $2) ON CONFLICT DO NOTHING`
	deletePendingSQL = `DELETE FROM pending_redactions WHERE target = $1`
)

// AddPendingRedaction remembers a redaction whose target is not here yet.
func (w *Writer) AddPendingRedaction(ctx context.Context, tx *sqldb.Tx, target id.Event, redaction nid.Event) error {
	if _, err := tx.Exec(ctx, addPendingSQL, eventstore.EncodeEventID(target), int64(redaction)); err != nil {
		return fmt.Errorf("eventstore: pending redaction: %w", err)
	}
	return nil
}

// DeletePendingRedactions forgets them, once the target has come.
func (w *Writer) DeletePendingRedactions(ctx context.Context, tx *sqldb.Tx, target id.Event) error {
	if _, err := tx.Exec(ctx, deletePendingSQL, eventstore.EncodeEventID(target)); err != nil {
		return fmt.Errorf("eventstore: pending redactions: %w", err)
	}
	return nil
}

const epochSQL = `SELECT epoch FROM state_sweeps WHERE one = 1`

const (
	insertNodeSQL  = `INSERT INTO state_nodes (hash, epoch, node) VALUES `
	insertNodeTail = ` ON CONFLICT (hash) DO UPDATE SET epoch = excluded.epoch WHERE state_nodes.epoch < excluded.epoch`
)

// InsertNodes stores the nodes of a batch. Nodes that are there already are marked as
// written now (see the package's text on the sweep).
func (w *Writer) InsertNodes(ctx context.Context, tx *sqldb.Tx, batch *statetree.Batch) error {
	if batch.Len() == 0 {
		return nil
	}
	var epoch int64
	if err := tx.QueryRow(ctx, epochSQL).Scan(&epoch); err != nil {
		return fmt.Errorf("eventstore: sweep epoch: %w", err)
	}
	rows := make([][]any, 0, batch.Len())
	for _, h := range batch.Hashes() {
		node, _ := batch.Get(h)
		rows = append(rows, []any{h[:], epoch, node})
	}
	if err := sqldb.Insert(ctx, tx, insertNodeSQL, rows, insertNodeTail); err != nil {
		return fmt.Errorf("eventstore: storing %d state nodes: %w", len(rows), err)
	}
	return nil
}

const (
	insertBackwardSQL  = `INSERT INTO backward_extremities (room_nid, event_nid, missing) VALUES `
	insertBackwardTail = ` ON CONFLICT DO NOTHING`
	deleteBackwardSQL  = `DELETE FROM backward_extremities WHERE room_nid = $1 AND missing IN `
)

// Backward is an event that is here and one of its previous events that is not.
type Backward struct {
	Event   nid.Event
	Missing id.Event
}

// AddBackward stores backward extremities of a room.
func (w *Writer) AddBackward(ctx context.Context, tx *sqldb.Tx, room nid.Room, list []Backward) error {
	rows := make([][]any, len(list))
	for i, b := range list {
		rows[i] = []any{int64(room), int64(b.Event), eventstore.EncodeEventID(b.Missing)}
	}
	if err := sqldb.Insert(ctx, tx, insertBackwardSQL, rows, insertBackwardTail); err != nil {
		return fmt.Errorf("eventstore: backward extremities: %w", err)
	}
	return nil
}

// DeleteBackward drops the backward extremities that events filled which have come.
func (w *Writer) DeleteBackward(ctx context.Context, tx *sqldb.Tx, room nid.Room, arrived []id.Event) error {
	list := make([]any, len(arrived))
	for i, e := range arrived {
		list[i] = eventstore.EncodeEventID(e)
	}
	if err := execIn(ctx, tx, deleteBackwardSQL, []any{int64(room)}, list); err != nil {
		return fmt.Errorf("eventstore: backward extremities: %w", err)
	}
	return nil
}
