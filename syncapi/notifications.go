package syncapi

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"weft/internal/clientevent"
	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/matrix/merr"
)

const (
	listHighlightsSQL = `SELECT event_nid FROM highlights WHERE user_nid = $1 AND pos < $2 ORDER BY pos DESC LIMIT $3`
	roomEventsSQL     = `SELECT event_nid FROM events WHERE stream_pos > 0 AND stream_pos < $1 AND (flags & $2) = 0 AND room_nid IN `
	roomEventsTail    = ` ORDER BY stream_pos DESC LIMIT `
)

const (
	maxNotifications = 100
	// notificationScan is how many events one request looks through: a page may hold fewer notifications
	// than were asked for, and goes on with its token.
	notificationScan = 1000
	// maxNotificationRooms bounds the rooms that are looked through, those with the latest memberships first.
	maxNotificationRooms = 1000
)

// notified is an event of which a user was notified.
type notified struct {
	*eventstore.Event
	options clientevent.Options
	actions json.RawMessage
	thread  string
}

// GetNotifications is GET /notifications. Only highlights are stored; what else the user was, or would have been,
// notified of is found by asking the rules again, backward from the newest event.
//
// spec: client-server §13.13.1.5 (Listing notifications)
func (s *Server) GetNotifications(ctx context.Context, r *httpapi.Request) (any, error) {
	limit, err := r.QueryInt("limit", 20, 1, maxNotifications)
	if err != nil {
		return nil, err
	}
	before := int64(math.MaxInt64)
	if from := r.Query().Get("from"); from != "" {
		if before, err = strconv.ParseInt(from, 36, 64); err != nil || before <= 0 {
			return nil, merr.InvalidParam("%.100q is no token of this list", from)
		}
	}
	if err := s.followNow(ctx, nil); err != nil {
		return nil, err
	}
	user, err := s.events.UserNID(ctx, r.Session.User)
	if err != nil {
		return nil, err
	}
	list := s.listNotified
	if r.Query().Get("only") == "highlight" {
		list = s.listHighlights
	}
	events, more, err := list(ctx, r, user, before, int(limit))
	if err != nil {
		return nil, err
	}
	found, next, err := s.whatNotified(ctx, r, user, events, int(limit))
	if err != nil {
		return nil, err
	}
	if next == 0 && more {
		next = events[len(events)-1].StreamPos
	}
	return s.writeNotifications(ctx, r, user, found, next)
}

// listHighlights gives a page of the events that are stored as highlights, and whether there may be more.
func (s *Server) listHighlights(ctx context.Context, _ *httpapi.Request, user nid.StateKey, before int64, limit int) ([]*eventstore.Event, bool, error) {
	list, err := s.eventNumbers(ctx, listHighlightsSQL, int64(user), before, limit)
	if err != nil {
		return nil, false, err
	}
	events, err := s.events.Events(ctx, list)
	return events, len(events) == limit, err
}

// listNotified gives a page of the events of the user's rooms, latest first, and whether there may be more.
func (s *Server) listNotified(ctx context.Context, r *httpapi.Request, _ nid.StateKey, before int64, _ int) ([]*eventstore.Event, bool, error) {
	memberships, err := s.events.RoomsOf(ctx, r.Session.User)
	if err != nil {
		return nil, false, err
	}
	slices.SortFunc(memberships, func(a, b eventstore.MemberRoom) int { return int(b.StreamPos - a.StreamPos) })
	var rooms []int64
	for _, m := range memberships {
		if !m.Forgotten && len(rooms) < maxNotificationRooms {
			rooms = append(rooms, int64(m.Room))
		}
	}
	in, args := sqldb.InArgs([]any{before, int64(eventstore.Rejected | eventstore.SoftFailed)}, rooms)
	list, err := s.eventNumbers(ctx, roomEventsSQL+in+roomEventsTail+strconv.Itoa(notificationScan), args...)
	if err != nil {
		return nil, false, err
	}
	events, err := s.events.Events(ctx, list)
	return events, len(events) == notificationScan, err
}

func (s *Server) eventNumbers(ctx context.Context, q string, args ...any) ([]nid.Event, error) {
	rows, err := s.db.Query(ctx, q, args...)
	if err != nil {
		return nil, fmt.Errorf("listing notifications: %w", err)
	}
	defer rows.Close()
	var out []nid.Event
	for rows.Next() {
		var n nid.Event
		if err := rows.Scan(&n); err != nil {
			return nil, fmt.Errorf("listing notifications: %w", err)
		}
		out = append(out, n)
	}
	return out, rows.Err()
}

// whatNotified gives those events of which the rules notify the user, up to limit; next is the position of the last
// one when there are more.
func (s *Server) whatNotified(ctx context.Context, r *httpapi.Request, user nid.StateKey, events []*eventstore.Event, limit int) (found []notified, next int64, err error) {
	visible, err := s.events.CanSeeMany(ctx, r.Session.User, events)
	if err != nil {
		return nil, 0, err
	}
	options, err := s.dress(ctx, s.viewerOf(r), events)
	if err != nil {
		return nil, 0, err
	}
	me := eventstore.Member{User: r.Session.User, UserNID: user}
	for i, e := range events {
		invited := e.TypeNID == nid.TypeMember && e.StateKeyNID == user
		if !visible[i] || !invited && options[i].Membership != "join" {
			continue
		}
		room, err := s.residents.of(ctx, e.RoomNID)
		if err != nil {
			return nil, 0, err
		}
		thread, o, err := s.follower.judgeFor(ctx, e, room, room.member(me))
		if err != nil {
			return nil, 0, err
		}
		if !o.Notify {
			continue
		}
		if len(found) == limit {
			return found, found[limit-1].StreamPos, nil
		}
		found = append(found, notified{e, options[i], o.Actions, thread})
	}
	return found, 0, nil
}

// writeNotifications writes the answer; next is the position before which it goes on, 0: it does not.
func (s *Server) writeNotifications(ctx context.Context, r *httpapi.Request, user nid.StateKey, found []notified, next int64) (any, error) {
	unread := make(map[nid.Room][]unreadRow)
	o := new(output)
	b := o.open()
	b.key("notifications").raw(`[`)
	for i, n := range found {
		rows, ok := unread[n.RoomNID]
		if !ok {
			var err error
			if rows, err = s.unreadRows(ctx, user, n.RoomNID); err != nil {
				return nil, err
			}
			unread[n.RoomNID] = rows
		}
		read := !slices.ContainsFunc(rows, func(row unreadRow) bool {
			return row.thread == n.thread && n.StreamPos > row.readPos
		})
		if i > 0 {
			o.raw(`,`)
		}
		in := o.open()
		in.key("actions").raw(string(n.actions))
		if err := appendEvent(in.key("event"), n.Event, n.options, nil); err != nil {
			return nil, err
		}
		in.key("read").bool(read)
		in.key("room_id").string(string(n.RoomID))
		in.key("ts").int(n.OriginServerTS)
		in.close()
	}
	o.raw(`]`)
	if next != 0 {
		b.key("next_token").string(strconv.FormatInt(next, 36))
	}
	b.close()
	return httpapi.Response{Raw: o.buf}, nil
}
