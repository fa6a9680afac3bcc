package clientapi

import (
	"context"
	"errors"
	"slices"

	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// roomSummary is what a user may know of a room before joining.
//
// spec: client-server §10.3 (GET /v1/room_summary/{roomIdOrAlias})
type roomSummary struct {
	RoomID         id.Room           `json:"room_id"`
	Name           string            `json:"name,omitempty"`
	Topic          string            `json:"topic,omitempty"`
	AvatarURL      string            `json:"avatar_url,omitempty"`
	CanonicalAlias string            `json:"canonical_alias,omitempty"`
	Joined         int64             `json:"num_joined_members"`
	JoinRule       string            `json:"join_rule,omitempty"`
	AllowedRooms   []id.Room         `json:"allowed_room_ids,omitempty"`
	WorldReadable  bool              `json:"world_readable"`
	GuestCanJoin   bool              `json:"guest_can_join"`
	RoomType       string            `json:"room_type,omitempty"`
	RoomVersion    event.RoomVersion `json:"room_version"`
	Encryption     string            `json:"encryption,omitempty"`
	Membership     string            `json:"membership,omitempty"`
}

// GetRoomSummary is GET /v1/room_summary/{roomIdOrAlias}, of rooms that this
// server is in.
func (s *Server) GetRoomSummary(ctx context.Context, r *httpapi.Request) (any, error) {
	room, _, err := s.roomOrAlias(ctx, r)
	if err != nil {
		return nil, err
	}
	none := merr.NotFound("the room %s was not found", room)
	info, err := s.cfg.Events.Room(ctx, room)
	if errors.Is(err, merr.ErrNotFound) || err == nil && info.Stub {
		return nil, none
	}
	if err != nil {
		return nil, err
	}
	out, err := s.summarise(ctx, info)
	if err != nil {
		return nil, err
	}
	allowed, err := s.maySummarise(ctx, r.Session.User, info, &out)
	if err != nil {
		return nil, err
	}
	if !allowed {
		return nil, none
	}
	return out, nil
}

func (s *Server) summarise(ctx context.Context, room *eventstore.Room) (roomSummary, error) {
	out := roomSummary{RoomID: room.ID, Joined: room.Joined, RoomVersion: room.Version}
	types := []string{"m.room.create", "m.room.name", "m.room.topic", "m.room.avatar", typeCanonicalAlias, "m.room.join_rules",
		"m.room.history_visibility", "m.room.guest_access", "m.room.encryption"}
	keys := make([]eventauth.Key, 0, len(types))
	for _, typ := range types {
		keys = append(keys, eventauth.Key{Type: typ})
	}
	state, err := s.cfg.Events.CurrentState(room).GetMany(ctx, keys)
	if err != nil {
		return out, err
	}
	text := func(typ, field string) string {
		ev := state[eventauth.Key{Type: typ}]
		if ev == nil {
			return ""
		}
		v := gjson.GetBytes(ev.Content(), field)
		if v.Type != gjson.String {
			return ""
		}
		return v.Str
	}
	out.RoomType = text("m.room.create", "type")
	out.Name, out.Topic = text("m.room.name", "name"), text("m.room.topic", "topic")
	out.AvatarURL, out.CanonicalAlias = text("m.room.avatar", "url"), text(typeCanonicalAlias, "alias")
	out.Encryption = text("m.room.encryption", "algorithm")
	out.WorldReadable = text("m.room.history_visibility", "history_visibility") == "world_readable"
	out.GuestCanJoin = text("m.room.guest_access", "guest_access") == "can_join"
	out.JoinRule = text("m.room.join_rules", "join_rule")
	if rules := state[eventauth.Key{Type: "m.room.join_rules"}]; rules != nil && isRestricted(out.JoinRule) {
		for _, a := range gjson.GetBytes(rules.Content(), "allow").Array() {
			room, err := id.ParseRoom(a.Get("room_id").String())
			if err == nil && a.Get("type").String() == "m.room_membership" {
				out.AllowedRooms = append(out.AllowedRooms, room)
			}
		}
	}
	return out, nil
}

func isRestricted(rule string) bool { return rule == "restricted" || rule == "knock_restricted" }

// maySummarise tells whether a user may see a summary, and notes the user's
// membership in it.
func (s *Server) maySummarise(ctx context.Context, user id.User, room *eventstore.Room, out *roomSummary) (bool, error) {
	open := out.WorldReadable || slices.Contains([]string{"public", "knock", "knock_restricted"}, out.JoinRule)
	if user == "" {
		return open, nil
	}
	member, err := s.cfg.Events.Member(ctx, room.NID, user)
	if err != nil {
		return false, err
	}
	out.Membership = member.Membership.String()
	if open || member.Membership == eventstore.Join || member.Membership == eventstore.Invite {
		return true, nil
	}
	for _, allowed := range out.AllowedRooms {
		err := s.mustBeJoined(ctx, user, allowed)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, merr.ErrForbidden) {
			return false, err
		}
	}
	return false, nil
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
