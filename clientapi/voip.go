package clientapi

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"time"

	"weft/internal/httpapi"
)

// GetTurnServer is GET /voip/turnServer. Where there is no TURN server the
// answer is an empty object, which clients understand.
//
// spec: client-server §10.10.2 (VoIP: server behaviour)
func (s *Server) GetTurnServer(_ context.Context, r *httpapi.Request) (any, error) {
	turn := s.cfg.TURN
	if len(turn.URIs) == 0 {
		return nil, nil
	}
	ttl := turn.TTL
	if ttl == 0 {
		ttl = 24 * time.Hour
	}
	username, password := turn.Username, turn.Password
	if turn.SharedSecret != "" {
		// The scheme of time-limited credentials that TURN servers share: the
		// name says when it ends, the password proves the secret.
		username = fmt.Sprintf("%d:%s", s.now().Add(ttl).Unix(), r.Session.User)
		mac := hmac.New(sha1.New, []byte(turn.SharedSecret))
		mac.Write([]byte(username))
		password = base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	return map[string]any{"username": username, "password": password, "uris": turn.URIs, "ttl": int64(ttl / time.Second)}, nil
}
