package syncapi

import (
	"context"
	"fmt"

	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/matrix/id"
)

const (
	insertRelationSQL = `INSERT INTO relations (room_nid, depth, stream_pos, event_nid, target, rel_type, type, sender)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (event_nid) DO NOTHING`
	upsertThreadSQL = `INSERT INTO threads (room_nid, reply_depth, reply_pos, root) VALUES ($1, $2, $3, $4)
		ON CONFLICT (room_nid, root) DO UPDATE SET reply_depth = excluded.reply_depth, reply_pos = excluded.reply_pos
		WHERE threads.reply_depth < excluded.reply_depth
			OR threads.reply_depth = excluded.reply_depth AND threads.reply_pos < excluded.reply_pos`
	threadOfSQL     = `SELECT room_nid, target FROM relations WHERE event_nid = $1 AND rel_type = 'm.thread'`
	deleteThreadSQL = `DELETE FROM threads WHERE room_nid = $1 AND root = $2`
	lastReplySQL    = `SELECT depth, stream_pos FROM relations WHERE target = $1 AND rel_type = 'm.thread' AND room_nid = $2
		ORDER BY depth DESC, stream_pos DESC LIMIT 1`
	deleteRelationSQL = `DELETE FROM relations WHERE event_nid = $1`
)

const (
	relThread    = "m.thread"
	relReplace   = "m.replace"
	relReference = "m.reference"
)

// relation is one event that relates to another.
type relation struct {
	room     nid.Room
	at       eventstore.Position
	event    nid.Event
	target   string
	rel, typ string
	sender   id.User
}

// relationOf reads an event's relation; false where it has none.
//
// spec: client-server §11.30 (Event replacements, references, threads): m.relates_to of content
func relationOf(e *eventstore.Event) (relation, bool) {
	rel := gjson.GetBytes(e.Content(), `m\.relates_to`)
	if !rel.IsObject() {
		return relation{}, false
	}
	typ, target := rel.Get("rel_type"), rel.Get("event_id")
	if typ.Type != gjson.String || target.Type != gjson.String || typ.Str == "" || target.Str == "" ||
		len(typ.Str) > 255 || len(target.Str) > 255 || e.IsState && typ.Str == relReplace || hasNUL(typ.Str+target.Str) {
		return relation{}, false
	}
	return relation{room: e.RoomNID, at: e.Position(), event: e.NID, target: target.Str, rel: typ.Str, typ: e.Type, sender: e.Sender}, true
}

// hasNUL tells whether a text cannot be stored.
func hasNUL(s string) bool {
	for i := range len(s) {
		if s[i] == 0 {
			return true
		}
	}
	return false
}

func insertRelations(ctx context.Context, tx *sqldb.Tx, list []relation) error {
	for _, r := range list {
		if hasNUL(r.typ) {
			continue
		}
		_, err := tx.Exec(ctx, insertRelationSQL, int64(r.room), r.at.Depth, r.at.Stream, int64(r.event), r.target, r.rel, r.typ, string(r.sender))
		if err != nil {
			return fmt.Errorf("storing a relation: %w", err)
		}
		if r.rel != relThread {
			continue
		}
		if _, err := tx.Exec(ctx, upsertThreadSQL, int64(r.room), r.at.Depth, r.at.Stream, r.target); err != nil {
			return fmt.Errorf("storing a thread: %w", err)
		}
	}
	return nil
}

// deleteDerived drops what was derived from events that are redacted.
func deleteDerived(ctx context.Context, tx *sqldb.Tx, events []*eventstore.Event) error {
	for _, e := range events {
		room, root, err := threadOf(ctx, tx, e.NID)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, deleteRelationSQL, int64(e.NID)); err != nil {
			return fmt.Errorf("dropping what followed from a redacted event: %w", err)
		}
		if _, err := tx.Exec(ctx, deleteHighlightSQL, e.StreamPos); err != nil {
			return fmt.Errorf("dropping what followed from a redacted event: %w", err)
		}
		if root == "" {
			continue
		}
		if err := moveThread(ctx, tx, room, root); err != nil {
			return err
		}
	}
	return nil
}

// threadOf gives the root of the thread that an event is directly in, empty for none.
func threadOf(ctx context.Context, q sqldb.Querier, e nid.Event) (room nid.Room, root string, err error) {
	rows, err := q.Query(ctx, threadOfSQL, int64(e))
	if err != nil {
		return 0, "", fmt.Errorf("looking for a thread: %w", err)
	}
	defer rows.Close()
	if rows.Next() {
		if err := rows.Scan(&room, &root); err != nil {
			return 0, "", fmt.Errorf("looking for a thread: %w", err)
		}
	}
	return room, root, rows.Err()
}

// moveThread gives a thread, of which an event went, the place of its last one.
func moveThread(ctx context.Context, tx *sqldb.Tx, room nid.Room, root string) error {
	if _, err := tx.Exec(ctx, deleteThreadSQL, int64(room), root); err != nil {
		return fmt.Errorf("moving a thread: %w", err)
	}
	rows, err := tx.Query(ctx, lastReplySQL, root, int64(room))
	if err != nil {
		return fmt.Errorf("moving a thread: %w", err)
	}
	var at eventstore.Position
	found := rows.Next()
	if found {
		err = rows.Scan(&at.Depth, &at.Stream)
	}
	if cerr := rows.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("moving a thread: %w", err)
	}
	if !found {
		return nil
	}
	if _, err := tx.Exec(ctx, upsertThreadSQL, int64(room), at.Depth, at.Stream, root); err != nil {
		return fmt.Errorf("moving a thread: %w", err)
	}
	return nil
}
