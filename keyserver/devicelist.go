package keyserver

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	fedapi "weft/federationapi/api"
	"weft/internal/fedclient"
	"weft/internal/sqldb"
	"weft/internal/stream"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// The revision of a remote list goes up with each update that arrives and each fetch that is stored. A fetch is
// stored only where it is still the one from before the other server was asked.
const (
	selectRemoteListSQL = `SELECT stream_id, stale, events_pos, revision FROM key_remote_lists WHERE user_id = $1`
	reviseRemoteListSQL = `UPDATE key_remote_lists SET revision = revision + 1 WHERE user_id = $1 RETURNING stream_id, stale`
	storeRemoteListSQL  = `UPDATE key_remote_lists SET stream_id = $2, stale = 0, events_pos = $3, revision = revision + 1
		WHERE user_id = $1 AND revision = $4`
	continueListSQL = `UPDATE key_remote_lists SET stream_id = $2 WHERE user_id = $1`
	insertStaleSQL  = `INSERT INTO key_remote_lists (user_id, stream_id, stale) VALUES ($1, $2, 1) ON CONFLICT (user_id) DO NOTHING`
	followListSQL   = `INSERT INTO key_remote_lists (user_id, stream_id, stale) VALUES ($1, 0, 1)
		ON CONFLICT (user_id) DO UPDATE SET user_id = excluded.user_id RETURNING revision`
	markStaleSQL        = `UPDATE key_remote_lists SET stale = 1 WHERE user_id = $1`
	deleteRemoteListSQL = `DELETE FROM key_remote_lists WHERE user_id = $1`
	deleteCrossAllSQL   = `DELETE FROM key_cross_signing WHERE user_id = $1`
)

// The EDUs of device lists.
const (
	eduDeviceList = "m.device_list_update"
	eduSigningKey = "m.signing_key_update"
)

// deviceListUpdate is the content of m.device_list_update.
type deviceListUpdate struct {
	UserID      id.User         `json:"user_id"`
	DeviceID    id.Device       `json:"device_id"`
	DisplayName string          `json:"device_display_name,omitempty"`
	StreamID    int64           `json:"stream_id"`
	PrevID      []int64         `json:"prev_id,omitempty"`
	Deleted     bool            `json:"deleted,omitempty"`
	Keys        json.RawMessage `json:"keys,omitempty"`
}

// signingKeyUpdate is the content of m.signing_key_update.
type signingKeyUpdate struct {
	UserID      id.User         `json:"user_id"`
	Master      json.RawMessage `json:"master_key,omitempty"`
	SelfSigning json.RawMessage `json:"self_signing_key,omitempty"`
}

// announceDevice tells the servers that share a room with the user of one
// device's change.
//
// spec: server-server §13 (Device Management)
func (s *Server) announceDevice(ctx context.Context, c listChange) error {
	u, err := s.deviceUpdate(ctx, c)
	if err != nil {
		return err
	}
	return s.announce(ctx, c.user, eduDeviceList, u)
}

// deviceUpdate tells of a device that changed as it is now.
func (s *Server) deviceUpdate(ctx context.Context, c listChange) (deviceListUpdate, error) {
	u := deviceListUpdate{UserID: c.user, DeviceID: c.device, StreamID: c.pos}
	if c.prev != 0 {
		u.PrevID = []int64{c.prev}
	}
	d, err := getDevice(ctx, s.DB, c.user, c.device)
	if err != nil {
		return u, err
	}
	if d == nil {
		u.Deleted = true
		return u, nil
	}
	if u.DisplayName = d.name; d.keys == nil {
		return u, nil
	}
	sigs, err := listSignatures(ctx, s.DB, c.user, "")
	if err == nil {
		u.Keys, err = sigs.merge(string(c.device), d.keys)
	}
	return u, err
}

// JoinedRoom implements api.Keys. Those servers get the latest update once more. They do
// not know what it follows, and fetch the whole list; then they have its place in
// the sequence. To all others nothing has changed.
//
// spec: server-server §13 (Device Management: "when that user joins a room which contains servers which are
// not already receiving updates for that user's device list")
func (s *Server) JoinedRoom(ctx context.Context, user id.User, room id.Room) error {
	servers, err := s.Rooms.ServersNewTo(ctx, user, room)
	if err != nil {
		return err
	}
	last, err := lastAnnounced(ctx, s.DB, user)
	if err != nil || last.pos == 0 {
		return err
	}
	u, err := s.deviceUpdate(ctx, last)
	if err != nil {
		return err
	}
	return s.announceTo(ctx, servers, eduDeviceList, u)
}

// announceSigningKeys tells other servers of a user's public cross-signing keys.
func (s *Server) announceSigningKeys(ctx context.Context, user id.User) error {
	own := newQueried()
	if err := s.queryStored(ctx, "", user, nil, &own); err != nil {
		return err
	}
	return s.announce(ctx, user, eduSigningKey, signingKeyUpdate{
		UserID: user, Master: own.MasterKeys[user], SelfSigning: own.SelfSigningKeys[user],
	})
}

func (s *Server) announce(ctx context.Context, user id.User, typ string, content any) error {
	servers, err := s.Rooms.ServersSharingRoomsWith(ctx, user)
	if err != nil {
		return err
	}
	return s.announceTo(ctx, servers, typ, content)
}

func (s *Server) announceTo(ctx context.Context, servers []id.Server, typ string, content any) error {
	servers = slices.DeleteFunc(slices.Clone(servers), func(o id.Server) bool { return o == s.ServerName })
	if len(servers) == 0 {
		return nil
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("keyserver: %s: %w", typ, err)
	}
	return s.Outbound.SendEDU(ctx, fedapi.EDU{Type: typ, Content: raw, Destinations: servers, Durable: true})
}

// GetUserDevices implements api.Keys.
func (s *Server) GetUserDevices(ctx context.Context, user id.User) (json.RawMessage, error) {
	if !s.local(user) {
		return nil, merr.NotFound("%s is not a user of this server", user)
	}
	out := fedclient.UserDevices{UserID: user, Devices: []fedclient.UserDevice{}}
	// The position is read first: a change in between is then announced again
	// rather than lost.
	last, err := lastAnnounced(ctx, s.DB, user)
	if err != nil {
		return nil, err
	}
	out.StreamID = last.pos
	own := newQueried()
	if err := s.queryStored(ctx, "", user, nil, &own); err != nil {
		return nil, err
	}
	devs, err := listDevices(ctx, s.DB, user)
	if err != nil {
		return nil, err
	}
	for _, d := range devs {
		if keys, ok := own.DeviceKeys[user][d.id]; ok {
			out.Devices = append(out.Devices, fedclient.UserDevice{DeviceID: d.id, DisplayName: d.name, Keys: keys})
		}
	}
	out.MasterKey, out.SelfSigningKey = own.MasterKeys[user], own.SelfSigningKeys[user]
	return json.Marshal(out)
}

// ensureFresh makes the cached list of a remote user current where we may keep
// one. fresh is false where no local user shares a room with the user: nobody
// would send us updates then. For the same reason a list from before the present
// sharing began is fetched again. It is false too where an update arrived, here or on
// another node, while the list was fetched: then nobody knows which is newer.
func (s *Server) ensureFresh(ctx context.Context, user id.User) (fresh bool, err error) {
	since, shares, err := s.Rooms.SharedSince(ctx, user)
	if err != nil {
		return false, err
	}
	if !shares {
		_, err := s.DB.Exec(ctx, deleteRemoteListSQL, string(user))
		return false, err
	}
	var streamID, stale, at, revision int64
	err = s.DB.QueryRow(ctx, selectRemoteListSQL, string(user)).Scan(&streamID, &stale, &at, &revision)
	if err == nil && stale == 0 && at >= since {
		return true, nil
	}
	if errors.Is(err, sql.ErrNoRows) {
		revision, err = s.followList(ctx, user)
	}
	if err != nil {
		return false, fmt.Errorf("keyserver: reading remote device list: %w", err)
	}
	// The position is read before the list: what changes in between counts as
	// later, and is fetched once more rather than missed.
	if at, err = stream.Position(ctx, s.DB, stream.Events); err != nil {
		return false, err
	}
	list, err := s.Federation.GetUserDevices(ctx, user)
	if err != nil {
		return false, err
	}
	return s.storeRemoteList(ctx, user, list, at, revision)
}

// followList makes updates of a remote user's list noticed from now on, before it is fetched for the first time.
func (s *Server) followList(ctx context.Context, user id.User) (revision int64, err error) {
	err = s.DB.Update(ctx, func(tx *sqldb.Tx) error {
		return tx.QueryRow(ctx, followListSQL, string(user)).Scan(&revision)
	})
	return revision, err
}

// storeRemoteList replaces what is known of a remote user, unless it changed since a revision.
func (s *Server) storeRemoteList(ctx context.Context, user id.User, list *fedclient.UserDevices, at, revision int64) (stored bool, err error) {
	err = s.DB.Update(ctx, func(tx *sqldb.Tx) error {
		res, err := tx.Exec(ctx, storeRemoteListSQL, string(user), list.StreamID, at, revision)
		if err != nil {
			return fmt.Errorf("keyserver: storing remote device list: %w", err)
		}
		n, err := res.RowsAffected()
		if stored = n > 0; err != nil || !stored {
			return err
		}
		for _, q := range []string{deleteDevicesSQL, deleteCrossAllSQL} {
			if _, err := tx.Exec(ctx, q, string(user)); err != nil {
				return fmt.Errorf("keyserver: replacing remote device list: %w", err)
			}
		}
		for _, d := range list.Devices {
			if len(d.Keys) > maxKeyBytes {
				continue
			}
			if _, err := tx.Exec(ctx, replaceDeviceSQL, string(user), string(d.DeviceID), d.DisplayName, nullable(d.Keys)); err != nil {
				return fmt.Errorf("keyserver: storing remote device: %w", err)
			}
		}
		return storeRemoteCross(ctx, tx, user, list.MasterKey, list.SelfSigningKey)
	})
	return stored && err == nil, err
}

func nullable(raw json.RawMessage) []byte {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	return raw
}

// storeRemoteCross stores the cross-signing keys that are well-formed.
func storeRemoteCross(ctx context.Context, tx *sqldb.Tx, user id.User, master, selfSigning json.RawMessage) error {
	for usage, raw := range map[string]json.RawMessage{usageMaster: master, usageSelfSigning: selfSigning} {
		if nullable(raw) == nil {
			continue
		}
		k, err := parseCrossKey(user, usage, raw)
		if err != nil {
			continue // clients verify keys; a malformed one is as good as none
		}
		if _, err := tx.Exec(ctx, upsertCrossSigningSQL, string(user), usage, k.keyID, k.json); err != nil {
			return fmt.Errorf("keyserver: storing remote cross-signing key: %w", err)
		}
	}
	return nil
}

// ReceiveEDU implements api.Keys.
func (s *Server) ReceiveEDU(ctx context.Context, origin id.Server, typ string, content json.RawMessage) error {
	switch typ {
	case eduDeviceList:
		var u deviceListUpdate
		if err := json.Unmarshal(content, &u); err != nil {
			return merr.BadJSON("%s: %v", typ, err)
		}
		if u.UserID.Server() != origin {
			return merr.Forbidden("%s speaks for a user of another server", origin)
		}
		return s.receiveDeviceList(ctx, u)
	case eduSigningKey:
		var u signingKeyUpdate
		if err := json.Unmarshal(content, &u); err != nil {
			return merr.BadJSON("%s: %v", typ, err)
		}
		if u.UserID.Server() != origin {
			return merr.Forbidden("%s speaks for a user of another server", origin)
		}
		return s.receiveSigningKeys(ctx, u)
	}
	return merr.InvalidParam("the key server takes no EDU of type %q", typ)
}

// receiveDeviceList applies an update that continues the sequence we know, and
// marks the list stale otherwise.
func (s *Server) receiveDeviceList(ctx context.Context, u deviceListUpdate) error {
	if old, err := s.isNoNews(ctx, u); old || err != nil {
		return err
	}
	return s.lists.Update(ctx, func(tx *sqldb.Tx) error {
		if _, err := s.markChanged(ctx, tx, u.UserID, ""); err != nil {
			return err
		}
		have, whole, err := reviseRemoteList(ctx, tx, u.UserID)
		if err != nil || !whole || u.StreamID <= have {
			return err
		}
		return applyDeviceList(ctx, tx, u, have)
	})
}

// reviseRemoteList notes that an update arrived, and keeps all others from changing the list until the transaction
// ends. It gives the place in the sequence that the list has, and whether the list can be continued from there.
func reviseRemoteList(ctx context.Context, tx *sqldb.Tx, user id.User) (have int64, whole bool, err error) {
	var stale int64
	err = tx.QueryRow(ctx, reviseRemoteListSQL, string(user)).Scan(&have, &stale)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil // not followed
	}
	if err != nil {
		return 0, false, fmt.Errorf("keyserver: revising remote device list: %w", err)
	}
	return have, stale == 0, nil
}

// isNoNews tells whether an update says nothing new. That is one that was seen before, and the one that a server
// must send when its user comes into a room: nothing has changed then, and our users who are to look at the devices
// are told by the coming. It is noted. Should it be a change after all nobody misses it,
// since nobody here has asked for the list yet.
func (s *Server) isNoNews(ctx context.Context, u deviceListUpdate) (bool, error) {
	var have, stale, at, revision int64
	err := s.DB.QueryRow(ctx, selectRemoteListSQL, string(u.UserID)).Scan(&have, &stale, &at, &revision)
	if err == nil {
		return stale == 0 && u.StreamID <= have, nil
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return false, fmt.Errorf("keyserver: reading remote device list: %w", err)
	}
	came, err := s.Rooms.CameLast(ctx, u.UserID)
	if err != nil || !came {
		return false, err
	}
	res, err := s.DB.Exec(ctx, insertStaleSQL, string(u.UserID), u.StreamID)
	if err != nil {
		return false, fmt.Errorf("keyserver: noting a remote device list: %w", err)
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// applyDeviceList changes one device, or marks the list stale after a gap.
func applyDeviceList(ctx context.Context, tx *sqldb.Tx, u deviceListUpdate, have int64) error {
	follows := len(u.PrevID) == 0 && have == 0
	for _, p := range u.PrevID {
		follows = follows || p == have
	}
	if !follows || len(u.Keys) > maxKeyBytes {
		if _, err := tx.Exec(ctx, markStaleSQL, string(u.UserID)); err != nil {
			return fmt.Errorf("keyserver: marking device list stale: %w", err)
		}
		return nil
	}
	var err error
	if u.Deleted {
		_, err = tx.Exec(ctx, deleteDeviceSQL, string(u.UserID), string(u.DeviceID))
	} else {
		_, err = tx.Exec(ctx, replaceDeviceSQL, string(u.UserID), string(u.DeviceID), u.DisplayName, nullable(u.Keys))
	}
	if err != nil {
		return fmt.Errorf("keyserver: updating remote device: %w", err)
	}
	if _, err := tx.Exec(ctx, continueListSQL, string(u.UserID), u.StreamID); err != nil {
		return fmt.Errorf("keyserver: updating remote device list: %w", err)
	}
	return nil
}

func (s *Server) receiveSigningKeys(ctx context.Context, u signingKeyUpdate) error {
	return s.lists.Update(ctx, func(tx *sqldb.Tx) error {
		if _, err := s.markChanged(ctx, tx, u.UserID, ""); err != nil {
			return err
		}
		if _, _, err := reviseRemoteList(ctx, tx, u.UserID); err != nil {
			return err
		}
		return storeRemoteCross(ctx, tx, u.UserID, u.Master, u.SelfSigning)
	})
}
