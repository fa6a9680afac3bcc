package clientapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/sjson"

	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
	roomapi "weft/roomserver/api"
)

// mayUseAlias refuses aliases that an application service reserves, and to an
// application service those outside its namespace.
func (s *Server) mayUseAlias(sess httpapi.Session, alias id.RoomAlias) error {
	if as, ok := s.appservices.reservedAlias(alias, sess.Appservice); ok {
		return merr.Exclusive("%s is reserved by the application service %q", alias, as)
	}
	return nil
}

// GetRoomIDByAlias is GET /directory/room/{roomAlias}.
func (s *Server) GetRoomIDByAlias(ctx context.Context, r *httpapi.Request) (any, error) {
	alias, err := r.RoomAliasVar("roomAlias")
	if err != nil {
		return nil, err
	}
	found, err := s.cfg.Directory.ResolveAlias(ctx, alias)
	if err != nil {
		return nil, err
	}
	if found.Servers == nil {
		found.Servers = []id.Server{}
	}
	return map[string]any{"room_id": found.Room, "servers": found.Servers}, nil
}

// SetRoomAlias is PUT /directory/room/{roomAlias}.
func (s *Server) SetRoomAlias(ctx context.Context, r *httpapi.Request) (any, error) {
	alias, err := r.RoomAliasVar("roomAlias")
	if err != nil {
		return nil, err
	}
	var q struct {
		RoomID string `json:"room_id"`
	}
	if err := r.DecodeJSON(&q); err != nil {
		return nil, err
	}
	if q.RoomID == "" {
		return nil, merr.MissingParam("room_id is missing")
	}
	room, err := id.ParseRoom(q.RoomID)
	if err != nil {
		return nil, merr.InvalidParam("room_id: %q is no room ID", q.RoomID)
	}
	if alias.Server() != s.cfg.ServerName {
		return nil, merr.InvalidParam("%s is not on this server", alias)
	}
	if err := s.mayUseAlias(r.Session, alias); err != nil {
		return nil, err
	}
	if r.Session.Appservice == "" {
		if err := s.mustBeJoined(ctx, r.Session.User, room); err != nil {
			return nil, err
		}
	}
	return nil, s.cfg.Directory.CreateAlias(ctx, alias, room, r.Session.User)
}

// mustBeJoined refuses users who are not in a room.
func (s *Server) mustBeJoined(ctx context.Context, user id.User, room id.Room) error {
	info, err := s.cfg.Events.Room(ctx, room)
	if errors.Is(err, merr.ErrNotFound) {
		return merr.Forbidden("%s is not in the room %s", user, room)
	}
	if err != nil {
		return err
	}
	membership, _, err := s.cfg.Events.Membership(ctx, info.NID, user)
	if err != nil {
		return err
	}
	if membership != eventstore.Join {
		return merr.Forbidden("%s is not in the room %s", user, room)
	}
	return nil
}

// DeleteRoomAlias is DELETE /directory/room/{roomAlias}. An alias that is gone
// leaves m.room.canonical_alias too, where the user may change that.
func (s *Server) DeleteRoomAlias(ctx context.Context, r *httpapi.Request) (any, error) {
	alias, err := r.RoomAliasVar("roomAlias")
	if err != nil {
		return nil, err
	}
	if alias.Server() != s.cfg.ServerName {
		return nil, merr.InvalidParam("%s is not on this server", alias)
	}
	if err := s.mayUseAlias(r.Session, alias); err != nil {
		return nil, err
	}
	found, err := s.cfg.Directory.ResolveAlias(ctx, alias)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Directory.DeleteAlias(ctx, alias, r.Session.User); err != nil {
		return nil, err
	}
	err = s.dropCanonicalAlias(ctx, r.Session.User, found.Room, alias)
	if err != nil && !errors.Is(err, merr.ErrForbidden) {
		// The alias is gone, which is what was asked for.
		s.log.WithError(err).WithField("room", found.Room).Warn("could not take a deleted alias out of m.room.canonical_alias")
	}
	return nil, nil
}

func (s *Server) dropCanonicalAlias(ctx context.Context, user id.User, room id.Room, alias id.RoomAlias) error {
	content, err := s.currentContent(ctx, room, typeCanonicalAlias)
	if err != nil || content == nil {
		return err
	}
	var fields struct {
		Alias id.RoomAlias   `json:"alias"`
		Alt   []id.RoomAlias `json:"alt_aliases"`
	}
	if err := json.Unmarshal(content, &fields); err != nil {
		return nil // not of the usual shape: nothing to take out
	}
	changed := false
	if fields.Alias == alias {
		if content, err = sjson.DeleteBytes(content, "alias"); err != nil {
			return fmt.Errorf("taking an alias out: %w", err)
		}
		changed = true
	}
	if slices.Contains(fields.Alt, alias) {
		rest := slices.DeleteFunc(fields.Alt, func(a id.RoomAlias) bool { return a == alias })
		if len(rest) == 0 {
			content, err = sjson.DeleteBytes(content, "alt_aliases")
		} else {
			content, err = sjson.SetBytes(content, "alt_aliases", rest)
		}
		if err != nil {
			return fmt.Errorf("taking an alias out: %w", err)
		}
		changed = true
	}
	if !changed {
		return nil
	}
	key := ""
	_, err = s.cfg.Rooms.SendEvent(ctx, roomapi.SendEvent{Room: room, Sender: user, Type: typeCanonicalAlias, StateKey: &key, Content: content})
	return err
}

// GetLocalAliases is GET /rooms/{roomId}/aliases.
func (s *Server) GetLocalAliases(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	// spec: client-server §10.2 (GET /rooms/{roomId}/aliases): members, and anybody where the history is world-readable
	if err := s.mustBeJoined(ctx, r.Session.User, room); err != nil {
		content, err2 := s.currentContent(ctx, room, "m.room.history_visibility")
		if err2 != nil {
			return nil, err2
		}
		var v struct {
			Visibility string `json:"history_visibility"`
		}
		if content == nil || json.Unmarshal(content, &v) != nil || v.Visibility != "world_readable" {
			return nil, err
		}
	}
	aliases, err := s.cfg.Directory.ListAliases(ctx, room)
	if err != nil {
		return nil, err
	}
	aliases = append([]id.RoomAlias{}, aliases...)
	slices.Sort(aliases)
	return map[string]any{"aliases": aliases}, nil
}

// GetRoomVisibility is GET /directory/list/room/{roomId}.
func (s *Server) GetRoomVisibility(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	if _, err := s.cfg.Events.Room(ctx, room); err != nil {
		return nil, err
	}
	published, err := s.cfg.Directory.IsPublished(ctx, room)
	if err != nil {
		return nil, err
	}
	if published {
		return map[string]string{"visibility": "public"}, nil
	}
	return map[string]string{"visibility": "private"}, nil
}

// SetRoomVisibility is PUT /directory/list/room/{roomId}: for those who may set
// the room's canonical alias, and for administrators.
func (s *Server) SetRoomVisibility(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	var q struct {
		Visibility string `json:"visibility"`
	}
	if err := r.DecodeJSON(&q); err != nil {
		return nil, err
	}
	switch q.Visibility {
	case "", "public", "private":
	default:
		return nil, merr.InvalidParam("visibility %q is neither public nor private", q.Visibility)
	}
	info, err := s.cfg.Events.Room(ctx, room)
	if err != nil {
		return nil, err
	}
	if !r.Session.Admin {
		if err := s.mayPublish(ctx, r.Session.User, info); err != nil {
			return nil, err
		}
	}
	return nil, s.cfg.Directory.SetPublished(ctx, room, q.Visibility != "private")
}

func (s *Server) mayPublish(ctx context.Context, user id.User, room *eventstore.Room) error {
	if err := s.mustBeJoined(ctx, user, room.ID); err != nil {
		return err
	}
	state := s.cfg.Events.CurrentState(room)
	create, err := state.Get(ctx, "m.room.create", "")
	if err != nil {
		return err
	}
	if create == nil {
		return merr.Forbidden("the state of the room is not known here")
	}
	levels := eventauth.PowerLevelsOf(create.Event, nil)
	pl, err := state.Get(ctx, "m.room.power_levels", "")
	if err != nil {
		return err
	}
	if pl != nil {
		levels = eventauth.PowerLevelsOf(create.Event, pl.Event)
	}
	if levels.User(user) < levels.Event(typeCanonicalAlias, true) {
		return merr.Forbidden("%s may not change whether the room is listed", user)
	}
	return nil
}
