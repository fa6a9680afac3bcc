package federationapi

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"sort"

	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/internal/nid"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// Bounds of the requests below; asking for more gives this much.
const (
	maxBackfill = 100
	maxMissing  = 50
	maxFrom     = 100 // event IDs in one request
	streamPage  = 250 // events read at a time while streaming
)

// pdu is an event as it goes to another server: as it was signed, or redacted
// where it was redacted, which its signatures cover as well.
func pdu(e *event.Event) json.RawMessage { return e.JSON() }

// GetEvent serves one event.
//
// spec: server-server §9, GET /_matrix/federation/v1/event/{eventId}
func (s *Server) GetEvent(ctx context.Context, r *httpapi.Request) (any, error) {
	eventID, err := r.EventVar("eventId")
	if err != nil {
		return nil, err
	}
	ev, err := s.Events.EventByID(ctx, eventID)
	if err != nil {
		return nil, err
	}
	if ev.Flags&eventstore.Rejected != 0 {
		return nil, merr.NotFound("there is no such event")
	}
	room, err := s.Events.RoomByNID(ctx, ev.RoomNID)
	if err != nil {
		return nil, err
	}
	if err := s.checkACL(ctx, room, r.Origin); err != nil {
		return nil, err
	}
	in, err := s.Events.ServerInRoom(ctx, room.NID, r.Origin)
	if err != nil {
		return nil, err
	}
	if !in {
		return nil, merr.Forbidden("%s is not in the room", r.Origin)
	}
	pdus, err := s.visible(ctx, r.Origin, []*eventstore.Event{ev})
	if err != nil {
		return nil, err
	}
	return s.transaction(pdus), nil
}

// visible gives events in the form that a server may see: messages of a time
// that is hidden from it, or not known, are redacted, so that it can still follow
// the graph.
//
// spec: server-server §5.1.3 ("A soft failed event should be returned in response
// to federation requests … as usual"): what hides it from clients does not count.
func (s *Server) visible(ctx context.Context, server id.Server, events []*eventstore.Event) ([]json.RawMessage, error) {
	var placed []*eventstore.Event
	for _, e := range events {
		if e.HasState && !e.IsState {
			c := *e
			c.Flags &^= eventstore.SoftFailed
			placed = append(placed, &c)
		}
	}
	sees, err := s.Events.CanServerSeeMany(ctx, server, placed)
	if err != nil {
		return nil, err
	}
	shown := make(map[nid.Event]bool, len(placed))
	for i, e := range placed {
		shown[e.NID] = sees[i]
	}
	out := make([]json.RawMessage, 0, len(events))
	for _, e := range events {
		ev := e.Event
		if !e.IsState && !shown[e.NID] {
			if ev, err = ev.Redact(); err != nil {
				return nil, err
			}
		}
		out = append(out, pdu(ev))
	}
	return out, nil
}

// transaction wraps events as the spec wants it for some answers.
func (s *Server) transaction(pdus []json.RawMessage) any {
	if pdus == nil {
		pdus = []json.RawMessage{}
	}
	return struct {
		Origin id.Server         `json:"origin"`
		TS     int64             `json:"origin_server_ts"`
		PDUs   []json.RawMessage `json:"pdus"`
	}{s.ServerName, s.Now().UnixMilli(), pdus}
}

// stateAt finds the state before the event that a request names.
func (s *Server) stateAt(ctx context.Context, r *httpapi.Request) (state, chain []nid.Event, err error) {
	room, err := s.memberRoom(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	eventID, err := id.ParseEvent(r.Query().Get("event_id"))
	if err != nil {
		return nil, nil, merr.InvalidParam("event_id is missing or malformed")
	}
	ev, err := s.roomEvent(ctx, room, eventID)
	if err != nil {
		return nil, nil, err
	}
	before, err := s.Events.StateBefore(ev)
	if err != nil {
		return nil, nil, err
	}
	entries, err := before.All(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		state = append(state, e.Event)
	}
	chain, err = s.authChain(ctx, state)
	return state, chain, err
}

// authChain collects the auth chain of events: eight bytes for each.
func (s *Server) authChain(ctx context.Context, events []nid.Event) (chain []nid.Event, err error) {
	err = s.Events.AuthChain(ctx, events, func(e nid.Event) error {
		chain = append(chain, e)
		return nil
	})
	return chain, err
}

// GetRoomState serves the state before an event with its auth chain.
//
// spec: server-server §9, GET /_matrix/federation/v1/state/{roomId}
func (s *Server) GetRoomState(ctx context.Context, r *httpapi.Request) (any, error) {
	state, chain, err := s.stateAt(ctx, r)
	if err != nil {
		return nil, err
	}
	return &httpapi.Response{Stream: func(w io.Writer) error {
		o := newObject(w)
		s.writeEvents(ctx, o, "pdus", state)
		s.writeEvents(ctx, o, "auth_chain", chain)
		return o.close()
	}}, nil
}

// GetRoomStateIDs serves the IDs of the state before an event.
//
// spec: server-server §9, GET /_matrix/federation/v1/state_ids/{roomId}
func (s *Server) GetRoomStateIDs(ctx context.Context, r *httpapi.Request) (any, error) {
	state, chain, err := s.stateAt(ctx, r)
	if err != nil {
		return nil, err
	}
	return &httpapi.Response{Stream: func(w io.Writer) error {
		o := newObject(w)
		s.writeIDs(ctx, o, "pdu_ids", state)
		s.writeIDs(ctx, o, "auth_chain_ids", chain)
		return o.close()
	}}, nil
}

// GetEventAuthorization serves the auth chain of an event.
//
// spec: server-server §5.1.6, GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}
func (s *Server) GetEventAuthorization(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := s.memberRoom(ctx, r)
	if err != nil {
		return nil, err
	}
	eventID, err := r.EventVar("eventId")
	if err != nil {
		return nil, err
	}
	ev, err := s.roomEvent(ctx, room, eventID)
	if err != nil {
		return nil, err
	}
	chain, err := s.authChain(ctx, []nid.Event{ev.NID})
	if err != nil {
		return nil, err
	}
	if room.Rules.RoomIDIsCreateHash && ev.Type != eventauth.TypeCreate {
		// spec?: rooms v12 ("The room_id … implies this instead"): the create event authorises
		// the others though they do not name it, so the chain is complete only with it.
		created, err := s.Events.EventByID(ctx, eventauth.CreateEventID(room.ID))
		if err != nil {
			return nil, err
		}
		chain = append(chain, created.NID)
	}
	return &httpapi.Response{Stream: func(w io.Writer) error {
		o := newObject(w)
		s.writeEvents(ctx, o, "auth_chain", chain)
		return o.close()
	}}, nil
}

// BackfillRoom serves events and what precedes them, latest first.
//
// spec: server-server §8, GET /_matrix/federation/v1/backfill/{roomId}
func (s *Server) BackfillRoom(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := s.memberRoom(ctx, r)
	if err != nil {
		return nil, err
	}
	from := r.Query()["v"]
	if len(from) == 0 {
		return nil, merr.MissingParam("v is missing")
	}
	limit, err := r.QueryInt("limit", 10, 1, 1<<31)
	if err != nil {
		return nil, err
	}
	start, err := eventIDs(from)
	if err != nil {
		return nil, err
	}
	events, err := s.walkBack(ctx, room, start, nil, 0, int(min(limit, maxBackfill)))
	if err != nil {
		return nil, err
	}
	pdus, err := s.visible(ctx, r.Origin, events)
	if err != nil {
		return nil, err
	}
	return s.transaction(pdus), nil
}

func eventIDs(in []string) ([]id.Event, error) {
	if len(in) > maxFrom {
		return nil, merr.TooLarge("more than %d event IDs", maxFrom)
	}
	out := make([]id.Event, len(in))
	for i, v := range in {
		e, err := id.ParseEvent(v)
		if err != nil {
			return nil, merr.InvalidParam("%q is no event ID", v)
		}
		out[i] = e
	}
	return out, nil
}

// walkBack follows previous events from those given (included), highest depth
// first, leaving out those in stop and what is less deep than minDepth.
func (s *Server) walkBack(ctx context.Context, room *eventstore.Room, from, stop []id.Event, minDepth int64, limit int) ([]*eventstore.Event, error) {
	seen := map[id.Event]bool{}
	for _, e := range stop {
		seen[e] = true
	}
	var frontier, out []*eventstore.Event
	next := from
	for len(out) < limit {
		fresh := next[:0:0]
		for _, e := range next {
			if !seen[e] {
				seen[e] = true
				fresh = append(fresh, e)
			}
		}
		if len(fresh) > 0 {
			found, err := s.Events.EventsByID(ctx, fresh)
			if err != nil {
				return nil, err
			}
			for _, e := range found {
				if e.RoomNID == room.NID && e.Flags&(eventstore.Outlier|eventstore.Rejected) == 0 && e.Depth >= minDepth {
					frontier = append(frontier, e)
				}
			}
		}
		if len(frontier) == 0 {
			break
		}
		sort.Slice(frontier, func(i, j int) bool {
			if frontier[i].Depth != frontier[j].Depth {
				return frontier[i].Depth < frontier[j].Depth
			}
			return frontier[i].NID < frontier[j].NID
		})
		last := frontier[len(frontier)-1]
		frontier = frontier[:len(frontier)-1]
		out = append(out, last)
		next = last.PrevEvents
	}
	return out, nil
}

// GetMissingPreviousEvents serves the events between two sets, earliest first.
//
// spec: server-server §8, POST /_matrix/federation/v1/get_missing_events/{roomId}
func (s *Server) GetMissingPreviousEvents(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := s.memberRoom(ctx, r)
	if err != nil {
		return nil, err
	}
	var req struct {
		Earliest []string `json:"earliest_events"`
		Latest   []string `json:"latest_events"`
		Limit    *int     `json:"limit"`
		MinDepth int64    `json:"min_depth"`
	}
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	earliest, err := eventIDs(req.Earliest)
	if err != nil {
		return nil, err
	}
	latest, err := eventIDs(req.Latest)
	if err != nil {
		return nil, err
	}
	limit := 10
	if req.Limit != nil {
		limit = min(max(*req.Limit, 0), maxMissing)
	}
	// The walk begins before the latest events, which the other server has.
	heads, err := s.Events.EventsByID(ctx, latest)
	if err != nil {
		return nil, err
	}
	var from []id.Event
	for _, e := range heads {
		if e.RoomNID == room.NID {
			from = append(from, e.PrevEvents...)
		}
	}
	events, err := s.walkBack(ctx, room, from, append(earliest, latest...), req.MinDepth, limit)
	if err != nil {
		return nil, err
	}
	for i, j := 0, len(events)-1; i < j; i, j = i+1, j-1 {
		events[i], events[j] = events[j], events[i]
	}
	pdus, err := s.visible(ctx, r.Origin, events)
	if err != nil {
		return nil, err
	}
	return map[string][]json.RawMessage{"events": pdus}, nil
}

// object writes a JSON object whose values may be long lists, piece by piece.
type object struct {
	w     *bufio.Writer
	comma bool
	err   error
}

func newObject(w io.Writer) *object {
	o := &object{w: bufio.NewWriterSize(w, 32<<10)}
	o.put("{")
	return o
}

func (o *object) put(s string) {
	if o.err == nil {
		_, o.err = o.w.WriteString(s)
	}
}

func (o *object) bytes(b []byte) {
	if o.err == nil {
		_, o.err = o.w.Write(b)
	}
}

func (o *object) name(name string) {
	if o.comma {
		o.put(",")
	}
	o.comma = true
	o.put(`"` + name + `":`)
}

// field writes one value.
func (o *object) field(name string, value any) {
	b, err := json.Marshal(value)
	if err != nil && o.err == nil {
		o.err = err
	}
	o.name(name)
	o.bytes(b)
}

func (o *object) close() error {
	o.put("}")
	if o.err != nil {
		return o.err
	}
	return o.w.Flush()
}

// writeEvents writes a list of events, reading a page at a time.
func (s *Server) writeEvents(ctx context.Context, o *object, name string, events []nid.Event) {
	store := s.Events
	if len(events) > 4*streamPage { // would push out what is in use
		store = store.Scanning()
	}
	o.name(name)
	o.put("[")
	for at := 0; at < len(events) && o.err == nil; at += streamPage {
		page, err := store.Events(ctx, events[at:min(at+streamPage, len(events))])
		if err != nil {
			o.err = err
			return
		}
		for i, e := range page {
			if at+i > 0 {
				o.put(",")
			}
			o.bytes(pdu(e.Event))
		}
	}
	o.put("]")
}

// writeIDs writes a list of event IDs, reading a page at a time.
func (s *Server) writeIDs(ctx context.Context, o *object, name string, events []nid.Event) {
	o.name(name)
	o.put("[")
	const page = 2000
	for at := 0; at < len(events) && o.err == nil; at += page {
		ids, err := s.Events.EventIDs(ctx, events[at:min(at+page, len(events))])
		if err != nil {
			o.err = err
			return
		}
		for i, e := range ids {
			if at+i > 0 {
				o.put(",")
			}
			b, err := json.Marshal(e)
			if err != nil {
				o.err = err
				return
			}
			o.bytes(b)
		}
	}
	o.put("]")
}
