package keyring

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"weft/matrix/canonical"
	"weft/matrix/id"
)

const (
	// maxValidity is the longest a key is believed without asking again.
	//
	// spec: server-server §3.3.1, valid_until_ts ("the lesser of this field and 7 days into the future")
	maxValidity = 7 * 24 * time.Hour
	// maxKeys bounds the keys that are kept of one server.
	maxKeys = 128
	// maxKeyJSON bounds one server's key object, in bytes.
	maxKeyJSON = 128 << 10
)

// Key is one signing key of a server.
type Key struct {
	Public ed25519.PublicKey
	// ValidUntilTS is until when a current key is valid, in milliseconds,
	// already limited to seven days after it was received.
	ValidUntilTS int64
	// ExpiredTS is when an old key stopped being valid, in milliseconds; 0 for
	// a current key.
	ExpiredTS int64
}

// ValidAt says whether the key is valid at a time in milliseconds. Time 0 asks
// for no validity: any known key will do.
//
// spec: server-server §3.3.1; rooms v5 (signing key validity period)
func (k Key) ValidAt(ts int64) bool {
	switch {
	case ts == 0:
		return true
	case k.ExpiredTS != 0:
		return ts <= k.ExpiredTS
	}
	return ts <= k.ValidUntilTS
}

// ServerKeys is what is known of one server's keys. It is immutable.
type ServerKeys struct {
	Server id.Server
	// Keys holds all keys ever seen, up to a bound.
	Keys map[id.KeyID]Key
	// ValidUntilTS is the valid_until_ts of the latest response, in
	// milliseconds, not limited.
	ValidUntilTS int64
	// FetchedTS is when that response was received, in milliseconds.
	FetchedTS int64
	// JSON is that response, signed by the server, for notary answers.
	JSON []byte
}

// Parse checks a server's key object: its name, its shape, and that the server
// signed it with keys that it lists. now is the time of receipt.
//
// spec: server-server §3.3.1 (publishing keys)
func Parse(raw []byte, server id.Server, now time.Time) (*ServerKeys, error) {
	if len(raw) > maxKeyJSON {
		return nil, fmt.Errorf("the key object of %s is longer than %d bytes", server, maxKeyJSON)
	}
	var body struct {
		ServerName string `json:"server_name"`
		Verify     map[id.KeyID]struct {
			Key string `json:"key"`
		} `json:"verify_keys"`
		Old map[id.KeyID]struct {
			Key       string `json:"key"`
			ExpiredTS int64  `json:"expired_ts"`
		} `json:"old_verify_keys"`
		ValidUntilTS int64 `json:"valid_until_ts"`
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		return nil, fmt.Errorf("the key object of %s: %w", server, err)
	}
	if body.ServerName != string(server) {
		return nil, fmt.Errorf("the key object of %s is about %q", server, body.ServerName)
	}
	if len(body.Verify)+len(body.Old) > maxKeys {
		return nil, fmt.Errorf("the key object of %s lists more than %d keys", server, maxKeys)
	}
	sk := &ServerKeys{
		Server: server, Keys: map[id.KeyID]Key{}, ValidUntilTS: body.ValidUntilTS,
		FetchedTS: now.UnixMilli(), JSON: bytes.Clone(raw),
	}
	until := min(body.ValidUntilTS, now.Add(maxValidity).UnixMilli())
	for kid, v := range body.Old {
		if pub, ok := decodeKey(kid, v.Key); ok && v.ExpiredTS > 0 {
			sk.Keys[kid] = Key{Public: pub, ExpiredTS: v.ExpiredTS}
		}
	}
	for kid, v := range body.Verify {
		if pub, ok := decodeKey(kid, v.Key); ok {
			sk.Keys[kid] = Key{Public: pub, ValidUntilTS: until}
		}
	}
	return sk, sk.checkSelfSigned(raw)
}

// checkSelfSigned demands one good signature by a current key and none that is
// bad.
func (sk *ServerKeys) checkSelfSigned(raw []byte) error {
	good := false
	for _, kid := range canonical.Signatures(raw, string(sk.Server)) {
		key, ok := sk.Keys[kid]
		if !ok || key.ExpiredTS != 0 {
			continue
		}
		if err := canonical.VerifyJSON(raw, string(sk.Server), kid, key.Public); err != nil {
			return fmt.Errorf("the key object of %s: %w", sk.Server, err)
		}
		good = true
	}
	if !good {
		return fmt.Errorf("the key object of %s is not signed by a key that it lists as current", sk.Server)
	}
	return nil
}

// decodeKey reads an ed25519 key; other algorithms are skipped.
func decodeKey(kid id.KeyID, b64 string) (ed25519.PublicKey, bool) {
	if _, err := id.ParseKeyID(string(kid)); err != nil || kid.Algorithm() != id.Ed25519 {
		return nil, false
	}
	pub, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(b64, "="))
	return pub, err == nil && len(pub) == ed25519.PublicKeySize
}

// merge adds a newer response to what is known. direct says that it came from
// the server itself: only then may it replace one key by another of the same
// ID, or make an expired key current again.
func merge(old, fresh *ServerKeys, direct bool) *ServerKeys {
	if old == nil {
		return fresh
	}
	out := &ServerKeys{Server: fresh.Server, Keys: maps.Clone(fresh.Keys)}
	for kid, was := range old.Keys {
		now, both := out.Keys[kid]
		switch {
		case !both:
			if len(out.Keys) < maxKeys {
				out.Keys[kid] = was
			}
		case !was.Public.Equal(now.Public):
			if !direct {
				out.Keys[kid] = was
			}
		case now.ExpiredTS == 0 && was.ExpiredTS != 0:
			if !direct {
				out.Keys[kid] = was
			}
		case now.ExpiredTS == 0:
			now.ValidUntilTS = max(now.ValidUntilTS, was.ValidUntilTS)
			out.Keys[kid] = now
		}
	}
	latest := fresh
	if !direct && old.ValidUntilTS > fresh.ValidUntilTS {
		latest = old
	}
	out.ValidUntilTS, out.FetchedTS, out.JSON = latest.ValidUntilTS, latest.FetchedTS, latest.JSON
	return out
}
