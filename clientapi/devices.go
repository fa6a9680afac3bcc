package clientapi

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"weft/clientapi/api"
	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	insertDevice = `INSERT INTO devices
	(localpart, device_id, display_name, created_ts, last_seen_ts, last_seen_ip, last_seen_agent)
	VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (localpart, device_id) DO NOTHING`
	selectDevices = `SELECT device_id, display_name, last_seen_ts, last_seen_ip FROM devices
	WHERE localpart = $1 ORDER BY created_ts, device_id`
	selectDevice = `SELECT device_id, display_name, last_seen_ts, last_seen_ip FROM devices
	WHERE localpart = $1 AND device_id = $2`
	countDevices     = `SELECT COUNT(*) FROM devices WHERE localpart = $1`
	updateDeviceName = `UPDATE devices SET display_name = $1 WHERE localpart = $2 AND device_id = $3`
	updateLastSeen   = `UPDATE devices SET last_seen_ts = $1, last_seen_ip = $2, last_seen_agent = $3
	WHERE localpart = $4 AND device_id = $5 AND last_seen_ts < $6`
	deleteDevice = `DELETE FROM devices WHERE localpart = $1 AND device_id = $2`
)

const (
	maxDeviceID   = 255
	maxDeviceName = 255
	// maxDevices bounds the devices of a user: each costs every other member
	// of the user's encrypted rooms.
	maxDevices = 2000
	// maxDeviceList bounds POST /delete_devices.
	maxDeviceList = 2000
)

// createDevice stores a device; it reports false where it was there already.
func (s *Server) createDevice(ctx context.Context, tx *sqldb.Tx, n newSession, device id.Device) (bool, error) {
	if err := checkText("device_id", string(device), maxDeviceID); err != nil {
		return false, err
	}
	if err := checkText("initial_device_display_name", n.display, maxDeviceName); err != nil {
		return false, err
	}
	res, err := tx.Exec(ctx, insertDevice, n.localpart, string(device), n.display, s.nowMS(), s.nowMS(), n.address, n.agent)
	if err != nil {
		return false, fmt.Errorf("storing a device: %w", err)
	}
	added, err := res.RowsAffected()
	if err != nil {
		return false, fmt.Errorf("storing a device: %w", err)
	}
	if added == 0 {
		return false, nil
	}
	var count int64
	if err := tx.QueryRow(ctx, countDevices, n.localpart).Scan(&count); err != nil {
		return false, fmt.Errorf("counting devices: %w", err)
	}
	if count > maxDevices {
		return false, merr.ResourceLimitExceeded("the account has %d devices already", maxDevices)
	}
	return true, nil
}

func listDevices(ctx context.Context, q sqldb.Querier, localpart string) ([]api.Device, error) {
	rows, err := q.Query(ctx, selectDevices, localpart)
	if err != nil {
		return nil, fmt.Errorf("listing devices: %w", err)
	}
	defer rows.Close()
	devices := []api.Device{}
	for rows.Next() {
		var d api.Device
		if err := rows.Scan(&d.ID, &d.DisplayName, &d.LastSeenTS, &d.LastSeenIP); err != nil {
			return nil, fmt.Errorf("reading a device: %w", err)
		}
		devices = append(devices, d)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("listing devices: %w", err)
	}
	return devices, nil
}

// ListDevices implements api.Accounts.
func (s *Server) ListDevices(ctx context.Context, user id.User) ([]api.Device, error) {
	if !s.isLocal(user) {
		return nil, merr.NotFound("%s is no user of this server", user)
	}
	devices, err := listDevices(ctx, s.db, user.Localpart())
	if err != nil {
		return nil, err
	}
	for i, d := range devices {
		if seen, ok := s.lastSeen.get(user, d.ID); ok && seen.ts > d.LastSeenTS {
			devices[i].LastSeenTS, devices[i].LastSeenIP = seen.ts, seen.ip
		}
	}
	return devices, nil
}

func (s *Server) getDevice(ctx context.Context, user id.User, device id.Device) (api.Device, error) {
	var d api.Device
	err := s.db.QueryRow(ctx, selectDevice, user.Localpart(), string(device)).
		Scan(&d.ID, &d.DisplayName, &d.LastSeenTS, &d.LastSeenIP)
	if errors.Is(err, sql.ErrNoRows) {
		return d, merr.NotFound("there is no device %q", string(device))
	}
	if err != nil {
		return d, fmt.Errorf("reading a device: %w", err)
	}
	if seen, ok := s.lastSeen.get(user, d.ID); ok && seen.ts > d.LastSeenTS {
		d.LastSeenTS, d.LastSeenIP = seen.ts, seen.ip
	}
	return d, nil
}

// removeDevices ends devices with their tokens, pushers, keys and messages.
// Keys go first: where that fails nothing has changed for the client, which
// tries again.
func (s *Server) removeDevices(ctx context.Context, user id.User, devices []id.Device) error {
	if len(devices) == 0 {
		return nil
	}
	if err := s.cfg.Keys.DeleteDevices(ctx, user, devices); err != nil {
		return fmt.Errorf("deleting the keys of devices: %w", err)
	}
	localpart := user.Localpart()
	return s.db.Update(ctx, func(tx *sqldb.Tx) error {
		for _, d := range devices {
			if err := s.endTokens(ctx, tx, deleteTokensOfDevice, localpart, string(d)); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, deletePushersOfDevice, localpart, string(d)); err != nil {
				return fmt.Errorf("deleting a device's pushers: %w", err)
			}
			if _, err := tx.Exec(ctx, deleteDevice, localpart, string(d)); err != nil {
				return fmt.Errorf("deleting a device: %w", err)
			}
		}
		return nil
	})
}

// deviceJSON is a device as its owner sees it.
//
// spec: client-server §10.8 (Device)
type deviceJSON struct {
	ID          id.Device `json:"device_id"`
	DisplayName string    `json:"display_name,omitempty"`
	LastSeenIP  string    `json:"last_seen_ip,omitempty"`
	LastSeenTS  int64     `json:"last_seen_ts,omitempty"`
}

func toDeviceJSON(d api.Device) deviceJSON {
	return deviceJSON{ID: d.ID, DisplayName: d.DisplayName, LastSeenIP: d.LastSeenIP, LastSeenTS: d.LastSeenTS}
}

// GetDevices is GET /devices.
func (s *Server) GetDevices(ctx context.Context, r *httpapi.Request) (any, error) {
	devices, err := s.ListDevices(ctx, r.Session.User)
	if err != nil {
		return nil, err
	}
	out := make([]deviceJSON, 0, len(devices))
	for _, d := range devices {
		out = append(out, toDeviceJSON(d))
	}
	return map[string]any{"devices": out}, nil
}

// GetDevice is GET /devices/{deviceId}.
func (s *Server) GetDevice(ctx context.Context, r *httpapi.Request) (any, error) {
	d, err := s.getDevice(ctx, r.Session.User, id.Device(r.Vars["deviceId"]))
	if err != nil {
		return nil, err
	}
	return toDeviceJSON(d), nil
}

// UpdateDevice is PUT /devices/{deviceId}. An application service may make a
// device by it.
//
// spec: application-service §2.4.2 (Device management)
func (s *Server) UpdateDevice(ctx context.Context, r *httpapi.Request) (any, error) {
	var req struct {
		DisplayName *string `json:"display_name"`
	}
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	device, user := id.Device(r.Vars["deviceId"]), r.Session.User
	name := ""
	if req.DisplayName != nil {
		name = *req.DisplayName
		if err := checkText("display_name", name, maxDeviceName); err != nil {
			return nil, err
		}
	}
	_, err := s.getDevice(ctx, user, device)
	if errors.Is(err, merr.ErrNotFound) && r.Session.Appservice != "" {
		return s.putAppserviceDevice(ctx, user, device, name)
	}
	if err != nil {
		return nil, err
	}
	if req.DisplayName == nil {
		return nil, nil
	}
	if _, err := s.db.Exec(ctx, updateDeviceName, name, user.Localpart(), string(device)); err != nil {
		return nil, fmt.Errorf("renaming a device: %w", err)
	}
	if err := s.cfg.Keys.DeviceChanged(ctx, user, device, name); err != nil {
		return nil, fmt.Errorf("telling the key server of a renamed device: %w", err)
	}
	return nil, nil
}

func (s *Server) putAppserviceDevice(ctx context.Context, user id.User, device id.Device, name string) (any, error) {
	err := s.db.Update(ctx, func(tx *sqldb.Tx) error {
		_, err := s.createDevice(ctx, tx, newSession{localpart: user.Localpart(), display: name}, device)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Keys.DeviceChanged(ctx, user, device, name); err != nil {
		return nil, fmt.Errorf("telling the key server of a new device: %w", err)
	}
	return &httpapi.Response{Status: 201, JSON: struct{}{}}, nil
}

// DeleteDevice is DELETE /devices/{deviceId}.
func (s *Server) DeleteDevice(ctx context.Context, r *httpapi.Request) (any, error) {
	device := id.Device(r.Vars["deviceId"])
	if err := s.confirmUser(ctx, r); err != nil {
		return nil, err
	}
	return nil, s.removeDevices(ctx, r.Session.User, []id.Device{device})
}

// DeleteDevices is POST /delete_devices.
func (s *Server) DeleteDevices(ctx context.Context, r *httpapi.Request) (any, error) {
	var req struct {
		Devices []id.Device `json:"devices"`
	}
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	if len(req.Devices) > maxDeviceList {
		return nil, merr.InvalidParam("at most %d devices at a time", maxDeviceList)
	}
	for _, d := range req.Devices {
		if err := checkText("devices", string(d), maxDeviceID); err != nil {
			return nil, err
		}
	}
	if err := s.confirmUser(ctx, r); err != nil {
		return nil, err
	}
	return nil, s.removeDevices(ctx, r.Session.User, req.Devices)
}

// lastSeen holds when and whence devices were last used, until it is written
// down. One request in a while per device reaches the database, not each.
type lastSeen struct {
	mu      sync.Mutex
	pending map[deviceKey]seen
}

type deviceKey struct {
	user   id.User
	device id.Device
}

type seen struct {
	ts        int64
	ip, agent string
}

// maxPendingSeen bounds lastSeen; devices beyond it wait for the next flush.
const maxPendingSeen = 50_000

func newLastSeen() *lastSeen { return &lastSeen{pending: make(map[deviceKey]seen)} }

func (l *lastSeen) note(user id.User, device id.Device, ip, agent string, now int64) {
	if device == "" {
		return
	}
	k := deviceKey{user, device}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.pending[k]; ok || len(l.pending) < maxPendingSeen {
		l.pending[k] = seen{ts: now, ip: cleanText(ip, 64), agent: cleanText(agent, 255)}
	}
}

func (l *lastSeen) get(user id.User, device id.Device) (seen, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.pending[deviceKey{user, device}]
	return s, ok
}

func (l *lastSeen) take() map[deviceKey]seen {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.pending
	l.pending = make(map[deviceKey]seen)
	return p
}

// flushBatch bounds how many devices are written in one transaction.
const flushBatch = 500

func (s *Server) flushLastSeen(ctx context.Context) error {
	var keys []deviceKey
	pending := s.lastSeen.take()
	for k := range pending {
		keys = append(keys, k)
	}
	for len(keys) > 0 {
		n := min(len(keys), flushBatch)
		err := s.db.Update(ctx, func(tx *sqldb.Tx) error {
			for _, k := range keys[:n] {
				p := pending[k]
				if _, err := tx.Exec(ctx, updateLastSeen, p.ts, p.ip, p.agent, k.user.Localpart(), string(k.device), p.ts); err != nil {
					return fmt.Errorf("writing when a device was last seen: %w", err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}
