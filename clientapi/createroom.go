package clientapi

import (
	"context"
	"encoding/json"

	"weft/internal/httpapi"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
	roomapi "weft/roomserver/api"
)

const (
	// maxInitialState and maxInvites bound what one request may write.
	maxInitialState = 500
	maxInvites      = 100
	maxAlias        = 255
)

// createRoomRequest is the body of POST /createRoom.
type createRoomRequest struct {
	Visibility      string              `json:"visibility"`
	AliasName       string              `json:"room_alias_name"`
	Name            string              `json:"name"`
	Topic           string              `json:"topic"`
	Invite          []id.User           `json:"invite"`
	Invite3PID      []json.RawMessage   `json:"invite_3pid"`
	RoomVersion     event.RoomVersion   `json:"room_version"`
	CreationContent json.RawMessage     `json:"creation_content"`
	InitialState    []initialStateEvent `json:"initial_state"`
	Preset          string              `json:"preset"`
	IsDirect        bool                `json:"is_direct"`
	PowerLevels     json.RawMessage     `json:"power_level_content_override"`
}

type initialStateEvent struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

// CreateRoom is POST /createRoom.
//
// spec: client-server §10.1.1 (Creation)
func (s *Server) CreateRoom(ctx context.Context, r *httpapi.Request) (any, error) {
	var q createRoomRequest
	if err := r.DecodeJSON(&q); err != nil {
		return nil, err
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	if q.RoomVersion == "" {
		q.RoomVersion = s.cfg.DefaultRoomVersion
	}
	if _, err := event.Version(q.RoomVersion); err != nil {
		return nil, merr.UnsupportedRoomVersion("room version %q is not supported", string(q.RoomVersion))
	}
	if q.AliasName != "" {
		alias, err := id.ParseRoomAlias("#" + q.AliasName + ":" + string(s.cfg.ServerName))
		if err != nil || alias.Localpart() != q.AliasName {
			return nil, merr.InvalidParam("%q cannot be a room_alias_name", q.AliasName)
		}
		if err := s.mayUseAlias(r.Session, alias); err != nil {
			return nil, err
		}
	}
	req := roomapi.CreateRoom{Creator: r.Session.User, RoomVersion: q.RoomVersion, Visibility: q.Visibility,
		AliasLocalpart: q.AliasName, Name: q.Name, Topic: q.Topic, Invite: q.Invite, Preset: q.Preset, IsDirect: q.IsDirect,
		InviteProfiles: map[id.User]json.RawMessage{}}
	var err error
	if req.CreationContent, err = optionalContent("creation_content", q.CreationContent); err != nil {
		return nil, err
	}
	if req.PowerLevelContent, err = optionalContent("power_level_content_override", q.PowerLevels); err != nil {
		return nil, err
	}
	if req.InitialState, err = q.initialState(); err != nil {
		return nil, err
	}
	if req.CreatorProfile, err = s.memberContent(ctx, r.Session.User, nil); err != nil {
		return nil, err
	}
	for _, u := range q.Invite {
		if !s.isLocal(u) {
			continue
		}
		if req.InviteProfiles[u], err = s.memberContent(ctx, u, nil); err != nil {
			return nil, err
		}
	}
	room, err := s.cfg.Rooms.CreateRoom(ctx, req)
	if err != nil {
		return nil, err
	}
	s.inherit(ctx, r.Session.User, room)
	return map[string]id.Room{"room_id": room}, nil
}

// check holds the fields to their allowed values.
func (q createRoomRequest) check() error {
	switch q.Visibility {
	case "", "public", "private":
	default:
		return merr.InvalidParam("visibility %q is neither public nor private", q.Visibility)
	}
	switch q.Preset {
	case "", "private_chat", "public_chat", "trusted_private_chat":
	default:
		return merr.InvalidParam("there is no preset %q", q.Preset)
	}
	if len(q.Invite3PID) > 0 {
		return merr.ThreepidDenied("this server does not invite by third-party identifiers")
	}
	if len(q.Invite) > maxInvites {
		return merr.InvalidParam("at most %d users can be invited at once", maxInvites)
	}
	for _, u := range q.Invite {
		if _, err := id.ParseUser(string(u)); err != nil {
			return merr.InvalidParam("invite: %q is no user ID", string(u))
		}
	}
	if len(q.InitialState) > maxInitialState {
		return merr.InvalidParam("initial_state has more than %d events", maxInitialState)
	}
	for _, f := range []struct{ name, value string }{{"name", q.Name}, {"topic", q.Topic}} {
		if len(f.value) > maxEventContent {
			return merr.TooLarge("%s is larger than an event may be", f.name)
		}
	}
	return nil
}

// initialState checks and converts initial_state.
func (q createRoomRequest) initialState() ([]roomapi.StateEvent, error) {
	var out []roomapi.StateEvent
	for _, e := range q.InitialState {
		if e.Type == "" {
			return nil, merr.BadJSON("an event of initial_state has no type")
		}
		if e.Content == nil {
			return nil, merr.BadJSON("an event of initial_state has no content")
		}
		content, err := eventContent(e.Content)
		if err != nil {
			return nil, err
		}
		out = append(out, roomapi.StateEvent{Type: e.Type, StateKey: e.StateKey, Content: content})
	}
	return out, nil
}

// optionalContent checks a part of an event's content; nil where it is absent.
func optionalContent(field string, raw json.RawMessage) (json.RawMessage, error) {
	if raw == nil || string(raw) == "null" {
		return nil, nil
	}
	content, err := eventContent(raw)
	if err != nil {
		e := merr.From(err)
		return nil, merr.New(e.Status, e.Code, "%s: %s", field, e.Message)
	}
	return content, nil
}
