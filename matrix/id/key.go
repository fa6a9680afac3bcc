package id

import (
	"strings"
	"unicode/utf8"

	"weft/matrix/merr"
)

// Ed25519 is the name of the only signing algorithm that Matrix uses.
const Ed25519 = "ed25519"

// KeyID is a signing key identifier: "algorithm:version", such as "ed25519:abc".
// For the keys of devices the version is the device ID.
//
// spec: appendices §3.2 (Signing Details)
type KeyID string

// ParseKeyID checks a key identifier. Any algorithm is accepted: the caller skips
// those it does not understand.
func ParseKeyID(s string) (KeyID, error) {
	algorithm, version, found := strings.Cut(s, ":")
	if !found || algorithm == "" || version == "" {
		return "", merr.InvalidParam("a key ID must have the form algorithm:version, not %q", shorten(s))
	}
	if len(s) > MaxLength || strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s) {
		return "", merr.InvalidParam("the key ID %q is not valid", shorten(s))
	}
	return KeyID(s), nil
}

// Algorithm is the text before the first colon.
func (k KeyID) Algorithm() string {
	a, _, _ := strings.Cut(string(k), ":")
	return a
}

// Version is the text after the first colon.
func (k KeyID) Version() string {
	_, v, _ := strings.Cut(string(k), ":")
	return v
}
