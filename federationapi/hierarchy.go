package federationapi

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/internal/statetree"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
	roomapi "weft/roomserver/api"
)

// maxChildren bounds the children of a space that are looked at, first ones
// first.
const maxChildren = 1000

// roomSummary is a room as it shows itself to those outside.
type roomSummary struct {
	roomapi.PublicRoom
	AllowedRooms []id.Room         `json:"allowed_room_ids,omitempty"`
	Encryption   string            `json:"encryption,omitempty"`
	Version      event.RoomVersion `json:"room_version"`
}

// spaceSummary is the room that a request is about, with its children's events.
type spaceSummary struct {
	roomSummary
	Children []json.RawMessage `json:"children_state"`
}

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
	if len(shown) == 0 || shown[0] == nil {
		return nil, merr.NotFound("the room %s cannot be seen by %s", roomID, r.Origin)
	}
	links, err := s.children(ctx, room, shown[0].RoomType, suggested)
	if err != nil {
		return nil, err
	}
	space := spaceSummary{roomSummary: *shown[0], Children: make([]json.RawMessage, len(links))}
	var known []*eventstore.Room
	for i, e := range links {
		if space.Children[i], err = json.Marshal(strippedChild{e.Type, e.StateKey, e.Content(), e.Sender, e.OriginServerTS}); err != nil {
			return nil, err
		}
		child, err := s.Events.Room(ctx, id.Room(e.StateKey))
		if err == nil && !child.Stub {
			known = append(known, child)
		}
		if err != nil && !errors.Is(err, merr.ErrNotFound) {
			return nil, err
		}
	}
	summaries, err := s.describe(ctx, r.Origin, known)
	if err != nil {
		return nil, err
	}
	out := struct {
		Room         spaceSummary   `json:"room"`
		Children     []*roomSummary `json:"children"`
		Inaccessible []id.Room      `json:"inaccessible_children"`
	}{space, []*roomSummary{}, []id.Room{}}
	for i, child := range known {
		if summaries[i] != nil {
			out.Children = append(out.Children, summaries[i])
		} else {
			out.Inaccessible = append(out.Inaccessible, child.ID)
		}
	}
	return out, nil
}

// strippedChild is an m.space.child event as the hierarchy shows it.
type strippedChild struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
	Sender   id.User         `json:"sender"`
	TS       int64           `json:"origin_server_ts"`
}

// children lists the valid m.space.child events of a space, in the order in which
// clients show them. A room that is no space has none.
//
// spec: client-server §11.37 (m.space.child relationships: a child without via is removed)
func (s *Server) children(ctx context.Context, room *eventstore.Room, roomType string, suggested bool) ([]*eventstore.Event, error) {
	if roomType != "m.space" {
		return nil, nil
	}
	var out []*eventstore.Event
	err := s.Events.CurrentState(room).List(ctx, func(e *eventstore.Event) error {
		via := gjson.GetBytes(e.Content(), "via")
		if _, err := id.ParseRoom(e.StateKey); err != nil || !via.IsArray() || len(via.Array()) == 0 {
			return nil
		}
		if suggested && gjson.GetBytes(e.Content(), "suggested").Type != gjson.True {
			return nil
		}
		out = append(out, e)
		return nil
	}, "m.space.child")
	if err != nil {
		return nil, err
	}
	slices.SortFunc(out, compareChildren)
	return out[:min(len(out), maxChildren)], nil
}

// compareChildren orders the children of a space.
//
// spec: client-server §11.37 (Ordering of children within a space)
func compareChildren(a, b *eventstore.Event) int {
	x, xOK := childOrder(a)
	y, yOK := childOrder(b)
	switch {
	case xOK && yOK && x != y:
		return strings.Compare(x, y)
	case xOK && !yOK:
		return -1
	case yOK && !xOK:
		return 1
	case a.OriginServerTS != b.OriginServerTS:
		return int(max(-1, min(1, a.OriginServerTS-b.OriginServerTS)))
	}
	return strings.Compare(a.StateKey, b.StateKey)
}

// childOrder gives the order key of a child where it is valid: at most 50
// characters from \x20 to \x7E.
func childOrder(e *eventstore.Event) (string, bool) {
	v := gjson.GetBytes(e.Content(), "order")
	if v.Type != gjson.String || len(v.Str) > 50 {
		return "", false
	}
	for i := range len(v.Str) {
		if v.Str[i] < 0x20 || v.Str[i] > 0x7e {
			return "", false
		}
	}
	return v.Str, true
}

// describe gives the summaries of rooms, nil for those that the server has no way
// to see or join, or of which we are not a member ourselves any more.
func (s *Server) describe(ctx context.Context, server id.Server, rooms []*eventstore.Room) ([]*roomSummary, error) {
	found, err := s.Events.Summaries(ctx, rooms)
	if err != nil {
		return nil, err
	}
	out := make([]*roomSummary, len(rooms))
	for i, room := range rooms {
		ok, err := s.accessible(ctx, server, room, &found[i])
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		f := found[i]
		out[i] = &roomSummary{
			PublicRoom: roomapi.PublicRoom{
				RoomID: room.ID, Name: f.Name, Topic: f.Topic, CanonicalAlias: f.CanonicalAlias, AvatarURL: f.AvatarURL,
				NumJoinedMembers: room.Joined, WorldReadable: f.HistoryVisibility == "world_readable",
				GuestCanJoin: f.GuestAccess == "can_join", JoinRule: f.JoinRule, RoomType: f.RoomType,
			},
			Encryption: f.Encryption, Version: room.Version,
		}
		if restricted(f.JoinRule) {
			out[i].AllowedRooms = f.AllowedRooms
		}
	}
	return out, nil
}

func restricted(rule string) bool { return rule == "restricted" || rule == "knock_restricted" }

// accessible tells whether users of a server could peek into or join a room.
//
// spec: server-server §16 ("all the space-room's children the requesting server
// could feasibly peek/join are returned")
func (s *Server) accessible(ctx context.Context, server id.Server, room *eventstore.Room, f *eventstore.Summary) (bool, error) {
	if err := s.checkACL(ctx, room, server); err != nil {
		if errors.Is(err, merr.ErrForbidden) {
			return false, nil
		}
		return false, err
	}
	if resident, err := s.Events.ServerInRoom(ctx, room.NID, s.ServerName); err != nil || !resident {
		return false, err
	}
	if f.HistoryVisibility == "world_readable" || f.JoinRule == "public" || f.JoinRule == "knock" || f.JoinRule == "knock_restricted" {
		return true, nil
	}
	in, err := s.Events.ServerInRoom(ctx, room.NID, server)
	if err != nil || in {
		return in, err
	}
	if f.JoinRule == "restricted" {
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

// maxAllowedRooms bounds the rooms of a join rule that are looked at.
const maxAllowedRooms = 100

// inAny tells whether a server is in one of some rooms.
func (s *Server) inAny(ctx context.Context, server id.Server, rooms []id.Room) (bool, error) {
	nids, err := s.Events.RoomNIDs(ctx, rooms[:min(len(rooms), maxAllowedRooms)])
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
