package eventauth

import (
	"crypto/ed25519"

	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/id"
)

// maxThirdPartyChecks bounds the signatures verified for one third-party invite.
// An honest invite needs one or two; an event can hold hundreds of signatures and
// its invite hundreds of keys, and their product would be minutes of work.
const maxThirdPartyChecks = 256

// thirdPartyInvite is the part of the rule about invites for those that redeem a
// third-party invite; value is content.third_party_invite.
func (k *check) thirdPartyInvite(value []byte) verdict {
	e := k.e
	target := id.User(e.StateKey)
	if k.membership(target) == ban {
		return reject(StepThirdPartyBanned, "%s is banned", target)
	}
	signed := canonical.Get(value, "signed")
	if signed == nil {
		return reject(StepThirdPartySigned, "the third-party invite has no signed")
	}
	mxid, okMXID := canonical.String(canonical.Get(signed, "mxid"))
	token, okToken := canonical.String(canonical.Get(signed, "token"))
	if !okMXID || !okToken {
		return reject(StepThirdPartyKeys, "the third-party invite has no mxid or no token")
	}
	if mxid != e.StateKey {
		return reject(StepThirdPartyMXID, "the third-party invite is for %s, not %s", mxid, e.StateKey)
	}
	third := k.state.Get(TypeThirdPartyInvite, token)
	if third == nil {
		return reject(StepThirdPartyEvent, "there is no third-party invite with the token %q", token)
	}
	if e.Sender != third.Sender {
		return reject(StepThirdPartySender, "the third-party invite is by %s, not %s", third.Sender, e.Sender)
	}
	if signedByAny(signed, thirdPartyKeys(third)) {
		return allow(StepThirdPartySignature)
	}
	return reject(StepThirdPartyOtherwise, "no key of the third-party invite signed")
}

// thirdPartyKeys reads the public keys of an m.room.third_party_invite event.
func thirdPartyKeys(third *event.Event) []ed25519.PublicKey {
	var keys []ed25519.PublicKey
	add := func(obj []byte) {
		key, err := canonical.DecodeBase64(text(obj, "public_key"))
		if err == nil && len(key) == ed25519.PublicKeySize {
			keys = append(keys, key)
		}
	}
	add(third.Content())
	for a := canonical.Array(canonical.Get(third.Content(), "public_keys")); a.Next(); {
		add(a.Value())
	}
	return keys
}

// signedByAny looks for a signature, of anybody, by one of the keys.
func signedByAny(signed []byte, keys []ed25519.PublicKey) bool {
	signatures := canonical.Get(signed, "signatures")
	covered := canonical.SignedBytes(signed)
	checks := 0
	for s := canonical.Object(signatures); s.Next(); {
		entity, _ := canonical.String(signatures[s.KeyStart : s.ValueStart-1])
		for _, keyID := range canonical.SignatureKeys(signatures, entity) {
			if keyID.Algorithm() != "ed25519" {
				continue
			}
			signature := canonical.Signature(signatures, entity, keyID)
			for _, key := range keys {
				if signature == nil {
					break
				}
				if checks++; checks > maxThirdPartyChecks {
					return false
				}
				if ed25519.Verify(key, covered, signature) {
					return true
				}
			}
		}
	}
	return false
}
