package federationapi

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/internal/httpapi"
	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// keyValidity is how long others may use our keys before they ask again.
const keyValidity = 24 * time.Hour

// maxNotaryServers bounds the servers of one notary query.
const maxNotaryServers = 100

// cachedKeys is our signed key object, which is made anew when half its time
// has passed.
type cachedKeys struct {
	mu    sync.Mutex
	json  json.RawMessage
	fresh time.Time // until when it is served
}

// GetServerKey publishes our keys.
//
// spec: server-server §2.3.1 (Publishing Keys)
func (s *Server) GetServerKey(context.Context, *httpapi.Request) (any, error) {
	obj, err := s.ownKeys()
	if err != nil {
		return nil, err
	}
	return raw(obj), nil
}

func (s *Server) ownKeys() (json.RawMessage, error) {
	c := &s.keyJSON
	c.mu.Lock()
	defer c.mu.Unlock()
	now := s.Now()
	if now.Before(c.fresh) {
		return c.json, nil
	}
	type verify struct {
		Key     string `json:"key"`
		Expired int64  `json:"expired_ts,omitempty"`
	}
	current := s.PrivateKey.Public().(ed25519.PublicKey)
	old := map[id.KeyID]verify{}
	for _, k := range s.OldKeys {
		old[k.ID] = verify{Key: canonical.EncodeBase64(k.Public), Expired: k.Expired}
	}
	obj, err := canonical.Marshal(map[string]any{
		"server_name":     s.ServerName,
		"verify_keys":     map[id.KeyID]verify{s.KeyID: {Key: canonical.EncodeBase64(current)}},
		"old_verify_keys": old,
		"valid_until_ts":  now.Add(keyValidity).UnixMilli(),
	})
	if err != nil {
		return nil, fmt.Errorf("federationapi: own keys: %w", err)
	}
	if c.json, err = s.sign(obj); err != nil {
		return nil, err
	}
	c.fresh = now.Add(keyValidity / 2)
	return c.json, nil
}

func (s *Server) sign(obj []byte) (json.RawMessage, error) {
	signed, err := canonical.SignJSON(obj, string(s.ServerName), s.KeyID, s.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("federationapi: signing: %w", err)
	}
	return signed, nil
}

// notaryAnswer is the response of both notary endpoints.
type notaryAnswer struct {
	ServerKeys []json.RawMessage `json:"server_keys"`
}

// PerspectivesKeyQuery answers for the keys of one other server.
//
// spec: server-server §2.3.2, GET /_matrix/key/v2/query/{serverName}
func (s *Server) PerspectivesKeyQuery(ctx context.Context, r *httpapi.Request) (any, error) {
	server, err := r.ServerVar("serverName")
	if err != nil {
		return nil, err
	}
	until, err := r.QueryInt("minimum_valid_until_ts", 0, 0, 1<<53)
	if err != nil {
		return nil, err
	}
	obj, err := s.notarise(ctx, server, until)
	if err != nil {
		return nil, err
	}
	return notaryAnswer{ServerKeys: []json.RawMessage{obj}}, nil
}

// notarise gives a server's keys with our signature added.
func (s *Server) notarise(ctx context.Context, server id.Server, until int64, keys ...id.KeyID) (json.RawMessage, error) {
	if server == s.ServerName {
		return s.ownKeys()
	}
	got, err := s.Notary.ServerKeys(ctx, server, until, keys...)
	if got == nil {
		if err != nil {
			s.Log.WithError(err).WithField("server", server).Debug("no keys for a notary query")
		}
		return nil, merr.NotFound("the keys of %s could not be had", server)
	}
	return s.sign(got.JSON)
}

// BulkPerspectivesKeyQuery answers for the keys of several servers. Those whose
// keys cannot be had are left out.
//
// spec: server-server §2.3.2, POST /_matrix/key/v2/query
func (s *Server) BulkPerspectivesKeyQuery(ctx context.Context, r *httpapi.Request) (any, error) {
	var req struct {
		ServerKeys map[id.Server]map[id.KeyID]struct {
			MinValidUntil int64 `json:"minimum_valid_until_ts"`
		} `json:"server_keys"`
	}
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	if req.ServerKeys == nil {
		return nil, merr.MissingParam("server_keys is missing")
	}
	if len(req.ServerKeys) > maxNotaryServers {
		return nil, merr.TooLarge("more than %d servers in one query", maxNotaryServers)
	}
	answer := notaryAnswer{ServerKeys: []json.RawMessage{}}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for name, wanted := range req.ServerKeys {
		server, err := id.ParseServer(string(name))
		if err != nil {
			continue
		}
		var until int64
		var keys []id.KeyID
		for k, criteria := range wanted {
			until = max(until, criteria.MinValidUntil)
			keys = append(keys, k)
		}
		g.Go(func() error {
			obj, err := s.notarise(ctx, server, until, keys...)
			if err != nil {
				return nil // that server's keys are left out
			}
			mu.Lock()
			defer mu.Unlock()
			answer.ServerKeys = append(answer.ServerKeys, obj)
			return nil
		})
	}
	return answer, g.Wait()
}
