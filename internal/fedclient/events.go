package fedclient

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"weft/matrix/id"
)

const (
	// maxIDs bounds a response of event IDs, in bytes.
	maxIDs = 256 << 20
	// maxBackfill bounds the events that one backfill or get_missing_events
	// asks for, and takes.
	maxBackfill = 500
	// maxEventBatch bounds such a response, in bytes.
	maxEventBatch = 64 << 20
)

// GetEvent fetches one event. It is not checked.
//
// spec: server-server §8, GET /_matrix/federation/v1/event/{eventId}
func (c *Client) GetEvent(ctx context.Context, server id.Server, eventID id.Event) (json.RawMessage, error) {
	r := Request{
		Destination: server, Method: http.MethodGet, MaxResponse: 2 * maxElement,
		Path: path(federationV1+"/event", nil, string(eventID)),
	}
	pdus, err := c.transactionPDUs(ctx, r, "pdus", 1)
	if err != nil {
		return nil, err
	}
	if len(pdus) != 1 {
		return nil, badResponse(server, r.name(), errors.New("there is not exactly one event"))
	}
	return pdus[0], nil
}

// transactionPDUs reads a list of at most limit events.
func (c *Client) transactionPDUs(ctx context.Context, r Request, member string, limit int) ([]json.RawMessage, error) {
	var out map[string]json.RawMessage
	if err := c.DoJSON(ctx, r, &out); err != nil {
		return nil, err
	}
	var pdus []json.RawMessage
	if err := json.Unmarshal(out[member], &pdus); err != nil {
		return nil, badResponse(r.Destination, r.name(), err)
	}
	if len(pdus) > limit {
		pdus = pdus[:limit]
	}
	for _, p := range pdus {
		if !isObject(p) {
			return nil, badResponse(r.Destination, r.name(), errors.New("an event is not an object"))
		}
	}
	return pdus, nil
}

// GetState fetches the room's state before an event, and the auth chain of that
// state, event by event.
//
// spec: server-server §8, GET /_matrix/federation/v1/state/{roomId}
func (c *Client) GetState(ctx context.Context, server id.Server, room id.Room, at id.Event, visit Visit) error {
	return c.getStream(ctx, Request{
		Destination: server,
		Path:        path(federationV1+"/state", url.Values{"event_id": {string(at)}}, string(room)),
	}, map[string]List{"pdus": State, "auth_chain": AuthChain}, visit)
}

// GetEventAuth fetches the auth chain of an event, event by event.
//
// spec: server-server §5.1.6, GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}
func (c *Client) GetEventAuth(ctx context.Context, server id.Server, room id.Room, eventID id.Event, visit Visit) error {
	return c.getStream(ctx, Request{
		Destination: server,
		Path:        path(federationV1+"/event_auth", nil, string(room), string(eventID)),
	}, map[string]List{"auth_chain": AuthChain}, visit)
}

func (c *Client) getStream(ctx context.Context, r Request, lists map[string]List, visit Visit) error {
	r.Method, r.Timeout, r.MaxResponse = http.MethodGet, streamTimeout, maxStream
	s, err := c.Stream(ctx, r)
	if err != nil {
		return err
	}
	return c.readStream(ctx, &r, s, false, nil, lists, visit)
}

// StateIDs are the IDs of a room's state and of its auth chain.
type StateIDs struct {
	State     []id.Event
	AuthChain []id.Event
}

// GetStateIDs fetches the IDs of the room's state before an event. The lists
// are held in memory: 100 bytes or so an ID.
//
// spec: server-server §8, GET /_matrix/federation/v1/state_ids/{roomId}
func (c *Client) GetStateIDs(ctx context.Context, server id.Server, room id.Room, at id.Event) (*StateIDs, error) {
	r := Request{
		Destination: server, Method: http.MethodGet, Timeout: streamTimeout, MaxResponse: maxIDs,
		Path: path(federationV1+"/state_ids", url.Values{"event_id": {string(at)}}, string(room)),
	}
	s, err := c.Stream(ctx, r)
	if err != nil {
		return nil, err
	}
	var out StateIDs
	found := 0
	err = c.readStream(ctx, &r, s, false, func(o *objectStream, name string) (bool, error) {
		var into *[]id.Event
		switch name {
		case "pdu_ids":
			into = &out.State
		case "auth_chain_ids":
			into = &out.AuthChain
		default:
			return false, nil
		}
		found++
		return true, o.array(DefaultMaxEvents, func(raw json.RawMessage) error {
			var s string
			if err := json.Unmarshal(raw, &s); err != nil {
				return err
			}
			e, err := id.ParseEvent(s)
			*into = append(*into, e)
			return err
		})
	}, nil, nil)
	if err == nil && found != 2 {
		err = badResponse(server, r.name(), errors.New("a list of event IDs is missing"))
	}
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// Backfill fetches up to limit (at most 500) events: those given and what
// precedes them. They are not checked.
//
// spec: server-server §7, GET /_matrix/federation/v1/backfill/{roomId}
func (c *Client) Backfill(ctx context.Context, server id.Server, room id.Room, from []id.Event, limit int) ([]json.RawMessage, error) {
	limit = min(limit, maxBackfill)
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	for _, e := range from {
		q.Add("v", string(e))
	}
	return c.transactionPDUs(ctx, Request{
		Destination: server, Method: http.MethodGet, MaxResponse: maxEventBatch,
		Path: path(federationV1+"/backfill", q, string(room)),
	}, "pdus", limit)
}

// MissingEvents asks for the events between two sets.
type MissingEvents struct {
	Earliest []id.Event
	Latest   []id.Event
	// Limit is the most events wanted, at most 500.
	Limit    int
	MinDepth int64
}

// GetMissingEvents fetches events between those that we have and those that we
// have just heard of. They are not checked.
//
// spec: server-server §7, POST /_matrix/federation/v1/get_missing_events/{roomId}
func (c *Client) GetMissingEvents(ctx context.Context, server id.Server, room id.Room, m MissingEvents) ([]json.RawMessage, error) {
	m.Limit = min(m.Limit, maxBackfill)
	if m.Earliest == nil {
		m.Earliest = []id.Event{}
	}
	return c.transactionPDUs(ctx, Request{
		Destination: server, Method: http.MethodPost, MaxResponse: maxEventBatch,
		Path: path(federationV1+"/get_missing_events", nil, string(room)),
		Body: map[string]any{
			"earliest_events": m.Earliest, "latest_events": m.Latest, "limit": m.Limit, "min_depth": m.MinDepth,
		},
	}, "events", m.Limit)
}

// EventAt is the event closest to a time.
type EventAt struct {
	EventID        id.Event `json:"event_id"`
	OriginServerTS int64    `json:"origin_server_ts"`
}

// GetEventByTimestamp asks for the event closest to ts (milliseconds), before it
// when backward is set, otherwise after it.
//
// spec: server-server §8, GET /_matrix/federation/v1/timestamp_to_event/{roomId}
func (c *Client) GetEventByTimestamp(ctx context.Context, server id.Server, room id.Room, ts int64, backward bool) (*EventAt, error) {
	dir := "f"
	if backward {
		dir = "b"
	}
	r := Request{
		Destination: server, Method: http.MethodGet, MaxResponse: maxElement,
		Path: path(federationV1+"/timestamp_to_event", url.Values{"ts": {strconv.FormatInt(ts, 10)}, "dir": {dir}}, string(room)),
	}
	var out EventAt
	if err := c.DoJSON(ctx, r, &out); err != nil {
		return nil, err
	}
	if _, err := id.ParseEvent(string(out.EventID)); err != nil {
		return nil, badResponse(server, r.name(), err)
	}
	return &out, nil
}
