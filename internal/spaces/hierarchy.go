package spaces

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tidwall/gjson"

	"weft/matrix/id"
)

// Hierarchy is a space with what the answering server knows of its children.
//
// spec: server-server §16, GET /_matrix/federation/v1/hierarchy/{roomId}
type Hierarchy struct {
	Room     Space     `json:"room"`
	Children []Summary `json:"children"`
	// Inaccessible are children that the asking server cannot see or join. A child that is
	// in neither list is one of which the answering server knows nothing.
	Inaccessible []id.Room `json:"inaccessible_children"`
}

// Parse reads another server's hierarchy of a room. Fields of a wrong type count as
// absent; children that are none, and what goes over the bounds, are left out.
func Parse(raw []byte, room id.Room) (*Hierarchy, error) {
	var h Hierarchy
	var mistyped *json.UnmarshalTypeError
	if err := json.Unmarshal(raw, &h); err != nil && !errors.As(err, &mistyped) {
		return nil, fmt.Errorf("reading a hierarchy: %w", err)
	}
	if h.Room.RoomID != room {
		return nil, fmt.Errorf("a hierarchy of %.255q instead of %s", h.Room.RoomID, room)
	}
	links := h.Room.Children[:0]
	for _, c := range h.Room.Children {
		if _, err := id.ParseUser(string(c.Sender)); err != nil || h.Room.RoomType != RoomType {
			continue
		}
		if gjson.ParseBytes(c.Content).IsObject() && c.valid() {
			links = append(links, c)
		}
	}
	h.Room.Children = first(links)
	h.Room.tidy()
	known := h.Children[:0]
	for _, c := range h.Children[:min(len(h.Children), MaxChildren)] {
		if _, err := id.ParseRoom(string(c.RoomID)); err == nil {
			c.tidy()
			known = append(known, c)
		}
	}
	h.Children = known
	h.Inaccessible = h.Inaccessible[:min(len(h.Inaccessible), MaxChildren)]
	return &h, nil
}

// tidy drops what a client could not use.
func (s *Summary) tidy() {
	if _, err := id.ParseRoomAlias(string(s.CanonicalAlias)); err != nil {
		s.CanonicalAlias = ""
	}
	allowed := s.AllowedRooms[:0]
	for _, r := range s.AllowedRooms[:min(len(s.AllowedRooms), maxAllowedRooms)] {
		if _, err := id.ParseRoom(string(r)); err == nil {
			allowed = append(allowed, r)
		}
	}
	s.AllowedRooms = allowed
	s.NumJoinedMembers = max(s.NumJoinedMembers, 0)
}
