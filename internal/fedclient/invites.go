package fedclient

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/tidwall/sjson"

	"weft/matrix/event"
	"weft/matrix/id"
)

// Invite hands an invite event to the invited user's server and returns the
// event with that server's signature (not checked). stripped are the state
// events by which the room can be shown.
//
// A server that does not know version 2 of the endpoint is asked by version 1,
// which exists for rooms of version 1 and 2 only.
//
// spec: server-server §11, PUT /_matrix/federation/v2/invite/{roomId}/{eventId}
func (c *Client) Invite(ctx context.Context, server id.Server, room id.Room, eventID id.Event, version event.RoomVersion, invite json.RawMessage, stripped []json.RawMessage) (json.RawMessage, error) {
	if stripped == nil {
		stripped = []json.RawMessage{}
	}
	r := Request{
		Destination: server, Method: http.MethodPut,
		Path: path(federationV2+"/invite", nil, string(room), string(eventID)),
		Body: map[string]any{"room_version": version, "event": invite, "invite_room_state": stripped},
	}
	resp, err := c.Do(ctx, r)
	if isUnsupported(err) && (version == "1" || version == "2") {
		var v1 []byte
		if v1, err = sjson.SetBytes(invite, "unsigned.invite_room_state", stripped); err != nil {
			return nil, err
		}
		r.Path = path(federationV1+"/invite", nil, string(room), string(eventID))
		r.Body = v1
		resp, err = c.Do(ctx, r)
	}
	if err != nil {
		return nil, err
	}
	body, err := unwrapPair(resp.Body)
	var out struct {
		Event json.RawMessage `json:"event"`
	}
	if err == nil {
		err = json.Unmarshal(body, &out)
	}
	if err == nil && !isObject(out.Event) {
		err = errors.New("there is no event")
	}
	if err != nil {
		return nil, badResponse(server, r.name(), err)
	}
	return out.Event, nil
}

// ExchangeThirdPartyInvite hands a partial invite that came from an identity
// server to a server in the room, which makes the invite event of it.
//
// spec: server-server §11.1, PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}
func (c *Client) ExchangeThirdPartyInvite(ctx context.Context, server id.Server, room id.Room, partial json.RawMessage) error {
	_, err := c.Do(ctx, Request{
		Destination: server, Method: http.MethodPut, Body: partial,
		Path: path(federationV1+"/exchange_third_party_invite", nil, string(room)),
	})
	return err
}
