package syncapi

import (
	"context"
	"fmt"
	"math"
	"slices"

	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	relationsHead = `SELECT event_nid, depth, stream_pos FROM relations WHERE room_nid = $1
		AND (CAST($2 AS TEXT) = '' OR type = $2) AND stream_pos <= $3
		AND (depth, stream_pos) > ($4, $5) AND (depth, stream_pos) <= ($6, $7) AND `
	// With a type of relation the index gives the order.
	relationsTyped   = `rel_type = $8 AND target IN `
	relationsUntyped = `CAST($8 AS TEXT) = '' AND target IN `
	relationsDown    = ` ORDER BY depth DESC, stream_pos DESC LIMIT `
	relationsUp      = ` ORDER BY depth, stream_pos LIMIT `
	childrenSQL      = `SELECT event_nid FROM relations WHERE room_nid = $1 AND target IN `
	threadsSQL       = `SELECT root, reply_depth, reply_pos FROM threads WHERE room_nid = $1 AND (reply_depth, reply_pos) <= ($2, $3)
		ORDER BY reply_depth DESC, reply_pos DESC LIMIT $4`
	relatedByHead = `SELECT DISTINCT target FROM relations WHERE room_nid = $1`
)

const (
	defaultRelations = 30
	maxRelations     = 200
	// recursionDepth is how many relations of relations are followed, maxTargets how many events on
	// the way.
	recursionDepth = 3
	maxTargets     = 1000
)

// relationsQuery asks for the events that relate to some.
type relationsQuery struct {
	room     nid.Room
	targets  []string
	rel, typ string
	from     place
	to       *eventstore.Position
	backward bool
}

// relationRow is an event that relates to another, and its place.
type relationRow struct {
	event nid.Event
	at    eventstore.Position
}

func (s *Server) readRelations(ctx context.Context, q relationsQuery, limit int) ([]relationRow, error) {
	low, high := q.from.at, eventstore.End()
	if q.to != nil {
		high = *q.to
	}
	order := relationsUp
	if q.backward {
		order, low, high = relationsDown, eventstore.Start(), q.from.at
		if q.to != nil {
			low = *q.to
		}
	}
	maxStream := q.from.maxStream
	if maxStream == 0 {
		maxStream = math.MaxInt64
	}
	which := relationsTyped
	if q.rel == "" {
		which = relationsUntyped
	}
	in, args := sqldb.InArgs([]any{int64(q.room), q.typ, maxStream, low.Depth, low.Stream, high.Depth, high.Stream, q.rel}, q.targets)
	args = append(args, limit)
	rows, err := s.db.Query(ctx, relationsHead+which+in+order+fmt.Sprintf("$%d", len(args)), args...)
	if err != nil {
		return nil, fmt.Errorf("reading relations: %w", err)
	}
	defer rows.Close()
	var out []relationRow
	for rows.Next() {
		var r relationRow
		if err := rows.Scan(&r.event, &r.at.Depth, &r.at.Stream); err != nil {
			return nil, fmt.Errorf("reading relations: %w", err)
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// only is a filter that lets one room pass.
func only(n nid.Room) func(nid.Room) bool { return func(other nid.Room) bool { return other == n } }

// followNow lets the follower catch up with all that is committed in the rooms for which in is true (nil: all).
func (s *Server) followNow(ctx context.Context, in func(nid.Room) bool) error {
	to, err := position(ctx, s.db)
	if err != nil {
		return err
	}
	s.follower.catchUp(ctx, to, 0, in)
	return s.follower.fence.reach(ctx, to.AccountData) // where there was nothing to follow: the rules may be asked again
}

// GetRelatingEvents is GET /rooms/{roomId}/relations/{eventId}[/{relType}[/{eventType}]].
//
// spec: client-server §11.29.3 (Relationships API)
func (s *Server) GetRelatingEvents(ctx context.Context, r *httpapi.Request) (any, error) {
	v, err := s.viewRoom(ctx, r)
	if err != nil {
		return nil, err
	}
	eventID, err := r.EventVar("eventId")
	if err != nil {
		return nil, err
	}
	if _, err := s.visibleEvent(ctx, v, eventID); err != nil {
		return nil, err
	}
	q := relationsQuery{room: v.NID, targets: []string{string(eventID)}, rel: r.Vars["relType"], typ: r.Vars["eventType"]}
	if hasNUL(q.rel + q.typ) {
		return nil, merr.InvalidParam("the relation's type holds a NUL")
	}
	if q.backward, err = direction(r, "b"); err != nil {
		return nil, err
	}
	limit, err := r.QueryInt("limit", defaultRelations, 1, maxRelations)
	if err != nil {
		return nil, err
	}
	recurse, err := r.QueryBool("recurse", false)
	if err != nil {
		return nil, err
	}
	if err := s.relationBounds(ctx, r, v.NID, &q); err != nil {
		return nil, err
	}
	if err := s.followNow(ctx, only(v.NID)); err != nil {
		return nil, err
	}
	if recurse {
		if q.targets, err = s.descendants(ctx, v.NID, q.targets); err != nil {
			return nil, err
		}
	}
	return s.writeRelations(ctx, r, v, q, int(limit), recurse)
}

// relationBounds reads from and to.
func (s *Server) relationBounds(ctx context.Context, r *httpapi.Request, room nid.Room, q *relationsQuery) (err error) {
	if q.from.at = eventstore.Start(); q.backward {
		q.from.at = eventstore.End()
	}
	if from := r.Query().Get("from"); from != "" {
		if q.from, err = s.parsePlace(ctx, room, from, q.backward); err != nil {
			return err
		}
	}
	if to := r.Query().Get("to"); to != "" {
		end, err := s.parsePlace(ctx, room, to, false)
		if err != nil {
			return err
		}
		q.to = &end.at
	}
	return nil
}

func (s *Server) writeRelations(ctx context.Context, r *httpapi.Request, v *roomView, q relationsQuery, limit int, recurse bool) (any, error) {
	page, err := s.readRelations(ctx, q, limit+1)
	if err != nil {
		return nil, err
	}
	more := len(page) > limit
	if more {
		page = page[:limit]
	}
	numbers := make([]nid.Event, len(page))
	for i, p := range page {
		numbers[i] = p.event
	}
	list, err := s.events.Events(ctx, numbers)
	if err != nil {
		return nil, err
	}
	if list, err = s.seen(ctx, v.user, list); err != nil {
		return nil, err
	}
	o := new(output)
	b := o.open()
	if err := s.writeEvents(ctx, b.key("chunk"), s.viewerOf(r), nil, list); err != nil {
		return nil, err
	}
	if more {
		at := page[len(page)-1].at
		if q.backward {
			at = at.Before()
		}
		b.key("next_batch").string(topoToken(at, q.from.maxStream))
	}
	if from := r.Query().Get("from"); from != "" {
		b.key("prev_batch").string(from)
	}
	if recurse {
		b.key("recursion_depth").int(recursionDepth)
	}
	b.close()
	return httpapi.Response{Raw: o.buf}, nil
}

// descendants adds the events that relate to some events, and to those, and so on.
func (s *Server) descendants(ctx context.Context, room nid.Room, targets []string) ([]string, error) {
	level := targets
	for range recursionDepth - 1 {
		in, args := sqldb.InArgs([]any{int64(room)}, level)
		list, err := s.related(ctx, childrenSQL+in, args...)
		if err != nil {
			return nil, err
		}
		level = nil
		for _, e := range list {
			if child := string(e.ID); !slices.Contains(targets, child) && len(targets) < maxTargets {
				targets, level = append(targets, child), append(level, child)
			}
		}
		if len(level) == 0 {
			break
		}
	}
	return targets, nil
}

// GetThreadRoots is GET /rooms/{roomId}/threads.
//
// spec: client-server §11.32.2 (GET /rooms/{roomId}/threads)
func (s *Server) GetThreadRoots(ctx context.Context, r *httpapi.Request) (any, error) {
	v, err := s.viewRoom(ctx, r)
	if err != nil {
		return nil, err
	}
	include := r.Query().Get("include")
	if include != "" && include != "all" && include != "participated" {
		return nil, merr.InvalidParam("include is neither all nor participated")
	}
	limit, err := r.QueryInt("limit", defaultRelations, 1, maxRelations)
	if err != nil {
		return nil, err
	}
	at := place{at: eventstore.End()}
	if from := r.Query().Get("from"); from != "" {
		if at, err = s.parsePlace(ctx, v.NID, from, true); err != nil {
			return nil, err
		}
	}
	if err := s.followNow(ctx, only(v.NID)); err != nil {
		return nil, err
	}
	ignored, err := s.ignoredUsers(ctx, v.user)
	if err != nil {
		return nil, err
	}
	var list []*eventstore.Event
	more := true
	for round := 0; more && round < messageRounds && len(list) < int(limit); round++ {
		var page []*eventstore.Event
		if page, more, err = s.threadPage(ctx, v, &at, int(limit)-len(list), include == "participated"); err != nil {
			return nil, err
		}
		for _, e := range page {
			if !hiddenSender(ignored, e) {
				list = append(list, e)
			}
		}
	}
	o := new(output)
	b := o.open()
	if err := s.writeEvents(ctx, b.key("chunk"), s.viewerOf(r), nil, list); err != nil {
		return nil, err
	}
	if more {
		b.key("next_batch").string(topoToken(at.at, 0))
	}
	b.close()
	return httpapi.Response{Raw: o.buf}, nil
}

// threadPage reads thread roots that the user may see, and moves the place behind them.
func (s *Server) threadPage(ctx context.Context, v *roomView, at *place, limit int, participated bool) ([]*eventstore.Event, bool, error) {
	rows, err := s.db.Query(ctx, threadsSQL, int64(v.NID), at.at.Depth, at.at.Stream, limit)
	if err != nil {
		return nil, false, fmt.Errorf("reading threads: %w", err)
	}
	defer rows.Close()
	var roots []id.Event
	for rows.Next() {
		var root id.Event
		var last eventstore.Position
		if err := rows.Scan(&root, &last.Depth, &last.Stream); err != nil {
			return nil, false, fmt.Errorf("reading threads: %w", err)
		}
		roots = append(roots, root)
		at.at = last.Before()
	}
	if err := rows.Err(); err != nil {
		return nil, false, fmt.Errorf("reading threads: %w", err)
	}
	if err := rows.Close(); err != nil {
		return nil, false, fmt.Errorf("reading threads: %w", err)
	}
	found, err := s.events.EventsByID(ctx, roots)
	if err != nil {
		return nil, false, err
	}
	var list []*eventstore.Event
	for _, root := range roots {
		if e := found[root]; e != nil && e.RoomNID == v.NID {
			list = append(list, e)
		}
	}
	if list, err = s.seen(ctx, v.user, list); err != nil || !participated {
		return list, len(roots) == limit, err
	}
	var out []*eventstore.Event
	for _, e := range list {
		own, err := s.related(ctx, participatedSQL, string(e.ID), int64(v.NID), string(v.user))
		if err != nil {
			return nil, false, err
		}
		if len(own) > 0 || e.Sender == v.user {
			out = append(out, e)
		}
	}
	return out, len(roots) == limit, nil
}

// filterRelated applies related_by_rel_types and related_by_senders.
//
// spec: client-server §11.29.1 (RoomEventFilter of the relations module)
func (s *Server) filterRelated(ctx context.Context, f *roomEventFilter, page []*eventstore.Event, passed []bool) error {
	var targets []string
	var room nid.Room
	for i, e := range page {
		if passed[i] {
			targets, room = append(targets, string(e.ID)), e.RoomNID
		}
	}
	if len(targets) == 0 {
		return nil
	}
	q, args := relatedByHead, []any{int64(room)}
	for _, c := range []struct {
		column string
		list   []string
	}{{"rel_type", f.RelTypes}, {"sender", f.RelSenders}} {
		if c.list == nil {
			continue
		}
		var in string
		in, args = sqldb.InArgs(args, c.list)
		q += " AND " + c.column + " IN " + in
	}
	in, args := sqldb.InArgs(args, targets)
	rows, err := s.db.Query(ctx, q+" AND target IN "+in, args...)
	if err != nil {
		return fmt.Errorf("filtering by relations: %w", err)
	}
	defer rows.Close()
	has := make(map[id.Event]bool)
	for rows.Next() {
		var target id.Event
		if err := rows.Scan(&target); err != nil {
			return fmt.Errorf("filtering by relations: %w", err)
		}
		has[target] = true
	}
	for i, e := range page {
		passed[i] = passed[i] && has[e.ID]
	}
	return rows.Err()
}
