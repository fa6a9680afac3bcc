package federationapi

import (
	"context"

	"weft/internal/httpapi"
	"weft/matrix/merr"
)

// GetEventByTimestamp finds the event closest to a time.
//
// spec: server-server §9, GET /_matrix/federation/v1/timestamp_to_event/{roomId}
func (s *Server) GetEventByTimestamp(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := s.memberRoom(ctx, r)
	if err != nil {
		return nil, err
	}
	ts, err := r.QueryInt("ts", -1, 0, 1<<53)
	if err != nil {
		return nil, err
	}
	dir := r.Query().Get("dir")
	if ts < 0 || dir == "" {
		return nil, merr.MissingParam("ts or dir is missing")
	}
	if dir != "f" && dir != "b" {
		return nil, merr.InvalidParam("dir must be f or b")
	}
	best, err := s.Events.Closest(ctx, room, ts, dir == "b")
	if err != nil {
		return nil, err
	}
	if best == nil {
		return nil, merr.NotFound("no event was found at that time")
	}
	return map[string]any{"event_id": best.ID, "origin_server_ts": best.OriginServerTS}, nil
}
