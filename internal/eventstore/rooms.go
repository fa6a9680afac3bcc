package eventstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"weft/internal/nid"
	"weft/internal/statetree"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	roomColumns  = `SELECT room_nid, revision, depth, stub, joined, invited, unordered, room_id, version, current_state, extremities FROM rooms `
	roomByIDSQL  = roomColumns + `WHERE room_id = $1`
	roomByNIDSQL = roomColumns + `WHERE room_nid = $1`
	roomsSQL     = roomColumns + `WHERE room_nid IN `
	allRoomsSQL  = roomColumns + `WHERE room_nid > $1 ORDER BY room_nid LIMIT $2`
	roomNamesSQL = `SELECT room_nid, room_id, version, stub FROM rooms WHERE room_nid IN `
	roomNIDsSQL  = `SELECT room_id, room_nid FROM rooms WHERE room_id IN `
)

// Room reads a room's row. A room that is not known is M_NOT_FOUND.
func (r *Reader) Room(ctx context.Context, room id.Room) (*Room, error) {
	out, err := scanRoom(r.q.QueryRow(ctx, roomByIDSQL, string(room)).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, merr.NotFound("the room %s is not known here", room)
	}
	return out, err
}

// RoomByNID reads a room's row.
func (r *Reader) RoomByNID(ctx context.Context, room nid.Room) (*Room, error) {
	out, err := scanRoom(r.q.QueryRow(ctx, roomByNIDSQL, int64(room)).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, missing("room", room)
	}
	return out, err
}

// Rooms reads many rooms' rows. Unknown numbers are missing in the result.
func (r *Reader) Rooms(ctx context.Context, rooms []nid.Room) (map[nid.Room]*Room, error) {
	out := make(map[nid.Room]*Room, len(rooms))
	err := r.chunked(ctx, roomsSQL, nil, anys(rooms), func(row func(...any) error) error {
		room, err := scanRoom(row)
		if err == nil {
			out[room.NID] = room
		}
		return err
	})
	return out, err
}

// ListRooms pages through all rooms in the order of their numbers, beginning after one.
func (r *Reader) ListRooms(ctx context.Context, after nid.Room, limit int) ([]*Room, error) {
	var out []*Room
	err := r.rows(ctx, allRoomsSQL, []any{int64(after), limit}, func(row func(...any) error) error {
		room, err := scanRoom(row)
		out = append(out, room)
		return err
	})
	return out, err
}

func scanRoom(row func(...any) error) (*Room, error) {
	r := &Room{}
	var stub int64
	var state, extremities []byte
	if err := row(&r.NID, &r.Revision, &r.Depth, &stub, &r.Joined, &r.Invited, &r.Unordered, &r.ID, &r.Version, &state, &extremities); err != nil {
		return nil, fmt.Errorf("eventstore: room: %w", err)
	}
	r.Stub = stub != 0
	var err error
	if r.CurrentState, err = decodeRoot(state); err != nil {
		return nil, fmt.Errorf("eventstore: current state of %s: %w", r.ID, err)
	}
	if r.Extremities, err = nid.DecodeSet(extremities); err != nil {
		return nil, fmt.Errorf("eventstore: extremities of %s: %w", r.ID, err)
	}
	if r.Rules, err = event.Version(r.Version); err != nil {
		return nil, fmt.Errorf("eventstore: version of %s: %w", r.ID, err)
	}
	return r, nil
}

// decodeRoot reads a stored root: always 16 bytes, zeros for the empty map.
func decodeRoot(b []byte) (statetree.Root, error) {
	var root statetree.Root
	if len(b) != len(root) {
		return root, fmt.Errorf("a root of %d bytes", len(b))
	}
	copy(root[:], b)
	return root, nil
}

// roomNames gives what never changes of rooms. An unknown number is an error.
func (r *Reader) roomNames(ctx context.Context, rooms []nid.Room) (map[nid.Room]roomName, error) {
	out := make(map[nid.Room]roomName)
	var rest []any
	for _, n := range rooms {
		if _, ok := out[n]; ok {
			continue
		}
		v, ok := r.caches.rooms.GetIfPresent(n)
		if !ok {
			rest = append(rest, int64(n))
		}
		out[n] = v
	}
	err := r.chunked(ctx, roomNamesSQL, nil, rest, func(row func(...any) error) error {
		var n nid.Room
		var name roomName
		var version event.RoomVersion
		var stub int64
		if err := row(&n, &name.id, &version, &stub); err != nil {
			return err
		}
		var err error
		if name.rules, err = event.Version(version); err != nil {
			return fmt.Errorf("version of %s: %w", name.id, err)
		}
		out[n] = name
		if r.fill && stub == 0 {
			r.caches.rooms.Set(n, name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for n, name := range out {
		if name.rules == nil {
			return nil, missing("room", n)
		}
	}
	return out, nil
}

// RoomID gives the ID of a room.
func (r *Reader) RoomID(ctx context.Context, room nid.Room) (id.Room, error) {
	m, err := r.roomNames(ctx, []nid.Room{room})
	return m[room].id, err
}

// RoomIDs gives the IDs of rooms. An unknown number is an error.
func (r *Reader) RoomIDs(ctx context.Context, rooms []nid.Room) (map[nid.Room]id.Room, error) {
	m, err := r.roomNames(ctx, rooms)
	if err != nil {
		return nil, err
	}
	out := make(map[nid.Room]id.Room, len(m))
	for n, name := range m {
		out[n] = name.id
	}
	return out, nil
}

// RoomNID gives the number of a room, 0 for an unknown one.
func (r *Reader) RoomNID(ctx context.Context, room id.Room) (nid.Room, error) {
	m, err := r.RoomNIDs(ctx, []id.Room{room})
	return m[room], err
}

// RoomNIDs gives the numbers of rooms. Unknown rooms are missing in the result.
func (r *Reader) RoomNIDs(ctx context.Context, rooms []id.Room) (map[id.Room]nid.Room, error) {
	return lookup(ctx, r, r.caches.roomNIDs, nil, rooms, func(i id.Room) any { return string(i) }, roomNIDsSQL,
		func(row func(...any) error) (i id.Room, n nid.Room, err error) {
			err = row(&i, &n)
			return i, n, err
		})
}

// chunked runs a query that ends in a list for every 500 elements of the list.
func (r *Reader) chunked(ctx context.Context, q string, args, list []any, fn func(row func(...any) error) error) error {
	const size = 500
	for len(list) > 0 {
		n := min(size, len(list))
		if err := r.each(ctx, q, args[:len(args):len(args)], list[:n:n], fn); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

// anys makes a list of arguments from numbers.
func anys[T ~int64](list []T) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = int64(v)
	}
	return out
}
