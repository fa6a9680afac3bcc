package eventstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/klauspost/compress/s2"

	"weft/internal/nid"
	"weft/matrix/id"
)

const (
	txnIDsSQL = `SELECT event_nid, txn_id FROM client_txns WHERE sender = $1 AND event_nid IN `
	txnSQL    = `SELECT event_nid FROM client_txns WHERE txn_key = $1`

	inboundTxnSQL  = `SELECT response FROM inbound_txns WHERE origin = $1 AND txn_id = $2`
	stagedSQL      = `SELECT seq, room_nid, origin, received, data FROM inbound_events WHERE room_nid = $1 AND seq > $2 ORDER BY seq LIMIT $3`
	stagedRoomsSQL = `SELECT DISTINCT room_nid FROM inbound_events ORDER BY room_nid`
	stagedCountSQL = `SELECT COALESCE(SUM(events), 0) FROM inbound_events WHERE room_nid = $1`
	stagedBySQL    = `SELECT COALESCE(SUM(events), 0), COALESCE(SUM(CASE WHEN origin = $2 THEN events ELSE 0 END), 0) FROM inbound_events WHERE room_nid = $1`
	stagedTotalSQL = `SELECT COUNT(*), COALESCE(SUM(events), 0), COUNT(DISTINCT room_nid), COALESCE(MIN(received), 0)
		FROM (SELECT events, room_nid, received FROM inbound_events ORDER BY seq LIMIT $1) AS part`
	pendingSQL = `SELECT target, redaction_nid FROM pending_redactions WHERE target IN `
)

// TxnIDs gives the transaction IDs with which a user's device sent events, of which the user is
// the sender. Events that another device sent, or whose ID was dropped, are missing in the result.
//
// spec: client-server §5.9 (unsigned.transaction_id)
func (r *Reader) TxnIDs(ctx context.Context, user id.User, device id.Device, events []nid.Event) (map[nid.Event]string, error) {
	out := make(map[nid.Event]string)
	err := r.chunked(ctx, txnIDsSQL, []any{TxnSender(user, device)}, anys(events), func(row func(...any) error) error {
		var event nid.Event
		var txn []byte
		err := row(&event, &txn)
		out[event] = string(txn)
		return err
	})
	return out, err
}

// TxnKey is what a client's transaction is found by: 64 bits of a hash. A user could make two
// that have the same key, and would lose the second message.
func TxnKey(user id.User, device id.Device, scope, txnID string) int64 {
	sum := hashOf(string(user), string(device), scope, txnID)
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

// TxnSender tells apart the devices of one user, in 32 bits.
func TxnSender(user id.User, device id.Device) int64 {
	sum := hashOf(string(user), string(device))
	return int64(int32(binary.BigEndian.Uint32(sum[:4])))
}

func hashOf(parts ...string) [sha256.Size]byte {
	b := make([]byte, 0, 256)
	for _, part := range parts {
		b = append(binary.AppendUvarint(b, uint64(len(part))), part...)
	}
	return sha256.Sum256(b)
}

// Txn gives the event that a client's transaction made, 0 when there was none.
func (r *Reader) Txn(ctx context.Context, user id.User, device id.Device, scope, txnID string) (nid.Event, error) {
	var event nid.Event
	err := r.q.QueryRow(ctx, txnSQL, TxnKey(user, device, scope, txnID)).Scan(&event)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("eventstore: client transaction: %w", err)
	}
	return event, nil
}

// InboundTxn gives the answer that a server's transaction got before; false when it is new.
func (r *Reader) InboundTxn(ctx context.Context, origin id.Server, txnID string) ([]byte, bool, error) {
	var response []byte
	err := r.q.QueryRow(ctx, inboundTxnSQL, string(origin), []byte(txnID)).Scan(&response)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("eventstore: inbound transaction: %w", err)
	}
	if response, err = r.codec.Decode(response); err != nil {
		return nil, false, fmt.Errorf("eventstore: inbound transaction: %w", err)
	}
	return response, true, nil
}

// StagedRooms lists the rooms with events that wait to be processed.
func (r *Reader) StagedRooms(ctx context.Context) ([]nid.Room, error) {
	return numbers[nid.Room](ctx, r, stagedRoomsSQL)
}

// StagedCount gives how many events of a room wait.
func (r *Reader) StagedCount(ctx context.Context, room nid.Room) (int64, error) {
	var n int64
	if err := r.q.QueryRow(ctx, stagedCountSQL, int64(room)).Scan(&n); err != nil {
		return 0, fmt.Errorf("eventstore: staged events: %w", err)
	}
	return n, nil
}

// StagedBy gives how many events of a room wait, and how many of these a server sent.
func (r *Reader) StagedBy(ctx context.Context, room nid.Room, origin id.Server) (all, own int64, err error) {
	if err := r.q.QueryRow(ctx, stagedBySQL, int64(room), string(origin)).Scan(&all, &own); err != nil {
		return 0, 0, fmt.Errorf("eventstore: staged events: %w", err)
	}
	return all, own, nil
}

// StagedTotal is what waits to be processed in all rooms.
type StagedTotal struct {
	Rows          int64 // what came in one transaction for one room
	Events, Rooms int64
	Oldest        int64 // when the first of them came, in ms; 0 where none waits
}

// StagedTotal counts what waits in at most so many rows, those that came first: where there are as many there may be more.
func (r *Reader) StagedTotal(ctx context.Context, most int) (t StagedTotal, err error) {
	if err := r.q.QueryRow(ctx, stagedTotalSQL, most).Scan(&t.Rows, &t.Events, &t.Rooms, &t.Oldest); err != nil {
		return StagedTotal{}, fmt.Errorf("eventstore: staged events: %w", err)
	}
	return t, nil
}

// errEnough ends the reading of rows.
var errEnough = errors.New("eventstore: enough rows")

// StagedEvents lists events of a room that wait, in the order of their arrival, beginning
// after a sequence number: at least as many as limit says, if there are, and all that came with
// the last one.
func (r *Reader) StagedEvents(ctx context.Context, room nid.Room, after int64, limit int) ([]Staged, error) {
	var out []Staged
	events := 0
	err := r.rows(ctx, stagedSQL, []any{int64(room), after, limit}, func(row func(...any) error) error {
		var s Staged
		var data []byte
		if err := row(&s.Seq, &s.Room, &s.Origin, &s.Received, &data); err != nil {
			return err
		}
		var err error
		if s.Events, err = decodeStaged(data); err != nil {
			return err
		}
		out = append(out, s)
		if events += len(s.Events); events >= limit {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return out, err
}

// maxStaged bounds what a stored row of waiting events may expand to: the events of one transaction.
const maxStaged = 8 << 20

// EncodeStaged gives the stored form of events that wait: for each the length of its ID, its ID, the
// length of its JSON, its JSON, all of them compressed together. They are here for a moment, so what counts is
// how little work that is: S2 does it in a tenth of the time that zstd takes.
func EncodeStaged(events []StagedEvent) []byte {
	size := 0
	for _, e := range events {
		size += len(e.JSON) + 64
	}
	raw := make([]byte, 0, size)
	put := func(b []byte) { raw = append(binary.AppendUvarint(raw, uint64(len(b))), b...) }
	for _, e := range events {
		put(EncodeEventID(e.ID))
		put(e.JSON)
	}
	return s2.Encode(nil, raw)
}

func decodeStaged(stored []byte) ([]StagedEvent, error) {
	size, err := s2.DecodedLen(stored)
	if err == nil && size > maxStaged {
		err = fmt.Errorf("they would be %d bytes", size)
	}
	if err != nil {
		return nil, fmt.Errorf("eventstore: staged events: %w", err)
	}
	data, err := s2.Decode(nil, stored)
	if err != nil {
		return nil, fmt.Errorf("eventstore: staged events: %w", err)
	}
	var out []StagedEvent
	take := func() ([]byte, error) {
		n, size := binary.Uvarint(data)
		if size <= 0 || n > uint64(len(data)-size) {
			return nil, errors.New("eventstore: staged events are cut off")
		}
		part := data[size : size+int(n)]
		data = data[size+int(n):]
		return part, nil
	}
	for len(data) > 0 {
		var e StagedEvent
		part, err := take()
		if err != nil {
			return nil, err
		}
		if e.ID, err = DecodeEventID(part); err != nil {
			return nil, err
		}
		if part, err = take(); err != nil {
			return nil, err
		}
		e.JSON = bytes.Clone(part) // so that one that is kept keeps no others
		out = append(out, e)
	}
	return out, nil
}

// PendingRedactions gives the redactions that came before their targets, for each of these in
// the order of their numbers.
func (r *Reader) PendingRedactions(ctx context.Context, targets []id.Event) (map[id.Event][]nid.Event, error) {
	out := make(map[id.Event][]nid.Event)
	err := r.chunked(ctx, pendingSQL, nil, encodedIDs(targets), func(row func(...any) error) error {
		var stored []byte
		var n nid.Event
		if err := row(&stored, &n); err != nil {
			return err
		}
		target, err := DecodeEventID(stored)
		out[target] = append(out[target], n)
		return err
	})
	for _, list := range out {
		slices.Sort(list)
	}
	return out, err
}
