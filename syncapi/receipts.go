package syncapi

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	fedapi "weft/federationapi/api"
	"weft/internal/bus"
	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/stream"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	receiptRoomsSQL = `SELECT DISTINCT room_nid FROM receipts WHERE pos > $1 AND pos <= $2`
	readReceiptsSQL = `SELECT user_id, private, thread, event_id, ts FROM receipts
		WHERE room_nid = $1 AND pos > $2 AND pos <= $3 AND (private = 0 OR user_id = $4) ORDER BY pos`
	receiptPosSQL    = `SELECT event_pos FROM receipts WHERE room_nid = $1 AND user_id = $2 AND private = $3 AND thread = $4`
	upsertReceiptSQL = `INSERT INTO receipts (pos, room_nid, private, ts, event_pos, user_id, thread, event_id)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (room_nid, user_id, private, thread) DO UPDATE SET pos = excluded.pos, ts = excluded.ts,
			event_pos = excluded.event_pos, event_id = excluded.event_id
			WHERE excluded.event_pos = 0 OR receipts.event_pos < excluded.event_pos`
	deleteReceiptsSQL = `DELETE FROM receipts WHERE user_id = $1`
)

const (
	eduReceipt  = "m.receipt"
	readPublic  = "m.read"
	readPrivate = "m.read.private"
	fullyRead   = "m.fully_read"
	// threadMain names the part of a room that is in no thread.
	threadMain = "main"
	// maxReceiptEDU bounds the receipts of one EDU.
	maxReceiptEDU = 1000
	// receiptAttempts is how often a receipt is stored anew because new messages came meanwhile.
	receiptAttempts = 5
)

// receipt says up to where a user has read.
type receipt struct {
	user    id.User
	private bool
	thread  string // empty: a receipt without a thread
	event   id.Event
	ts      int64
}

// receiptRooms lists the rooms with receipts in a range of positions.
func receiptRooms(ctx context.Context, q sqldb.Querier, from, to int64) ([]nid.Room, error) {
	rows, err := q.Query(ctx, receiptRoomsSQL, from, to)
	if err != nil {
		return nil, fmt.Errorf("listing rooms with receipts: %w", err)
	}
	defer rows.Close()
	var out []nid.Room
	for rows.Next() {
		var n nid.Room
		if err := rows.Scan(&n); err != nil {
			return nil, fmt.Errorf("listing rooms with receipts: %w", err)
		}
		out = append(out, n)
	}
	return out, rows.Err()
}

// readReceipts gives the receipts of a room that a user may see.
func (s *Server) readReceipts(ctx context.Context, room nid.Room, user id.User, from, to int64) ([]receipt, error) {
	rows, err := s.db.Query(ctx, readReceiptsSQL, int64(room), from, to, string(user))
	if err != nil {
		return nil, fmt.Errorf("reading receipts: %w", err)
	}
	defer rows.Close()
	var out []receipt
	for rows.Next() {
		var r receipt
		var private int64
		if err := rows.Scan(&r.user, &private, &r.thread, &r.event, &r.ts); err != nil {
			return nil, fmt.Errorf("reading receipts: %w", err)
		}
		r.private = private != 0
		out = append(out, r)
	}
	return out, rows.Err()
}

// receiptData is what a receipt says beside its event.
type receiptData struct {
	TS     int64  `json:"ts"`
	Thread string `json:"thread_id,omitempty"`
}

// receiptContent makes the content of m.receipt, nil where there is none.
//
// spec?: the content has one place for a user's receipt on an event. Of several in different
// threads the one without a thread is shown, since it says the most; else the newest.
func receiptContent(list []receipt, ignored map[id.User]bool) []byte {
	content := make(map[id.Event]map[string]map[id.User]receiptData)
	for _, r := range list {
		if ignored[r.user] {
			continue
		}
		typ := readPublic
		if r.private {
			typ = readPrivate
		}
		if content[r.event] == nil {
			content[r.event] = make(map[string]map[id.User]receiptData)
		}
		if content[r.event][typ] == nil {
			content[r.event][typ] = make(map[id.User]receiptData)
		}
		if have, ok := content[r.event][typ][r.user]; !ok || have.Thread != "" {
			content[r.event][typ][r.user] = receiptData{r.ts, r.thread}
		}
	}
	if len(content) == 0 {
		return nil
	}
	out, err := json.Marshal(content)
	if err != nil {
		return nil // strings and numbers only: cannot happen
	}
	return out
}

// setReceipt stores a receipt, unless the user has one further on. eventPos is the event's stream
// position, 0 where it is not here. It reports whether it is news.
func (s *Server) setReceipt(ctx context.Context, room *eventstore.Room, r receipt, eventPos int64) (news bool, err error) {
	for range receiptAttempts {
		var effect *readEffect
		if s.isLocal(r.user) {
			if effect, err = s.readEffect(ctx, room.NID, r, eventPos); err != nil {
				return false, err
			}
		}
		if news, err = s.storeReceipt(ctx, room, r, eventPos, effect); !errors.Is(err, errMoved) {
			break
		}
	}
	return news, err
}

// The locks that receipts take, in this order: the cursors of followers, share by share, and the end of the stream.
const (
	lockShare = iota
	lockReceipts
)

// storeReceipt is one attempt of setReceipt. errMoved says that the unread counts, or the receipt, went on meanwhile.
func (s *Server) storeReceipt(ctx context.Context, room *eventstore.Room, r receipt, eventPos int64, effect *readEffect) (news bool, err error) {
	private := int64(0)
	if r.private {
		private = 1
	}
	steps := []sqldb.Step{{Lock: sqldb.Lock{Class: lockReceipts}, Run: func(tx *sqldb.Tx) error {
		pos, err := stream.Advance(ctx, tx, stream.Receipts, 1)
		if err != nil {
			return err
		}
		// Since the look before another node may have stored one that is further on.
		res, err := tx.Exec(ctx, upsertReceiptSQL, pos, int64(room.NID), private, r.ts, eventPos, string(r.user), r.thread, string(r.event))
		if err != nil {
			return fmt.Errorf("storing a receipt: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errMoved
		}
		u := bus.Update{Stream: stream.Receipts, Pos: pos, Users: []string{string(r.user)}}
		if !r.private {
			u.Rooms = []string{string(room.ID)}
		}
		tx.OnCommit(func() { bus.PublishUpdate(s.cfg.Bus, u) })
		return nil
	}}}
	if !effect.none() {
		steps = slices.Insert(steps, 0, sqldb.Step{Lock: sqldb.Lock{Class: lockShare, Key: fmt.Sprintf("%02d", effect.share)},
			Run: func(tx *sqldb.Tx) error { return effect.store(ctx, tx, s) }})
	}
	var have int64
	err = s.db.QueryRow(ctx, receiptPosSQL, int64(room.NID), string(r.user), private, r.thread).Scan(&have)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return false, fmt.Errorf("reading a receipt: %w", err)
	}
	if err == nil && eventPos != 0 && have >= eventPos {
		return false, nil
	}
	if err := s.receipts.Steps(ctx, steps...); err != nil {
		return false, err
	}
	return true, nil
}

// PostReceipt is POST /rooms/{roomId}/receipt/{receiptType}/{eventId}.
//
// spec: client-server §11.5 (Receipts)
func (s *Server) PostReceipt(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := s.memberRoom(ctx, r)
	if err != nil {
		return nil, err
	}
	event, err := r.EventVar("eventId")
	if err != nil {
		return nil, err
	}
	var body struct {
		Thread *json.RawMessage `json:"thread_id"`
	}
	if err := r.DecodeJSON(&body); err != nil {
		return nil, err
	}
	if err := s.presence.touch(ctx, r.Session.User); err != nil {
		return nil, err
	}
	typ, thread := r.Vars["receiptType"], ""
	if body.Thread != nil {
		if err := json.Unmarshal(*body.Thread, &thread); err != nil || thread == "" || len(thread) > 255 {
			return nil, merr.InvalidParam("thread_id is no thread's ID")
		}
		if typ == fullyRead {
			return nil, merr.InvalidParam("%s has no thread", fullyRead)
		}
	}
	switch typ {
	case readPublic, readPrivate:
		return nil, s.mark(ctx, room, r.Session.User, typ, event, thread)
	case fullyRead:
		return nil, s.markFullyRead(ctx, room, r.Session.User, event)
	}
	return nil, merr.InvalidParam("%.100q is no type of receipt", typ)
}

// PostReadMarkers is POST /rooms/{roomId}/read_markers.
//
// spec: client-server §11.6 (Read and unread markers)
func (s *Server) PostReadMarkers(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := s.memberRoom(ctx, r)
	if err != nil {
		return nil, err
	}
	var body map[string]json.RawMessage
	if err := r.DecodeJSON(&body); err != nil {
		return nil, err
	}
	for _, typ := range []string{fullyRead, readPublic, readPrivate} {
		raw, ok := body[typ]
		if !ok || string(raw) == "null" {
			continue
		}
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return nil, merr.BadJSON("%s is not a string", typ)
		}
		event, err := id.ParseEvent(text)
		if err != nil {
			return nil, merr.InvalidParam("%s is not an event ID", typ)
		}
		if typ == fullyRead {
			err = s.markFullyRead(ctx, room, r.Session.User, event)
		} else {
			err = s.mark(ctx, room, r.Session.User, typ, event, "")
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// mark stores a user's own receipt and tells other servers of a public one.
func (s *Server) mark(ctx context.Context, room *eventstore.Room, user id.User, typ string, event id.Event, thread string) error {
	e, err := s.events.EventByID(ctx, event)
	if err != nil {
		return err
	}
	if e.RoomNID != room.NID {
		return merr.NotFound("the event %s is not in the room %s", event, room.ID)
	}
	r := receipt{user: user, private: typ == readPrivate, thread: thread, event: event, ts: s.nowMS()}
	// Or its notification would come after the receipt.
	if err := s.followRoom(ctx, room.NID); err != nil {
		return err
	}
	news, err := s.setReceipt(ctx, room, r, e.StreamPos)
	if err != nil || !news || r.private {
		return err
	}
	return s.sendReceipt(ctx, room, r)
}

// markFullyRead moves the read marker, which is account data, forward.
func (s *Server) markFullyRead(ctx context.Context, room *eventstore.Room, user id.User, event id.Event) error {
	old, err := s.cfg.Accounts.GetAccountData(ctx, user, room.ID, fullyRead)
	if err != nil && !errors.Is(err, merr.ErrNotFound) {
		return err
	}
	var content struct {
		Event id.Event `json:"event_id"`
	}
	if err == nil && json.Unmarshal(old, &content) == nil {
		list, err := s.events.EventsByID(ctx, []id.Event{content.Event, event})
		if err != nil {
			return err
		}
		before, now := list[content.Event], list[event]
		if before != nil && now != nil && now.RoomNID == room.NID && !before.Position().Less(now.Position()) {
			return nil
		}
	}
	raw, err := json.Marshal(map[string]any{"event_id": event})
	if err != nil {
		return err
	}
	return s.cfg.Accounts.SetAccountData(ctx, user, room.ID, fullyRead, raw)
}

// receiptEDU is the content of the EDU m.receipt: room → type → user → receipt.
//
// spec: server-server §14 (Receipts)
type receiptEDU map[id.Room]map[string]map[id.User]userReceipt

type userReceipt struct {
	Events []id.Event  `json:"event_ids"`
	Data   receiptData `json:"data"`
}

func (s *Server) sendReceipt(ctx context.Context, room *eventstore.Room, r receipt) error {
	content, err := json.Marshal(receiptEDU{room.ID: {readPublic: {r.user: {[]id.Event{r.event}, receiptData{r.ts, r.thread}}}}})
	if err != nil {
		return err
	}
	key := string(room.ID) + "/" + string(r.user) + "/" + r.thread
	return s.sendToRoom(ctx, room, fedapi.EDU{Type: eduReceipt, Content: content, Key: key})
}

// receiveReceipts takes m.receipt from another server.
func (s *Server) receiveReceipts(ctx context.Context, origin id.Server, content json.RawMessage) error {
	var edu receiptEDU
	if err := json.Unmarshal(content, &edu); err != nil {
		return merr.BadJSON("%s: %v", eduReceipt, err)
	}
	left := maxReceiptEDU
	for roomID, types := range edu {
		for user, r := range types[readPublic] {
			if left--; left < 0 {
				return merr.TooLarge("more than %d receipts", maxReceiptEDU)
			}
			if user.Server() != origin || len(r.Events) == 0 {
				continue
			}
			if err := s.receiveReceipt(ctx, roomID, user, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Server) receiveReceipt(ctx context.Context, roomID id.Room, user id.User, r userReceipt) error {
	joined, err := s.remoteMember(ctx, roomID, user)
	if err != nil || !joined {
		return err
	}
	event, err := id.ParseEvent(string(r.Events[len(r.Events)-1]))
	if err != nil || len(r.Data.Thread) > 255 {
		return nil // nothing that a client could use
	}
	room, err := s.events.Room(ctx, roomID)
	if err != nil {
		return err
	}
	known, err := s.events.EventsByID(ctx, []id.Event{event})
	if err != nil {
		return err
	}
	pos := int64(0)
	if e := known[event]; e != nil {
		if e.RoomNID != room.NID {
			return nil
		}
		pos = e.StreamPos
	}
	_, err = s.setReceipt(ctx, room, receipt{user: user, thread: r.Data.Thread, event: event, ts: r.Data.TS}, pos)
	return err
}
