package roomserver

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"weft/internal/eventstore"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

const (
	// defaultPublicRooms and maxPublicRooms bound a page.
	defaultPublicRooms = 100
	maxPublicRooms     = 500
	// publicRoomsScan is how many rooms are read at a time, and publicRoomsMax how many a
	// filter looks at.
	publicRoomsScan = 200
	publicRoomsMax  = 50_000
)

// ListPublicRooms implements api.Directory. The rooms with the most members come first.
// A page token is the number of rooms before the page; the order may change between two
// pages, and then a room can be missed or come twice.
//
// spec: client-server §10.5 (Published room directory)
func (s *Server) ListPublicRooms(ctx context.Context, req api.ListPublicRooms) (api.PublicRooms, error) {
	limit := req.Limit
	if limit <= 0 {
		limit = defaultPublicRooms
	}
	limit = min(limit, maxPublicRooms)
	from := 0
	if req.Since != "" {
		n, err := strconv.ParseUint(req.Since, 10, 31)
		if err != nil {
			return api.PublicRooms{}, merr.InvalidParam("since is no page token of this list")
		}
		from = int(n)
	}
	filtered := req.SearchTerm != "" || len(req.RoomTypes) > 0
	out := api.PublicRooms{Chunk: []api.PublicRoom{}}
	matches := 0
	err := s.eachPublicRoom(ctx, func(rooms []*eventstore.Room) (bool, error) {
		if !filtered && matches+len(rooms) <= from {
			matches += len(rooms) // they are not looked at
			return true, nil
		}
		sums, err := s.store.Summaries(ctx, rooms)
		if err != nil {
			return false, err
		}
		for i, room := range rooms {
			if filtered && !matchesFilter(req, &sums[i]) {
				continue
			}
			if matches++; matches > from && len(out.Chunk) < limit {
				out.Chunk = append(out.Chunk, publicRoom(room, &sums[i]))
			}
		}
		return filtered || matches <= from+limit, nil
	})
	if err != nil {
		return api.PublicRooms{}, err
	}
	out.Total = matches
	if !filtered {
		n, err := s.store.CountPublicRooms(ctx, eventstore.List{})
		if err != nil {
			return api.PublicRooms{}, err
		}
		out.Total = int(n)
	}
	if matches > from+limit {
		out.NextBatch = strconv.Itoa(from + limit)
	}
	if from > 0 {
		out.PrevBatch = strconv.Itoa(max(0, from-limit))
	}
	return out, nil
}

// eachPublicRoom reads the list in pages until fn returns false.
func (s *Server) eachPublicRoom(ctx context.Context, fn func([]*eventstore.Room) (bool, error)) error {
	var after eventstore.PublicCursor
	for seen := 0; seen < publicRoomsMax; seen += publicRoomsScan {
		rooms, err := s.store.PublicRooms(ctx, eventstore.List{}, after, publicRoomsScan)
		if err != nil || len(rooms) == 0 {
			return err
		}
		more, err := fn(rooms)
		if err != nil || !more || len(rooms) < publicRoomsScan {
			return err
		}
		last := rooms[len(rooms)-1]
		after = eventstore.PublicCursor{Joined: last.Joined, Room: last.NID}
	}
	return nil
}

func matchesFilter(req api.ListPublicRooms, s *eventstore.Summary) bool {
	if len(req.RoomTypes) > 0 && !slices.ContainsFunc(req.RoomTypes, func(t *string) bool {
		return t == nil && s.RoomType == "" || t != nil && *t == s.RoomType && s.RoomType != ""
	}) {
		return false
	}
	term := strings.ToLower(req.SearchTerm)
	for _, text := range []string{s.Name, s.Topic, string(s.CanonicalAlias)} {
		if strings.Contains(strings.ToLower(text), term) {
			return true
		}
	}
	return false
}

func publicRoom(room *eventstore.Room, s *eventstore.Summary) api.PublicRoom {
	return api.PublicRoom{
		RoomID: room.ID, Name: s.Name, Topic: s.Topic, CanonicalAlias: s.CanonicalAlias, AvatarURL: s.AvatarURL,
		NumJoinedMembers: room.Joined, WorldReadable: s.HistoryVisibility == "world_readable",
		GuestCanJoin: s.GuestAccess == "can_join", JoinRule: s.JoinRule, RoomType: s.RoomType,
	}
}
