package eventstore

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"weft/matrix/id"
)

// The first byte of a stored event ID tells how to read the rest.
const (
	idText     = 0x01 // 20 bytes of hash, and the text itself (room versions 1 and 2, and anything unusual)
	idStandard = 0x03 // 32 bytes of hash, written in standard Base64 (version 3)
	idURLSafe  = 0x04 // 32 bytes of hash, written in URL-safe Base64 (version 4 on)
)

// eventIDPrefix is by how many bytes a stored event ID is found: the kind and 160 bits of hash.
const eventIDPrefix = 21

// hashTextLen is the length of 32 bytes in Base64 without padding.
const hashTextLen = 43

// EncodeEventID gives the stored form of an event ID: 33 bytes for the IDs that
// are hashes. It depends on the text alone: a hash whose text is the same in both
// alphabets counts as URL-safe.
func EncodeEventID(e id.Event) []byte {
	if len(e) == 1+hashTextLen && e[0] == '$' {
		out := make([]byte, 1, 33) // a shorter result: the decoder skipped line ends
		if b, err := base64.RawURLEncoding.Strict().AppendDecode(out, []byte(e[1:])); err == nil && len(b) == 33 {
			b[0] = idURLSafe
			return b
		}
		if b, err := base64.RawStdEncoding.Strict().AppendDecode(out[:1], []byte(e[1:])); err == nil && len(b) == 33 {
			b[0] = idStandard
			return b
		}
	}
	sum := sha256.Sum256([]byte(e))
	out := make([]byte, 0, eventIDPrefix+len(e))
	return append(append(append(out, idText), sum[:eventIDPrefix-1]...), e...)
}

// DecodeEventID reads the stored form.
func DecodeEventID(b []byte) (id.Event, error) {
	switch {
	case len(b) > eventIDPrefix && b[0] == idText:
		return id.Event(b[eventIDPrefix:]), nil
	case len(b) == 33 && b[0] == idStandard:
		return id.Event(base64.RawStdEncoding.AppendEncode([]byte{'$'}, b[1:])), nil
	case len(b) == 33 && b[0] == idURLSafe:
		return id.Event(base64.RawURLEncoding.AppendEncode([]byte{'$'}, b[1:])), nil
	}
	return "", fmt.Errorf("eventstore: %x is no stored event ID", b)
}
