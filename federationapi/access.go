package federationapi

import (
	"context"
	"errors"

	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/matrix/serveracl"
)

// room finds the room of a request and checks that its ACL lets the server in.
//
// spec: server-server §26 (Server Access Control Lists)
func (s *Server) room(ctx context.Context, origin id.Server, roomID id.Room) (*eventstore.Room, error) {
	room, err := s.Events.Room(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if room.Stub {
		return nil, merr.NotFound("this server is not in %s", roomID)
	}
	return room, s.checkACL(ctx, room, origin)
}

// memberRoom is room for requests that only servers in the room may make.
func (s *Server) memberRoom(ctx context.Context, r *httpapi.Request) (*eventstore.Room, error) {
	roomID, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	room, err := s.room(ctx, r.Origin, roomID)
	if err != nil {
		return nil, err
	}
	in, err := s.Events.ServerInRoom(ctx, room.NID, r.Origin)
	if err != nil {
		return nil, err
	}
	if !in {
		return nil, merr.Forbidden("%s is not in the room", r.Origin)
	}
	return room, nil
}

// checkACL refuses a server that the room's ACL shuts out.
func (s *Server) checkACL(ctx context.Context, room *eventstore.Room, server id.Server) error {
	ev, err := s.Events.CurrentState(room).Get(ctx, "m.room.server_acl", "")
	if err != nil {
		return err
	}
	if ev != nil && !serveracl.Allowed(ev.Content(), server) {
		return merr.Forbidden("%s is denied by the room's server ACL", server)
	}
	return nil
}

// mayTakePart tells whether the ACL of a room lets a server in. What is no room
// of ours has no ACL.
func (s *Server) mayTakePart(ctx context.Context, server id.Server, roomID id.Room) (bool, error) {
	_, err := s.room(ctx, server, roomID)
	switch {
	case errors.Is(err, merr.ErrForbidden):
		return false, nil
	case err != nil && !errors.Is(err, merr.ErrNotFound):
		return false, err
	}
	return true, nil
}

// roomEvent finds an event of a room that is part of its graph.
func (s *Server) roomEvent(ctx context.Context, room *eventstore.Room, eventID id.Event) (*eventstore.Event, error) {
	ev, err := s.Events.EventByID(ctx, eventID)
	if err != nil {
		return nil, err
	}
	if ev.RoomNID != room.NID {
		return nil, merr.NotFound("%s is not in this room", eventID)
	}
	return ev, nil
}
