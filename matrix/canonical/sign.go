package canonical

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"strings"

	"weft/matrix/id"
	"weft/matrix/merr"
)

// EncodeBase64 encodes binary data as unpadded standard Base64.
//
// spec: appendices §1 (Unpadded Base64)
func EncodeBase64(data []byte) string { return base64.RawStdEncoding.EncodeToString(data) }

// DecodeBase64 decodes standard or URL-safe Base64, with or without padding.
//
// spec: appendices §1 ("SHOULD accept input with or without padding")
func DecodeBase64(s string) ([]byte, error) {
	s = strings.TrimRight(s, "=")
	enc := base64.RawStdEncoding
	if strings.ContainsAny(s, "-_") {
		enc = base64.RawURLEncoding
	}
	data, err := enc.DecodeString(s)
	if err != nil {
		return nil, merr.InvalidParam("no valid Base64: %v", err)
	}
	return data, nil
}

// SignJSON signs an object and returns it in canonical form with the signature
// added. Members signatures and unsigned are not covered by the signature and
// are kept. Numbers are treated leniently: a signed object may carry an event of
// an old room version.
//
// spec: appendices §3.2 (Signing Details)
func SignJSON(obj []byte, entity string, key id.KeyID, priv ed25519.PrivateKey) ([]byte, error) {
	obj, err := canonicalObject(obj)
	if err != nil {
		return nil, err
	}
	signature := ed25519.Sign(priv, SignedBytes(obj))
	return WithSignature(obj, entity, key, signature), nil
}

// VerifyJSON checks the signature of one entity with one key. The error is
// M_INVALID_SIGNATURE when it is missing or wrong.
//
// spec: appendices §3.3 (Checking for a Signature)
func VerifyJSON(obj []byte, entity string, key id.KeyID, pub ed25519.PublicKey) error {
	obj, err := canonicalObject(obj)
	if err != nil {
		return err
	}
	signature := Signature(Get(obj, "signatures"), entity, key)
	if signature == nil {
		return merr.InvalidSignature("there is no signature of %q with the key %q", entity, key)
	}
	if len(pub) != ed25519.PublicKeySize || !ed25519.Verify(pub, SignedBytes(obj), signature) {
		return merr.InvalidSignature("the signature of %q with the key %q is wrong", entity, key)
	}
	return nil
}

// Signatures lists the keys with which the entity signed the object, of any
// algorithm. It returns nil when there are none or the object is no JSON.
func Signatures(obj []byte, entity string) []id.KeyID {
	obj, err := canonicalObject(obj)
	if err != nil {
		return nil
	}
	return SignatureKeys(Get(obj, "signatures"), entity)
}

// SignatureKeys is Signatures for the value of the signatures member alone, in
// canonical form.
func SignatureKeys(signatures []byte, entity string) []id.KeyID {
	var keys []id.KeyID
	for c := Object(getDecoded(signatures, entity)); c.Next(); {
		if key, err := id.ParseKeyID(unescape(c.Key())); err == nil {
			keys = append(keys, key)
		}
	}
	return keys
}

// Signature finds a signature in the value of a signatures member in canonical
// form. It returns nil when it is missing or is no Base64 of 64 bytes.
func Signature(signatures []byte, entity string, key id.KeyID) []byte {
	text, ok := String(getDecoded(getDecoded(signatures, entity), string(key)))
	if !ok {
		return nil
	}
	signature, err := DecodeBase64(text)
	if err != nil || len(signature) != ed25519.SignatureSize {
		return nil
	}
	return signature
}

// SignedBytes is what a signature covers: a canonical object without its members
// signatures and unsigned.
func SignedBytes(obj []byte) []byte {
	out := make([]byte, 0, len(obj))
	out = append(out, '{')
	for c := Object(obj); c.Next(); {
		if k := c.Key(); string(k) == "signatures" || string(k) == "unsigned" {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, obj[c.KeyStart:c.End]...)
	}
	return append(out, '}')
}

// WithSignature adds a signature to a canonical object, in place of one that the
// entity made with the same key. The result is canonical.
func WithSignature(obj []byte, entity string, key id.KeyID, signature []byte) []byte {
	value := AppendString(nil, EncodeBase64(signature))
	old := Get(obj, "signatures")
	byEntity := Set(getDecoded(old, entity), string(key), value)
	return Set(obj, "signatures", Set(old, entity, byEntity))
}

// getDecoded is Get for a key that may need escapes.
func getDecoded(obj []byte, key string) []byte {
	for c := Object(obj); c.Next(); {
		if k := c.Key(); string(k) == key || bytes.IndexByte(k, '\\') >= 0 && unescape(k) == key {
			return c.Value()
		}
	}
	return nil
}

func canonicalObject(obj []byte) ([]byte, error) {
	obj, err := CanonicalLenient(obj)
	if err != nil {
		return nil, err
	}
	if obj[0] != '{' {
		return nil, merr.BadJSON("only an object can be signed")
	}
	return obj, nil
}
