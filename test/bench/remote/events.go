package remote

import (
	"encoding/json"
	"io"
	"slices"
	"strconv"

	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	// maxBackfill bounds the events of one backfill answer, and maxMissing those of
	// get_missing_events, whatever is asked for.
	maxBackfill = 500
	maxMissing  = 100
	// defaultMissing is what the specification says where a request has no limit.
	defaultMissing = 10
)

// inRoom demands that the server that asks has a user in the room.
func (r *Room) inRoom(server id.Server) error {
	st, err := r.current()
	if err != nil {
		return err
	}
	for k, eventID := range st.changed {
		if k.Type != "m.room.member" || eventID == "" || id.User(k.StateKey).Server() != server {
			continue
		}
		if e, err := r.event(eventID); err != nil || e.Membership() == "join" {
			return err
		}
	}
	return merr.Forbidden("%s is not in the room", server)
}

// resident finds the room of a request by a server that is in it, and locks it.
func (r *request) resident(s *Server) (room *Room, unlock func(), err error) {
	if room, err = r.room(s); err != nil {
		return nil, nil, err
	}
	room.mu.Lock()
	if err := room.inRoom(r.origin); err != nil {
		room.mu.Unlock()
		return nil, nil, err
	}
	return room, room.mu.Unlock, nil
}

// entries gives events in the order of the history.
func (r *Room) entries(set map[id.Event]bool) []entry {
	at := make([]int, 0, len(set))
	for e := range set {
		at = append(at, r.events.index[e])
	}
	slices.Sort(at)
	out := make([]entry, len(at))
	for n, i := range at {
		out[n] = r.events.list[i]
	}
	return out
}

// stateEntries gives the events of a state.
func (r *Room) stateEntries(st state) []entry {
	replaced := r.replaced(st)
	out := make([]entry, 0, st.began+len(st.changed))
	for at := range st.began {
		if !replaced[at] {
			out = append(out, r.events.list[at])
		}
	}
	for _, e := range st.changed {
		if e != "" {
			out = append(out, r.events.list[r.events.index[e]])
		}
	}
	return out
}

// stateBefore gives the state before an event.
func (r *Room) stateBefore(eventID id.Event) (state, error) {
	if n := r.recent[eventID]; n != nil {
		return n.before, nil
	}
	at, ok := r.events.index[eventID]
	if !ok {
		return state{}, merr.NotFound("the event %s is not known here", eventID)
	}
	return state{began: at}, nil
}

// getEvent gives one event.
//
// spec: server-server §8, GET /_matrix/federation/v1/event/{eventId}
func (s *Server) getEvent(r *request) (any, error) {
	eventID := id.Event(r.PathValue("eventId"))
	for _, room := range s.allRooms() {
		found, err := room.visible(eventID, r.origin)
		if err != nil {
			return nil, err
		}
		if found != nil {
			return map[string]any{
				"origin": r.at.name, "origin_server_ts": s.opts.Now().UnixMilli(), "pdus": []json.RawMessage{found.json},
			}, nil
		}
	}
	return nil, merr.NotFound("the event %s is not known here", eventID)
}

func (s *Server) allRooms() []*Room {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*Room, 0, len(s.rooms))
	for _, room := range s.rooms {
		out = append(out, room)
	}
	return out
}

// visible gives an event to a server that is in the room, nil where the room has no
// such event.
func (r *Room) visible(eventID id.Event, server id.Server) (*entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.events.index[eventID]
	if !ok {
		return nil, nil
	}
	return &r.events.list[at], r.inRoom(server)
}

// getEventAuth gives the auth chain of an event.
//
// spec: server-server §5.1.6, GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}
func (s *Server) getEventAuth(r *request) (any, error) {
	room, unlock, err := r.resident(s)
	if err != nil {
		return nil, err
	}
	defer unlock()
	eventID := id.Event(r.PathValue("eventId"))
	if _, ok := room.events.index[eventID]; !ok {
		return nil, merr.NotFound("the event %s is not known here", eventID)
	}
	chain, err := room.authChain([]id.Event{eventID})
	if err != nil {
		return nil, err
	}
	list := room.entries(room.served(chain))
	return streamed(func(w io.Writer) error {
		o := newObject(w)
		o.events("auth_chain", list)
		return o.close()
	}), nil
}

// stateAt gives the state before the event that a request names, and its auth chain.
func (s *Server) stateAt(r *request) (stateEvents, chain []entry, err error) {
	room, unlock, err := r.resident(s)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	st, err := room.stateBefore(id.Event(r.URL.Query().Get("event_id")))
	if err != nil {
		return nil, nil, err
	}
	set, err := room.stateAuthChain(st)
	if err != nil {
		return nil, nil, err
	}
	return room.stateEntries(st), room.entries(room.served(set)), nil
}

// getState gives the state before an event.
//
// spec: server-server §8, GET /_matrix/federation/v1/state/{roomId}
func (s *Server) getState(r *request) (any, error) {
	stateEvents, chain, err := s.stateAt(r)
	if err != nil {
		return nil, err
	}
	return streamed(func(w io.Writer) error {
		o := newObject(w)
		o.events("pdus", stateEvents)
		o.events("auth_chain", chain)
		return o.close()
	}), nil
}

// getStateIDs gives the IDs of the state before an event.
//
// spec: server-server §8, GET /_matrix/federation/v1/state_ids/{roomId}
func (s *Server) getStateIDs(r *request) (any, error) {
	stateEvents, chain, err := s.stateAt(r)
	if err != nil {
		return nil, err
	}
	return streamed(func(w io.Writer) error {
		o := newObject(w)
		o.ids("pdu_ids", stateEvents)
		o.ids("auth_chain_ids", chain)
		return o.close()
	}), nil
}

// backfill gives events and what precedes them, the latest first.
//
// spec: server-server §7, GET /_matrix/federation/v1/backfill/{roomId}
func (s *Server) backfill(r *request) (any, error) {
	room, unlock, err := r.resident(s)
	if err != nil {
		return nil, err
	}
	defer unlock()
	q := r.URL.Query()
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil || limit < 1 {
		return nil, merr.InvalidParam("limit must be a positive number")
	}
	var from []id.Event
	for _, v := range q["v"] {
		if _, ok := room.events.index[id.Event(v)]; ok {
			from = append(from, id.Event(v))
		}
	}
	list, err := room.backward(from, min(limit, maxBackfill), nil, 0)
	if err != nil {
		return nil, err
	}
	return map[string]any{"origin": r.at.name, "origin_server_ts": s.opts.Now().UnixMilli(), "pdus": rawEvents(list)}, nil
}

// getMissingEvents gives what lies between events that the server has and later ones,
// the earliest first.
//
// spec: server-server §7, POST /_matrix/federation/v1/get_missing_events/{roomId}
func (s *Server) getMissingEvents(r *request) (any, error) {
	req := struct {
		Earliest []id.Event `json:"earliest_events"`
		Latest   []id.Event `json:"latest_events"`
		Limit    int        `json:"limit"`
		MinDepth int64      `json:"min_depth"`
	}{Limit: defaultMissing}
	if err := r.decode(&req); err != nil {
		return nil, err
	}
	room, unlock, err := r.resident(s)
	if err != nil {
		return nil, err
	}
	defer unlock()
	stop := make(map[id.Event]bool)
	for _, e := range append(req.Earliest, req.Latest...) {
		stop[e] = true
	}
	var from []id.Event
	for _, l := range req.Latest {
		if _, ok := room.events.index[l]; !ok {
			continue
		}
		e, err := room.event(l)
		if err != nil {
			return nil, err
		}
		from = append(from, e.PrevEvents...)
	}
	list, err := room.backward(from, min(max(req.Limit, 0), maxMissing), stop, req.MinDepth)
	if err != nil {
		return nil, err
	}
	slices.Reverse(list)
	return map[string]any{"events": rawEvents(list)}, nil
}

// backward walks from events to their parents, the latest of the history first, and
// gives at most limit events. It does not go to events of stop or below a depth.
func (r *Room) backward(from []id.Event, limit int, stop map[id.Event]bool, minDepth int64) ([]entry, error) {
	var waiting []int // positions, sorted
	push := func(e id.Event) {
		at, known := r.events.index[e]
		if !known || stop[e] {
			return
		}
		if n, found := slices.BinarySearch(waiting, at); !found {
			waiting = slices.Insert(waiting, n, at)
		}
	}
	for _, e := range from {
		push(e)
	}
	var out []entry
	for len(waiting) > 0 && len(out) < limit {
		at := waiting[len(waiting)-1]
		waiting = waiting[:len(waiting)-1]
		e, err := r.event(r.events.list[at].id)
		if err != nil {
			return nil, err
		}
		if e.Depth < minDepth {
			continue
		}
		out = append(out, r.events.list[at])
		for _, p := range e.PrevEvents {
			push(p)
		}
	}
	return out, nil
}

func rawEvents(list []entry) []json.RawMessage {
	out := make([]json.RawMessage, len(list))
	for n, e := range list {
		out[n] = e.json
	}
	return out
}
