package syncapi

import (
	"context"
	"fmt"

	"weft/internal/clientevent"
	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/matrix/id"
)

const (
	countRelationsSQL = `SELECT target, rel_type, COUNT(*) FROM relations
		WHERE rel_type IN ('m.thread', 'm.replace', 'm.reference') AND target IN `
	countRelationsTail = ` GROUP BY target, rel_type`
	latestRelationsSQL = `SELECT event_nid FROM relations WHERE target = $1 AND room_nid = $2 AND rel_type = $3
		ORDER BY depth DESC, stream_pos DESC LIMIT $4`
	replacementsSQL = `SELECT event_nid FROM relations WHERE target = $1 AND room_nid = $2 AND rel_type = 'm.replace' AND sender = $3 AND type = $4
		ORDER BY depth DESC, stream_pos DESC LIMIT 5`
	participatedSQL = `SELECT event_nid FROM relations WHERE target = $1 AND room_nid = $2 AND rel_type = 'm.thread' AND sender = $3 LIMIT 1`
)

// maxReferences bounds the references that are listed beside an event.
const maxReferences = 100

// dress looks up what stands beside the events of a page, with what other events add
// to them.
//
// spec: client-server §11.29.2 (Aggregations of child events)
func (s *Server) dress(ctx context.Context, v clientevent.Viewer, list []*eventstore.Event) ([]clientevent.Options, error) {
	return s.dressPiece(ctx, v, list, nil)
}

// dressPiece is dress for events of a piece.
func (s *Server) dressPiece(ctx context.Context, v clientevent.Viewer, list []*eventstore.Event, p *piece) ([]clientevent.Options, error) {
	out, err := clientevent.Load(ctx, s.events, v, list)
	if err != nil {
		return nil, err
	}
	var counts map[id.Event]map[string]int64
	if p != nil {
		counts, err = p.relations(ctx, s)
	} else {
		counts, err = s.countRelations(ctx, list)
	}
	if err != nil || len(counts) == 0 {
		return out, err
	}
	for i, e := range list {
		if c := counts[e.ID]; c != nil {
			if out[i].Relations, err = s.bundle(ctx, v, e, c); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// countRelations counts relations to events, by event and kind.
func (s *Server) countRelations(ctx context.Context, list []*eventstore.Event) (map[id.Event]map[string]int64, error) {
	var targets []string
	for _, e := range list {
		if !e.IsState {
			targets = append(targets, string(e.ID))
		}
	}
	out := make(map[id.Event]map[string]int64)
	err := sqldb.Chunk(targets, func(part []string) error {
		in, args := sqldb.InArgs(nil, part)
		rows, err := s.db.Query(ctx, countRelationsSQL+in+countRelationsTail, args...)
		if err != nil {
			return fmt.Errorf("counting relations: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			var target id.Event
			var rel string
			var n int64
			if err := rows.Scan(&target, &rel, &n); err != nil {
				return fmt.Errorf("counting relations: %w", err)
			}
			if out[target] == nil {
				out[target] = make(map[string]int64)
			}
			out[target][rel] = n
		}
		return rows.Err()
	})
	return out, err
}

// bundle makes the object of m.relations; nil where it would be empty.
func (s *Server) bundle(ctx context.Context, v clientevent.Viewer, e *eventstore.Event, counts map[string]int64) ([]byte, error) {
	o := new(output)
	b := o.open()
	redacted := e.RedactedBy != 0
	if counts[relReplace] > 0 && !redacted {
		if err := s.bundleReplacement(ctx, v, b, e); err != nil {
			return nil, err
		}
	}
	if counts[relReference] > 0 && !redacted {
		if err := s.bundleReferences(ctx, v, b, e); err != nil {
			return nil, err
		}
	}
	if n := counts[relThread]; n > 0 {
		if err := s.bundleThread(ctx, v, b, e, n); err != nil {
			return nil, err
		}
	}
	b.close()
	if !b.some {
		return nil, nil
	}
	return o.buf, nil
}

// bundleReplacement adds the newest valid replacement.
//
// spec: client-server §11.30.1 (Event replacements): same sender, same type, neither a state event nor
// a replacement itself, with m.new_content
func (s *Server) bundleReplacement(ctx context.Context, v clientevent.Viewer, b *object, e *eventstore.Event) error {
	if own, ok := relationOf(e); ok && own.rel == relReplace {
		return nil
	}
	list, err := s.related(ctx, replacementsSQL, string(e.ID), int64(e.RoomNID), string(e.Sender), e.Type)
	if err != nil {
		return err
	}
	for _, r := range list {
		if r.RedactedBy != 0 || r.IsState {
			continue
		}
		options, err := clientevent.Load(ctx, s.events, v, []*eventstore.Event{r})
		if err != nil {
			return err
		}
		return appendEvent(b.key(relReplace), r, options[0], nil)
	}
	return nil
}

// bundleReferences lists the events that refer to one.
func (s *Server) bundleReferences(ctx context.Context, v clientevent.Viewer, b *object, e *eventstore.Event) error {
	list, err := s.related(ctx, latestRelationsSQL, string(e.ID), int64(e.RoomNID), relReference, maxReferences)
	if err != nil {
		return err
	}
	if list, err = s.seen(ctx, v.User, list); err != nil || len(list) == 0 {
		return err
	}
	o := b.key(relReference)
	o.raw(`{"chunk":[`)
	for i := len(list) - 1; i >= 0; i-- {
		if i < len(list)-1 {
			o.raw(`,`)
		}
		in := o.open()
		in.key("event_id").string(string(list[i].ID))
		in.close()
	}
	o.raw(`]}`)
	return nil
}

// bundleThread sums up a thread.
//
// spec: client-server §11.32.1.1 (Server-side aggregation of m.thread relationships)
func (s *Server) bundleThread(ctx context.Context, v clientevent.Viewer, b *object, e *eventstore.Event, count int64) error {
	list, err := s.related(ctx, latestRelationsSQL, string(e.ID), int64(e.RoomNID), relThread, 5)
	if err != nil {
		return err
	}
	if list, err = s.seen(ctx, v.User, list); err != nil || len(list) == 0 {
		return err
	}
	latest := list[0]
	options, err := clientevent.Load(ctx, s.events, v, []*eventstore.Event{latest})
	if err != nil {
		return err
	}
	counts, err := s.countRelations(ctx, list[:1])
	if err != nil {
		return err
	}
	if c := counts[latest.ID]; c != nil {
		delete(c, relThread)
		if options[0].Relations, err = s.bundle(ctx, v, latest, c); err != nil {
			return err
		}
	}
	participated := e.Sender == v.User
	if !participated {
		own, err := s.related(ctx, participatedSQL, string(e.ID), int64(e.RoomNID), string(v.User))
		if err != nil {
			return err
		}
		participated = len(own) > 0
	}
	in := b.key(relThread).open()
	in.key("count").int(count)
	in.key("current_user_participated").bool(participated)
	if err := appendEvent(in.key("latest_event"), latest, options[0], nil); err != nil {
		return err
	}
	in.close()
	return nil
}

// related reads the events that a query names.
func (s *Server) related(ctx context.Context, q string, args ...any) ([]*eventstore.Event, error) {
	rows, err := s.db.Query(ctx, q, args...)
	if err != nil {
		return nil, fmt.Errorf("reading relations: %w", err)
	}
	defer rows.Close()
	var list []nid.Event
	for rows.Next() {
		var n nid.Event
		if err := rows.Scan(&n); err != nil {
			return nil, fmt.Errorf("reading relations: %w", err)
		}
		list = append(list, n)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading relations: %w", err)
	}
	if err := rows.Close(); err != nil {
		return nil, fmt.Errorf("reading relations: %w", err)
	}
	return s.events.Events(ctx, list)
}

// seen leaves the events that a user may see.
func (s *Server) seen(ctx context.Context, user id.User, list []*eventstore.Event) ([]*eventstore.Event, error) {
	ok, err := s.events.CanSeeMany(ctx, user, list)
	if err != nil {
		return nil, err
	}
	var out []*eventstore.Event
	for i, e := range list {
		if ok[i] {
			out = append(out, e)
		}
	}
	return out, nil
}
