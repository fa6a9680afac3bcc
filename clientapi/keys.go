package clientapi

import (
	"context"
	"encoding/json"

	"weft/internal/httpapi"
	keyapi "weft/keyserver/api"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	// maxKeyUsers and maxKeyDevices bound one query or claim.
	maxKeyUsers   = 5000
	maxKeyDevices = 10_000
	maxOneTime    = 1000
	// maxKeyTimeout bounds how long a query waits for other servers, in ms.
	maxKeyTimeout     = 60_000
	defaultKeyTimeout = 10_000
	maxToDevice       = 10_000 // recipients of one request
)

// UploadKeys is POST /keys/upload.
//
// spec: client-server §10.13.4 (Key management)
func (s *Server) UploadKeys(ctx context.Context, r *httpapi.Request) (any, error) {
	if r.Session.Device == "" {
		return nil, merr.MissingParam("keys belong to a device, and the session has none")
	}
	var q struct {
		DeviceKeys   json.RawMessage            `json:"device_keys"`
		OneTimeKeys  map[string]json.RawMessage `json:"one_time_keys"`
		FallbackKeys map[string]json.RawMessage `json:"fallback_keys"`
	}
	if err := r.DecodeJSON(&q); err != nil {
		return nil, err
	}
	if len(q.OneTimeKeys)+len(q.FallbackKeys) > maxOneTime {
		return nil, merr.InvalidParam("there are more than %d keys", maxOneTime)
	}
	if string(q.DeviceKeys) == "null" {
		q.DeviceKeys = nil
	}
	if q.DeviceKeys != nil {
		if err := checkDeviceKeys(r.Session, q.DeviceKeys); err != nil {
			return nil, err
		}
	}
	device, err := s.getDevice(ctx, r.Session.User, r.Session.Device)
	if err != nil {
		return nil, err
	}
	counts, err := s.cfg.Keys.UploadKeys(ctx, keyapi.UploadKeys{User: r.Session.User, Device: r.Session.Device,
		DisplayName: device.DisplayName, DeviceKeys: q.DeviceKeys, OneTimeKeys: q.OneTimeKeys, FallbackKeys: q.FallbackKeys})
	if err != nil {
		return nil, err
	}
	if counts == nil {
		counts = map[string]int{}
	}
	return map[string]any{"one_time_key_counts": counts}, nil
}

// checkDeviceKeys refuses keys that are of another user or device than the
// session's.
func checkDeviceKeys(sess httpapi.Session, raw json.RawMessage) error {
	var keys struct {
		User   id.User   `json:"user_id"`
		Device id.Device `json:"device_id"`
	}
	if err := json.Unmarshal(raw, &keys); err != nil {
		return merr.BadJSON("device_keys is no object with a user_id and a device_id")
	}
	if keys.User != sess.User || keys.Device != sess.Device {
		return merr.BadJSON("device_keys are of %q on %q, the session is of %q on %q",
			string(keys.User), string(keys.Device), string(sess.User), string(sess.Device))
	}
	return nil
}

// keyTimeout holds the timeout of a query within bounds.
func keyTimeout(ms *int64) (int64, error) {
	if ms == nil {
		return defaultKeyTimeout, nil
	}
	if *ms < 0 {
		return 0, merr.InvalidParam("timeout is negative")
	}
	return min(*ms, maxKeyTimeout), nil
}

// QueryKeys is POST /keys/query.
func (s *Server) QueryKeys(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		DeviceKeys map[string][]id.Device `json:"device_keys"`
		Timeout    *int64                 `json:"timeout"`
	}
	if err := r.DecodeJSON(&q); err != nil {
		return nil, err
	}
	if q.DeviceKeys == nil {
		return nil, merr.MissingParam("device_keys is missing")
	}
	if len(q.DeviceKeys) > maxKeyUsers {
		return nil, merr.InvalidParam("more than %d users are asked for", maxKeyUsers)
	}
	req := keyapi.QueryKeys{User: r.Session.User, Devices: make(map[id.User][]id.Device, len(q.DeviceKeys))}
	for name, devices := range q.DeviceKeys {
		user, err := id.ParseUser(name)
		if err != nil {
			return nil, merr.InvalidParam("device_keys: %q is no user ID", name)
		}
		for _, d := range devices {
			if err := checkText("device_keys", string(d), maxDeviceID); err != nil {
				return nil, err
			}
		}
		req.Devices[user] = devices
	}
	var err error
	if req.TimeoutMS, err = keyTimeout(q.Timeout); err != nil {
		return nil, err
	}
	res, err := s.cfg.Keys.QueryKeys(ctx, req)
	if err != nil {
		return nil, err
	}
	if res.DeviceKeys == nil {
		res.DeviceKeys = map[id.User]map[id.Device]json.RawMessage{}
	}
	return res, nil
}

// ClaimKeys is POST /keys/claim.
func (s *Server) ClaimKeys(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Keys    map[string]map[id.Device]string `json:"one_time_keys"`
		Timeout *int64                          `json:"timeout"`
	}
	if err := r.DecodeJSON(&q); err != nil {
		return nil, err
	}
	if q.Keys == nil {
		return nil, merr.MissingParam("one_time_keys is missing")
	}
	req := keyapi.ClaimKeys{Keys: make(map[id.User]map[id.Device]string, len(q.Keys))}
	total := 0
	for name, devices := range q.Keys {
		user, err := id.ParseUser(name)
		if err != nil {
			return nil, merr.InvalidParam("one_time_keys: %q is no user ID", name)
		}
		for d, algorithm := range devices {
			for _, text := range []string{string(d), algorithm} {
				if err := checkText("one_time_keys", text, maxDeviceID); err != nil {
					return nil, err
				}
			}
		}
		req.Keys[user] = devices
		total += len(devices)
	}
	if total > maxKeyDevices || len(q.Keys) > maxKeyUsers {
		return nil, merr.InvalidParam("more than %d keys are claimed", maxKeyDevices)
	}
	var err error
	if req.TimeoutMS, err = keyTimeout(q.Timeout); err != nil {
		return nil, err
	}
	res, err := s.cfg.Keys.ClaimKeys(ctx, req)
	if err != nil {
		return nil, err
	}
	if res.OneTimeKeys == nil {
		res.OneTimeKeys = map[id.User]map[id.Device]map[string]json.RawMessage{}
	}
	return res, nil
}

// UploadCrossSigningKeys is POST /keys/device_signing/upload. The password is
// asked for only where keys are there already and change.
//
// spec: client-server §10.13.3.2 (Cross-signing): first upload, and upload of the
// same keys, without user-interactive authentication
func (s *Server) UploadCrossSigningKeys(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Master      json.RawMessage `json:"master_key"`
		SelfSigning json.RawMessage `json:"self_signing_key"`
		UserSigning json.RawMessage `json:"user_signing_key"`
	}
	if err := r.DecodeJSON(&q); err != nil {
		return nil, err
	}
	req := keyapi.UploadCrossSigning{User: r.Session.User, Master: q.Master, SelfSigning: q.SelfSigning, UserSigning: q.UserSigning}
	exists, same, err := s.cfg.Keys.HasCrossSigning(ctx, req)
	if err != nil {
		return nil, err
	}
	if exists && !same {
		if err := s.confirmUser(ctx, r); err != nil {
			return nil, err
		}
	}
	return nil, s.cfg.Keys.UploadCrossSigning(ctx, req)
}

// UploadSignatures is POST /keys/signatures/upload.
func (s *Server) UploadSignatures(ctx context.Context, r *httpapi.Request) (any, error) {
	body, err := object(r.Body)
	if err != nil {
		return nil, err
	}
	failures, err := s.cfg.Keys.UploadSignatures(ctx, r.Session.User, body)
	if err != nil {
		return nil, err
	}
	if failures == nil {
		failures = json.RawMessage("{}")
	}
	return map[string]json.RawMessage{"failures": failures}, nil
}

// SendToDevice is PUT /sendToDevice/{eventType}/{txnId}.
func (s *Server) SendToDevice(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Messages map[string]map[id.Device]json.RawMessage `json:"messages"`
	}
	if err := r.DecodeJSON(&q); err != nil {
		return nil, err
	}
	if q.Messages == nil {
		return nil, merr.MissingParam("messages is missing")
	}
	if len(r.Vars["eventType"]) > maxEventType {
		return nil, merr.InvalidParam("the event type is longer than %d bytes", maxEventType)
	}
	req := keyapi.SendToDevice{Sender: r.Session.User, Device: txn(r, "").Device, Type: r.Vars["eventType"], TxnID: r.Vars["txnId"],
		Messages: make(map[id.User]map[id.Device]json.RawMessage, len(q.Messages))}
	total := 0
	for name, devices := range q.Messages {
		user, err := id.ParseUser(name)
		if err != nil {
			return nil, merr.InvalidParam("messages: %q is no user ID", name)
		}
		for d, content := range devices {
			if err := checkText("messages", string(d), maxDeviceID); err != nil {
				return nil, err
			}
			// Content goes to other servers in a signed request, so it needs a canonical form.
			if devices[d], err = eventContent(content); err != nil {
				return nil, err
			}
		}
		req.Messages[user] = devices
		total += len(devices)
	}
	if total > maxToDevice {
		return nil, merr.InvalidParam("there are more than %d messages", maxToDevice)
	}
	return nil, s.cfg.ToDevice.SendToDevice(ctx, req)
}
