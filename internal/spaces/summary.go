package spaces

import (
	"context"

	"weft/internal/eventstore"
	"weft/matrix/event"
	"weft/matrix/id"
)

// RoomType is the type of a space in its create event.
const RoomType = "m.space"

// Summary is a room as it shows itself to those outside.
//
// spec: client-server §10.3 (RoomSummary)
type Summary struct {
	RoomID           id.Room           `json:"room_id"`
	Name             string            `json:"name,omitempty"`
	Topic            string            `json:"topic,omitempty"`
	CanonicalAlias   id.RoomAlias      `json:"canonical_alias,omitempty"`
	AvatarURL        string            `json:"avatar_url,omitempty"`
	NumJoinedMembers int64             `json:"num_joined_members"`
	WorldReadable    bool              `json:"world_readable"`
	GuestCanJoin     bool              `json:"guest_can_join"`
	JoinRule         string            `json:"join_rule,omitempty"`
	RoomType         string            `json:"room_type,omitempty"`
	AllowedRooms     []id.Room         `json:"allowed_room_ids,omitempty"`
	Encryption       string            `json:"encryption,omitempty"`
	Version          event.RoomVersion `json:"room_version,omitempty"`
}

// Space is a room with the events that name its children; a room that is no space has
// none.
type Space struct {
	Summary
	Children []Child `json:"children_state"`
}

// Describe makes the summaries of rooms from their current state, in their order.
func Describe(ctx context.Context, r *eventstore.Reader, rooms []*eventstore.Room) ([]Summary, error) {
	found, err := r.Summaries(ctx, rooms)
	if err != nil {
		return nil, err
	}
	out := make([]Summary, len(rooms))
	for i, room := range rooms {
		f := &found[i]
		out[i] = Summary{
			RoomID: room.ID, Name: f.Name, Topic: f.Topic, CanonicalAlias: f.CanonicalAlias, AvatarURL: f.AvatarURL,
			NumJoinedMembers: room.Joined, WorldReadable: f.HistoryVisibility == "world_readable",
			GuestCanJoin: f.GuestAccess == "can_join", JoinRule: f.JoinRule, RoomType: f.RoomType,
			Encryption: f.Encryption, Version: room.Version,
		}
		if out[i].Restricted() {
			out[i].AllowedRooms = f.AllowedRooms[:min(len(f.AllowedRooms), maxAllowedRooms)]
		}
	}
	return out, nil
}

// maxAllowedRooms bounds the rooms of a join rule that are looked at.
const maxAllowedRooms = 100

// Open tells that anybody may see the room: it can be joined, knocked on or read by
// everybody.
//
// spec: client-server §11.37 (GET /hierarchy, conditions for rooms); server-server §16
func (s *Summary) Open() bool {
	if s.WorldReadable {
		return true
	}
	switch s.JoinRule {
	case "", "public": // spec: "When not present, the room is assumed to be public"
		return true
	case "knock":
		return s.supports(func(r *event.Rules) bool { return r.Knock })
	case "knock_restricted":
		return s.supports(func(r *event.Rules) bool { return r.KnockRestricted })
	}
	return false
}

// Restricted tells that the members of other rooms may join.
func (s *Summary) Restricted() bool {
	switch s.JoinRule {
	case "restricted":
		return s.supports(func(r *event.Rules) bool { return r.RestrictedJoin })
	case "knock_restricted":
		return s.supports(func(r *event.Rules) bool { return r.KnockRestricted })
	}
	return false
}

// supports tells whether a rule exists in the room's version. Servers from before spec
// v1.15 do not tell the version, and a newer one may not be known here: then the rule
// is taken at its word.
func (s *Summary) supports(has func(*event.Rules) bool) bool {
	rules, err := event.Version(s.Version)
	return err != nil || has(rules)
}
