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

// QueryProfile fetches a user's profile, or one field of it. The result is the
// response's object.
//
// spec: server-server §14, GET /_matrix/federation/v1/query/profile
func (c *Client) QueryProfile(ctx context.Context, user id.User, field string) (map[string]json.RawMessage, error) {
	q := url.Values{"user_id": {string(user)}}
	if field != "" {
		q.Set("field", field)
	}
	var out map[string]json.RawMessage
	err := c.DoJSON(ctx, Request{
		Destination: user.Server(), Method: http.MethodGet, MaxResponse: 1 << 20,
		Path: path(federationV1+"/query/profile", q),
	}, &out)
	return out, err
}

// RoomDirectory is what a server knows of a room alias.
type RoomDirectory struct {
	RoomID  id.Room     `json:"room_id"`
	Servers []id.Server `json:"servers"`
}

// QueryDirectory resolves a room alias at the server that owns it.
//
// spec: server-server §14, GET /_matrix/federation/v1/query/directory
func (c *Client) QueryDirectory(ctx context.Context, alias id.RoomAlias) (*RoomDirectory, error) {
	r := Request{
		Destination: alias.Server(), Method: http.MethodGet, MaxResponse: 4 << 20,
		Path: path(federationV1+"/query/directory", url.Values{"room_alias": {string(alias)}}),
	}
	var out RoomDirectory
	if err := c.DoJSON(ctx, r, &out); err != nil {
		return nil, err
	}
	if _, err := id.ParseRoom(string(out.RoomID)); err != nil {
		return nil, badResponse(r.Destination, r.name(), err)
	}
	valid := out.Servers[:0]
	for _, s := range out.Servers {
		if _, err := id.ParseServer(string(s)); err == nil {
			valid = append(valid, s)
		}
	}
	out.Servers = valid
	return &out, nil
}

// PublicRoomsQuery asks for a page of a room directory. The zero value asks for
// the first, of the server's size.
type PublicRoomsQuery struct {
	Limit                int             `json:"limit,omitempty"`
	Since                string          `json:"since,omitempty"`
	Filter               json.RawMessage `json:"filter,omitempty"`
	IncludeAllNetworks   bool            `json:"include_all_networks,omitempty"`
	ThirdPartyInstanceID string          `json:"third_party_instance_id,omitempty"`
}

// GetPublicRooms fetches a page of a server's room directory, unfiltered. The
// result is the response's body, which has the shape of the client's.
//
// spec: server-server §15, GET /_matrix/federation/v1/publicRooms
func (c *Client) GetPublicRooms(ctx context.Context, server id.Server, p PublicRoomsQuery) (json.RawMessage, error) {
	q := url.Values{}
	if p.Limit > 0 {
		q.Set("limit", strconv.Itoa(p.Limit))
	}
	if p.Since != "" {
		q.Set("since", p.Since)
	}
	if p.IncludeAllNetworks {
		q.Set("include_all_networks", "true")
	}
	if p.ThirdPartyInstanceID != "" {
		q.Set("third_party_instance_id", p.ThirdPartyInstanceID)
	}
	return c.object(ctx, Request{
		Destination: server, Method: http.MethodGet,
		Path: path(federationV1+"/publicRooms", q),
	})
}

// QueryPublicRooms fetches a page of a server's room directory with a filter.
//
// spec: server-server §15, POST /_matrix/federation/v1/publicRooms
func (c *Client) QueryPublicRooms(ctx context.Context, server id.Server, p PublicRoomsQuery) (json.RawMessage, error) {
	return c.object(ctx, Request{
		Destination: server, Method: http.MethodPost, Body: p,
		Path: path(federationV1+"/publicRooms", nil),
	})
}

// maxHierarchy bounds a hierarchy: a thousand children and their events.
const maxHierarchy = 4 << 20

// GetHierarchy fetches a space and its children, also those that are not suggested. The
// result is the response's body.
//
// spec: server-server §16, GET /_matrix/federation/v1/hierarchy/{roomId}
func (c *Client) GetHierarchy(ctx context.Context, server id.Server, room id.Room) (json.RawMessage, error) {
	return c.object(ctx, Request{
		Destination: server, Method: http.MethodGet, MaxResponse: maxHierarchy,
		Path: path(federationV1+"/hierarchy", nil, string(room)),
	})
}

// object makes a request whose answer must be a JSON object and is passed on.
func (c *Client) object(ctx context.Context, r Request) (json.RawMessage, error) {
	resp, err := c.Do(ctx, r)
	if err != nil {
		return nil, err
	}
	if !json.Valid(resp.Body) || !isObject(resp.Body) {
		return nil, badResponse(r.Destination, r.name(), errors.New("the body is not a JSON object"))
	}
	return resp.Body, nil
}

// Version is a server's implementation, as it calls itself.
type Version struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// GetVersion asks a server what it runs.
//
// spec: server-server §3.2, GET /_matrix/federation/v1/version
func (c *Client) GetVersion(ctx context.Context, server id.Server) (Version, error) {
	var out struct {
		Server Version `json:"server"`
	}
	err := c.DoJSON(ctx, Request{
		Destination: server, Method: http.MethodGet, Unsigned: true, MaxResponse: maxElement,
		Path: path(federationV1+"/version", nil),
	}, &out)
	return out.Server, err
}

// ExchangeOpenIDToken asks a server whose OpenID token this is.
//
// spec: server-server §17, GET /_matrix/federation/v1/openid/userinfo
func (c *Client) ExchangeOpenIDToken(ctx context.Context, server id.Server, token string) (id.User, error) {
	var out struct {
		Sub string `json:"sub"`
	}
	r := Request{
		Destination: server, Method: http.MethodGet, Unsigned: true, MaxResponse: maxElement,
		Path: path(federationV1+"/openid/userinfo", url.Values{"access_token": {token}}),
	}
	if err := c.DoJSON(ctx, r, &out); err != nil {
		return "", err
	}
	user, err := id.ParseUser(out.Sub)
	if err == nil && user.Server() != server {
		err = errors.New("the user is of another server")
	}
	if err != nil {
		return "", badResponse(server, r.name(), err)
	}
	return user, nil
}

// PolicySign asks a room's policy server to sign an event. The result is the
// policy server's signatures, by server and key.
//
// spec: server-server §20, POST /_matrix/policy/v1/sign
func (c *Client) PolicySign(ctx context.Context, server id.Server, pdu json.RawMessage) (map[id.Server]map[id.KeyID]string, error) {
	var out map[id.Server]map[id.KeyID]string
	err := c.DoJSON(ctx, Request{
		Destination: server, Method: http.MethodPost, Body: pdu, MaxResponse: maxElement,
		Path: "/_matrix/policy/v1/sign",
	}, &out)
	return out, err
}
