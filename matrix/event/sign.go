package event

import (
	"crypto/ed25519"
	"slices"

	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// KeyFunc finds the public key of a server. When atTS is not 0, the key must have
// been valid at that time (milliseconds since 1970): the caller compares it with
// the lesser of valid_until_ts and seven days from now. ok is false when the key
// is not known, or was not valid.
//
// spec: rooms/v5 (Signing key validity period)
type KeyFunc func(server id.Server, key id.KeyID, atTS int64) (pub ed25519.PublicKey, ok bool)

// RequiredSigners lists the servers whose signatures the event must bear: none
// twice, none for an invite by third party that carries no other duty.
//
// spec: server-server §27.2; rooms/v8 (Authorisation rules, 4.2)
func (e *Event) RequiredSigners() []id.Server {
	out := make([]id.Server, 0, 2)
	if !e.isThirdPartyInvite() {
		out = append(out, e.Sender.Server())
	}
	if e.Rules.EventIDFormat == EventIDInBody {
		out = addServer(out, e.ID.Server())
	}
	if e.Rules.RestrictedJoin && e.Type == typeMember {
		if user, ok := canonical.String(canonical.Get(e.Content(), "join_authorised_via_users_server")); ok {
			out = addServer(out, id.User(user).Server())
		}
	}
	return out
}

func addServer(list []id.Server, s id.Server) []id.Server {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// isThirdPartyInvite reports whether the event is an invite that redeems a
// third-party invite: the server that sends it need not be its sender's. It asks
// the event as it will be used, after a redaction for a wrong content hash, so
// that nobody escapes a signature by content that nobody vouches for.
func (e *Event) isThirdPartyInvite() bool {
	return e.membership == "invite" && canonical.Get(e.Content(), "third_party_invite") != nil
}

// VerifySignatures checks that every required server has signed the event: at
// least one signature with a key that is known and valid, and none with such a
// key that is wrong. Unknown and expired keys are skipped. The error is
// M_INVALID_SIGNATURE.
//
// spec: server-server §27.2 (Validating hashes and signatures on received events)
func (e *Event) VerifySignatures(keys KeyFunc) error {
	signers := e.RequiredSigners()
	if len(signers) == 0 {
		return nil
	}
	message := e.signedBytes()
	var atTS int64
	if e.Rules.EnforceKeyValidity {
		// 0 would mean that validity does not matter.
		atTS = max(e.OriginServerTS, 1)
	}
	for _, s := range signers {
		if err := e.verifyServer(s, message, atTS, keys); err != nil {
			return err
		}
	}
	return nil
}

func (e *Event) verifyServer(s id.Server, message []byte, atTS int64, keys KeyFunc) error {
	verified := false
	for _, key := range e.SignatureKeys(s) {
		pub, ok := keys(s, key, atTS)
		if !ok {
			continue
		}
		if !e.verify(message, s, key, pub) {
			return merr.InvalidSignature("the signature of %s with the key %s on event %s is wrong", s, key, e.ID)
		}
		verified = true
	}
	if !verified {
		return merr.InvalidSignature("event %s is not signed by %s with a key that is known and valid", e.ID, s)
	}
	return nil
}

// VerifySignature checks one signature with a key that the caller has from
// elsewhere, such as a policy server's. The error is M_INVALID_SIGNATURE.
//
// spec: server-server §26.2 (Validating Policy Server signatures)
func (e *Event) VerifySignature(s id.Server, key id.KeyID, pub ed25519.PublicKey) error {
	if !e.verify(e.signedBytes(), s, key, pub) {
		return merr.InvalidSignature("the signature of %s with the key %s on event %s is missing or wrong", s, key, e.ID)
	}
	return nil
}

func (e *Event) verify(message []byte, s id.Server, key id.KeyID, pub ed25519.PublicKey) bool {
	signature := canonical.Signature(e.signatures.of(e.json), string(s), key)
	return signature != nil && len(pub) == ed25519.PublicKeySize && ed25519.Verify(pub, message, signature)
}

// signedBytes is what signatures cover: the redacted event without signatures.
func (e *Event) signedBytes() []byte {
	var backing [24]member
	l := layout{members: backing[:0]}
	l.index(e.json)
	return l.signedBytes(e.json, e.Rules)
}

func (l *layout) signedBytes(json []byte, r *Rules) []byte {
	s := sink{buf: make([]byte, 0, len(json))}
	l.essential(&s, json, r)
	return s.buf
}

// Sign adds a signature and returns the event that bears it: the same event, with
// the same ID. The error is M_TOO_LARGE when there is no room for it.
//
// spec: server-server §27.1 (Adding hashes and signatures to outgoing events)
func (e *Event) Sign(s id.Server, key id.KeyID, priv ed25519.PrivateKey) (*Event, error) {
	signature := ed25519.Sign(priv, e.signedBytes())
	json := canonical.WithSignature(e.json, string(s), key, signature)
	if len(json) > MaxSize {
		return nil, merr.TooLarge("the event has %d bytes with its signature, more than %d", len(json), MaxSize)
	}
	out, err := build(json, e.ID, e.Rules)
	if err != nil {
		return nil, err
	}
	out.redacted, out.unsigned = e.redacted, e.unsigned
	return out, nil
}
