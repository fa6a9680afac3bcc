package keyserver

import (
	"context"
	"encoding/json"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/keyserver/api"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// QueryKeys implements api.Keys.
//
// spec: client-server, POST /keys/query; server-server, POST /user/keys/query
func (s *Server) QueryKeys(ctx context.Context, req api.QueryKeys) (api.QueriedKeys, error) {
	if len(req.Devices) > maxUsersPerQuery {
		return api.QueriedKeys{}, merr.TooLarge("more than %d users in one query", maxUsersPerQuery)
	}
	out := newQueried()
	remote := map[id.Server]map[id.User][]id.Device{}
	for user, devices := range req.Devices {
		server := user.Server()
		switch {
		case server == s.ServerName:
			if err := s.queryStored(ctx, req.User, user, devices, &out); err != nil {
				return api.QueriedKeys{}, err
			}
		case req.Origin != "":
			// Other servers are answered for our own users only.
		default:
			if remote[server] == nil {
				remote[server] = map[id.User][]id.Device{}
			}
			remote[server][user] = devices
		}
	}
	var mu sync.Mutex
	err := s.askServers(ctx, req.TimeoutMS, maps.Keys(remote), func(ctx context.Context, server id.Server) error {
		answer, err := s.queryServer(ctx, req.User, server, remote[server])
		mu.Lock()
		defer mu.Unlock()
		mergeQueried(&out, answer)
		if err != nil {
			out.Failures[server] = failure(err)
			s.Log.WithError(err).WithField("destination", server).Info("could not query device keys")
		}
		return nil
	})
	return out, err
}

func newQueried() api.QueriedKeys {
	return api.QueriedKeys{
		DeviceKeys:      map[id.User]map[id.Device]json.RawMessage{},
		Failures:        map[id.Server]json.RawMessage{},
		MasterKeys:      map[id.User]json.RawMessage{},
		SelfSigningKeys: map[id.User]json.RawMessage{},
		UserSigningKeys: map[id.User]json.RawMessage{},
	}
}

func mergeQueried(dst *api.QueriedKeys, src api.QueriedKeys) {
	maps.Copy(dst.DeviceKeys, src.DeviceKeys)
	maps.Copy(dst.MasterKeys, src.MasterKeys)
	maps.Copy(dst.SelfSigningKeys, src.SelfSigningKeys)
	maps.Copy(dst.UserSigningKeys, src.UserSigningKeys)
}

// failure is what clients are told of a server that did not answer.
func failure(err error) json.RawMessage {
	raw, mErr := json.Marshal(merr.From(err))
	if mErr != nil {
		return json.RawMessage(`{}`)
	}
	return raw
}

// askServers calls fn for each server, a bounded number at a time, within the
// client's timeout.
func (s *Server) askServers(ctx context.Context, timeoutMS int64, servers func(func(id.Server) bool), fn func(context.Context, id.Server) error) error {
	timeout := time.Duration(timeoutMS) * time.Millisecond
	if timeout <= 0 {
		timeout = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, min(timeout, maxRemoteTimeout))
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(remoteConcurrency)
	for server := range servers {
		g.Go(func() error { return fn(ctx, server) })
	}
	return g.Wait()
}

// queryStored answers for one user from our tables.
func (s *Server) queryStored(ctx context.Context, viewer, user id.User, devices []id.Device, out *api.QueriedKeys) error {
	devs, err := listDevices(ctx, s.DB, user)
	if err != nil {
		return err
	}
	cross, err := listCrossSigning(ctx, s.DB, user)
	if err != nil {
		return err
	}
	sigs, err := listSignatures(ctx, s.DB, user, viewer)
	if err != nil {
		return err
	}
	wanted := map[id.Device]bool{}
	for _, d := range devices {
		wanted[d] = true
	}
	keys := map[id.Device]json.RawMessage{}
	for _, d := range devs {
		if d.keys == nil || (len(wanted) > 0 && !wanted[d.id]) {
			continue
		}
		signed, err := sigs.merge(string(d.id), d.keys)
		if err != nil {
			return err
		}
		if keys[d.id], err = withName(signed, d.name); err != nil {
			return err
		}
	}
	out.DeviceKeys[user] = keys
	for usage, k := range cross {
		key, err := sigs.merge(k.keyID, k.json)
		if err != nil {
			return err
		}
		switch {
		case usage == usageMaster:
			out.MasterKeys[user] = key
		case usage == usageSelfSigning:
			out.SelfSigningKeys[user] = key
		case viewer == user:
			out.UserSigningKeys[user] = key
		}
	}
	return nil
}

// queryServer answers for users of one other server: from the cache those whose
// lists we follow, by asking those we do not share a room with.
func (s *Server) queryServer(ctx context.Context, viewer id.User, server id.Server, users map[id.User][]id.Device) (api.QueriedKeys, error) {
	out := newQueried()
	ask := map[id.User][]id.Device{}
	var failed error
	for user, devices := range users {
		fresh, err := s.ensureFresh(ctx, user)
		if err != nil {
			failed = err
		}
		if !fresh {
			if err == nil {
				ask[user] = devices
			}
			continue
		}
		if err := s.queryStored(ctx, viewer, user, devices, &out); err != nil {
			return out, err
		}
	}
	if len(ask) == 0 {
		return out, failed
	}
	answer, err := s.askKeys(ctx, server, ask)
	if err != nil {
		return out, err
	}
	mergeQueried(&out, answer)
	return out, failed
}

// askKeys asks another server; fedclient keeps of the answer only what that
// server may say.
func (s *Server) askKeys(ctx context.Context, server id.Server, users map[id.User][]id.Device) (api.QueriedKeys, error) {
	out := newQueried()
	got, err := s.Federation.QueryKeys(ctx, server, users)
	if err != nil {
		return out, err
	}
	for user := range users {
		if keys, ok := got.DeviceKeys[user]; ok {
			out.DeviceKeys[user] = keys
		}
		if k, ok := got.MasterKeys[user]; ok {
			out.MasterKeys[user] = k
		}
		if k, ok := got.SelfSigningKeys[user]; ok {
			out.SelfSigningKeys[user] = k
		}
	}
	return out, nil
}

// ClaimKeys implements api.Keys.
//
// spec: client-server, POST /keys/claim; server-server, POST /user/keys/claim
func (s *Server) ClaimKeys(ctx context.Context, req api.ClaimKeys) (api.ClaimedKeys, error) {
	if len(req.Keys) > maxUsersPerQuery {
		return api.ClaimedKeys{}, merr.TooLarge("more than %d users in one claim", maxUsersPerQuery)
	}
	out := api.ClaimedKeys{
		OneTimeKeys: map[id.User]map[id.Device]map[string]json.RawMessage{},
		Failures:    map[id.Server]json.RawMessage{},
	}
	remote := map[id.Server]map[id.User]map[id.Device]string{}
	for user, devices := range req.Keys {
		server := user.Server()
		switch {
		case server == s.ServerName:
			if err := s.claimDevices(ctx, user, devices, &out); err != nil {
				return api.ClaimedKeys{}, err
			}
		case req.Origin != "":
		default:
			if remote[server] == nil {
				remote[server] = map[id.User]map[id.Device]string{}
			}
			remote[server][user] = devices
		}
	}
	var mu sync.Mutex
	err := s.askServers(ctx, req.TimeoutMS, maps.Keys(remote), func(ctx context.Context, server id.Server) error {
		keys, err := s.claimServer(ctx, server, remote[server])
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			out.Failures[server] = failure(err)
			s.Log.WithError(err).WithField("destination", server).Info("could not claim one-time keys")
			return nil
		}
		maps.Copy(out.OneTimeKeys, keys)
		return nil
	})
	return out, err
}

func (s *Server) claimDevices(ctx context.Context, user id.User, devices map[id.Device]string, out *api.ClaimedKeys) error {
	for dev, alg := range devices {
		keyID, key, err := s.claimLocal(ctx, user, dev, alg)
		if err != nil {
			return err
		}
		if key == nil {
			continue
		}
		if out.OneTimeKeys[user] == nil {
			out.OneTimeKeys[user] = map[id.Device]map[string]json.RawMessage{}
		}
		out.OneTimeKeys[user][dev] = map[string]json.RawMessage{alg + ":" + keyID: key}
	}
	return nil
}

// claimServer claims keys of one other server's users.
func (s *Server) claimServer(ctx context.Context, server id.Server, want map[id.User]map[id.Device]string) (map[id.User]map[id.Device]map[string]json.RawMessage, error) {
	got, err := s.Federation.ClaimKeys(ctx, server, want)
	if err != nil {
		return nil, err
	}
	out := map[id.User]map[id.Device]map[string]json.RawMessage{}
	for user, devices := range want {
		for dev := range devices {
			var keys map[string]json.RawMessage
			if raw, ok := got[user][dev]; !ok || json.Unmarshal(raw, &keys) != nil {
				continue // nothing usable was given for this device
			}
			if out[user] == nil {
				out[user] = map[id.Device]map[string]json.RawMessage{}
			}
			out[user][dev] = keys
		}
	}
	return out, nil
}
