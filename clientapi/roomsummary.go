package clientapi

import (
	"context"
	"slices"

	"weft/internal/httpapi"
	"weft/internal/spaces"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// GetRoomSummary is GET /v1/room_summary/{roomIdOrAlias}. Other servers are asked for those
// who are logged in only.
//
// spec: client-server §10.3 (GET /v1/room_summary/{roomIdOrAlias})
func (s *Server) GetRoomSummary(ctx context.Context, r *httpapi.Request) (any, error) {
	name, via, err := s.roomOrAlias(ctx, r)
	if err != nil {
		return nil, err
	}
	room, err := s.roomToSummarise(ctx, r.Session.User, name, via)
	if err != nil {
		return nil, err
	}
	none := merr.NotFound("the room %s was not found", name)
	if room == nil {
		return nil, none
	}
	membership, allowed, err := s.maySeeRoom(ctx, r.Session.User, &room.Summary)
	if err != nil {
		return nil, err
	}
	if !allowed {
		return nil, none
	}
	return struct {
		spaces.Summary
		Membership string `json:"membership,omitempty"`
	}{room.Summary, membership.String()}, nil
}

func (s *Server) roomToSummarise(ctx context.Context, user id.User, room id.Room, via []id.Server) (*treeRoom, error) {
	if user != "" {
		return s.findRoom(ctx, user, room, via)
	}
	resident, err := s.residentRooms(ctx, []id.Room{room})
	return resident[room], err
}

// mutualPage bounds a page of GET /v1/mutual_rooms.
const mutualPage = 500

// GetMutualRooms is GET /v1/mutual_rooms.
//
// spec: client-server §10.36 (Mutual rooms)
func (s *Server) GetMutualRooms(ctx context.Context, r *httpapi.Request) (any, error) {
	name := r.Query().Get("user_id")
	user, err := id.ParseUser(name)
	if err != nil {
		return nil, merr.InvalidParam("user_id: %q is no user ID", name)
	}
	if user == r.Session.User {
		return nil, merr.InvalidParam("user_id is the caller's own")
	}
	nids, err := s.cfg.Events.SharedRooms(ctx, r.Session.User, user)
	if err != nil {
		return nil, err
	}
	ids, err := s.cfg.Events.RoomIDs(ctx, nids)
	if err != nil {
		return nil, err
	}
	rooms := make([]id.Room, 0, len(ids))
	for _, room := range ids {
		rooms = append(rooms, room)
	}
	slices.Sort(rooms)
	out := struct {
		Joined []id.Room `json:"joined"`
		Count  int       `json:"count"`
		Next   string    `json:"next_batch,omitempty"`
	}{Count: len(rooms)}
	if from := r.Query().Get("from"); from != "" {
		after, err := id.ParseRoom(from)
		if err != nil {
			return nil, merr.InvalidParam("from is no token of this endpoint")
		}
		rooms = slices.DeleteFunc(rooms, func(room id.Room) bool { return room <= after })
	}
	if len(rooms) > mutualPage {
		rooms = rooms[:mutualPage]
		out.Next = string(rooms[mutualPage-1])
	}
	out.Joined = rooms
	return out, nil
}
