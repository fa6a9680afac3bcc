package clientapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"

	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	upsertPusher = `INSERT INTO pushers (localpart, app_id, pushkey, device_id, pusher, created_ts)
	VALUES ($1, $2, $3, $4, $5, $6)
	ON CONFLICT (localpart, app_id, pushkey) DO UPDATE
	SET device_id = excluded.device_id, pusher = excluded.pusher, created_ts = excluded.created_ts`
	selectPushers         = `SELECT pusher FROM pushers WHERE localpart = $1 ORDER BY created_ts, app_id, pushkey`
	countPushers          = `SELECT COUNT(*) FROM pushers WHERE localpart = $1`
	deletePusher          = `DELETE FROM pushers WHERE localpart = $1 AND app_id = $2 AND pushkey = $3`
	deletePushersOfOthers = `DELETE FROM pushers WHERE app_id = $1 AND pushkey = $2 AND localpart <> $3`
	deletePushersOfDevice = `DELETE FROM pushers WHERE localpart = $1 AND device_id = $2`
)

// maxPushers bounds the pushers of a user.
const maxPushers = 100

// pusher is a pusher as clients set and see it.
//
// spec: client-server §10.11.1 (Push overview), POST /pushers/set
type pusher struct {
	AppDisplayName    string          `json:"app_display_name"`
	AppID             string          `json:"app_id"`
	Data              json.RawMessage `json:"data"`
	DeviceDisplayName string          `json:"device_display_name"`
	Kind              string          `json:"kind"`
	Lang              string          `json:"lang"`
	ProfileTag        string          `json:"profile_tag,omitempty"`
	Pushkey           string          `json:"pushkey"`
}

// GetPushers is GET /pushers.
func (s *Server) GetPushers(ctx context.Context, r *httpapi.Request) (any, error) {
	rows, err := s.db.Query(ctx, selectPushers, r.Session.User.Localpart())
	if err != nil {
		return nil, fmt.Errorf("listing pushers: %w", err)
	}
	defer rows.Close()
	list := []json.RawMessage{}
	for rows.Next() {
		var p string
		if err := rows.Scan(&p); err != nil {
			return nil, fmt.Errorf("reading a pusher: %w", err)
		}
		list = append(list, json.RawMessage(p))
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("listing pushers: %w", err)
	}
	return map[string]any{"pushers": list}, nil
}

// PostPusher is POST /pushers/set.
func (s *Server) PostPusher(ctx context.Context, r *httpapi.Request) (any, error) {
	var req struct {
		pusher
		Kind   *string `json:"kind"`
		Append bool    `json:"append"`
	}
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	if req.AppID == "" || req.Pushkey == "" {
		return nil, merr.MissingParam("app_id and pushkey are needed")
	}
	// spec: app_id at most 64 characters, pushkey at most 512 bytes
	if err := checkText("app_id", req.AppID, 64*4); err != nil {
		return nil, err
	}
	if err := checkText("pushkey", req.Pushkey, 512); err != nil {
		return nil, err
	}
	user := r.Session.User
	if req.Kind == nil {
		_, err := s.db.Exec(ctx, deletePusher, user.Localpart(), req.AppID, req.Pushkey)
		if err != nil {
			return nil, fmt.Errorf("deleting a pusher: %w", err)
		}
		return nil, nil
	}
	req.pusher.Kind = *req.Kind
	if err := checkPusher(req.pusher); err != nil {
		return nil, err
	}
	return nil, s.storePusher(ctx, user, r.Session.Device, req.pusher, req.Append)
}

func checkPusher(p pusher) error {
	if p.AppDisplayName == "" || p.DeviceDisplayName == "" || p.Lang == "" || p.Data == nil {
		return merr.MissingParam("app_display_name, device_display_name, lang and data are needed")
	}
	if p.Kind != "http" {
		return merr.InvalidParam("this server has pushers of kind http only, not %q", p.Kind)
	}
	var data struct {
		URL *string `json:"url"`
	}
	if err := json.Unmarshal(p.Data, &data); err != nil {
		return merr.BadJSON("data is not an object with a string url")
	}
	if data.URL == nil {
		return merr.MissingParam("data.url is missing")
	}
	// spec: client-server §10.11.1 (PusherData): an HTTPS URL of this path
	u, err := url.Parse(*data.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Path != "/_matrix/push/v1/notify" {
		return merr.InvalidParam("data.url is not an HTTPS URL with the path /_matrix/push/v1/notify")
	}
	return nil
}

func (s *Server) storePusher(ctx context.Context, user id.User, device id.Device, p pusher, keepOthers bool) error {
	body, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("writing a pusher: %w", err)
	}
	if len(body) > maxRule {
		return merr.TooLarge("a pusher may have %d bytes", maxRule)
	}
	return s.db.Update(ctx, func(tx *sqldb.Tx) error {
		if !keepOthers {
			if _, err := tx.Exec(ctx, deletePushersOfOthers, p.AppID, p.Pushkey, user.Localpart()); err != nil {
				return fmt.Errorf("replacing a pusher: %w", err)
			}
		}
		_, err := tx.Exec(ctx, upsertPusher, user.Localpart(), p.AppID, p.Pushkey, string(device), string(body), s.nowMS())
		if err != nil {
			return fmt.Errorf("storing a pusher: %w", err)
		}
		var n int64
		if err := tx.QueryRow(ctx, countPushers, user.Localpart()).Scan(&n); err != nil {
			return fmt.Errorf("counting pushers: %w", err)
		}
		if n > maxPushers {
			return merr.ResourceLimitExceeded("the account has %d pushers already", maxPushers)
		}
		return nil
	})
}
