package keyserver

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tidwall/gjson"

	"weft/internal/bus"
	"weft/internal/sqldb"
	"weft/internal/stream"
	"weft/keyserver/api"
	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	upsertDeviceNameSQL = `INSERT INTO key_devices (user_id, device_id, display_name) VALUES ($1, $2, $3)
		ON CONFLICT (user_id, device_id) DO UPDATE SET display_name = excluded.display_name`
	upsertDeviceKeysSQL = `INSERT INTO key_devices (user_id, device_id, display_name, keys) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id, device_id) DO UPDATE SET keys = excluded.keys`
	replaceDeviceSQL = `INSERT INTO key_devices (user_id, device_id, display_name, keys) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id, device_id) DO UPDATE SET display_name = excluded.display_name, keys = excluded.keys`
	selectDeviceSQL  = `SELECT display_name, keys FROM key_devices WHERE user_id = $1 AND device_id = $2`
	selectDevicesSQL = `SELECT device_id, display_name, keys FROM key_devices WHERE user_id = $1 ORDER BY device_id`
	deleteDeviceSQL  = `DELETE FROM key_devices WHERE user_id = $1 AND device_id = $2`
	deleteDevicesSQL = `DELETE FROM key_devices WHERE user_id = $1`
)

// device is a row of key_devices; keys is nil for a device without keys.
type device struct {
	id   id.Device
	name string
	keys []byte
}

// UploadKeys implements api.Keys.
//
// spec: client-server §10.11.1.2 (Key management API), POST /keys/upload
func (s *Server) UploadKeys(ctx context.Context, req api.UploadKeys) (map[string]int, error) {
	var keys []byte
	if len(req.DeviceKeys) > 0 {
		var err error
		if keys, err = checkDeviceKeys(req); err != nil {
			return nil, err
		}
	}
	oneTime, err := parseOneTimeKeys(req.OneTimeKeys)
	if err != nil {
		return nil, err
	}
	fallback, err := parseOneTimeKeys(req.FallbackKeys)
	if err != nil {
		return nil, err
	}
	var counts map[string]int
	var changed *listChange
	update := s.DB.Update // one-time keys alone wait for nobody who moves device lists
	if keys != nil {
		update = s.lists.Update
	}
	err = update(ctx, func(tx *sqldb.Tx) (err error) {
		if changed, err = s.storeDeviceKeys(ctx, tx, req, keys); err != nil {
			return err
		}
		if len(oneTime)+len(fallback) > 0 {
			s.recount(tx, req.User, req.Device)
		}
		if err := insertOneTimeKeys(ctx, tx, req.User, req.Device, oneTime); err != nil {
			return err
		}
		if err := replaceFallbackKeys(ctx, tx, req.User, req.Device, fallback); err != nil {
			return err
		}
		counts, err = oneTimeCounts(ctx, tx, req.User, req.Device)
		if err == nil && len(oneTime) > 0 {
			err = checkOneTimeCounts(counts)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if changed != nil {
		if err := s.announceDevice(ctx, *changed); err != nil {
			return nil, err
		}
	}
	return counts, nil
}

// storeDeviceKeys stores a device's keys where they are new; keys is nil where none were uploaded.
func (s *Server) storeDeviceKeys(ctx context.Context, tx *sqldb.Tx, req api.UploadKeys, keys []byte) (*listChange, error) {
	if keys == nil {
		return nil, nil
	}
	d, err := getDevice(ctx, tx, req.User, req.Device)
	if err != nil {
		return nil, err
	}
	if d != nil && string(d.keys) == string(keys) {
		return nil, nil
	}
	changed, err := s.markChanged(ctx, tx, req.User, req.Device)
	if err != nil {
		return nil, err
	}
	// A device that is there keeps its name.
	if _, err := tx.Exec(ctx, upsertDeviceKeysSQL, string(req.User), string(req.Device), req.DisplayName, keys); err != nil {
		return nil, fmt.Errorf("keyserver: storing device keys: %w", err)
	}
	return changed, nil
}

// checkDeviceKeys gives the canonical form of device keys that belong to the
// device which uploads them.
func checkDeviceKeys(req api.UploadKeys) ([]byte, error) {
	if len(req.DeviceKeys) > maxKeyBytes {
		return nil, merr.TooLarge("device_keys is larger than %d bytes", maxKeyBytes)
	}
	keys, err := canonical.Canonical(req.DeviceKeys)
	if err != nil {
		return nil, merr.BadJSON("device_keys: %v", err)
	}
	doc := gjson.ParseBytes(keys)
	if !doc.IsObject() {
		return nil, merr.BadJSON("device_keys is not an object")
	}
	if u := doc.Get("user_id"); u.String() != string(req.User) {
		return nil, merr.InvalidParam("device_keys.user_id is %q, you are %s", u.String(), req.User)
	}
	if d := doc.Get("device_id"); d.String() != string(req.Device) {
		return nil, merr.InvalidParam("device_keys.device_id is %q, your device is %q", d.String(), req.Device)
	}
	if !doc.Get("keys").IsObject() || !doc.Get("algorithms").IsArray() {
		return nil, merr.BadJSON("device_keys needs an object `keys` and a list `algorithms`")
	}
	return keys, nil
}

func getDevice(ctx context.Context, q sqldb.Querier, user id.User, dev id.Device) (*device, error) {
	d := device{id: dev}
	err := q.QueryRow(ctx, selectDeviceSQL, string(user), string(dev)).Scan(&d.name, &d.keys)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("keyserver: reading device %s of %s: %w", dev, user, err)
	}
	return &d, nil
}

func listDevices(ctx context.Context, q sqldb.Querier, user id.User) (devs []device, err error) {
	rows, err := q.Query(ctx, selectDevicesSQL, string(user))
	if err != nil {
		return nil, fmt.Errorf("keyserver: reading devices of %s: %w", user, err)
	}
	defer rows.Close()
	for rows.Next() {
		var d device
		if err := rows.Scan(&d.id, &d.name, &d.keys); err != nil {
			return nil, fmt.Errorf("keyserver: reading devices of %s: %w", user, err)
		}
		devs = append(devs, d)
	}
	return devs, rows.Err()
}

// DeviceChanged implements api.Keys.
func (s *Server) DeviceChanged(ctx context.Context, user id.User, dev id.Device, displayName string) error {
	var changed *listChange
	err := s.lists.Update(ctx, func(tx *sqldb.Tx) error {
		changed = nil
		d, err := getDevice(ctx, tx, user, dev)
		if err != nil {
			return err
		}
		if d != nil && d.name == displayName {
			return nil
		}
		if changed, err = s.markChanged(ctx, tx, user, dev); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, upsertDeviceNameSQL, string(user), string(dev), displayName); err != nil {
			return fmt.Errorf("keyserver: naming device: %w", err)
		}
		return nil
	})
	if err != nil || changed == nil {
		return err
	}
	return s.announceDevice(ctx, *changed)
}

// DeleteDevices implements api.Keys.
func (s *Server) DeleteDevices(ctx context.Context, user id.User, devices []id.Device) error {
	for _, dev := range devices {
		var changed *listChange
		err := s.lists.Update(ctx, func(tx *sqldb.Tx) (err error) {
			s.recount(tx, user, dev)
			if changed, err = s.markChanged(ctx, tx, user, dev); err != nil {
				return err
			}
			for _, q := range []string{deleteDeviceSQL, deleteDeviceOneTimeSQL, deleteDeviceFallbackSQL, deleteDeviceMessagesSQL, deleteDeviceSeenSQL} {
				if _, err := tx.Exec(ctx, q, string(user), string(dev)); err != nil {
					return fmt.Errorf("keyserver: deleting device: %w", err)
				}
			}
			if _, err := tx.Exec(ctx, deleteDeviceClaimedSQL, deviceHash(user, dev)); err != nil {
				return fmt.Errorf("keyserver: deleting device: %w", err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := s.announceDevice(ctx, *changed); err != nil {
			return err
		}
	}
	return nil
}

// listChange is a user's place in the sequence of its device-list updates.
type listChange struct {
	user      id.User
	device    id.Device // what changed; empty: not a device
	pos, prev int64     // prev 0: the first of the sequence
}

const (
	selectAnnouncedSQL = `SELECT announced, announced_prev, announced_device FROM key_list_changes WHERE user_id = $1`
	upsertListPosSQL   = `INSERT INTO key_list_changes (user_id, pos, announced, announced_prev, announced_device) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (user_id) DO UPDATE SET pos = excluded.pos, announced = excluded.announced,
		announced_prev = excluded.announced_prev, announced_device = excluded.announced_device`
	selectListChangedSQL = `SELECT user_id FROM key_list_changes WHERE pos > $1 AND pos <= $2 ORDER BY pos`
)

// lastAnnounced gives the last change of a user's devices that was told to other
// servers; its pos is 0 where there is none.
func lastAnnounced(ctx context.Context, q sqldb.Querier, user id.User) (listChange, error) {
	c := listChange{user: user}
	err := q.QueryRow(ctx, selectAnnouncedSQL, string(user)).Scan(&c.pos, &c.prev, &c.device)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return c, fmt.Errorf("keyserver: reading device list position: %w", err)
	}
	return c, nil
}

// markChanged moves the user to the end of the device-list stream and wakes
// those who wait for it after the commit. A change of a local user's device will be
// told to other servers by an m.device_list_update, whose sequence must have no
// gaps; dev is empty for any other change.
//
// Taking the position locks out, until the transaction ends, all others who change
// device lists, on any node. So it comes before the other writes, or two nodes may wait
// for each other; and what it must agree with is read after it: a copy read before may be old.
func (s *Server) markChanged(ctx context.Context, tx *sqldb.Tx, user id.User, dev id.Device) (*listChange, error) {
	pos, err := stream.Advance(ctx, tx, stream.DeviceLists, 1)
	if err != nil {
		return nil, err
	}
	last, err := lastAnnounced(ctx, tx, user)
	if err != nil {
		return nil, err
	}
	c := listChange{user: user, device: dev, pos: pos, prev: last.pos}
	if dev != "" {
		last = c
	}
	if _, err := tx.Exec(ctx, upsertListPosSQL, string(user), c.pos, last.pos, last.prev, string(last.device)); err != nil {
		return nil, fmt.Errorf("keyserver: moving device list position: %w", err)
	}
	tx.OnCommit(func() {
		bus.PublishUpdate(s.Bus, bus.Update{Stream: stream.DeviceLists, Pos: c.pos, Users: []string{string(user)}})
	})
	return &c, nil
}

// ListChanged implements api.Keys.
func (s *Server) ListChanged(ctx context.Context, from, to int64) ([]id.User, error) {
	rows, err := s.DB.Query(ctx, selectListChangedSQL, from, to)
	if err != nil {
		return nil, fmt.Errorf("keyserver: listing changed device lists: %w", err)
	}
	defer rows.Close()
	var users []id.User
	for rows.Next() {
		var u id.User
		if err := rows.Scan(&u); err != nil {
			return nil, fmt.Errorf("keyserver: listing changed device lists: %w", err)
		}
		users = append(users, u)
	}
	return users, rows.Err()
}

// withName adds the display name to device keys, as clients see it.
//
// spec: client-server, POST /keys/query (unsigned.device_display_name)
func withName(keys []byte, name string) (json.RawMessage, error) {
	if name == "" {
		return keys, nil
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(keys, &doc); err != nil {
		return nil, fmt.Errorf("keyserver: stored device keys: %w", err)
	}
	unsigned, err := json.Marshal(map[string]string{"device_display_name": name})
	if err != nil {
		return nil, fmt.Errorf("keyserver: display name: %w", err)
	}
	doc["unsigned"] = unsigned
	out, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("keyserver: device keys: %w", err)
	}
	return out, nil
}
