package fedclient

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"weft/matrix/id"
)

const (
	// maxKeyResponse bounds a response of device or one-time keys, in bytes.
	maxKeyResponse = 32 << 20
	// maxUserDevices bounds the devices of one user.
	maxUserDevices = 20_000
)

// UserDevices is the full list of a user's devices, as of StreamID.
type UserDevices struct {
	UserID         id.User         `json:"user_id"`
	StreamID       int64           `json:"stream_id"`
	Devices        []UserDevice    `json:"devices"`
	MasterKey      json.RawMessage `json:"master_key,omitempty"`
	SelfSigningKey json.RawMessage `json:"self_signing_key,omitempty"`
}

// UserDevice is one device in such a list.
type UserDevice struct {
	DeviceID    id.Device       `json:"device_id"`
	DisplayName string          `json:"device_display_name,omitempty"`
	Keys        json.RawMessage `json:"keys"`
}

// GetUserDevices fetches the list of a user's devices from the user's server.
//
// spec: server-server §18, GET /_matrix/federation/v1/user/devices/{userId}
func (c *Client) GetUserDevices(ctx context.Context, user id.User) (*UserDevices, error) {
	r := Request{
		Destination: user.Server(), Method: http.MethodGet, MaxResponse: maxKeyResponse,
		Path: path(federationV1+"/user/devices", nil, string(user)),
	}
	var out UserDevices
	if err := c.DoJSON(ctx, r, &out); err != nil {
		return nil, err
	}
	if out.UserID != user {
		return nil, badResponse(r.Destination, r.name(), fmt.Errorf("the list is of the user %q", out.UserID))
	}
	if len(out.Devices) > maxUserDevices {
		return nil, badResponse(r.Destination, r.name(), fmt.Errorf("%w: more than %d devices", ErrResponseTooLarge, maxUserDevices))
	}
	return &out, nil
}

// DeviceKeys are keys of users and their devices.
type DeviceKeys struct {
	DeviceKeys      map[id.User]map[id.Device]json.RawMessage `json:"device_keys"`
	MasterKeys      map[id.User]json.RawMessage               `json:"master_keys"`
	SelfSigningKeys map[id.User]json.RawMessage               `json:"self_signing_keys"`
}

// QueryKeys fetches keys of a server's users; no devices means all of a user's.
// Users of other servers are removed from the answer.
//
// spec: server-server §18, POST /_matrix/federation/v1/user/keys/query
func (c *Client) QueryKeys(ctx context.Context, server id.Server, want map[id.User][]id.Device) (*DeviceKeys, error) {
	body := make(map[id.User][]id.Device, len(want))
	for u, d := range want {
		if d == nil {
			d = []id.Device{}
		}
		body[u] = d
	}
	var out DeviceKeys
	err := c.DoJSON(ctx, Request{
		Destination: server, Method: http.MethodPost, MaxResponse: maxKeyResponse,
		Path: path(federationV1+"/user/keys/query", nil),
		Body: map[string]any{"device_keys": body},
	}, &out)
	if err != nil {
		return nil, err
	}
	keepAsked(out.DeviceKeys, want)
	keepAsked(out.MasterKeys, want)
	keepAsked(out.SelfSigningKeys, want)
	return &out, nil
}

// ClaimKeys claims one-time keys: want names an algorithm per device. The answer
// holds, per device, an object of key ID and key.
//
// spec: server-server §18, POST /_matrix/federation/v1/user/keys/claim
func (c *Client) ClaimKeys(ctx context.Context, server id.Server, want map[id.User]map[id.Device]string) (map[id.User]map[id.Device]json.RawMessage, error) {
	var out struct {
		Keys map[id.User]map[id.Device]json.RawMessage `json:"one_time_keys"`
	}
	err := c.DoJSON(ctx, Request{
		Destination: server, Method: http.MethodPost, MaxResponse: maxKeyResponse,
		Path: path(federationV1+"/user/keys/claim", nil),
		Body: map[string]any{"one_time_keys": want},
		// A claim that is repeated uses up another key.
		once: true,
	}, &out)
	if err != nil {
		return nil, err
	}
	keepAsked(out.Keys, want)
	return out.Keys, nil
}

// keepAsked removes the users that were not asked about.
func keepAsked[A, B any](answer map[id.User]A, want map[id.User]B) {
	for u := range answer {
		if _, ok := want[u]; !ok {
			delete(answer, u)
		}
	}
}
