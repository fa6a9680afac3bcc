package clientapi

import (
	"context"
	"encoding/json"
	"fmt"

	"weft/internal/fedclient"
	"weft/internal/httpapi"
	"weft/matrix/id"
	"weft/matrix/merr"
	roomapi "weft/roomserver/api"
)

const (
	// maxPublicRooms bounds a page of the room directory.
	maxPublicRooms     = 500
	defaultPublicRooms = 100
	maxRoomTypes       = 20
)

// publicRoomsRequest is the body of POST /publicRooms.
type publicRoomsRequest struct {
	Limit  *int64 `json:"limit"`
	Since  string `json:"since"`
	Filter struct {
		Term      string    `json:"generic_search_term"`
		RoomTypes []*string `json:"room_types"`
	} `json:"filter"`
	AllNetworks bool   `json:"include_all_networks"`
	InstanceID  string `json:"third_party_instance_id"`
}

// GetPublicRooms is GET /publicRooms.
func (s *Server) GetPublicRooms(ctx context.Context, r *httpapi.Request) (any, error) {
	limit, err := r.QueryInt("limit", defaultPublicRooms, 0, maxPublicRooms)
	if err != nil {
		return nil, err
	}
	since := r.Query().Get("since")
	server, err := s.remoteParam(r)
	if err != nil {
		return nil, err
	}
	if server != "" {
		list, err := s.cfg.Fed.GetPublicRooms(ctx, server, fedclient.PublicRoomsQuery{Limit: int(limit), Since: since})
		if err != nil {
			return nil, remoteFailure(server, err)
		}
		return list, nil
	}
	return s.listPublicRooms(ctx, roomapi.ListPublicRooms{Limit: int(limit), Since: since})
}

// QueryPublicRooms is POST /publicRooms.
func (s *Server) QueryPublicRooms(ctx context.Context, r *httpapi.Request) (any, error) {
	var q publicRoomsRequest
	if err := r.DecodeJSON(&q); err != nil {
		return nil, err
	}
	limit := int64(defaultPublicRooms)
	if q.Limit != nil {
		limit = *q.Limit
	}
	if limit < 0 {
		return nil, merr.InvalidParam("limit is negative")
	}
	limit = min(limit, maxPublicRooms)
	if len(q.Filter.RoomTypes) > maxRoomTypes {
		return nil, merr.InvalidParam("there are more than %d room_types", maxRoomTypes)
	}
	for name, v := range map[string]string{"since": q.Since, "generic_search_term": q.Filter.Term} {
		if err := checkText(name, v, maxParam); err != nil {
			return nil, err
		}
	}
	if q.InstanceID != "" && q.AllNetworks {
		return nil, merr.InvalidParam("third_party_instance_id and include_all_networks exclude each other")
	}
	server, err := s.remoteParam(r)
	if err != nil {
		return nil, err
	}
	if server == "" {
		return s.listPublicRooms(ctx, roomapi.ListPublicRooms{Limit: int(limit), Since: q.Since,
			SearchTerm: q.Filter.Term, RoomTypes: q.Filter.RoomTypes})
	}
	filter, err := json.Marshal(filterJSON{q.Filter.Term, q.Filter.RoomTypes})
	if err != nil {
		return nil, fmt.Errorf("writing a filter: %w", err)
	}
	list, err := s.cfg.Fed.QueryPublicRooms(ctx, server, fedclient.PublicRoomsQuery{Limit: int(limit), Since: q.Since,
		Filter: filter, IncludeAllNetworks: q.AllNetworks, ThirdPartyInstanceID: q.InstanceID})
	if err != nil {
		return nil, remoteFailure(server, err)
	}
	return list, nil
}

type filterJSON struct {
	Term      string    `json:"generic_search_term,omitempty"`
	RoomTypes []*string `json:"room_types,omitempty"`
}

// remoteParam reads the server parameter; empty where this server is meant.
func (s *Server) remoteParam(r *httpapi.Request) (id.Server, error) {
	v := r.Query().Get("server")
	if v == "" || v == string(s.cfg.ServerName) {
		return "", nil
	}
	server, err := id.ParseServer(v)
	if err != nil {
		return "", merr.InvalidParam("server: %q is no server name", v)
	}
	if s.cfg.Fed == nil {
		return "", merr.NotFound("federation is off")
	}
	return server, nil
}

func (s *Server) listPublicRooms(ctx context.Context, req roomapi.ListPublicRooms) (any, error) {
	list, err := s.cfg.Directory.ListPublicRooms(ctx, req)
	if err != nil {
		return nil, err
	}
	if list.Chunk == nil {
		list.Chunk = []roomapi.PublicRoom{}
	}
	return list, nil
}
