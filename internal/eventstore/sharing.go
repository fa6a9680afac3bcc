package eventstore

import (
	"context"
	"errors"
	"fmt"

	"weft/internal/nid"
	"weft/internal/statetree"
	"weft/matrix/id"
)

const (
	serversSQL   = `SELECT server FROM room_servers WHERE room_nid = $1 ORDER BY server`
	serversOfSQL = `SELECT room_nid, server FROM room_servers WHERE (CAST($1 AS TEXT) = '' OR server = $1) AND room_nid IN `
	inRoomSQL    = `SELECT server FROM room_servers WHERE room_nid = $1 AND server = $2`
	stayedSQL    = `SELECT s.joined, COALESCE(k.state_key, '') FROM room_servers s
		LEFT JOIN room_members m ON m.room_nid = s.room_nid AND m.membership = 1 AND m.stream_pos >= $3
		LEFT JOIN state_keys k ON k.state_key_nid = m.user_nid
		WHERE s.room_nid = $1 AND s.server = $2`
	sharedSQL = `SELECT a.room_nid FROM room_members a JOIN room_members b ON b.room_nid = a.room_nid
		WHERE a.user_nid = $1 AND a.membership = 1 AND b.user_nid = $2 AND b.membership = 1 ORDER BY a.room_nid`
	sharersSQL = `SELECT k.state_key FROM state_keys k WHERE k.state_key_nid IN (
		SELECT b.user_nid FROM room_members a JOIN room_members b ON b.room_nid = a.room_nid
		WHERE a.user_nid = $1 AND a.membership = 1 AND b.membership = 1)`
	localSharersSQL = `SELECT k.state_key FROM state_keys k WHERE k.state_key_nid IN (
		SELECT b.user_nid FROM room_members a JOIN room_members b ON b.room_nid = a.room_nid
		WHERE a.user_nid = $1 AND a.membership = 1 AND b.local = 1 AND b.membership = 1)`
	sharingServersSQL = `SELECT DISTINCT s.server FROM room_members m JOIN room_servers s ON s.room_nid = m.room_nid
		WHERE m.user_nid = $1 AND m.membership = 1 ORDER BY s.server`
	newServersSQL = `SELECT server FROM room_servers WHERE room_nid = $1 AND server NOT IN (
		SELECT s.server FROM room_members m JOIN room_servers s ON s.room_nid = m.room_nid
		WHERE m.user_nid = $2 AND m.membership = 1 AND m.room_nid <> $1) ORDER BY server`
	sharedSinceSQL = `SELECT COALESCE(MIN(CASE WHEN l.stream_pos > r.stream_pos THEN l.stream_pos ELSE r.stream_pos END), -1)
		FROM room_members r JOIN room_members l ON l.room_nid = r.room_nid AND l.local = 1 AND l.membership = 1
		WHERE r.user_nid = $1 AND r.membership = 1`
	cameLastSQL = `SELECT CASE WHEN r.stream_pos > l.stream_pos THEN 1 ELSE 0 END
		FROM room_members r JOIN room_members l ON l.room_nid = r.room_nid AND l.local = 1 AND l.membership = 1
		WHERE r.user_nid = $1 AND r.membership = 1
		ORDER BY CASE WHEN l.stream_pos > r.stream_pos THEN l.stream_pos ELSE r.stream_pos END LIMIT 1`
	serverRoomsSQL = `SELECT room_nid FROM room_servers WHERE server = $1 ORDER BY room_nid`
	roomsOfThemSQL = roomColumns + `WHERE EXISTS (SELECT 1 FROM room_servers s WHERE s.room_nid = rooms.room_nid AND s.server = $1)
		AND room_id IN `
)

// Servers gives the servers with a joined member in a room.
func (r *Reader) Servers(ctx context.Context, room nid.Room) ([]id.Server, error) {
	return texts[id.Server](ctx, r, serversSQL, int64(room))
}

// ServersOf gives the servers with a joined member in each of some rooms; where only is not empty, that
// one alone.
func (r *Reader) ServersOf(ctx context.Context, rooms []nid.Room, only id.Server) (map[nid.Room][]id.Server, error) {
	out := make(map[nid.Room][]id.Server, len(rooms))
	err := r.chunked(ctx, serversOfSQL, []any{string(only)}, anys(rooms), func(row func(...any) error) error {
		var room nid.Room
		var server id.Server
		err := row(&room, &server)
		out[room] = append(out[room], server)
		return err
	})
	return out, err
}

// ServerInRoom tells whether a server has a joined member in a room.
func (r *Reader) ServerInRoom(ctx context.Context, room nid.Room, server id.Server) (bool, error) {
	list, err := texts[id.Server](ctx, r, inRoomSQL, int64(room), string(server))
	return len(list) > 0, err
}

// ServerStayed tells whether a server has a joined member in a room whose membership has been the same since before a
// stream position.
func (r *Reader) ServerStayed(ctx context.Context, room nid.Room, server id.Server, pos int64) (bool, error) {
	joined, moved := 0, 0
	err := r.rows(ctx, stayedSQL, []any{int64(room), string(server), pos}, func(row func(...any) error) error {
		var user id.User
		if err := row(&joined, &user); err != nil {
			return err
		}
		if user != "" && user.Server() == server {
			moved++
		}
		return nil
	})
	return joined > moved, err
}

// RoomsOfServer gives the rooms in which a server has a joined member.
func (r *Reader) RoomsOfServer(ctx context.Context, server id.Server) ([]nid.Room, error) {
	return numbers[nid.Room](ctx, r, serverRoomsSQL, string(server))
}

// RoomsWithServer gives those of some rooms in which a server has a joined member.
func (r *Reader) RoomsWithServer(ctx context.Context, rooms []id.Room, server id.Server) (map[id.Room]*Room, error) {
	ids := make([]any, len(rooms))
	for i, room := range rooms {
		ids[i] = string(room)
	}
	out := make(map[id.Room]*Room)
	err := r.chunked(ctx, roomsOfThemSQL, []any{string(server)}, ids, func(row func(...any) error) error {
		room, err := scanRoom(row)
		if err == nil {
			out[room.ID] = room
		}
		return err
	})
	return out, err
}

// SharedRooms gives the rooms in which both users are joined.
func (r *Reader) SharedRooms(ctx context.Context, a, b id.User) ([]nid.Room, error) {
	m, err := r.StateKeyNIDs(ctx, []string{string(a), string(b)})
	if err != nil || m[string(a)] == 0 || m[string(b)] == 0 {
		return nil, err
	}
	return numbers[nid.Room](ctx, r, sharedSQL, int64(m[string(a)]), int64(m[string(b)]))
}

// UsersSharingRoomsWith calls fn once for every user who is joined to a room that
// the user is joined to, in no particular order; the user too. statetree.Stop ends it
// without an error. fn runs while the query is open: it must be quick.
func (r *Reader) UsersSharingRoomsWith(ctx context.Context, user id.User, fn func(id.User) error) error {
	return r.sharers(ctx, sharersSQL, user, fn)
}

// LocalUsersSharingRoomsWith is UsersSharingRoomsWith for this server's users.
func (r *Reader) LocalUsersSharingRoomsWith(ctx context.Context, user id.User) ([]id.User, error) {
	var out []id.User
	err := r.sharers(ctx, localSharersSQL, user, func(u id.User) error {
		out = append(out, u)
		return nil
	})
	return out, err
}

func (r *Reader) sharers(ctx context.Context, q string, user id.User, fn func(id.User) error) error {
	n, err := r.UserNID(ctx, user)
	if err != nil || n == 0 {
		return err
	}
	err = r.rows(ctx, q, []any{int64(n)}, func(row func(...any) error) error {
		var b []byte
		if err := row(&b); err != nil {
			return err
		}
		return fn(id.User(b))
	})
	if errors.Is(err, statetree.Stop) {
		return nil
	}
	return err
}

// ServersSharingRoomsWith gives the servers with a joined member in a room that the user
// is joined to: who must hear of the user's devices.
func (r *Reader) ServersSharingRoomsWith(ctx context.Context, user id.User) ([]id.Server, error) {
	n, err := r.UserNID(ctx, user)
	if err != nil || n == 0 {
		return nil, err
	}
	return texts[id.Server](ctx, r, sharingServersSQL, int64(n))
}

// ServersNewTo gives the servers with a joined member in a room that share no other room with a
// user.
func (r *Reader) ServersNewTo(ctx context.Context, user id.User, room id.Room) ([]id.Server, error) {
	u, err := r.UserNID(ctx, user)
	if err != nil || u == 0 {
		return nil, err
	}
	n, err := r.RoomNID(ctx, room)
	if err != nil || n == 0 {
		return nil, err
	}
	return texts[id.Server](ctx, r, newServersSQL, int64(n), int64(u))
}

// texts runs a query for one column of text.
func texts[T ~string](ctx context.Context, r *Reader, q string, args ...any) ([]T, error) {
	var out []T
	err := r.rows(ctx, q, args, func(row func(...any) error) error {
		var v string
		err := row(&v)
		out = append(out, T(v))
		return err
	})
	return out, err
}

// numbers runs a query for one column of numbers.
func numbers[T ~int64](ctx context.Context, r *Reader, q string, args ...any) ([]T, error) {
	var out []T
	err := r.rows(ctx, q, args, func(row func(...any) error) error {
		var v int64
		err := row(&v)
		out = append(out, T(v))
		return err
	})
	return out, err
}

// SharedSince gives the stream position from which on, without a break, another
// server's user and one of this server's have shared a room: since then that
// server tells us of changes of the user's devices. It is false where they share
// none.
func (r *Reader) SharedSince(ctx context.Context, user id.User) (int64, bool, error) {
	n, err := r.UserNID(ctx, user)
	if err != nil || n == 0 {
		return 0, false, err
	}
	var pos int64
	if err := r.q.QueryRow(ctx, sharedSinceSQL, int64(n)).Scan(&pos); err != nil {
		return 0, false, fmt.Errorf("eventstore: since when a room is shared: %w", err)
	}
	return pos, pos >= 0, nil
}

// CameLast tells whether it was another server's user who came into the room that has been shared
// with one of this server's since SharedSince, and not the other way round.
func (r *Reader) CameLast(ctx context.Context, user id.User) (bool, error) {
	n, err := r.UserNID(ctx, user)
	if err != nil || n == 0 {
		return false, err
	}
	list, err := numbers[int64](ctx, r, cameLastSQL, int64(n))
	return len(list) > 0 && list[0] == 1, err
}
