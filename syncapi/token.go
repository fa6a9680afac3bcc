package syncapi

import (
	"context"
	"math"
	"strconv"
	"strings"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/stream"
	"weft/matrix/merr"
)

// vector is a point in all streams: what a sync token stands for. Typing and Presence
// are times in milliseconds; Notified is how far the follower had read. Node is the process that gave Typing and
// Presence, which mean nothing to another one; 0 where there is no other. Told is 1 where the client was told by it, or
// by one before it, that somebody types, and not yet that this ended.
type vector struct {
	Events, Receipts, AccountData, ToDevice, DeviceLists, Typing, Presence, Notified, Node int64
	Told                                                                                   int64
}

// vectorPrefix begins a sync token and names the version of its form.
const vectorPrefix = "s1_"

func (v *vector) fields() []*int64 {
	return []*int64{&v.Events, &v.Receipts, &v.AccountData, &v.ToDevice, &v.DeviceLists, &v.Typing, &v.Presence, &v.Notified, &v.Node}
}

// leastFields is how many fields a token has without the last.
const leastFields = 8

// String gives the token.
func (v vector) String() string {
	out := append(make([]byte, 0, 64), vectorPrefix...)
	fields := v.fields()
	if v.Node == 0 {
		fields = fields[:leastFields]
	}
	v.Node = v.Node<<1 | v.Told // one field
	for i, f := range fields {
		if i > 0 {
			out = append(out, '_')
		}
		out = strconv.AppendInt(out, *f, 36)
	}
	return string(out)
}

// parseVector reads a sync token. Anything that String did not write is M_INVALID_PARAM.
func parseVector(token string) (vector, error) {
	var v vector
	bad := merr.InvalidParam("%.100q is not a token of /sync", token)
	rest, ok := strings.CutPrefix(token, vectorPrefix)
	if !ok || len(rest) > 128 {
		return v, bad
	}
	parts := strings.Split(rest, "_")
	fields := v.fields()
	if len(parts) != leastFields && len(parts) != len(fields) {
		return v, bad
	}
	for i, p := range parts {
		n, err := strconv.ParseInt(p, 36, 64)
		if err != nil || n < 0 {
			return v, bad
		}
		*fields[i] = n
	}
	v.Node, v.Told = v.Node>>1, v.Node&1
	if v.String() != token {
		return vector{}, bad
	}
	return v, nil
}

// within refuses a token whose positions were never given out: it comes from another
// server, or from before the database was restored from a backup.
func (v vector) within(now vector) error {
	if v.Events > now.Events || v.Receipts > now.Receipts || v.AccountData > now.AccountData ||
		v.ToDevice > now.ToDevice || v.DeviceLists > now.DeviceLists {
		return merr.UnknownPos("the token is from a future that this server does not know")
	}
	return nil
}

// position reads the newest vector, as far as it is in the database.
func position(ctx context.Context, q sqldb.Querier) (vector, error) {
	p, err := stream.Positions(ctx, q)
	if err != nil {
		return vector{}, err
	}
	return vector{
		Events: p[stream.Events], Receipts: p[stream.Receipts], AccountData: p[stream.AccountData],
		ToDevice: p[stream.ToDevice], DeviceLists: p[stream.DeviceLists],
	}, nil
}

// topoPrefix begins a token of a place in a room's history.
const topoPrefix = "t1_"

// topoToken gives the token of a place in a room's history. maxStream is the stream position up to
// which the history was looked at when the paging began, 0 for all of it.
func topoToken(p eventstore.Position, maxStream int64) string {
	out := append(make([]byte, 0, 48), topoPrefix...)
	for i, n := range []int64{p.Depth, p.Stream, maxStream} {
		if i > 0 {
			out = append(out, '_')
		}
		out = strconv.AppendInt(out, n, 36)
	}
	return string(out)
}

// prevPrefix begins a prev_batch.
const prevPrefix = "p1_"

// prevToken gives the token of the place before a timeline of /sync, which is one in the order
// of the stream: what came before the timeline may be deeper in the graph than what
// is in it, as after a network partition. So the token stands for all events before the
// timeline, and pages backward through those in topological order. p is the place before
// the timeline's first event, seen is up to which stream position /sync looked, and deepest
// the greatest depth that the events before can have.
//
// spec: client-server §6.4 (Syncing: prev_batch lies between the timeline and what was omitted)
func prevToken(p eventstore.Position, seen, deepest int64) string {
	out := append(make([]byte, 0, 64), prevPrefix...)
	for i, n := range []int64{p.Depth, p.Stream, seen, deepest} {
		if i > 0 {
			out = append(out, '_')
		}
		out = strconv.AppendInt(out, n, 36)
	}
	return string(out)
}

// place is where a token leads in a room: a gap in its topological order, seen at a
// stream position (0: now).
type place struct {
	at        eventstore.Position
	maxStream int64
	// edge is the depth of the event that the place is just before, when that has not been
	// looked at for missing parents; 0 otherwise.
	edge int64
}

// parsePlace reads a token of /messages, or of /sync, in a room.
func (s *Server) parsePlace(ctx context.Context, room nid.Room, token string, backward bool) (place, error) {
	if strings.HasPrefix(token, vectorPrefix) {
		v, err := parseVector(token)
		if err != nil {
			return place{}, err
		}
		if backward {
			return place{at: eventstore.End(), maxStream: max(v.Events, 1)}, nil
		}
		last, err := s.events.LastBefore(ctx, room, v.Events)
		if err != nil || last == 0 {
			return place{at: eventstore.Start()}, err
		}
		at, _, err := s.events.PositionOf(ctx, last)
		return place{at: at}, err
	}
	bad := merr.InvalidParam("%.100q is not a token of this server", token)
	if rest, ok := strings.CutPrefix(token, prevPrefix); ok {
		n, ok := parseNumbers(rest, 4)
		if !ok || n[2] < 0 {
			return place{}, bad
		}
		if !backward {
			return place{at: eventstore.Position{Depth: n[0], Stream: n[1]}, maxStream: n[2]}, nil
		}
		before := n[1]
		if before == 0 {
			before = -1 // only what backfill brought in is before the first event of all
		}
		return place{at: eventstore.Position{Depth: n[3], Stream: math.MaxInt64}, maxStream: before, edge: n[0]}, nil
	}
	rest, ok := strings.CutPrefix(token, topoPrefix)
	if !ok {
		return place{}, bad
	}
	n, ok := parseNumbers(rest, 3)
	if !ok {
		return place{}, bad
	}
	return place{at: eventstore.Position{Depth: n[0], Stream: n[1]}, maxStream: n[2]}, nil
}

// parseNumbers reads what stands behind the prefix of a token.
func parseNumbers(rest string, want int) ([]int64, bool) {
	parts := strings.Split(rest, "_")
	if len(rest) > 128 || len(parts) != want {
		return nil, false
	}
	n := make([]int64, want)
	for i, p := range parts {
		var err error
		if n[i], err = strconv.ParseInt(p, 36, 64); err != nil {
			return nil, false
		}
	}
	return n, true
}
