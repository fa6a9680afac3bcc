package clientapi

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"weft/clientapi/api"
	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	insertRegistrationToken = `INSERT INTO registration_tokens (token, uses_allowed, uses, expires_ts) VALUES ($1, $2, 0, $3)`
	selectRegistrationToken = `SELECT uses_allowed, uses, expires_ts FROM registration_tokens WHERE token = $1`
	takeRegistrationToken   = `UPDATE registration_tokens SET uses = uses + 1
	WHERE token = $1 AND (uses_allowed < 0 OR uses < uses_allowed) AND (expires_ts = 0 OR expires_ts > $2)`
)

// registerRequest is the body of POST /register.
type registerRequest struct {
	Username     string    `json:"username"`
	Password     string    `json:"password"`
	DeviceID     id.Device `json:"device_id"`
	DisplayName  string    `json:"initial_device_display_name"`
	InhibitLogin bool      `json:"inhibit_login"`
	RefreshToken bool      `json:"refresh_token"`
	Type         string    `json:"type"`
}

// loginResponse answers a registration, a login and a refresh.
type loginResponse struct {
	UserID       id.User         `json:"user_id,omitempty"`
	AccessToken  string          `json:"access_token,omitempty"`
	DeviceID     id.Device       `json:"device_id,omitempty"`
	RefreshToken string          `json:"refresh_token,omitempty"`
	ExpiresInMS  int64           `json:"expires_in_ms,omitempty"`
	HomeServer   id.Server       `json:"home_server,omitempty"`
	WellKnown    json.RawMessage `json:"well_known,omitempty"`
}

func (s *Server) loginResponse(localpart string, t issued) loginResponse {
	return loginResponse{UserID: s.userID(localpart), HomeServer: s.cfg.ServerName, AccessToken: t.access,
		DeviceID: t.device, RefreshToken: t.refresh, ExpiresInMS: t.lifetime.Milliseconds()}
}

// Register is POST /register.
//
// spec: client-server §5.8 (Account registration)
func (s *Server) Register(ctx context.Context, r *httpapi.Request) (any, error) {
	var req registerRequest
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	switch kind := r.Query().Get("kind"); kind {
	case "", "user":
	case "guest":
		return s.registerGuest(ctx, r, req)
	default:
		return nil, merr.InvalidParam("kind %q is neither guest nor user", kind)
	}
	if as := s.appservices.byToken(bearer(r)); as != nil || req.Type == typeAppservice {
		return s.registerAppserviceUser(ctx, r, as, req)
	}
	if s.cfg.Registration.Mode == RegistrationClosed {
		return nil, merr.Forbidden("registration is closed on this server")
	}
	return s.registerUser(ctx, r, req)
}

func (s *Server) registerUser(ctx context.Context, r *httpapi.Request, req registerRequest) (any, error) {
	var user id.User
	var err error
	if req.Username != "" {
		if user, err = s.freeUser(ctx, req.Username, ""); err != nil {
			return nil, err
		}
	} else if user, err = id.NewUser(randomLocalpart(), s.cfg.ServerName); err != nil {
		return nil, fmt.Errorf("making a user ID: %w", err)
	}
	if req.Password != "" {
		if err := checkPassword(req.Password); err != nil {
			return nil, err
		}
	}
	flows := [][]string{{stageDummy}}
	if s.cfg.Registration.Mode == RegistrationToken {
		flows = [][]string{{stageToken}}
	}
	sess, err := s.interact(ctx, uiaRequest{endpoint: "POST register", body: r.Body, flows: flows, loose: true})
	if err != nil {
		return nil, err
	}
	if err := checkPassword(req.Password); err != nil {
		return nil, err
	}
	hash, err := s.passwords.hash(ctx, req.Password)
	if err != nil {
		return nil, err
	}
	return s.register(ctx, r, req, api.CreateAccount{User: user}, hash, sess.registrationToken)
}

// register makes an account and, where it is wanted, its first session, both or
// neither.
func (s *Server) register(ctx context.Context, r *httpapi.Request, req registerRequest, acc api.CreateAccount, hash, token string) (any, error) {
	var t issued
	err := s.db.Update(ctx, func(tx *sqldb.Tx) error {
		t = issued{}
		if token != "" {
			if err := s.takeRegistrationToken(ctx, tx, token); err != nil {
				return err
			}
		}
		if err := s.createAccount(ctx, tx, acc, hash); err != nil {
			return err
		}
		if req.InhibitLogin {
			return nil
		}
		var err error
		t, err = s.openSession(ctx, tx, s.sessionRequest(r, acc.User.Localpart(), req.DeviceID, req.DisplayName, req.RefreshToken))
		return err
	})
	if err != nil {
		return nil, err
	}
	if t.newDevice {
		s.announceDevice(ctx, acc.User, t.device, req.DisplayName)
	}
	return s.loginResponse(acc.User.Localpart(), t), nil
}

func (s *Server) sessionRequest(r *httpapi.Request, localpart string, device id.Device, display string, refresh bool) newSession {
	return newSession{localpart: localpart, device: device, display: display, refresh: refresh,
		address: cleanText(remoteAddress(r), 64), agent: cleanText(r.HTTP.UserAgent(), 255)}
}

// announceDevice tells the key server of a new device. The session is there
// already, so a failure is only logged: the device becomes known with its keys.
func (s *Server) announceDevice(ctx context.Context, user id.User, device id.Device, name string) {
	if err := s.cfg.Keys.DeviceChanged(ctx, user, device, name); err != nil {
		s.log.WithError(err).WithField("user", user).Error("could not tell the key server of a new device")
	}
}

// randomLocalpart names users that did not choose a name.
func randomLocalpart() string { return strings.ToLower(rand.Text()[:16]) }

// freeUser checks that a user ID may be registered.
func (s *Server) freeUser(ctx context.Context, username, appservice string) (id.User, error) {
	// spec: client-server §5.8.1: the server may map case; it does, as most do
	user, err := id.NewUser(strings.ToLower(username), s.cfg.ServerName)
	if err != nil {
		return "", merr.InvalidUsername("%q is no valid user name: %v", username, err)
	}
	if as, ok := s.appservices.reservedUser(user, appservice); ok {
		return "", merr.Exclusive("%s is reserved by the application service %q", user, as)
	}
	_, err = getAccount(ctx, s.db, user.Localpart())
	if err == nil {
		return "", merr.UserInUse("the user ID %s is taken", user)
	}
	if !errors.Is(err, merr.ErrNotFound) {
		return "", err
	}
	return user, nil
}

func (s *Server) registerGuest(ctx context.Context, r *httpapi.Request, req registerRequest) (any, error) {
	if !s.cfg.Registration.Guests || s.cfg.Registration.Mode != RegistrationOpen {
		return nil, merr.Forbidden("guests are not let in on this server")
	}
	user, err := id.NewUser("guest-"+randomLocalpart(), s.cfg.ServerName)
	if err != nil {
		return nil, fmt.Errorf("making a guest's user ID: %w", err)
	}
	// spec: client-server §5.8 (POST /register): of a guest's body only
	// initial_device_display_name counts
	return s.register(ctx, r, registerRequest{DisplayName: req.DisplayName}, api.CreateAccount{User: user, Guest: true}, "", "")
}

// typeAppservice is both a registration type and a login type.
const typeAppservice = "m.login.application_service"

// registerAppserviceUser makes an account in an application service's
// namespace.
//
// spec: application-service §2.4.3 (Server admin style permissions)
func (s *Server) registerAppserviceUser(ctx context.Context, r *httpapi.Request, as *appservice, req registerRequest) (any, error) {
	if as == nil {
		return nil, merr.Unauthorized("an application service registers with its as_token")
	}
	if req.Type != typeAppservice {
		return nil, merr.BadJSON("an application service registers users with type %s", typeAppservice)
	}
	if req.Username == "" {
		return nil, merr.MissingParam("username is missing")
	}
	user, err := s.freeUser(ctx, req.Username, as.ID)
	if err != nil {
		return nil, err
	}
	if !as.ownsUser(user) {
		return nil, merr.Exclusive("%s is not in the application service's namespace", user)
	}
	return s.register(ctx, r, req, api.CreateAccount{User: user, Appservice: as.ID}, "", "")
}

// CheckUsernameAvailability is GET /register/available.
func (s *Server) CheckUsernameAvailability(ctx context.Context, r *httpapi.Request) (any, error) {
	name := r.Query().Get("username")
	if name == "" {
		return nil, merr.MissingParam("username is missing")
	}
	if s.cfg.Registration.Mode == RegistrationClosed {
		return nil, merr.Forbidden("registration is closed on this server")
	}
	if _, err := s.freeUser(ctx, name, ""); err != nil {
		return nil, err
	}
	return map[string]bool{"available": true}, nil
}

// RegistrationTokenValidity is
// GET /register/m.login.registration_token/validity.
func (s *Server) RegistrationTokenValidity(ctx context.Context, r *httpapi.Request) (any, error) {
	token := r.Query().Get("token")
	if token == "" {
		return nil, merr.MissingParam("token is missing")
	}
	if s.cfg.Registration.Mode != RegistrationToken {
		return nil, merr.Forbidden("this server does not register users by token")
	}
	valid, err := s.registrationTokenValid(ctx, token)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"valid": valid}, nil
}

// CreateRegistrationToken stores a token for registration mode "token". uses
// below 0 and a zero expires mean without limit.
func (s *Server) CreateRegistrationToken(ctx context.Context, token string, uses int64, expires time.Time) error {
	if token == "" || len(token) > 64 || strings.Trim(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-") != "" {
		return merr.InvalidParam("a registration token has up to 64 letters, digits and . _ ~ -")
	}
	var ts int64
	if !expires.IsZero() {
		ts = expires.UnixMilli()
	}
	_, err := s.db.Exec(ctx, insertRegistrationToken, token, uses, ts)
	if sqldb.IsUniqueViolation(err) {
		return merr.InvalidParam("the registration token is there already")
	}
	if err != nil {
		return fmt.Errorf("storing a registration token: %w", err)
	}
	return nil
}

func (s *Server) configuredToken(token string) bool {
	found := false
	for _, t := range s.cfg.Registration.Tokens {
		found = subtle.ConstantTimeCompare([]byte(t), []byte(token)) == 1 || found
	}
	return found && token != ""
}

func (s *Server) registrationTokenValid(ctx context.Context, token string) (bool, error) {
	if s.configuredToken(token) {
		return true, nil
	}
	if checkText("token", token, 64) != nil {
		return false, nil
	}
	var allowed, uses, expires int64
	err := s.db.QueryRow(ctx, selectRegistrationToken, token).Scan(&allowed, &uses, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading a registration token: %w", err)
	}
	return (allowed < 0 || uses < allowed) && (expires == 0 || expires > s.nowMS()), nil
}

// takeRegistrationToken counts one use, in the transaction that makes the
// account.
func (s *Server) takeRegistrationToken(ctx context.Context, tx *sqldb.Tx, token string) error {
	if s.configuredToken(token) {
		return nil
	}
	res, err := tx.Exec(ctx, takeRegistrationToken, token, s.nowMS())
	if err != nil {
		return fmt.Errorf("using a registration token: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return fmt.Errorf("using a registration token: %w", err)
	}
	if n == 0 {
		return merr.Forbidden("the registration token was used up")
	}
	return nil
}
