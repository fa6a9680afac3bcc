package clientapi

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	typePassword = "m.login.password"
	typeToken    = "m.login.token"
	// loginTokenLifetime is short: the token only travels to a second device.
	loginTokenLifetime = 2 * time.Minute
)

// loginRequest is the body of POST /login.
type loginRequest struct {
	Type       string `json:"type"`
	Identifier struct {
		Type string `json:"type"`
		User string `json:"user"`
	} `json:"identifier"`
	User         string    `json:"user"` // deprecated
	Address      string    `json:"address"`
	Password     *string   `json:"password"`
	Token        string    `json:"token"`
	DeviceID     id.Device `json:"device_id"`
	DisplayName  string    `json:"initial_device_display_name"`
	RefreshToken bool      `json:"refresh_token"`
}

// GetLoginFlows is GET /login.
func (s *Server) GetLoginFlows(context.Context, *httpapi.Request) (any, error) {
	type f struct {
		Type          string `json:"type"`
		GetLoginToken bool   `json:"get_login_token,omitempty"`
	}
	return map[string]any{"flows": []f{{Type: typePassword}, {Type: typeToken, GetLoginToken: true}, {Type: typeAppservice}}}, nil
}

// Login is POST /login.
//
// spec: client-server §5.6 (Login)
func (s *Server) Login(ctx context.Context, r *httpapi.Request) (any, error) {
	var req loginRequest
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	switch req.Type {
	case typePassword:
		return s.loginByPassword(ctx, r, req)
	case typeToken:
		return s.loginByToken(ctx, r, req)
	case typeAppservice:
		return s.loginAppservice(ctx, r, req)
	case "":
		return nil, merr.MissingParam("type is missing")
	}
	return nil, merr.Unknown("the login type %q is not known", req.Type)
}

// named is the user that a login names.
func (q loginRequest) named() (string, error) {
	switch q.Identifier.Type {
	case "m.id.user":
		if q.Identifier.User == "" {
			return "", merr.MissingParam("identifier.user is missing")
		}
		return q.Identifier.User, nil
	case "m.id.thirdparty", "m.id.phone":
		// No account has a third-party identifier here.
		return "", merr.Forbidden("the user name or password is wrong")
	case "":
		if q.User != "" {
			return q.User, nil
		}
		if q.Address != "" {
			return "", merr.Forbidden("the user name or password is wrong")
		}
		return "", merr.MissingParam("identifier is missing")
	}
	return "", merr.Unknown("the identifier type %q is not known", q.Identifier.Type)
}

// findUser finds the account of a user ID or localpart, in the case given or in
// lower case. M_FORBIDDEN where there is none.
func (s *Server) findUser(ctx context.Context, name string) (account, error) {
	wrong := merr.Forbidden("the user name or password is wrong")
	localpart := name
	if strings.HasPrefix(name, "@") {
		u, err := id.ParseUser(name)
		if err != nil || !s.isLocal(u) {
			return account{}, wrong
		}
		localpart = u.Localpart()
	}
	if checkText("user", localpart, 255) != nil {
		return account{}, wrong
	}
	acc, err := getAccount(ctx, s.db, localpart)
	if lower := strings.ToLower(localpart); errors.Is(err, merr.ErrNotFound) && lower != localpart {
		acc, err = getAccount(ctx, s.db, lower)
	}
	if errors.Is(err, merr.ErrNotFound) {
		return account{}, wrong
	}
	return acc, err
}

func (s *Server) loginByPassword(ctx context.Context, r *httpapi.Request, req loginRequest) (any, error) {
	name, err := req.named()
	if err != nil {
		return nil, err
	}
	if req.Password == nil {
		return nil, merr.MissingParam("password is missing")
	}
	acc, err := s.findUser(ctx, name)
	if err != nil && !errors.Is(err, merr.ErrForbidden) {
		return nil, err
	}
	if acc.deactivated {
		return nil, merr.UserDeactivated("the account is deactivated")
	}
	good, err := s.passwords.verify(ctx, *req.Password, acc.passwordHash)
	if err != nil {
		return nil, err
	}
	if !good {
		return nil, merr.Forbidden("the user name or password is wrong")
	}
	return s.logIn(ctx, r, req, acc)
}

func (s *Server) logIn(ctx context.Context, r *httpapi.Request, req loginRequest, acc account) (any, error) {
	if acc.deactivated {
		return nil, merr.UserDeactivated("the account is deactivated")
	}
	if acc.locked {
		return nil, merr.UserLocked("the account is locked").With("soft_logout", true)
	}
	var t issued
	err := s.db.Update(ctx, func(tx *sqldb.Tx) error {
		var err error
		t, err = s.openSession(ctx, tx, s.sessionRequest(r, acc.localpart, req.DeviceID, req.DisplayName, req.RefreshToken))
		return err
	})
	if err != nil {
		return nil, err
	}
	if t.newDevice {
		s.announceDevice(ctx, s.userID(acc.localpart), t.device, req.DisplayName)
	}
	res := s.loginResponse(acc.localpart, t)
	if s.cfg.WellKnown.ClientBaseURL != "" {
		if res.WellKnown, err = json.Marshal(s.clientWellKnown()); err != nil {
			return nil, fmt.Errorf("writing the client configuration: %w", err)
		}
	}
	return res, nil
}

func (s *Server) loginByToken(ctx context.Context, r *httpapi.Request, req loginRequest) (any, error) {
	if req.Token == "" {
		return nil, merr.MissingParam("token is missing")
	}
	var localpart string
	err := s.db.Update(ctx, func(tx *sqldb.Tx) error {
		var err error
		localpart, err = s.useShortToken(ctx, tx, kindLogin, req.Token)
		return err
	})
	if errors.Is(err, merr.ErrNotFound) {
		return nil, merr.Forbidden("the login token is not known or has expired")
	}
	if err != nil {
		return nil, err
	}
	acc, err := getAccount(ctx, s.db, localpart)
	if err != nil {
		return nil, err
	}
	return s.logIn(ctx, r, req, acc)
}

// loginAppservice logs a user of an application service in.
//
// spec: client-server §5.6.3 (Appservice login)
func (s *Server) loginAppservice(ctx context.Context, r *httpapi.Request, req loginRequest) (any, error) {
	token := bearer(r)
	if token == "" {
		return nil, merr.MissingToken("an application service logs in with its as_token")
	}
	as := s.appservices.byToken(token)
	if as == nil {
		return nil, merr.UnknownToken("the as_token is not known")
	}
	name, err := req.named()
	if err != nil {
		return nil, err
	}
	acc, err := s.findUser(ctx, name)
	if err != nil {
		return nil, err
	}
	if user := s.userID(acc.localpart); !as.ownsUser(user) {
		return nil, merr.Exclusive("%s is not in the application service's namespace", user)
	}
	return s.logIn(ctx, r, req, acc)
}

// GenerateLoginToken is POST /v1/login/get_token.
func (s *Server) GenerateLoginToken(ctx context.Context, r *httpapi.Request) (any, error) {
	if err := s.confirmUser(ctx, r); err != nil {
		return nil, err
	}
	token, err := s.newShortToken(ctx, kindLogin, "wlt_", r.Session.User.Localpart(), loginTokenLifetime)
	if err != nil {
		return nil, err
	}
	return map[string]any{"login_token": token, "expires_in_ms": loginTokenLifetime.Milliseconds()}, nil
}

// Refresh is POST /refresh.
//
// spec: client-server §5.5 (Refreshing access tokens)
func (s *Server) Refresh(ctx context.Context, r *httpapi.Request) (any, error) {
	var req struct {
		RefreshToken string `json:"refresh_token"`
	}
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	if req.RefreshToken == "" {
		return nil, merr.MissingParam("refresh_token is missing")
	}
	var t issued
	err := s.db.Update(ctx, func(tx *sqldb.Tx) error {
		t = issued{}
		return s.refresh(ctx, tx, req.RefreshToken, &t)
	})
	if err != nil {
		return nil, err
	}
	return loginResponse{AccessToken: t.access, RefreshToken: t.refresh, ExpiresInMS: t.lifetime.Milliseconds()}, nil
}

// refresh takes the place of a pair of tokens. The pair that it came from is
// done with now; the pair itself stays until the new one is used; a new pair
// that was never used (the answer got lost) goes.
func (s *Server) refresh(ctx context.Context, tx *sqldb.Tx, token string, t *issued) error {
	var old, replaces int64
	var localpart string
	var locked, deactivated bool
	err := tx.QueryRow(ctx, lockRefresh, tokenHash(token)).Scan(&old, &localpart, &t.device, &replaces, &locked, &deactivated)
	switch {
	case errors.Is(err, sql.ErrNoRows) || err == nil && deactivated:
		return merr.UnknownToken("the refresh token is not known or was used").With("soft_logout", false)
	case err != nil:
		return fmt.Errorf("reading a refresh token: %w", err)
	case locked:
		return merr.UserLocked("the account is locked").With("soft_logout", true)
	}
	if replaces != 0 {
		if _, err := tx.Exec(ctx, updateTokenConfirmed, old); err != nil {
			return fmt.Errorf("confirming refreshed tokens: %w", err)
		}
		if err := s.endTokens(ctx, tx, deleteToken, replaces); err != nil {
			return err
		}
	}
	if err := s.endTokens(ctx, tx, deleteTokensReplacing, old); err != nil {
		return err
	}
	return s.issueTokens(ctx, tx, localpart, t, true, old)
}

// logoutSession authenticates by hand, because a locked user may log out.
//
// spec: client-server §5.10 (Account locking)
func (s *Server) logoutSession(ctx context.Context, r *httpapi.Request) error {
	q := r.Query()
	sess, err := s.authenticate(ctx, httpapi.Credentials{Token: bearer(r), AsUser: id.User(q.Get("user_id")),
		AsDevice: id.Device(q.Get("device_id")), Address: remoteAddress(r), Agent: r.HTTP.UserAgent()}, true)
	if err != nil {
		return err
	}
	r.Session = sess
	return nil
}

// Logout is POST /logout.
func (s *Server) Logout(ctx context.Context, r *httpapi.Request) (any, error) {
	if err := s.logoutSession(ctx, r); err != nil {
		return nil, err
	}
	if r.Session.Device == "" {
		return nil, nil
	}
	return nil, s.removeDevices(ctx, r.Session.User, []id.Device{r.Session.Device})
}

// LogoutAll is POST /logout/all.
func (s *Server) LogoutAll(ctx context.Context, r *httpapi.Request) (any, error) {
	if err := s.logoutSession(ctx, r); err != nil {
		return nil, err
	}
	return nil, s.removeAllDevices(ctx, r.Session.User)
}

func (s *Server) removeAllDevices(ctx context.Context, user id.User) error {
	devices, err := listDevices(ctx, s.db, user.Localpart())
	if err != nil {
		return err
	}
	var ids []id.Device
	for _, d := range devices {
		ids = append(ids, d.ID)
	}
	return s.removeDevices(ctx, user, ids)
}

// bearer is the access token of a request whose row does not authenticate.
func bearer(r *httpapi.Request) string {
	if h := r.HTTP.Header.Get("Authorization"); h != "" {
		scheme, token, _ := strings.Cut(h, " ")
		if strings.EqualFold(scheme, "Bearer") {
			return strings.TrimSpace(token)
		}
		return ""
	}
	return r.Query().Get("access_token")
}

// remoteAddress is the client's address without its port.
func remoteAddress(r *httpapi.Request) string {
	host, _, err := net.SplitHostPort(r.HTTP.RemoteAddr)
	if err != nil {
		return r.HTTP.RemoteAddr
	}
	return host
}
