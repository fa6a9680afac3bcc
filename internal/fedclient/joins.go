package fedclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"weft/matrix/event"
	"weft/matrix/id"
)

const (
	// streamTimeout bounds the calls whose response grows with a room.
	streamTimeout = 10 * time.Minute
	// maxStream bounds such a response in bytes. It is never held in memory.
	maxStream = 2 << 30
	// maxServersInRoom bounds that list of a send_join response.
	maxServersInRoom = 100_000
)

// Template is the answer to make_join, make_leave and make_knock.
type Template struct {
	// RoomVersion is empty when the server did not say: then it is 1 or 2.
	RoomVersion event.RoomVersion `json:"room_version"`
	// Event is the event without hashes and signatures. The caller must check
	// its type, room, sender, state key and membership.
	Event json.RawMessage `json:"event"`
}

// MakeJoin asks a resident server for a template of a join event.
//
// spec: server-server §9, GET /_matrix/federation/v1/make_join/{roomId}/{userId}
func (c *Client) MakeJoin(ctx context.Context, server id.Server, room id.Room, user id.User, versions []event.RoomVersion) (*Template, error) {
	return c.makeMembership(ctx, server, "make_join", room, user, versions)
}

// MakeKnock asks a resident server for a template of a knock event.
//
// spec: server-server §10, GET /_matrix/federation/v1/make_knock/{roomId}/{userId}
func (c *Client) MakeKnock(ctx context.Context, server id.Server, room id.Room, user id.User, versions []event.RoomVersion) (*Template, error) {
	return c.makeMembership(ctx, server, "make_knock", room, user, versions)
}

// MakeLeave asks a resident server for a template of a leave event, by which an
// invite is rejected or a knock retracted.
//
// spec: server-server §12, GET /_matrix/federation/v1/make_leave/{roomId}/{userId}
func (c *Client) MakeLeave(ctx context.Context, server id.Server, room id.Room, user id.User) (*Template, error) {
	return c.makeMembership(ctx, server, "make_leave", room, user, nil)
}

func (c *Client) makeMembership(ctx context.Context, server id.Server, endpoint string, room id.Room, user id.User, versions []event.RoomVersion) (*Template, error) {
	q := url.Values{}
	for _, v := range versions {
		q.Add("ver", string(v))
	}
	var t Template
	r := Request{
		Destination: server, Method: http.MethodGet, MaxResponse: maxElement,
		Path: path(federationV1+"/"+endpoint, q, string(room), string(user)),
	}
	if err := c.DoJSON(ctx, r, &t); err != nil {
		return nil, err
	}
	if !isObject(t.Event) {
		return nil, badResponse(server, r.name(), errors.New("there is no event"))
	}
	return &t, nil
}

// List names one of the lists of events in a streamed response.
type List string

// The lists. State is called `pdus` in the response of GetState.
const (
	State     List = "state"
	AuthChain List = "auth_chain"
)

// Visit receives the events of a streamed response one by one, in the order of
// the response; the lists may come in either order. The bytes are the callee's
// to keep. They are not checked in any way. An error ends the call and is returned.
type Visit func(list List, pdu json.RawMessage) error

// JoinResult is what a send_join response says besides the events.
type JoinResult struct {
	// Event is the join event with the resident server's signature; nil when
	// the response had none.
	Event json.RawMessage
	// MembersOmitted is set when the state lacks membership events.
	MembersOmitted bool
	// ServersInRoom is filled when members are omitted.
	ServersInRoom []id.Server
}

// SendJoin hands a signed join event to a resident server and gives the room's
// state before it to visit, event by event. omitMembers says that state
// without membership events will do.
//
// A server that does not know version 2 of the endpoint is asked by version 1.
//
// spec: server-server §9, PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}
func (c *Client) SendJoin(ctx context.Context, server id.Server, room id.Room, eventID id.Event, join json.RawMessage, omitMembers bool, visit Visit) (*JoinResult, error) {
	q := url.Values{}
	if omitMembers {
		q.Set("omit_members", "true")
	}
	r := Request{
		Destination: server, Method: http.MethodPut, Body: join,
		Path:    path(federationV2+"/send_join", q, string(room), string(eventID)),
		Timeout: streamTimeout, MaxResponse: maxStream,
	}
	s, err := c.Stream(ctx, r)
	pair := false
	if isUnsupported(err) {
		pair = true
		r.Path = path(federationV1+"/send_join", nil, string(room), string(eventID))
		s, err = c.Stream(ctx, r)
	}
	if err != nil {
		return nil, err
	}
	var res JoinResult
	err = c.readStream(ctx, &r, s, pair, func(o *objectStream, name string) (bool, error) {
		var err error
		switch name {
		case "event":
			res.Event, err = o.value()
		case "members_omitted":
			var raw json.RawMessage
			if raw, err = o.value(); err == nil {
				err = json.Unmarshal(raw, &res.MembersOmitted)
			}
		case "servers_in_room":
			err = o.array(maxServersInRoom, func(raw json.RawMessage) error {
				var s id.Server
				if err := json.Unmarshal(raw, &s); err != nil {
					return err
				}
				res.ServersInRoom = append(res.ServersInRoom, s)
				return nil
			})
		default:
			return false, nil
		}
		return true, err
	}, map[string]List{"state": State, "auth_chain": AuthChain}, visit)
	if err != nil {
		return nil, err
	}
	if res.MembersOmitted && !omitMembers {
		return nil, badResponse(server, r.name(), errors.New("members were omitted without being asked for"))
	}
	if res.Event != nil && !isObject(res.Event) {
		res.Event = nil
	}
	return &res, nil
}

// maxTrailer bounds the white space that is read after the end of an answer's JSON.
const maxTrailer = 4 << 10

// readStream reads an object whose lists go to visit. All lists must be there.
// other may take a further member.
func (c *Client) readStream(ctx context.Context, r *Request, s *Stream, pair bool,
	other func(o *objectStream, name string) (bool, error), lists map[string]List, visit Visit) error {
	var visitErr error
	found := 0
	o := newObjectStream(s.Body)
	err := o.object(pair, func(name string) error {
		list, ok := lists[name]
		if !ok {
			if other != nil {
				if done, err := other(o, name); done || err != nil {
					return err
				}
			}
			return o.skip()
		}
		found++
		return o.array(DefaultMaxEvents, func(raw json.RawMessage) error {
			if !isObject(raw) {
				return errors.New("an element is not an object")
			}
			visitErr = visit(list, raw)
			return visitErr
		})
	})
	if err == nil {
		// The end is read too: otherwise the connection cannot be used again, and the other server sees its answer cut off.
		if _, rerr := io.CopyN(io.Discard, s.Body, maxTrailer); rerr != nil && !errors.Is(rerr, io.EOF) {
			err = rerr
		}
	}
	if cerr := s.Body.Close(); err == nil && cerr != nil {
		err = cerr
	}
	switch {
	case visitErr != nil:
		return visitErr
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("%s to %s: %w", r.name(), r.Destination, ctx.Err())
	case err != nil && isTimeout(err):
		return c.connError(ctx, r, err)
	case err != nil:
		return badResponse(r.Destination, r.name(), err)
	case found != len(lists):
		return badResponse(r.Destination, r.name(), errors.New("a list of events is missing"))
	}
	return nil
}

// SendLeave hands a signed leave event to a resident server.
//
// spec: server-server §12, PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}
func (c *Client) SendLeave(ctx context.Context, server id.Server, room id.Room, eventID id.Event, leave json.RawMessage) error {
	r := Request{
		Destination: server, Method: http.MethodPut, Body: leave, MaxResponse: maxElement,
		Path: path(federationV2+"/send_leave", nil, string(room), string(eventID)),
	}
	_, err := c.Do(ctx, r)
	if isUnsupported(err) {
		r.Path = path(federationV1+"/send_leave", nil, string(room), string(eventID))
		_, err = c.Do(ctx, r)
	}
	return err
}

// SendKnock hands a signed knock event to a resident server and returns the
// state events by which the room can be shown (not checked).
//
// spec: server-server §10, PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}
func (c *Client) SendKnock(ctx context.Context, server id.Server, room id.Room, eventID id.Event, knock json.RawMessage) ([]json.RawMessage, error) {
	var out struct {
		State []json.RawMessage `json:"knock_room_state"`
	}
	err := c.DoJSON(ctx, Request{
		Destination: server, Method: http.MethodPut, Body: knock,
		Path: path(federationV1+"/send_knock", nil, string(room), string(eventID)),
	}, &out)
	return out.State, err
}
