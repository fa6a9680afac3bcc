package syncapi

import (
	"context"
	"fmt"
	"math"
	"strconv"

	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/internal/nid"
	"weft/matrix/merr"
)

const listNotificationsSQL = `SELECT pos, event_nid, unread, ts, actions FROM notifications
	WHERE user_nid = $1 AND pos < $2 AND (highlight = 1 OR $3 = 0) ORDER BY pos DESC LIMIT $4`

const maxNotifications = 100

// notificationRow is one row of GET /notifications.
type notificationRow struct {
	pos, ts int64
	event   nid.Event
	unread  bool
	actions string
}

// GetNotifications is GET /notifications.
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
	only := int64(0)
	if r.Query().Get("only") == "highlight" {
		only = 1
	}
	if err := s.followNow(ctx); err != nil {
		return nil, err
	}
	user, err := s.events.UserNID(ctx, r.Session.User)
	if err != nil {
		return nil, err
	}
	page, err := s.listNotifications(ctx, user, before, only, int(limit))
	if err != nil {
		return nil, err
	}
	return s.writeNotifications(ctx, r, page, len(page) == int(limit))
}

func (s *Server) listNotifications(ctx context.Context, user nid.StateKey, before, only int64, limit int) ([]notificationRow, error) {
	rows, err := s.db.Query(ctx, listNotificationsSQL, int64(user), before, only, limit)
	if err != nil {
		return nil, fmt.Errorf("listing notifications: %w", err)
	}
	defer rows.Close()
	var out []notificationRow
	for rows.Next() {
		var n notificationRow
		var unread int64
		if err := rows.Scan(&n.pos, &n.event, &unread, &n.ts, &n.actions); err != nil {
			return nil, fmt.Errorf("listing notifications: %w", err)
		}
		n.unread = unread != 0
		out = append(out, n)
	}
	return out, rows.Err()
}

func (s *Server) writeNotifications(ctx context.Context, r *httpapi.Request, page []notificationRow, more bool) (any, error) {
	numbers := make([]nid.Event, len(page))
	for i, n := range page {
		numbers[i] = n.event
	}
	list, err := s.events.Events(ctx, numbers)
	if err != nil {
		return nil, err
	}
	ok, err := s.events.CanSeeMany(ctx, r.Session.User, list)
	if err != nil {
		return nil, err
	}
	o := new(output)
	b := o.open()
	b.key("notifications").raw(`[`)
	first := true
	for i, n := range page {
		if !ok[i] {
			continue
		}
		if !first {
			o.raw(`,`)
		}
		first = false
		options, err := s.dress(ctx, s.viewerOf(r), []*eventstore.Event{list[i]})
		if err != nil {
			return nil, err
		}
		in := o.open()
		in.key("actions").raw(n.actions)
		if err := appendEvent(in.key("event"), list[i], options[0], nil); err != nil {
			return nil, err
		}
		in.key("read").bool(!n.unread)
		in.key("room_id").string(string(list[i].RoomID))
		in.key("ts").int(n.ts)
		in.close()
	}
	o.raw(`]`)
	if more {
		b.key("next_token").string(strconv.FormatInt(page[len(page)-1].pos, 36))
	}
	b.close()
	return httpapi.Response{Raw: o.buf}, nil
}
