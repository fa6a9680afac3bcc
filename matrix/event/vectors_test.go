package event

import (
	"crypto/ed25519"
	"encoding/json"
	"testing"

	"weft/matrix/canonical"
	"weft/matrix/id"
)

const (
	vectorServer id.Server = "domain"
	vectorKeyID  id.KeyID  = "ed25519:1"
)

// vectorKey is the signing key of the spec's test vectors.
//
// spec: appendices §10.1 (Signing Key)
func vectorKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	seed, err := canonical.DecodeBase64("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	return ed25519.NewKeyFromSeed(seed)
}

// vectorKeys knows the vector key of every server.
func vectorKeys(t testing.TB) KeyFunc {
	pub := vectorKey(t).Public().(ed25519.PublicKey)
	return func(_ id.Server, key id.KeyID, _ int64) (ed25519.PublicKey, bool) {
		return pub, key == vectorKeyID
	}
}

func rulesOf(t testing.TB, v RoomVersion) *Rules {
	t.Helper()
	r, err := Version(v)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// signVector runs the event signing algorithm over an event that need not have
// the form of any room version, as the vectors demand.
func signVector(t *testing.T, raw string, r *Rules) []byte {
	t.Helper()
	whole, err := canonical.Canonical([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	var l layout
	l.index(whole)
	hash := l.contentHash(newHasher(), whole)
	hashes, err := canonical.Marshal(map[string]string{"sha256": canonical.EncodeBase64(hash[:])})
	if err != nil {
		t.Fatal(err)
	}
	whole = canonical.Set(whole, "hashes", hashes)
	l.index(whole)
	signature := ed25519.Sign(vectorKey(t), l.signedBytes(whole, r))
	return canonical.WithSignature(whole, string(vectorServer), vectorKeyID, signature)
}

// spec: appendices §10.3 (Event Signing)
func TestEventSigningVectors(t *testing.T) {
	tests := []struct{ name, event, hash, signature string }{
		{
			name: "minimal",
			event: `{"room_id":"!x:domain","sender":"@a:domain","origin":"domain","origin_server_ts":1000000,
				"signatures":{},"hashes":{},"type":"X","content":{},"prev_events":[],"auth_events":[],"depth":3,
				"unsigned":{"age_ts":1000000}}`,
			hash:      "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
			signature: "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
		},
		{
			name: "redactable content",
			event: `{"content":{"body":"Here is the message content"},"event_id":"$0:domain","origin":"domain",
				"origin_server_ts":1000000,"type":"m.room.message","room_id":"!r:domain","sender":"@u:domain",
				"signatures":{},"unsigned":{"age_ts":1000000}}`,
			hash:      "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
			signature: "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			signed := signVector(t, tc.event, rulesOf(t, "1"))
			var got struct {
				Hashes     map[string]string
				Signatures map[string]map[string]string
				Unsigned   map[string]int
			}
			if err := json.Unmarshal(signed, &got); err != nil {
				t.Fatal(err)
			}
			if h := got.Hashes["sha256"]; h != tc.hash {
				t.Errorf("content hash %s, want %s", h, tc.hash)
			}
			if s := got.Signatures["domain"]["ed25519:1"]; s != tc.signature {
				t.Errorf("signature %s, want %s", s, tc.signature)
			}
			if got.Unsigned["age_ts"] != 1000000 {
				t.Errorf("unsigned was lost: %s", signed)
			}
		})
	}
}
