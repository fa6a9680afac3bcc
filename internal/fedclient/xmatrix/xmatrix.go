package xmatrix

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"

	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// maxHeader bounds one Authorization header, in bytes.
const maxHeader = 4096

// Header is one parsed Authorization header of the X-Matrix scheme.
type Header struct {
	// Origin is the sending server.
	Origin id.Server
	// Destination is the receiving server; empty when the header had none.
	Destination id.Server
	// Key is the ID of the key that made the signature.
	Key id.KeyID
	// Signature is the signature in unpadded base64, as received.
	Signature string
}

// String gives the header's value, in the form that old servers read as well.
//
// spec: server-server §4.1 (request authentication)
func (h Header) String() string {
	var b strings.Builder
	b.WriteString(`X-Matrix origin="`)
	b.WriteString(string(h.Origin))
	if h.Destination != "" {
		b.WriteString(`",destination="`)
		b.WriteString(string(h.Destination))
	}
	b.WriteString(`",key="`)
	b.WriteString(string(h.Key))
	b.WriteString(`",sig="`)
	b.WriteString(h.Signature)
	b.WriteString(`"`)
	return b.String()
}

// Signable gives the canonical bytes that a request's signature covers. uri is
// the path with the query as it stands on the wire; content is the JSON body,
// or empty for a request without one. An empty destination is left out, as
// servers do that do not send it.
//
// spec: server-server §4.1, step 1
func Signable(method, uri string, origin, destination id.Server, content []byte) ([]byte, error) {
	out := make([]byte, 0, len(content)+len(uri)+160)
	out = append(out, '{')
	if len(content) > 0 {
		// PDUs of old room versions hold numbers that strict canonical JSON
		// forbids, and a request may carry them, so the lenient form is signed.
		c, err := canonical.CanonicalLenient(content)
		if err != nil {
			return nil, fmt.Errorf("the content cannot be signed: %w", err)
		}
		out = append(out, `"content":`...)
		out = append(out, c...)
		out = append(out, ',')
	}
	fields := []struct{ name, value string }{
		{"destination", string(destination)}, {"method", method}, {"origin", string(origin)}, {"uri", uri},
	}
	if destination == "" {
		fields = fields[1:]
	}
	for i, f := range fields {
		if i > 0 {
			out = append(out, ',')
		}
		v, err := canonical.Marshal(f.value)
		if err != nil {
			return nil, fmt.Errorf("the %s cannot be signed: %w", f.name, err)
		}
		out = append(out, '"')
		out = append(out, f.name...)
		out = append(out, `":`...)
		out = append(out, v...)
	}
	return append(out, '}'), nil
}

// Sign makes the header for a request.
func Sign(method, uri string, origin, destination id.Server, content []byte, key id.KeyID, priv ed25519.PrivateKey) (Header, error) {
	msg, err := Signable(method, uri, origin, destination, content)
	if err != nil {
		return Header{}, err
	}
	return Header{
		Origin: origin, Destination: destination, Key: key,
		Signature: base64.RawStdEncoding.EncodeToString(ed25519.Sign(priv, msg)),
	}, nil
}

// Verify checks the header's signature over signable bytes.
func (h Header) Verify(signable []byte, pub ed25519.PublicKey) error {
	sig, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(h.Signature, "="))
	if err != nil || len(sig) != ed25519.SignatureSize {
		return merr.Unauthorized("the request's signature is not an unpadded base64 ed25519 signature")
	}
	if len(pub) != ed25519.PublicKeySize || !ed25519.Verify(pub, signable, sig) {
		return merr.Unauthorized("the request's signature by %s with key %s is wrong", h.Origin, h.Key)
	}
	return nil
}

// IsXMatrix says whether an Authorization header uses this scheme.
func IsXMatrix(header string) bool {
	scheme, _, ok := strings.Cut(header, " ")
	return ok && strings.EqualFold(scheme, "X-Matrix")
}

// Parse reads one Authorization header. Its errors are M_UNAUTHORIZED.
func Parse(header string) (Header, error) {
	if len(header) > maxHeader {
		return Header{}, merr.Unauthorized("the Authorization header is longer than %d bytes", maxHeader)
	}
	if !IsXMatrix(header) {
		return Header{}, merr.Unauthorized("the Authorization header is not of the X-Matrix scheme")
	}
	params, err := parseParams(header[len("X-Matrix "):])
	if err != nil {
		return Header{}, err
	}
	var h Header
	if h.Origin, err = id.ParseServer(params["origin"]); err != nil {
		return Header{}, merr.Unauthorized("the Authorization header's origin is not a server name")
	}
	if d := params["destination"]; d != "" {
		if h.Destination, err = id.ParseServer(d); err != nil {
			return Header{}, merr.Unauthorized("the Authorization header's destination is not a server name")
		}
	}
	if h.Key, err = id.ParseKeyID(params["key"]); err != nil {
		return Header{}, merr.Unauthorized("the Authorization header's key is not a key ID")
	}
	// spec?: the parameter list calls it `signature`, every example and every
	// server `sig`; the latter is what is written, both are read.
	h.Signature = params["sig"]
	if h.Signature == "" {
		h.Signature = params["signature"]
	}
	if h.Signature == "" {
		return Header{}, merr.Unauthorized("the Authorization header has no sig")
	}
	return h, nil
}

// parseParams reads a comma-separated list of name=value pairs. Empty list
// elements are skipped, as RFC 9110 §5.6.1 asks of a recipient.
func parseParams(s string) (map[string]string, error) {
	params := map[string]string{}
	for {
		s = strings.TrimLeft(s, " \t,")
		if s == "" {
			return params, nil
		}
		name, rest, ok := strings.Cut(s, "=")
		name = strings.TrimRight(name, " \t")
		if !ok || name == "" || !isToken(name, false) {
			return nil, merr.Unauthorized("the Authorization header is not a list of name=value pairs")
		}
		value, rest, err := parseValue(strings.TrimLeft(rest, " \t"))
		if err != nil {
			return nil, err
		}
		name = strings.ToLower(name)
		if _, dup := params[name]; dup {
			return nil, merr.Unauthorized("the Authorization header has the parameter %s twice", name)
		}
		params[name] = value
		rest = strings.TrimLeft(rest, " \t")
		if rest != "" && rest[0] != ',' {
			return nil, merr.Unauthorized("the Authorization header has text after the value of %s", name)
		}
		s = rest
	}
}

// parseValue reads a token or a quoted string and returns what follows it.
func parseValue(s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, ", \t")
		if end < 0 {
			end = len(s)
		}
		if !isToken(s[:end], true) {
			return "", "", merr.Unauthorized("the Authorization header has an unquoted value that must be quoted")
		}
		return s[:end], s[end:], nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], nil
		case '\\':
			i++
			if i == len(s) {
				return "", "", merr.Unauthorized("the Authorization header ends inside a quoted value")
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", merr.Unauthorized("the Authorization header has an unclosed quote")
}

// isToken says whether s is made of token characters. Values may hold some more
// without quotes: colons (the specification says so), and the characters of
// base64, brackets and padding that old servers leave unquoted.
//
// spec: server-server §4.1; RFC 9110 §5.6.2
func isToken(s string, value bool) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		case value && strings.IndexByte(":/=[]", c) >= 0:
		default:
			return false
		}
	}
	return true
}
