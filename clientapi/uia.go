package clientapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"weft/internal/httpapi"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// The stages of user-interactive authentication that this server has.
//
// spec: client-server §5.7 (User-interactive authentication)
const (
	stagePassword = "m.login.password"
	stageDummy    = "m.login.dummy"
	stageToken    = "m.login.registration_token"
)

const (
	insertUIA = `INSERT INTO uia_sessions (id, localpart, endpoint, body_hash, completed, registration_token, expires_ts)
	VALUES ($1, $2, $3, $4, $5, $6, $7)`
	selectUIA = `SELECT localpart, endpoint, body_hash, completed, registration_token FROM uia_sessions
	WHERE id = $1 AND expires_ts > $2`
	updateUIA = `UPDATE uia_sessions SET completed = $1, registration_token = $2, body_hash = $3 WHERE id = $4`
)

// uiaLifetime is how long a session waits for its next stage.
const uiaLifetime = time.Hour

// uiaRequest is an operation that needs user-interactive authentication.
type uiaRequest struct {
	user     id.User // empty: registration
	endpoint string  // method and path, which a session is good for
	body     []byte
	flows    [][]string
	// loose: the body may change between the stages. Some clients ask for the
	// flows of a registration before they know what to register.
	loose bool
}

// uiaSession is a row of uia_sessions.
type uiaSession struct {
	id                string
	stored            bool
	localpart         string
	endpoint          string
	bodyHash          []byte // nil: no body was seen yet
	completed         []string
	registrationToken string
}

// challenge is the 401 answer that names the flows. It is an error, so that
// handlers stop at it; cleanParams turns it into the answer.
type challenge struct {
	Flows     []flow         `json:"flows"`
	Params    map[string]any `json:"params"`
	Session   string         `json:"session"`
	Completed []string       `json:"completed,omitempty"`
	Code      string         `json:"errcode,omitempty"`
	Message   string         `json:"error,omitempty"`
}

type flow struct {
	Stages []string `json:"stages"`
}

func (*challenge) Error() string { return "user-interactive authentication is needed" }

// answerChallenge stands before a handler that may return a challenge.
func answerChallenge(next httpapi.Handler) httpapi.Handler {
	return func(ctx context.Context, r *httpapi.Request) (any, error) {
		v, err := next(ctx, r)
		var c *challenge
		if errors.As(err, &c) {
			return &httpapi.Response{Status: 401, JSON: c}, nil
		}
		return v, err
	}
}

// confirmUser asks a user for the password again before a dangerous operation.
// Application services are trusted with their users.
//
// spec: application-service §2.4.2 (Device management)
func (s *Server) confirmUser(ctx context.Context, r *httpapi.Request) error {
	if r.Session.Appservice != "" {
		return nil
	}
	_, err := s.interact(ctx, uiaRequest{
		user:     r.Session.User,
		endpoint: r.HTTP.Method + " " + r.HTTP.URL.Path,
		body:     r.Body,
		flows:    [][]string{{stagePassword}},
	})
	return err
}

// interact takes one step of user-interactive authentication: the session it
// returns is complete, otherwise the error is a challenge.
func (s *Server) interact(ctx context.Context, req uiaRequest) (*uiaSession, error) {
	auth := gjson.GetBytes(req.body, "auth")
	if auth.Exists() && auth.Type != gjson.Null && !auth.IsObject() {
		return nil, merr.BadJSON("auth is not an object")
	}
	sess, err := s.loadUIA(ctx, req, auth.Get("session"))
	if err != nil {
		return nil, err
	}
	if sess == nil {
		fresh := s.newUIA(req)
		return nil, s.challenge(ctx, req, fresh, "M_UNKNOWN", "the authentication session is not known or has expired")
	}
	if complete(req.flows, sess.completed) {
		return sess, nil
	}
	stage := auth.Get("type").String()
	if stage == "" {
		return nil, s.challenge(ctx, req, sess, "", "")
	}
	if !offered(req.flows, stage) {
		return nil, merr.New(400, "M_UNRECOGNIZED", "the authentication type %q is not one of the flows", stage)
	}
	ok, code, why, err := s.checkStage(ctx, req, sess, stage, auth)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, s.challenge(ctx, req, sess, code, why)
	}
	if !slices.Contains(sess.completed, stage) {
		sess.completed = append(sess.completed, stage)
	}
	if !complete(req.flows, sess.completed) {
		return nil, s.challenge(ctx, req, sess, "", "")
	}
	if sess.stored {
		if err := s.storeUIA(ctx, sess); err != nil {
			return nil, err
		}
	}
	return sess, nil
}

func (s *Server) newUIA(req uiaRequest) *uiaSession {
	return &uiaSession{id: newSecret(""), localpart: req.user.Localpart(), endpoint: req.endpoint, bodyHash: bodyHash(req.body)}
}

// loadUIA returns nil for a session that is not known, a new one where the
// client named none, and an error where the session is for something else.
//
// spec: client-server §5.7.1: the client must not change the request between stages
func (s *Server) loadUIA(ctx context.Context, req uiaRequest, session gjson.Result) (*uiaSession, error) {
	if session.String() == "" {
		return s.newUIA(req), nil
	}
	if err := checkText("session", session.String(), 255); err != nil {
		return nil, err
	}
	u := &uiaSession{id: session.String(), stored: true}
	var completed string
	err := s.db.QueryRow(ctx, selectUIA, u.id, s.nowMS()).
		Scan(&u.localpart, &u.endpoint, &u.bodyHash, &completed, &u.registrationToken)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading an authentication session: %w", err)
	}
	u.completed = strings.Fields(completed)
	if u.endpoint != req.endpoint || u.localpart != req.user.Localpart() {
		return nil, merr.Forbidden("the authentication session belongs to another request")
	}
	now := bodyHash(req.body)
	switch {
	case req.loose || bytes.Equal(now, u.bodyHash):
	case u.bodyHash == nil:
		u.bodyHash = now
	default:
		return nil, merr.Forbidden("the request changed during its authentication")
	}
	return u, nil
}

// bodyHash is of all fields but auth; nil where there are none.
func bodyHash(body []byte) []byte {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil
	}
	delete(fields, "auth")
	if len(fields) == 0 {
		return nil
	}
	// Field order and space between fields do not count.
	b, err := json.Marshal(fields)
	if err != nil {
		return nil
	}
	h := sha256.Sum256(b)
	return h[:]
}

func (s *Server) storeUIA(ctx context.Context, u *uiaSession) error {
	var hash any
	if u.bodyHash != nil {
		hash = u.bodyHash
	}
	var err error
	completed := strings.Join(u.completed, " ")
	if u.stored {
		_, err = s.db.Exec(ctx, updateUIA, completed, u.registrationToken, hash, u.id)
	} else {
		_, err = s.db.Exec(ctx, insertUIA, u.id, u.localpart, u.endpoint, hash, completed,
			u.registrationToken, s.now().Add(uiaLifetime).UnixMilli())
	}
	if err != nil {
		return fmt.Errorf("storing an authentication session: %w", err)
	}
	return nil
}

// challenge stores the session and returns the 401 answer.
func (s *Server) challenge(ctx context.Context, req uiaRequest, u *uiaSession, code, why string) error {
	if err := s.storeUIA(ctx, u); err != nil {
		return err
	}
	c := &challenge{Params: map[string]any{}, Session: u.id, Completed: u.completed, Code: code, Message: why}
	for _, f := range req.flows {
		c.Flows = append(c.Flows, flow{Stages: f})
	}
	return c
}

func complete(flows [][]string, done []string) bool {
	for _, f := range flows {
		all := true
		for _, stage := range f {
			all = all && slices.Contains(done, stage)
		}
		if all {
			return true
		}
	}
	return false
}

func offered(flows [][]string, stage string) bool {
	return slices.ContainsFunc(flows, func(f []string) bool { return slices.Contains(f, stage) })
}

// checkStage carries out one stage. Where it fails, code and why go into the
// answer; err is for what ends the authentication.
func (s *Server) checkStage(ctx context.Context, req uiaRequest, u *uiaSession, stage string, auth gjson.Result) (ok bool, code, why string, err error) {
	switch stage {
	case stageDummy:
		return true, "", "", nil
	case stageToken:
		token := auth.Get("token").String()
		valid, err := s.registrationTokenValid(ctx, token)
		if err != nil || !valid {
			return false, "M_UNAUTHORIZED", "the registration token is not valid", err
		}
		u.registrationToken = token
		return true, "", "", nil
	case stagePassword:
		return s.checkPasswordStage(ctx, req, auth)
	}
	return false, "", "", merr.New(400, "M_UNRECOGNIZED", "the authentication type %q is not known", stage)
}

func (s *Server) checkPasswordStage(ctx context.Context, req uiaRequest, auth gjson.Result) (ok bool, code, why string, err error) {
	named := auth.Get("identifier.user").String()
	if named == "" {
		named = auth.Get("user").String()
	}
	if auth.Get("password").Type != gjson.String {
		return false, "M_MISSING_PARAM", "the password is missing", nil
	}
	if named != "" {
		user, err := s.findUser(ctx, named)
		if err != nil && !errors.Is(err, merr.ErrForbidden) {
			return false, "", "", err
		}
		if user.localpart != req.user.Localpart() {
			return false, "", "", merr.Forbidden("the password is to be that of %s", req.user)
		}
	}
	acc, err := getAccount(ctx, s.db, req.user.Localpart())
	if err != nil {
		return false, "", "", err
	}
	good, err := s.passwords.verify(ctx, auth.Get("password").String(), acc.passwordHash)
	if err != nil {
		return false, "", "", err
	}
	return good, "M_FORBIDDEN", "the password is wrong", nil
}
