package write

import (
	"context"
	"fmt"
	"net/http"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	insertAliasSQL = `INSERT INTO room_aliases (alias, room_nid, creator, created) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`
	deleteAliasSQL = `DELETE FROM room_aliases WHERE alias = $1`
	moveAliasesSQL = `UPDATE room_aliases SET room_nid = $2 WHERE room_nid = $1`
	publishSQL     = `INSERT INTO published_rooms (room_nid, appservice, network) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`
	unpublishSQL   = `DELETE FROM published_rooms WHERE room_nid = $1 AND appservice = $2 AND network = $3`
)

// CreateAlias points a local alias to a room. One that is taken is M_UNKNOWN with
// status 409.
//
// spec: client-server §10.2 (PUT /directory/room/{roomAlias}: "409 … M_UNKNOWN")
func (w *Writer) CreateAlias(ctx context.Context, tx *sqldb.Tx, alias id.RoomAlias, room nid.Room, creator id.User, created int64) error {
	res, err := tx.Exec(ctx, insertAliasSQL, string(alias), int64(room), string(creator), created)
	if err != nil {
		return fmt.Errorf("eventstore: alias: %w", err)
	}
	n, err := res.RowsAffected()
	if err == nil && n == 0 {
		return merr.Unknown("the alias %s exists already", alias).WithStatus(http.StatusConflict)
	}
	return err
}

// DeleteAlias drops a local alias. One that does not exist is M_NOT_FOUND.
func (w *Writer) DeleteAlias(ctx context.Context, tx *sqldb.Tx, alias id.RoomAlias) error {
	res, err := tx.Exec(ctx, deleteAliasSQL, string(alias))
	if err != nil {
		return fmt.Errorf("eventstore: alias: %w", err)
	}
	n, err := res.RowsAffected()
	if err == nil && n == 0 {
		return merr.NotFound("the alias %s does not exist", alias)
	}
	return err
}

// MoveAliases points all local aliases of a room to another: its successor.
func (w *Writer) MoveAliases(ctx context.Context, tx *sqldb.Tx, from, to nid.Room) error {
	if _, err := tx.Exec(ctx, moveAliasesSQL, int64(from), int64(to)); err != nil {
		return fmt.Errorf("eventstore: aliases: %w", err)
	}
	return nil
}

// SetPublished puts a room into a list of public rooms, or takes it out.
func (w *Writer) SetPublished(ctx context.Context, tx *sqldb.Tx, room nid.Room, list eventstore.List, published bool) error {
	q := unpublishSQL
	if published {
		q = publishSQL
	}
	if _, err := tx.Exec(ctx, q, int64(room), list.AppService, list.Network); err != nil {
		return fmt.Errorf("eventstore: published rooms: %w", err)
	}
	return nil
}
