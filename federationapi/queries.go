package federationapi

import (
	"context"
	"encoding/json"

	"weft/internal/httpapi"
	keyapi "weft/keyserver/api"
	"weft/matrix/id"
	"weft/matrix/merr"
	roomapi "weft/roomserver/api"
)

// QueryRoomDirectory resolves one of our aliases.
//
// spec: server-server §20, GET /_matrix/federation/v1/query/directory
func (s *Server) QueryRoomDirectory(ctx context.Context, r *httpapi.Request) (any, error) {
	alias, err := id.ParseRoomAlias(r.Query().Get("room_alias"))
	if err != nil {
		return nil, merr.InvalidParam("room_alias is missing or malformed")
	}
	if alias.Server() != s.ServerName {
		return nil, merr.NotFound("%s is not an alias of this server", alias)
	}
	got, err := s.Directory.ResolveAlias(ctx, alias)
	if err != nil {
		return nil, err
	}
	return map[string]any{"room_id": got.Room, "servers": append([]id.Server{}, got.Servers...)}, nil
}

// QueryProfile serves a user's profile, or one field of it.
//
// spec: server-server §20, GET /_matrix/federation/v1/query/profile
func (s *Server) QueryProfile(ctx context.Context, r *httpapi.Request) (any, error) {
	if r.Query().Get("user_id") == "" {
		return nil, merr.MissingParam("user_id is missing")
	}
	user, err := s.userOf(r.Query().Get("user_id"))
	if err != nil {
		return nil, err
	}
	profile, err := s.Accounts.GetProfile(ctx, user)
	if err != nil {
		return nil, err
	}
	field := r.Query().Get("field")
	if field == "" {
		return profile, nil
	}
	v, ok := profile[field]
	if !ok && field != "displayname" && field != "avatar_url" {
		return nil, merr.NotFound("the profile has no %s", field)
	}
	if !ok {
		return struct{}{}, nil
	}
	return map[string]json.RawMessage{field: v}, nil
}

// GetPublicRooms serves the list of public rooms.
//
// spec: server-server §15, GET /_matrix/federation/v1/publicRooms
func (s *Server) GetPublicRooms(ctx context.Context, r *httpapi.Request) (any, error) {
	limit, err := r.QueryInt("limit", 0, 0, 1<<31)
	if err != nil {
		return nil, err
	}
	return s.publicRooms(ctx, roomapi.ListPublicRooms{Limit: int(limit), Since: r.Query().Get("since")})
}

// QueryPublicRooms serves the list of public rooms with a filter.
//
// spec: server-server §15, POST /_matrix/federation/v1/publicRooms
func (s *Server) QueryPublicRooms(ctx context.Context, r *httpapi.Request) (any, error) {
	var req struct {
		Limit  int    `json:"limit"`
		Since  string `json:"since"`
		Filter struct {
			Term  string    `json:"generic_search_term"`
			Types []*string `json:"room_types"`
		} `json:"filter"`
	}
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	return s.publicRooms(ctx, roomapi.ListPublicRooms{
		Limit: max(req.Limit, 0), Since: req.Since, SearchTerm: req.Filter.Term, RoomTypes: req.Filter.Types,
	})
}

// maxPublicRooms bounds a page of the public room list.
const maxPublicRooms = 500

func (s *Server) publicRooms(ctx context.Context, q roomapi.ListPublicRooms) (any, error) {
	if q.Limit = min(q.Limit, maxPublicRooms); q.Limit == 0 {
		q.Limit = 100
	}
	rooms, err := s.Directory.ListPublicRooms(ctx, q)
	if err != nil {
		return nil, err
	}
	if rooms.Chunk == nil {
		rooms.Chunk = []roomapi.PublicRoom{}
	}
	return rooms, nil
}

// GetUserDevices serves a user's device list.
//
// spec: server-server §22, GET /_matrix/federation/v1/user/devices/{userId}
func (s *Server) GetUserDevices(ctx context.Context, r *httpapi.Request) (any, error) {
	user, err := s.userOf(r.Vars["userId"])
	if err != nil {
		return nil, err
	}
	if _, err := s.Accounts.GetAccount(ctx, user); err != nil {
		return nil, err
	}
	list, err := s.Keys.GetUserDevices(ctx, user)
	if err != nil {
		return nil, err
	}
	return raw(list), nil
}

// QueryUserKeys serves device keys of our users.
//
// spec: server-server §23, POST /_matrix/federation/v1/user/keys/query
func (s *Server) QueryUserKeys(ctx context.Context, r *httpapi.Request) (any, error) {
	var req struct {
		Devices map[id.User][]id.Device `json:"device_keys"`
	}
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	got, err := s.Keys.QueryKeys(ctx, keyapi.QueryKeys{Origin: r.Origin, Devices: req.Devices})
	if err != nil {
		return nil, err
	}
	if got.DeviceKeys == nil {
		got.DeviceKeys = map[id.User]map[id.Device]json.RawMessage{}
	}
	// spec: the answer has neither failures nor user-signing keys.
	return keyapi.QueriedKeys{DeviceKeys: got.DeviceKeys, MasterKeys: got.MasterKeys, SelfSigningKeys: got.SelfSigningKeys}, nil
}

// ClaimUserEncryptionKeys hands out one-time keys of our users.
//
// spec: server-server §23, POST /_matrix/federation/v1/user/keys/claim
func (s *Server) ClaimUserEncryptionKeys(ctx context.Context, r *httpapi.Request) (any, error) {
	var req struct {
		Keys map[id.User]map[id.Device]string `json:"one_time_keys"`
	}
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	got, err := s.Keys.ClaimKeys(ctx, keyapi.ClaimKeys{Origin: r.Origin, Keys: req.Keys})
	if err != nil {
		return nil, err
	}
	if got.OneTimeKeys == nil {
		got.OneTimeKeys = map[id.User]map[id.Device]map[string]json.RawMessage{}
	}
	return keyapi.ClaimedKeys{OneTimeKeys: got.OneTimeKeys}, nil
}

// GetVersion tells what this server runs.
//
// spec: server-server §2.2, GET /_matrix/federation/v1/version
func (s *Server) GetVersion(context.Context, *httpapi.Request) (any, error) {
	return map[string]any{"server": map[string]string{"name": "Weft", "version": s.Version}}, nil
}

// ExchangeOpenIDToken tells whose an OpenID token is.
//
// spec: server-server §21, GET /_matrix/federation/v1/openid/userinfo
func (s *Server) ExchangeOpenIDToken(ctx context.Context, r *httpapi.Request) (any, error) {
	token := r.Query().Get("access_token")
	if token == "" {
		return nil, merr.MissingToken("access_token is missing")
	}
	user, err := s.Accounts.OpenIDUser(ctx, token)
	if err != nil {
		return nil, err
	}
	return map[string]id.User{"sub": user}, nil
}
