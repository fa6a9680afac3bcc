package keyserver

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"

	"weft/internal/sqldb"
	"weft/keyserver/api"
	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// The usages of cross-signing keys.
//
// spec: client-server §10.11.3 (Cross-signing)
const (
	usageMaster      = "master"
	usageSelfSigning = "self_signing"
	usageUserSigning = "user_signing"
)

const (
	selectCrossSigningSQL = `SELECT usage, key_id, key FROM key_cross_signing WHERE user_id = $1`
	upsertCrossSigningSQL = `INSERT INTO key_cross_signing (user_id, usage, key_id, key) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id, usage) DO UPDATE SET key_id = excluded.key_id, key = excluded.key`
	deleteCrossSigningSQL = `DELETE FROM key_cross_signing WHERE user_id = $1 AND usage = $2`
	deviceWithIDSQL       = `SELECT device_id FROM key_devices WHERE user_id = $1 AND device_id = $2`
)

// crossKey is a cross-signing key: its public part and its JSON.
type crossKey struct {
	keyID string // unpadded base64 of the public key
	json  []byte
}

// public gives the key's public half.
func (k crossKey) public() (ed25519.PublicKey, error) {
	raw, err := canonical.DecodeBase64(k.keyID)
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return nil, merr.InvalidParam("%q is no ed25519 public key", k.keyID)
	}
	return raw, nil
}

// listCrossSigning returns a user's cross-signing keys by usage.
func listCrossSigning(ctx context.Context, q sqldb.Querier, user id.User) (map[string]crossKey, error) {
	rows, err := q.Query(ctx, selectCrossSigningSQL, string(user))
	if err != nil {
		return nil, fmt.Errorf("keyserver: reading cross-signing keys: %w", err)
	}
	defer rows.Close()
	keys := map[string]crossKey{}
	for rows.Next() {
		var usage string
		var k crossKey
		if err := rows.Scan(&usage, &k.keyID, &k.json); err != nil {
			return nil, fmt.Errorf("keyserver: reading cross-signing keys: %w", err)
		}
		keys[usage] = k
	}
	return keys, rows.Err()
}

// parseCrossKey checks the form of a cross-signing key.
func parseCrossKey(user id.User, usage string, raw json.RawMessage) (crossKey, error) {
	if len(raw) > maxKeyBytes {
		return crossKey{}, merr.TooLarge("the %s key is larger than %d bytes", usage, maxKeyBytes)
	}
	c, err := canonical.Canonical(raw)
	if err != nil {
		return crossKey{}, merr.BadJSON("the %s key: %v", usage, err)
	}
	doc := gjson.ParseBytes(c)
	if !doc.IsObject() {
		return crossKey{}, merr.BadJSON("the %s key is not an object", usage)
	}
	if u := doc.Get("user_id").String(); u != string(user) {
		return crossKey{}, merr.InvalidParam("the %s key belongs to %q, not to %s", usage, u, user)
	}
	has := false
	for _, u := range doc.Get("usage").Array() {
		has = has || u.String() == usage
	}
	if !has {
		return crossKey{}, merr.InvalidParam("the %s key does not have usage %q", usage, usage)
	}
	keys := doc.Get("keys").Map()
	if len(keys) != 1 {
		return crossKey{}, merr.InvalidParam("the %s key must hold exactly one public key", usage)
	}
	for name, value := range keys {
		pub, ok := strings.CutPrefix(name, "ed25519:")
		if !ok || pub != value.String() {
			return crossKey{}, merr.InvalidParam("the %s key's name %q does not name its public key", usage, name)
		}
		k := crossKey{keyID: pub, json: c}
		if _, err := k.public(); err != nil {
			return crossKey{}, err
		}
		return k, nil
	}
	return crossKey{}, merr.InvalidParam("the %s key holds no public key", usage)
}

// parseUpload checks all keys of an upload, by usage.
func parseUpload(req api.UploadCrossSigning) (map[string]crossKey, error) {
	keys := map[string]crossKey{}
	for usage, raw := range map[string]json.RawMessage{
		usageMaster: req.Master, usageSelfSigning: req.SelfSigning, usageUserSigning: req.UserSigning,
	} {
		if len(raw) == 0 || string(raw) == "null" {
			continue
		}
		k, err := parseCrossKey(req.User, usage, raw)
		if err != nil {
			return nil, err
		}
		keys[usage] = k
	}
	return keys, nil
}

// HasCrossSigning implements api.Keys.
func (s *Server) HasCrossSigning(ctx context.Context, req api.UploadCrossSigning) (exists, matches bool, err error) {
	uploaded, err := parseUpload(req)
	if err != nil {
		return false, false, err
	}
	stored, err := listCrossSigning(ctx, s.DB, req.User)
	if err != nil {
		return false, false, err
	}
	_, exists = stored[usageMaster]
	matches = exists
	for usage, k := range uploaded {
		matches = matches && stored[usage].keyID == k.keyID
	}
	return exists, matches, nil
}

// UploadCrossSigning implements api.Keys.
//
// spec: client-server, POST /keys/device_signing/upload
func (s *Server) UploadCrossSigning(ctx context.Context, req api.UploadCrossSigning) error {
	uploaded, err := parseUpload(req)
	if err != nil {
		return err
	}
	var changed *listChange
	err = s.lists.Update(ctx, func(tx *sqldb.Tx) error {
		changed = nil
		_, same, err := compareUpload(ctx, tx, req.User, uploaded)
		if err != nil || same {
			return err
		}
		if changed, err = s.markChanged(ctx, tx, req.User, ""); err != nil {
			return err
		}
		// Once more: until the position was taken another node may have stored other keys.
		stored, _, err := compareUpload(ctx, tx, req.User, uploaded)
		if err != nil {
			return err
		}
		return storeCrossSigning(ctx, tx, req.User, uploaded, stored)
	})
	if err != nil || changed == nil {
		return err
	}
	return s.announceSigningKeys(ctx, req.User)
}

// compareUpload checks an upload against what is stored, which it gives, and tells whether nothing is new.
func compareUpload(ctx context.Context, tx *sqldb.Tx, user id.User, uploaded map[string]crossKey) (stored map[string]crossKey, same bool, err error) {
	if stored, err = listCrossSigning(ctx, tx, user); err != nil {
		return nil, false, err
	}
	if err := checkUpload(ctx, tx, user, uploaded, stored); err != nil {
		return nil, false, err
	}
	same = true
	for usage, k := range uploaded {
		same = same && string(stored[usage].json) == string(k.json)
	}
	return stored, same, nil
}

// storeCrossSigning writes the keys. A new master key takes with it those of
// the other keys that it did not sign.
func storeCrossSigning(ctx context.Context, tx *sqldb.Tx, user id.User, uploaded, stored map[string]crossKey) error {
	if m, ok := uploaded[usageMaster]; ok && stored[usageMaster].keyID != "" && stored[usageMaster].keyID != m.keyID {
		for _, usage := range []string{usageSelfSigning, usageUserSigning} {
			if _, err := tx.Exec(ctx, deleteCrossSigningSQL, string(user), usage); err != nil {
				return fmt.Errorf("keyserver: replacing cross-signing keys: %w", err)
			}
		}
	}
	for usage, k := range uploaded {
		if _, err := tx.Exec(ctx, upsertCrossSigningSQL, string(user), usage, k.keyID, k.json); err != nil {
			return fmt.Errorf("keyserver: storing cross-signing key: %w", err)
		}
	}
	return nil
}

// checkUpload checks the keys against each other and against the devices.
func checkUpload(ctx context.Context, tx *sqldb.Tx, user id.User, uploaded, stored map[string]crossKey) error {
	master, ok := uploaded[usageMaster]
	if !ok {
		master, ok = stored[usageMaster]
	}
	if !ok {
		return merr.MissingParam("there is no master key, neither in the request nor from before")
	}
	pub, err := master.public()
	if err != nil {
		return err
	}
	for usage, k := range uploaded {
		var dev string
		err := tx.QueryRow(ctx, deviceWithIDSQL, string(user), k.keyID).Scan(&dev)
		if err == nil {
			return merr.Forbidden("the %s key has the name of one of your devices", usage)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("keyserver: looking for a device: %w", err)
		}
		if usage == usageMaster {
			continue
		}
		if err := canonical.VerifyJSON(k.json, string(user), id.KeyID("ed25519:"+master.keyID), pub); err != nil {
			return merr.InvalidSignature("the %s key is not signed by the master key: %v", usage, err)
		}
	}
	return nil
}
