package keyring

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"weft/internal/fedclient/xmatrix"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// maxAuthHeaders bounds the signatures that are looked at in one request.
const maxAuthHeaders = 8

// VerifyRequest checks the signature of an inbound request and returns the
// server that sent it. body is the whole body, empty for none; destination is
// the name that this server goes by. Failures are M_UNAUTHORIZED with status 401;
// a body that is not JSON is M_NOT_JSON; a failure of the key store is an
// internal error.
//
// A request may carry several signatures by different keys, as several headers
// of one origin; one that is good is enough.
//
// spec: server-server §4.1 (request authentication)
func (k *Keyring) VerifyRequest(r *http.Request, body []byte, destination id.Server) (id.Server, error) {
	headers, err := requestHeaders(r, destination)
	if err != nil {
		return "", err
	}
	origin := headers[0].Origin
	if origin == k.cfg.ServerName {
		return "", merr.Unauthorized("the request claims to come from this server itself")
	}
	uri := r.RequestURI
	if !strings.HasPrefix(uri, "/") {
		uri = r.URL.RequestURI()
	}
	now := k.cfg.Now().UnixMilli()
	var firstErr error
	signables := map[id.Server][]byte{}
	for _, h := range headers {
		msg, ok := signables[h.Destination]
		if !ok {
			if msg, err = signable(r.Method, uri, h, body); err != nil {
				return "", err
			}
			signables[h.Destination] = msg
		}
		if err = k.verifyHeader(r, h, msg, now); err == nil {
			return origin, nil
		}
		if firstErr == nil {
			firstErr = err
		}
	}
	return "", firstErr
}

// requestHeaders reads all X-Matrix headers and checks that they agree.
func requestHeaders(r *http.Request, destination id.Server) ([]xmatrix.Header, error) {
	var out []xmatrix.Header
	for _, v := range r.Header.Values("Authorization") {
		if !xmatrix.IsXMatrix(v) {
			continue
		}
		if len(out) == maxAuthHeaders {
			return nil, merr.Unauthorized("the request has more than %d signatures", maxAuthHeaders)
		}
		h, err := xmatrix.Parse(v)
		if err != nil {
			return nil, err
		}
		// spec: a missing destination is accepted, a wrong one is a 401
		if h.Destination != "" && h.Destination != destination {
			return nil, merr.Unauthorized("the request is for %s, not for this server", h.Destination)
		}
		if len(out) > 0 && h.Origin != out[0].Origin {
			return nil, merr.Unauthorized("the request's signatures are of different servers")
		}
		out = append(out, h)
	}
	if len(out) == 0 {
		return nil, merr.Unauthorized("the request has no X-Matrix Authorization header")
	}
	return out, nil
}

// signable gives the signed bytes. Without a destination in the header there is
// none in the signed object either.
func signable(method, uri string, h xmatrix.Header, body []byte) ([]byte, error) {
	msg, err := xmatrix.Signable(method, uri, h.Origin, h.Destination, body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", merr.NotJSON("the body is not JSON that can be signed"), err)
	}
	return msg, nil
}

func (k *Keyring) verifyHeader(r *http.Request, h xmatrix.Header, msg []byte, now int64) error {
	if h.Key.Algorithm() != id.Ed25519 {
		return merr.Unauthorized("the key %s is not an ed25519 key", h.Key)
	}
	pub, err := k.requestKey(r, h, now)
	if errors.Is(err, ErrStore) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: %w", merr.Unauthorized("the key %s of %s is not known to be valid", h.Key, h.Origin), err)
	}
	return h.Verify(msg, pub)
}

// requestKey finds a key that is current now: old keys verify events only.
func (k *Keyring) requestKey(r *http.Request, h xmatrix.Header, now int64) ([]byte, error) {
	pub, err := k.key(r.Context(), h.Origin, h.Key, now, requestPause)
	if err != nil {
		return nil, err
	}
	if st, ok := k.servers.GetIfPresent(h.Origin); ok {
		if sk := st.get(); sk != nil && sk.Keys[h.Key].ExpiredTS != 0 {
			return nil, fmt.Errorf("the key is listed as an old one")
		}
	}
	return pub, nil
}
