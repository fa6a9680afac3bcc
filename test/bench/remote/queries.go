package remote

import (
	"encoding/json"

	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// getVersion names the software.
//
// spec: server-server §2.2, GET /_matrix/federation/v1/version
func (s *Server) getVersion(*request) (any, error) {
	return map[string]any{"server": map[string]string{"name": "weft-bench-remote", "version": "1"}}, nil
}

// getKeys publishes the keys of the name that was asked.
//
// spec: server-server §2.3.1, GET /_matrix/key/v2/server
func (s *Server) getKeys(r *request) (any, error) {
	obj, err := r.at.keyObject(s.opts.Now())
	return json.RawMessage(obj), err
}

// queryKeysOf answers as a notary for one of the server's names.
//
// spec: server-server §2.3.2, GET /_matrix/key/v2/query/{serverName}
func (s *Server) queryKeysOf(r *request) (any, error) {
	obj, err := s.notarised(r.at, id.Server(r.PathValue("serverName")))
	if err != nil {
		return nil, err
	}
	list := []json.RawMessage{}
	if obj != nil {
		list = append(list, obj)
	}
	return map[string]any{"server_keys": list}, nil
}

// queryKeys answers as a notary for several of the server's names. Others are left
// out.
//
// spec: server-server §2.3.2, POST /_matrix/key/v2/query
func (s *Server) queryKeys(r *request) (any, error) {
	var req struct {
		ServerKeys map[id.Server]json.RawMessage `json:"server_keys"`
	}
	if err := r.decode(&req); err != nil {
		return nil, err
	}
	list := []json.RawMessage{}
	for name := range req.ServerKeys {
		obj, err := s.notarised(r.at, name)
		if err != nil {
			return nil, err
		}
		if obj != nil {
			list = append(list, obj)
		}
	}
	return map[string]any{"server_keys": list}, nil
}

// notarised gives a name's keys with the notary's signature beside its own, nil
// for names that are not the server's.
func (s *Server) notarised(notary *identity, name id.Server) (json.RawMessage, error) {
	i := s.identity(name)
	if i == nil {
		return nil, nil
	}
	obj, err := i.keyObject(s.opts.Now())
	if err != nil || i == notary {
		return obj, err
	}
	return canonical.SignJSON(obj, string(notary.name), notary.keyID, notary.key)
}

// identity finds one of the server's names, nil if it is none of them.
func (s *Server) identity(name id.Server) *identity {
	for _, i := range s.identities {
		if i.name == name {
			return i
		}
	}
	return nil
}

// ownUser demands a user of the name that was asked.
func (r *request) ownUser(text string) (id.User, error) {
	user, err := id.ParseUser(text)
	if err != nil {
		return "", err
	}
	if user.Server() != r.at.name {
		return "", merr.NotFound("%s is not a user of %s", user, r.at.name)
	}
	return user, nil
}

// queryProfile gives a user's display name, which is the localpart.
//
// spec: server-server §15, GET /_matrix/federation/v1/query/profile
func (s *Server) queryProfile(r *request) (any, error) {
	q := r.URL.Query()
	user, err := r.ownUser(q.Get("user_id"))
	if err != nil {
		return nil, err
	}
	switch q.Get("field") {
	case "", "displayname":
		return map[string]string{"displayname": user.Localpart()}, nil
	}
	return struct{}{}, nil
}

// userDevices says that a user has no devices.
//
// spec: server-server §18, GET /_matrix/federation/v1/user/devices/{userId}
func (s *Server) userDevices(r *request) (any, error) {
	user, err := r.ownUser(r.PathValue("userId"))
	if err != nil {
		return nil, err
	}
	return map[string]any{"user_id": user, "stream_id": 1, "devices": []struct{}{}}, nil
}

// userKeys says of each user that there are no devices.
//
// spec: server-server §18, POST /_matrix/federation/v1/user/keys/query
func (s *Server) userKeys(r *request) (any, error) {
	var req struct {
		DeviceKeys map[id.User]json.RawMessage `json:"device_keys"`
	}
	if err := r.decode(&req); err != nil {
		return nil, err
	}
	out := make(map[id.User]struct{}, len(req.DeviceKeys))
	for user := range req.DeviceKeys {
		out[user] = struct{}{}
	}
	return map[string]any{"device_keys": out}, nil
}

// claimKeys has no keys to give.
//
// spec: server-server §18, POST /_matrix/federation/v1/user/keys/claim
func (s *Server) claimKeys(*request) (any, error) {
	return map[string]any{"one_time_keys": struct{}{}}, nil
}
