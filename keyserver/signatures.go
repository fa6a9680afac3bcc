package keyserver

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"

	"weft/internal/sqldb"
	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	upsertSignatureSQL = `INSERT INTO key_signatures (target_user, target_key, signer, signer_key, signature)
		VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (target_user, target_key, signer, signer_key) DO UPDATE SET signature = excluded.signature`
	selectSignaturesSQL = `SELECT target_key, signer, signer_key, signature FROM key_signatures
		WHERE target_user = $1 AND (signer = $1 OR signer = $2)`
)

// maxSignatures bounds the objects of one upload.
const maxSignatures = 1_000

// UploadSignatures implements api.Keys. A signature that cannot be taken is
// listed with its reason; the others are stored.
//
// spec: client-server, POST /keys/signatures/upload
func (s *Server) UploadSignatures(ctx context.Context, user id.User, body json.RawMessage) (json.RawMessage, error) {
	var req map[id.User]map[string]json.RawMessage
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, merr.BadJSON("the body is not a map of user IDs to maps of key IDs to objects: %v", err)
	}
	n := 0
	for _, objects := range req {
		n += len(objects)
	}
	if n > maxSignatures {
		return nil, merr.TooLarge("more than %d signed objects in one upload", maxSignatures)
	}
	failures := map[id.User]map[string]*merr.Error{}
	devices, master := map[id.Device]listChange{}, false
	for target, objects := range req {
		for key, raw := range objects {
			c, kind, err := s.uploadSignature(ctx, user, target, key, raw)
			var bad *merr.Error
			if errors.As(err, &bad) {
				if failures[target] == nil {
					failures[target] = map[string]*merr.Error{}
				}
				failures[target][key] = bad
				continue
			}
			if err != nil {
				return nil, err
			}
			if target == user && kind == targetDevice {
				devices[id.Device(key)] = c
			}
			master = master || (target == user && kind == targetMaster)
		}
	}
	if err := s.announceSignatures(ctx, user, devices, master); err != nil {
		return nil, err
	}
	out, err := json.Marshal(failures)
	if err != nil {
		return nil, fmt.Errorf("keyserver: failures: %w", err)
	}
	return out, nil
}

// announceSignatures tells other servers of new signatures on the user's own
// keys, with an EDU for each device and one for the master key.
func (s *Server) announceSignatures(ctx context.Context, user id.User, devices map[id.Device]listChange, master bool) error {
	for _, c := range devices {
		if err := s.announceDevice(ctx, c); err != nil {
			return err
		}
	}
	if master {
		return s.announceSigningKeys(ctx, user)
	}
	return nil
}

// targetKind tells what was signed.
type targetKind int

const (
	targetDevice targetKind = iota
	targetMaster
)

// uploadSignature stores the signatures that user made on one key of target.
func (s *Server) uploadSignature(ctx context.Context, user, target id.User, key string, raw json.RawMessage) (listChange, targetKind, error) {
	var change listChange
	var kind targetKind
	signed, err := canonical.Canonical(raw)
	if err != nil {
		return change, kind, merr.BadJSON("the signed object: %v", err)
	}
	err = s.lists.Update(ctx, func(tx *sqldb.Tx) error {
		var stored []byte
		var err error
		if stored, kind, err = targetKey(ctx, tx, user, target, key); err != nil {
			return err
		}
		same, err := sameUnsigned(stored, signed)
		if err != nil {
			return err
		}
		if !same {
			return merr.InvalidParam("the signed object is not the key %q of %s as it is stored here", key, target)
		}
		sigs, err := s.verifiedSignatures(ctx, tx, user, target, key, kind, signed)
		if err != nil {
			return err
		}
		dev := id.Device("")
		if user == target && kind == targetDevice {
			dev = id.Device(key)
		}
		c, err := s.markChanged(ctx, tx, target, dev)
		if err != nil {
			return err
		}
		change = *c
		for keyID, sig := range sigs {
			if _, err := tx.Exec(ctx, upsertSignatureSQL, string(target), key, string(user), keyID, sig); err != nil {
				return fmt.Errorf("keyserver: storing signature: %w", err)
			}
		}
		return nil
	})
	return change, kind, err
}

// targetKey finds the key that was signed. Of other users only the master key
// can be signed.
func targetKey(ctx context.Context, tx *sqldb.Tx, user, target id.User, key string) ([]byte, targetKind, error) {
	cross, err := listCrossSigning(ctx, tx, target)
	if err != nil {
		return nil, 0, err
	}
	if m, ok := cross[usageMaster]; ok && m.keyID == key {
		return m.json, targetMaster, nil
	}
	if user != target {
		return nil, 0, merr.NotFound("%q is not the master key of %s", key, target)
	}
	d, err := getDevice(ctx, tx, target, id.Device(key))
	if err != nil {
		return nil, 0, err
	}
	if d == nil || d.keys == nil {
		return nil, 0, merr.NotFound("there is no device or master key %q", key)
	}
	return d.keys, targetDevice, nil
}

// sameUnsigned compares two objects without their signatures and unsigned.
func sameUnsigned(a, b []byte) (bool, error) {
	strip := func(raw []byte) ([]byte, error) {
		var doc map[string]json.RawMessage
		if err := json.Unmarshal(raw, &doc); err != nil {
			return nil, merr.BadJSON("the signed object is not an object: %v", err)
		}
		delete(doc, "signatures")
		delete(doc, "unsigned")
		return canonical.Marshal(doc)
	}
	sa, err := strip(a)
	if err != nil {
		return false, err
	}
	sb, err := strip(b)
	if err != nil {
		return false, err
	}
	return string(sa) == string(sb), nil
}

// verifiedSignatures returns user's signatures on signed, by key ID, after
// checking each. Which key may sign what:
// own devices by the self-signing key, the own master key by own devices,
// another user's master key by the user-signing key.
func (s *Server) verifiedSignatures(ctx context.Context, tx *sqldb.Tx, user, target id.User, key string, kind targetKind, signed []byte) (map[string]string, error) {
	cross, err := listCrossSigning(ctx, tx, user)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	var all map[string]map[string]string
	if err := json.Unmarshal([]byte(gjson.GetBytes(signed, "signatures").Raw), &all); err != nil {
		return nil, merr.InvalidSignature("the object has no well-formed signatures")
	}
	for keyID, sig := range all[string(user)] {
		name, ok := strings.CutPrefix(keyID, "ed25519:")
		if !ok || (kind == targetDevice && name == key) {
			continue // an unknown algorithm, or the device's own signature, which is stored already
		}
		pub, err := signerKey(ctx, tx, user, target, kind, name, cross)
		if err != nil {
			return nil, err
		}
		if err := canonical.VerifyJSON(signed, string(user), id.KeyID(keyID), pub); err != nil {
			return nil, merr.InvalidSignature("the signature by %s: %v", keyID, err)
		}
		out[keyID] = sig
	}
	if len(out) == 0 {
		return nil, merr.InvalidSignature("the object bears no new signature of %s", user)
	}
	return out, nil
}

func signerKey(ctx context.Context, tx *sqldb.Tx, user, target id.User, kind targetKind, name string, cross map[string]crossKey) (ed25519.PublicKey, error) {
	switch {
	case user != target:
		if k := cross[usageUserSigning]; k.keyID == name {
			return k.public()
		}
	case kind == targetDevice:
		if k := cross[usageSelfSigning]; k.keyID == name {
			return k.public()
		}
	default:
		d, err := getDevice(ctx, tx, user, id.Device(name))
		if err != nil {
			return nil, err
		}
		if d != nil && d.keys != nil {
			var doc struct {
				Keys map[string]string `json:"keys"`
			}
			if err := json.Unmarshal(d.keys, &doc); err != nil {
				return nil, fmt.Errorf("keyserver: stored device keys: %w", err)
			}
			return crossKey{keyID: doc.Keys["ed25519:"+name]}.public()
		}
	}
	return nil, merr.InvalidSignature("ed25519:%s may not sign this key", name)
}

// signatureSet holds stored signatures on one user's keys: target key → signer
// → signer's key → signature.
type signatureSet map[string]map[string]map[string]string

// listSignatures reads the signatures on a user's keys that viewer may see:
// the user's own and the viewer's. viewer may be empty.
func listSignatures(ctx context.Context, q sqldb.Querier, user, viewer id.User) (signatureSet, error) {
	rows, err := q.Query(ctx, selectSignaturesSQL, string(user), string(viewer))
	if err != nil {
		return nil, fmt.Errorf("keyserver: reading signatures: %w", err)
	}
	defer rows.Close()
	set := signatureSet{}
	for rows.Next() {
		var target, signer, key, sig string
		if err := rows.Scan(&target, &signer, &key, &sig); err != nil {
			return nil, fmt.Errorf("keyserver: reading signatures: %w", err)
		}
		if set[target] == nil {
			set[target] = map[string]map[string]string{}
		}
		if set[target][signer] == nil {
			set[target][signer] = map[string]string{}
		}
		set[target][signer][key] = sig
	}
	return set, rows.Err()
}

// merge adds the stored signatures on target to its JSON.
func (set signatureSet) merge(target string, key []byte) (json.RawMessage, error) {
	extra := set[target]
	if len(extra) == 0 {
		return key, nil
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(key, &doc); err != nil {
		return nil, fmt.Errorf("keyserver: stored key: %w", err)
	}
	sigs := map[string]map[string]string{}
	if raw, ok := doc["signatures"]; ok {
		if err := json.Unmarshal(raw, &sigs); err != nil {
			return nil, fmt.Errorf("keyserver: stored signatures: %w", err)
		}
	}
	for signer, keys := range extra {
		if sigs[signer] == nil {
			sigs[signer] = map[string]string{}
		}
		for k, v := range keys {
			sigs[signer][k] = v
		}
	}
	raw, err := json.Marshal(sigs)
	if err != nil {
		return nil, fmt.Errorf("keyserver: signatures: %w", err)
	}
	doc["signatures"] = raw
	return json.Marshal(doc)
}
