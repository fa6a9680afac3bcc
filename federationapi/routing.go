package federationapi

import (
	"context"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/matrix/id"
	"weft/matrix/serveracl"
)

// routes works out where events go. It remembers what it looked up about rooms
// for one page of the stream.
type routes struct {
	store *eventstore.Reader
	self  id.Server
	rooms map[nid.Room][]id.Server
}

func newRoutes(store *eventstore.Reader, self id.Server) *routes {
	return &routes{store: store, self: self, rooms: map[nid.Room][]id.Server{}}
}

// inRoom lists the other servers in a room that its ACL lets in.
func (r *routes) inRoom(ctx context.Context, room nid.Room) ([]id.Server, error) {
	if servers, ok := r.rooms[room]; ok {
		return servers, nil
	}
	all, err := r.store.Servers(ctx, room)
	if err != nil {
		return nil, err
	}
	servers := make([]id.Server, 0, len(all))
	if len(all) > 0 {
		row, err := r.store.RoomByNID(ctx, room)
		if err != nil {
			return nil, err
		}
		acl, err := r.store.CurrentState(row).Get(ctx, "m.room.server_acl", "")
		if err != nil {
			return nil, err
		}
		for _, s := range all {
			if s != r.self && (acl == nil || serveracl.Allowed(acl.Content(), s)) {
				servers = append(servers, s)
			}
		}
	}
	r.rooms[room] = servers
	return servers, nil
}

// target gives the server of a user who was made to leave, which must hear of
// it though it may have nobody left in the room; empty for other events.
func target(e *eventstore.Event) id.Server {
	if e.Type != "m.room.member" || !e.IsState {
		return ""
	}
	if m := e.Membership(); m != "leave" && m != "ban" {
		return ""
	}
	user, err := id.ParseUser(e.StateKey)
	if err != nil {
		return ""
	}
	return user.Server()
}

// of lists the destinations of an event.
func (r *routes) of(ctx context.Context, e *eventstore.Event) ([]id.Server, error) {
	servers, err := r.inRoom(ctx, e.RoomNID)
	if err != nil {
		return nil, err
	}
	t := target(e)
	if t == "" || t == r.self {
		return servers, nil
	}
	for _, s := range servers {
		if s == t {
			return servers, nil
		}
	}
	return append(servers[:len(servers):len(servers)], t), nil
}
