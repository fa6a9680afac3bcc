package clientapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"weft/internal/httpapi"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const insertReport = `INSERT INTO reports (id, reporter, room_id, event_id, user_id, reason, created_ts)
	VALUES ($1, $2, $3, $4, $5, $6, $7)`

// report is what a user finds fault with; empty fields are not part of it.
type report struct {
	room  id.Room
	event id.Event
	user  id.User
}

func (s *Server) storeReport(ctx context.Context, r *httpapi.Request, what report) (any, error) {
	var q struct {
		Reason *string `json:"reason"`
	}
	if err := r.DecodeJSON(&q); err != nil {
		return nil, err
	}
	reason := ""
	if q.Reason != nil {
		reason = *q.Reason
	}
	if err := checkText("reason", reason, maxReason); err != nil {
		return nil, err
	}
	_, err := s.db.Exec(ctx, insertReport, rand.Text(), string(r.Session.User), string(what.room), string(what.event),
		string(what.user), reason, s.nowMS())
	if err != nil {
		return nil, fmt.Errorf("storing a report: %w", err)
	}
	s.log.WithField("room", what.room).WithField("event", what.event).WithField("user", what.user).
		WithField("reporter", r.Session.User).Warn("content was reported")
	return nil, nil
}

// ReportRoom is POST /rooms/{roomId}/report.
//
// spec: client-server §10.21 (Reporting content): also by users who are not in the room
func (s *Server) ReportRoom(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	if _, err := s.cfg.Events.Room(ctx, room); err != nil {
		return nil, err
	}
	return s.storeReport(ctx, r, report{room: room})
}

// ReportEvent is POST /rooms/{roomId}/report/{eventId}: of an event that the
// user can see.
func (s *Server) ReportEvent(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	eventID, err := r.EventVar("eventId")
	if err != nil {
		return nil, err
	}
	none := merr.NotFound("there is no such event, or you are not in its room")
	if err := s.mustBeJoined(ctx, r.Session.User, room); err != nil {
		if errors.Is(err, merr.ErrForbidden) {
			return nil, none
		}
		return nil, err
	}
	ev, err := s.cfg.Events.EventByID(ctx, eventID)
	if errors.Is(err, merr.ErrNotFound) || err == nil && ev.RoomID != room {
		return nil, none
	}
	if err != nil {
		return nil, err
	}
	return s.storeReport(ctx, r, report{room: room, event: eventID, user: ev.Sender})
}

// ReportUser is POST /users/{userId}/report.
func (s *Server) ReportUser(ctx context.Context, r *httpapi.Request) (any, error) {
	user, err := r.UserVar("userId")
	if err != nil {
		return nil, err
	}
	if s.isLocal(user) {
		if _, err := s.GetAccount(ctx, user); err != nil {
			return nil, err
		}
	}
	return s.storeReport(ctx, r, report{user: user})
}
