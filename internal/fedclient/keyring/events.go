package keyring

import (
	"context"
	"crypto/ed25519"
	"fmt"

	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// FetchFor gets the keys that the signatures of events need, and returns a
// function for event.VerifySignatures that answers from them without I/O.
//
// The function is usable whatever the error: the error only tells why some
// keys could not be had. Events whose keys are missing then fail verification.
func (k *Keyring) FetchFor(ctx context.Context, events []*event.Event) (event.KeyFunc, error) {
	needs := map[id.Server][]need{}
	seen := map[id.Server]map[need]bool{}
	for _, e := range events {
		ts := int64(0)
		if e.Rules != nil && e.Rules.EnforceKeyValidity {
			ts = e.OriginServerTS
		}
		for _, server := range e.RequiredSigners() {
			for _, kid := range e.SignatureKeys(server) {
				n := need{kid, ts}
				if seen[server] == nil {
					seen[server] = map[need]bool{}
				}
				if !seen[server][n] {
					seen[server][n] = true
					needs[server] = append(needs[server], n)
				}
			}
		}
	}
	err := k.obtainMany(ctx, needs)
	// The keys are copied out of the cache, which may forget them.
	have := make(map[id.Server]*ServerKeys, len(needs))
	for server := range needs {
		if server == k.cfg.ServerName {
			have[server] = k.own()
		} else if st, ok := k.servers.GetIfPresent(server); ok {
			have[server] = st.get()
		}
	}
	return func(server id.Server, kid id.KeyID, ts int64) (ed25519.PublicKey, bool) {
		return k.pick(have[server], kid, ts)
	}, err
}

// KeyFunc answers from memory alone.
func (k *Keyring) KeyFunc() event.KeyFunc {
	return func(server id.Server, kid id.KeyID, ts int64) (ed25519.PublicKey, bool) {
		if server == k.cfg.ServerName {
			return k.pick(k.own(), kid, ts)
		}
		st, ok := k.servers.GetIfPresent(server)
		if !ok {
			return nil, false
		}
		return k.pick(st.get(), kid, ts)
	}
}

func (k *Keyring) pick(sk *ServerKeys, kid id.KeyID, ts int64) (ed25519.PublicKey, bool) {
	if sk == nil {
		return nil, false
	}
	key, ok := sk.Keys[kid]
	if !ok || !k.valid(sk.Server, key, ts) {
		return nil, false
	}
	return key.Public, true
}

// VerifyJSON checks that a server signed an object with a key that is valid at a
// time in milliseconds (0: any time). The error is M_INVALID_SIGNATURE.
//
// spec: appendices §3.3 (checking for a signature)
func (k *Keyring) VerifyJSON(ctx context.Context, server id.Server, obj []byte, ts int64) error {
	err := fmt.Errorf("there is no signature of %s", server)
	for i, kid := range canonical.Signatures(obj, string(server)) {
		if i == maxKeys {
			break
		}
		if kid.Algorithm() != id.Ed25519 {
			continue
		}
		var pub ed25519.PublicKey
		if pub, err = k.Key(ctx, server, kid, ts); err != nil {
			continue
		}
		if err = canonical.VerifyJSON(obj, string(server), kid, pub); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%w: %w", merr.New(400, "M_INVALID_SIGNATURE", "the signature of %s is missing or wrong", server), err)
}
