package clientapi

import (
	"context"
	"errors"
	"time"

	"weft/internal/httpapi"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// openIDLifetime is how long a third party may ask for the user of a token.
const openIDLifetime = time.Hour

// RequestOpenIDToken is POST /user/{userId}/openid/request_token.
//
// spec: client-server §10.25 (OpenID)
func (s *Server) RequestOpenIDToken(ctx context.Context, r *httpapi.Request) (any, error) {
	if err := ownUser(r); err != nil {
		return nil, err
	}
	token, err := s.newShortToken(ctx, kindOpenID, "wot_", r.Session.User.Localpart(), openIDLifetime)
	if err != nil {
		return nil, err
	}
	return map[string]any{"access_token": token, "token_type": "Bearer", "matrix_server_name": s.cfg.ServerName,
		"expires_in": int64(openIDLifetime / time.Second)}, nil
}

// OpenIDUser tells whose an OpenID token is; M_UNKNOWN_TOKEN for none. The
// federation API answers other servers with it.
//
// spec: server-server §17 (OpenID)
func (s *Server) OpenIDUser(ctx context.Context, token string) (id.User, error) {
	localpart, err := s.findShortToken(ctx, kindOpenID, token)
	if errors.Is(err, merr.ErrNotFound) {
		return "", merr.UnknownToken("the OpenID token is not known or has expired")
	}
	if err != nil {
		return "", err
	}
	return s.userID(localpart), nil
}
