package httpapi

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"weft/matrix/id"
	"weft/matrix/merr"
)

// statusClientGone is what logs and metrics show where the client went away.
const statusClientGone = 499

// Config is what the handler needs from outside.
type Config struct {
	Log *logrus.Entry
	// Auth finds sessions; needed by rows with AuthUser and AuthUserOptional.
	Auth Authenticator
	// VerifyServer checks the signature of a federation request and returns
	// its origin; needed by rows with AuthServer.
	VerifyServer func(r *http.Request, body []byte) (id.Server, error)
	// Limits are the rate limits; nil: none.
	Limits Limits
	// MaxRunning bounds the requests being worked on, MaxWaiting the long
	// polls being held; 0: 1024 and 16384.
	MaxRunning, MaxWaiting int64
	// Stopping, when it is closed, wakes the long polls (Request.Stopping), so that a
	// server that stops need not wait for them; nil: never.
	Stopping <-chan struct{}
	// TrustedProxies may name the client in X-Forwarded-For.
	TrustedProxies []netip.Prefix
	// Unavailable tells of an error that what this server needs (its database) cannot do its work just now: the answer is 503
	// instead of 500, and says when to ask again. Nil: of none.
	Unavailable func(err error) bool
	// Begin gives the context of a request that begins, made from the one that it came with. Nil: that one.
	Begin   func(ctx context.Context) context.Context
	Metrics prometheus.Registerer // may be nil
	Now     func() time.Time      // nil: time.Now
}

type handler struct {
	cfg     Config
	router  *router
	limiter *limiter
	metrics *metrics
	// idPrefix tells the requests of one process from those of another.
	idPrefix         string
	lastID           atomic.Uint64
	running, waiting atomic.Int64
}

// NewHandler makes the handler of all rows. It panics where two rows claim the
// same method and path, or a row's path is malformed.
func NewHandler(cfg Config, routes ...[]Route) http.Handler {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MaxRunning == 0 {
		cfg.MaxRunning = 1024
	}
	if cfg.MaxWaiting == 0 {
		cfg.MaxWaiting = 16384
	}
	if cfg.Log == nil {
		l := logrus.New()
		cfg.Log = logrus.NewEntry(l)
	}
	var all []Route
	for _, rs := range routes {
		all = append(all, rs...)
	}
	var prefix [4]byte
	// It never fails: crypto/rand ends the process instead.
	_, _ = rand.Read(prefix[:])
	h := &handler{cfg: cfg, router: newRouter(all), limiter: newLimiter(cfg.Limits), idPrefix: hex.EncodeToString(prefix[:]) + "-"}
	h.metrics = newMetrics(cfg.Metrics,
		func() float64 { return float64(h.running.Load()) },
		func() float64 { return float64(h.waiting.Load()) })
	return h
}

type requestIDKey struct{}

// RequestID gives the ID of the request that a context belongs to, or "".
func RequestID(ctx context.Context) string {
	s, _ := ctx.Value(requestIDKey{}).(string)
	return s
}

// ServeHTTP carries out one request:
//  1. CORS headers, and the answer to a preflight
//  2. the row is found
//  3. overload is shed
//  4. the caller is identified, his rate is limited, the body is read
//  5. the handler runs
//  6. its result or error is written
//  7. the outcome is counted and logged
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if browserPath(r.URL.Path) {
		setCORS(w.Header())
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusOK)
			return
		}
	}
	e, vars, err := h.router.match(r)
	if err != nil {
		if _, wErr := h.writeError(w, err); wErr != nil {
			h.cfg.Log.WithError(wErr).Debug("error response not written")
		}
		return
	}
	if e.Forward != nil {
		h.forward(w, r, e)
		return
	}
	start := h.cfg.Now()
	reqID := h.idPrefix + strconv.FormatUint(h.lastID.Add(1), 36)
	ctx := context.WithValue(r.Context(), requestIDKey{}, reqID)
	if h.cfg.Begin != nil {
		ctx = h.cfg.Begin(ctx)
	}
	req := &Request{HTTP: r.WithContext(ctx), Vars: vars, ID: reqID, Stopping: h.cfg.Stopping}
	status, err := h.run(ctx, w, e, req)
	h.finish(e, req, status, err, h.cfg.Now().Sub(start))
	var abort *abortError
	if errors.As(err, &abort) {
		panic(http.ErrAbortHandler)
	}
}

// run carries out steps 3 to 6. The error is what went wrong, for the log; it
// has been answered already.
func (h *handler) run(ctx context.Context, w http.ResponseWriter, e *endpoint, req *Request) (status int, err error) {
	release, err := h.admit(e)
	if err != nil {
		status, wErr := h.writeError(w, err)
		return status, errors.Join(err, wErr)
	}
	defer release()
	result, err := h.call(ctx, w, e, req)
	if err != nil {
		if ctx.Err() != nil {
			return statusClientGone, err // nobody reads an answer
		}
		err = h.unavailable(err)
		status, wErr := h.writeError(w, err)
		return status, errors.Join(err, wErr)
	}
	status, err = h.writeResult(w, req.HTTP.Method == http.MethodHead, result)
	var abort *abortError
	if err != nil && !errors.As(err, &abort) {
		var wErr error
		status, wErr = h.writeError(w, err)
		err = errors.Join(err, wErr)
	}
	return status, err
}

// admit counts a request in, or refuses it where the server has too much to do.
func (h *handler) admit(e *endpoint) (release func(), err error) {
	counter, bound := &h.running, h.cfg.MaxRunning
	if e.Waits {
		counter, bound = &h.waiting, h.cfg.MaxWaiting
	}
	if counter.Add(1) > bound {
		counter.Add(-1)
		h.metrics.shed.WithLabelValues(shedOverload).Inc()
		return nil, merr.LimitExceeded("the server has too much to do just now").
			WithStatus(http.StatusServiceUnavailable).With("retry_after_ms", int64(1000))
	}
	return func() { counter.Add(-1) }, nil
}

// call identifies the caller, limits his rate, reads the body and runs the
// handler. A panic becomes an error.
func (h *handler) call(ctx context.Context, w http.ResponseWriter, e *endpoint, req *Request) (result any, err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		h.metrics.panics.Inc()
		err = &panicError{value: p, stack: debug.Stack()}
	}()
	address := clientAddress(req.HTTP, h.cfg.TrustedProxies)
	owner := address
	if e.Auth == AuthUser || e.Auth == AuthUserOptional {
		if req.Session, err = h.authenticate(ctx, req, address, e); err != nil {
			return nil, err
		}
		if req.Session.User != "" {
			owner = string(req.Session.User)
		}
	}
	if e.Auth != AuthServer {
		if err := h.limit(e.Limit, owner, req.Session); err != nil {
			return nil, err
		}
	}
	if e.MaxBody >= 0 {
		if req.Body, err = h.readBody(w, req.HTTP, e.MaxBody); err != nil {
			return nil, err
		}
	} else if req.HTTP.Body != nil {
		req.HTTP.Body = &movingBody{ReadCloser: req.HTTP.Body, rc: http.NewResponseController(w), now: h.cfg.Now}
	}
	if e.Auth == AuthServer {
		if req.Origin, err = h.cfg.VerifyServer(req.HTTP, req.Body); err != nil {
			return nil, err
		}
		if err := h.limit(e.Limit, string(req.Origin), Session{}); err != nil {
			return nil, err
		}
	}
	return e.Handler(ctx, req)
}

func (h *handler) limit(class Limit, owner string, s Session) error {
	if class == LimitNone || h.limiter.limits == nil || s.Unlimited {
		return nil
	}
	err := h.limiter.allow(class, owner, h.cfg.Now())
	if err != nil {
		h.metrics.shed.WithLabelValues(shedRate).Inc()
	}
	return err
}

// authenticate finds the session of the request's access token.
//
// spec: client-server §4.1 (Using access tokens); the query parameter is
// deprecated and still in use.
func (h *handler) authenticate(ctx context.Context, req *Request, address string, e *endpoint) (Session, error) {
	token := accessToken(req)
	if token == "" {
		if e.Auth == AuthUserOptional {
			return Session{}, nil
		}
		return Session{}, merr.MissingToken("an access token is needed here")
	}
	cred := Credentials{Token: token, Address: address, Agent: req.HTTP.UserAgent()}
	if strings.Contains(req.HTTP.URL.RawQuery, "_id=") {
		// spec: application-service §3 (Identity assertion)
		cred.AsUser = id.User(req.Query().Get("user_id"))
		cred.AsDevice = id.Device(req.Query().Get("device_id"))
		if cred.AsDevice == "" {
			cred.AsDevice = id.Device(req.Query().Get("org.matrix.msc3202.device_id"))
		}
	}
	s, err := h.cfg.Auth.Authenticate(ctx, cred)
	if err != nil {
		return Session{}, err
	}
	if s.Guest && !e.Guest {
		return Session{}, merr.GuestAccessForbidden("guests may not do this")
	}
	return s, nil
}

func accessToken(req *Request) string {
	const scheme = "bearer "
	if a := req.HTTP.Header.Get("Authorization"); len(a) > len(scheme) && strings.EqualFold(a[:len(scheme)], scheme) {
		return strings.TrimSpace(a[len(scheme):])
	}
	if !strings.Contains(req.HTTP.URL.RawQuery, "access_token=") {
		return ""
	}
	return req.Query().Get("access_token")
}

// panicError is a handler's panic.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// finish counts and logs. What a client did wrong is no news for the log, so
// only failures of the server stand out.
func (h *handler) finish(e *endpoint, req *Request, status int, err error, took time.Duration) {
	h.metrics.done(e, status, took)
	level := logrus.DebugLevel
	var away *unavailableError
	switch {
	case errors.As(err, &away):
		level = logrus.WarnLevel
	case status >= http.StatusInternalServerError && merr.From(err).Status == http.StatusInternalServerError:
		level = logrus.ErrorLevel
	}
	if !h.cfg.Log.Logger.IsLevelEnabled(level) {
		return
	}
	fields := logrus.Fields{"request_id": req.ID, "method": req.HTTP.Method, "route": e.label, "status": status, "ms": took.Milliseconds()}
	if req.Session.User != "" {
		fields["user"] = req.Session.User
	}
	if req.Origin != "" {
		fields["origin"] = req.Origin
	}
	if err != nil {
		fields["error"] = err.Error()
	}
	var p *panicError
	if errors.As(err, &p) {
		fields["stack"] = string(p.stack)
	}
	h.cfg.Log.WithFields(fields).Log(level, "request")
}
