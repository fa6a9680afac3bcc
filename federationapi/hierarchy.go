package federationapi

import (
	"context"
	"errors"

	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/internal/spaces"
	"weft/internal/statetree"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// GetSpaceHierarchy serves a space and those of its children that the asking
// server could have to do with.
//
// spec: server-server §16, GET /_matrix/federation/v1/hierarchy/{roomId}
func (s *Server) GetSpaceHierarchy(ctx context.Context, r *httpapi.Request) (any, error) {
	roomID, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	suggested, err := r.QueryBool("suggested_only", false)
	if err != nil {
		return nil, err
	}
	room, err := s.room(ctx, r.Origin, roomID)
	if err != nil {
		return nil, err
	}
	shown, err := s.describe(ctx, r.Origin, []*eventstore.Room{room})
	if err != nil {
		return nil, err
	}
	resident, err := s.Events.ServerInRoom(ctx, room.NID, s.ServerName)
	if err != nil {
		return nil, err
	}
	if shown[0] == nil || !resident {
		return nil, merr.NotFound("the room %s cannot be seen by %s", roomID, r.Origin)
	}
	out := &spaces.Hierarchy{Children: []spaces.Summary{}, Inaccessible: []id.Room{}}
	out.Room = spaces.Space{Summary: *shown[0], Children: []spaces.Child{}}
	if out.Room.RoomType != spaces.RoomType {
		return out, nil
	}
	if out.Room.Children, err = spaces.Children(ctx, s.Events, room); err != nil {
		return nil, err
	}
	if suggested {
		out.Room.Children = spaces.OnlySuggested(out.Room.Children)
	}
	if err := s.addChildren(ctx, r.Origin, out); err != nil {
		return nil, err
	}
	return out, nil
}

// addChildren adds what a server may know of a space's children. Of those that this
// server is not in it has nothing to tell: they are in none of the lists.
func (s *Server) addChildren(ctx context.Context, server id.Server, h *spaces.Hierarchy) error {
	ids := make([]id.Room, len(h.Room.Children))
	for i := range ids {
		ids[i] = h.Room.Children[i].Room()
	}
	resident, err := s.Events.RoomsWithServer(ctx, ids, s.ServerName)
	if err != nil {
		return err
	}
	var known []*eventstore.Room
	for _, i := range ids {
		if room := resident[i]; room != nil {
			known = append(known, room)
		}
	}
	summaries, err := s.describe(ctx, server, known)
	if err != nil {
		return err
	}
	for i, child := range known {
		if summaries[i] != nil {
			h.Children = append(h.Children, *summaries[i])
		} else {
			h.Inaccessible = append(h.Inaccessible, child.ID)
		}
	}
	return nil
}

// describe gives the summaries of rooms, nil for those that the server has no way
// to see or join.
func (s *Server) describe(ctx context.Context, server id.Server, rooms []*eventstore.Room) ([]*spaces.Summary, error) {
	found, err := spaces.Describe(ctx, s.Events, rooms)
	if err != nil {
		return nil, err
	}
	out := make([]*spaces.Summary, len(rooms))
	for i, room := range rooms {
		ok, err := s.accessible(ctx, server, room, &found[i])
		if err != nil {
			return nil, err
		}
		if ok {
			out[i] = &found[i]
		}
	}
	return out, nil
}

// accessible tells whether users of a server could peek into or join a room.
//
// spec: server-server §16 ("all the space-room's children the requesting server
// could feasibly peek/join are returned")
func (s *Server) accessible(ctx context.Context, server id.Server, room *eventstore.Room, f *spaces.Summary) (bool, error) {
	if err := s.checkACL(ctx, room, server); err != nil {
		if errors.Is(err, merr.ErrForbidden) {
			return false, nil
		}
		return false, err
	}
	if f.Open() {
		return true, nil
	}
	in, err := s.Events.ServerInRoom(ctx, room.NID, server)
	if err != nil || in {
		return in, err
	}
	if f.Restricted() {
		if in, err = s.inAny(ctx, server, f.AllowedRooms); err != nil || in {
			return in, err
		}
	}
	err = s.Events.EachMember(ctx, room.NID, func(m eventstore.Member) error {
		if m.User.Server() == server {
			return statetree.Stop
		}
		return nil
	}, eventstore.Invite)
	if errors.Is(err, statetree.Stop) {
		return true, nil
	}
	return false, err
}

// inAny tells whether a server is in one of some rooms.
func (s *Server) inAny(ctx context.Context, server id.Server, rooms []id.Room) (bool, error) {
	nids, err := s.Events.RoomNIDs(ctx, rooms)
	if err != nil {
		return false, err
	}
	for _, n := range nids {
		if in, err := s.Events.ServerInRoom(ctx, n, server); err != nil || in {
			return in, err
		}
	}
	return false, nil
}
