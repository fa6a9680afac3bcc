package fedclient

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"weft/internal/fedclient/keyring"
	"weft/matrix/id"
)

const (
	serverKeysTimeout = 15 * time.Second
	maxServerKeys     = 128 << 10
	maxNotaryKeys     = 16 << 20
)

// ServerKeys fetches a server's own key object. It is not checked. The key ring,
// which calls this, has its own pauses, so the circuit does not count.
//
// spec: server-server §3.3.1, GET /_matrix/key/v2/server
func (c *Client) ServerKeys(ctx context.Context, server id.Server) ([]byte, error) {
	resp, err := c.Do(ctx, Request{
		Destination: server, Method: http.MethodGet, Path: "/_matrix/key/v2/server",
		Unsigned: true, SkipCircuit: true, Timeout: serverKeysTimeout, MaxResponse: maxServerKeys,
	})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

type keyList struct {
	ServerKeys []json.RawMessage `json:"server_keys"`
}

// NotaryKeys asks a notary for the keys of other servers. They are not checked.
//
// spec: server-server §3.3.2, POST /_matrix/key/v2/query
func (c *Client) NotaryKeys(ctx context.Context, notary id.Server, want keyring.Want) ([]json.RawMessage, error) {
	type criteria struct {
		MinimumValidUntilTS int64 `json:"minimum_valid_until_ts,omitempty"`
	}
	body := make(map[id.Server]map[id.KeyID]criteria, len(want))
	for server, keys := range want {
		body[server] = make(map[id.KeyID]criteria, len(keys))
		for kid, ts := range keys {
			body[server][kid] = criteria{ts}
		}
	}
	var out keyList
	err := c.DoJSON(ctx, Request{
		Destination: notary, Method: http.MethodPost, Path: "/_matrix/key/v2/query",
		Body:     map[string]any{"server_keys": body},
		Unsigned: true, SkipCircuit: true, MaxResponse: maxNotaryKeys,
	}, &out)
	return out.ServerKeys, err
}

// NotaryKeysOf asks a notary for the keys of one other server, valid until
// minValidUntil (milliseconds; 0 means now). They are not checked.
//
// spec: server-server §3.3.2, GET /_matrix/key/v2/query/{serverName}
func (c *Client) NotaryKeysOf(ctx context.Context, notary, server id.Server, minValidUntil int64) ([]json.RawMessage, error) {
	q := url.Values{}
	if minValidUntil > 0 {
		q.Set("minimum_valid_until_ts", strconv.FormatInt(minValidUntil, 10))
	}
	var out keyList
	err := c.DoJSON(ctx, Request{
		Destination: notary, Method: http.MethodGet, Path: path("/_matrix/key/v2/query", q, string(server)),
		Unsigned: true, SkipCircuit: true, MaxResponse: maxNotaryKeys,
	}, &out)
	return out.ServerKeys, err
}
