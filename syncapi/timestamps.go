package syncapi

import (
	"context"

	"weft/internal/httpapi"
	"weft/matrix/merr"
	roomapi "weft/roomserver/api"
)

// timestampRounds is how often other servers are asked for history before the answer.
const timestampRounds = 3

// GetEventByTimestamp is GET /rooms/{roomId}/timestamp_to_event.
//
// spec: client-server §10.8 (Finding an event by timestamp)
func (s *Server) GetEventByTimestamp(ctx context.Context, r *httpapi.Request) (any, error) {
	v, err := s.viewRoom(ctx, r)
	if err != nil {
		return nil, err
	}
	ts, err := r.QueryInt("ts", -1, 0, 1<<53)
	if err != nil {
		return nil, err
	}
	if ts < 0 {
		return nil, merr.MissingParam("the parameter ts is missing")
	}
	backward, err := direction(r, "")
	if err != nil {
		return nil, err
	}
	if err := s.fillHistory(ctx, v); err != nil {
		return nil, err
	}
	missing := merr.NotFound("no event was found at that time")
	e, err := s.events.Closest(ctx, v.Room, ts, backward)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, missing
	}
	ok, err := s.events.CanSee(ctx, v.user, e)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, missing
	}
	return map[string]any{"event_id": e.ID, "origin_server_ts": e.OriginServerTS}, nil
}

// fillHistory asks other servers for some of what is missing of a room's history: an event
// that is not here cannot be found by its time.
func (s *Server) fillHistory(ctx context.Context, v *roomView) error {
	for range timestampRounds {
		gaps, err := gapsOf(ctx, s.events, v.NID)
		if err != nil || len(gaps) == 0 || s.cfg.Rooms == nil {
			return err
		}
		stored, err := s.cfg.Rooms.Backfill(ctx, roomapi.Backfill{Room: v.ID, Before: v.Depth + 1, Limit: backfillLimit})
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			s.log.WithError(err).WithField("room", v.ID).Info("history could not be fetched from other servers")
			return nil
		}
		if !stored {
			return nil
		}
	}
	return nil
}
