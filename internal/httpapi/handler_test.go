package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"weft/matrix/id"
	"weft/matrix/merr"
)

// tokens is an Authenticator of a few fixed tokens.
type tokens struct{ last Credentials }

func (a *tokens) Authenticate(_ context.Context, c Credentials) (Session, error) {
	a.last = c
	switch c.Token {
	case "alice":
		return Session{User: "@alice:x", Device: "D"}, nil
	case "guest":
		return Session{User: "@guest:x", Guest: true}, nil
	case "bridge":
		return Session{User: "@bridge:x", Appservice: "b", Unlimited: true}, nil
	case "old":
		return Session{}, merr.UnknownToken("expired").With("soft_logout", true)
	}
	return Session{}, merr.UnknownToken("unknown")
}

type fixture struct {
	h    http.Handler
	auth *tokens
	now  time.Time
	log  *bytes.Buffer
}

func newFixture(t *testing.T, edit func(*Config), rows ...Route) *fixture {
	t.Helper()
	f := &fixture{auth: &tokens{}, now: time.Unix(1000, 0), log: &bytes.Buffer{}}
	l := logrus.New()
	l.SetOutput(f.log)
	cfg := Config{
		Log: logrus.NewEntry(l), Auth: f.auth, Metrics: prometheus.NewRegistry(),
		VerifyServer: func(r *http.Request, body []byte) (id.Server, error) {
			if r.Header.Get("Authorization") == "" {
				return "", merr.Unauthorized("no signature")
			}
			return id.Server("remote." + fmt.Sprint(len(body))), nil
		},
		Now: func() time.Time { return f.now },
	}
	if edit != nil {
		edit(&cfg)
	}
	f.h = NewHandler(cfg, rows)
	return f
}

func (f *fixture) do(t *testing.T, method, target, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	var rd io.Reader
	if body != "" {
		rd = strings.NewReader(body)
	}
	req := httptest.NewRequest(method, target, rd)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	f.h.ServeHTTP(w, req)
	return w
}

func checkError(t *testing.T, w *httptest.ResponseRecorder, status int, code string) map[string]any {
	t.Helper()
	var got map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("body %q: %v", w.Body, err)
	}
	if w.Code != status || got["errcode"] != code {
		t.Fatalf("got %d %s, want %d %s", w.Code, w.Body, status, code)
	}
	if ct := w.Header().Get("Content-Type"); ct != "application/json" {
		t.Errorf("content type %q", ct)
	}
	if s, _ := got["error"].(string); s == "" {
		t.Error("no message")
	}
	return got
}

const path = "/_matrix/client/v3/thing"

func row(h Handler) Route { return Route{Method: "POST", Path: path, Handler: h} }

func TestResults(t *testing.T) {
	for _, c := range []struct {
		name   string
		result any
		err    error
		status int
		body   string
		ctype  string
	}{
		{"nil is an empty object", nil, nil, 200, "{}", "application/json"},
		{"a value", map[string]string{"a": "<&>"}, nil, 200, `{"a":"<&>"}`, "application/json"},
		{"a response", &Response{Status: 202, JSON: []int{1}, Header: http.Header{"x-extra": {"1"}}}, nil, 202, "[1]", "application/json"},
		{"a response by value", Response{Status: 201}, nil, 201, "{}", "application/json"},
		{"raw", &Response{Raw: json.RawMessage(`{"r":1}`)}, nil, 200, `{"r":1}`, "application/json"},
		{"stream", &Response{Header: http.Header{"Content-Type": {"text/plain"}}, Stream: func(w io.Writer) error {
			_, err := io.WriteString(w, "streamed")
			return err
		}}, nil, 200, "streamed", "text/plain"},
		{"an error", nil, merr.NotFound("no such thing"), 404, `{"errcode":"M_NOT_FOUND","error":"no such thing"}`, "application/json"},
		{"a wrapped error", nil, fmt.Errorf("deep: %w", merr.Forbidden("no")), 403, `{"errcode":"M_FORBIDDEN","error":"no"}`, "application/json"},
		{"an inner error", nil, errors.New("disk on fire"), 500, `{"errcode":"M_UNKNOWN","error":"internal server error"}`, "application/json"},
		{"what cannot be marshalled", make(chan int), nil, 500, `{"errcode":"M_UNKNOWN","error":"internal server error"}`, "application/json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, nil, row(func(context.Context, *Request) (any, error) { return c.result, c.err }))
			w := f.do(t, "POST", path, "")
			if w.Code != c.status || w.Body.String() != c.body || w.Header().Get("Content-Type") != c.ctype {
				t.Fatalf("got %d %q %q", w.Code, w.Body, w.Header().Get("Content-Type"))
			}
			if c.status == 500 && (!strings.Contains(f.log.String(), "request_id=") || !strings.Contains(f.log.String(), "level=error")) {
				t.Errorf("a failure is not in the log: %s", f.log)
			}
			if c.status != 500 && f.log.Len() > 0 {
				t.Errorf("unwanted log: %s", f.log)
			}
		})
	}
}

func TestPanicBecomes500(t *testing.T) {
	f := newFixture(t, nil, row(func(context.Context, *Request) (any, error) { panic("oh no") }))
	checkError(t, f.do(t, "POST", path, ""), 500, "M_UNKNOWN")
	if !strings.Contains(f.log.String(), "oh no") || !strings.Contains(f.log.String(), "handler_test.go") {
		t.Errorf("no cause and stack in the log: %s", f.log)
	}
}

func TestBrokenStreamAborts(t *testing.T) {
	f := newFixture(t, nil, row(func(context.Context, *Request) (any, error) {
		return &Response{Stream: func(w io.Writer) error {
			if _, err := io.WriteString(w, "half"); err != nil {
				return err
			}
			return errors.New("the rest is missing")
		}}, nil
	}))
	srv := httptest.NewServer(f.h)
	defer srv.Close()
	res, err := http.Post(srv.URL+path, "", nil)
	if err == nil {
		_, err = io.ReadAll(res.Body)
		_ = res.Body.Close()
	}
	if err == nil {
		t.Error("half an answer looked like a whole one")
	}
}

func TestAuthentication(t *testing.T) {
	f := newFixture(t, nil,
		Route{Method: "GET", Path: "/_matrix/client/v3/user", Auth: AuthUser, Handler: whoami},
		Route{Method: "GET", Path: "/_matrix/client/v3/guest", Auth: AuthUser, Guest: true, Handler: whoami},
		Route{Method: "GET", Path: "/_matrix/client/v3/maybe", Auth: AuthUserOptional, Handler: whoami},
		Route{Method: "PUT", Path: "/_matrix/federation/v1/send/{txnId}", Auth: AuthServer, Handler: whoami},
	)
	for _, c := range []struct {
		name, method, target, header, body string
		status                             int
		want                               string // user, origin or errcode
	}{
		{"header", "GET", "/_matrix/client/v3/user", "Bearer alice", "", 200, "@alice:x"},
		{"any case of the scheme", "GET", "/_matrix/client/v3/user", "bearer alice", "", 200, "@alice:x"},
		{"query", "GET", "/_matrix/client/v3/user?access_token=alice", "", "", 200, "@alice:x"},
		{"header beats query", "GET", "/_matrix/client/v3/user?access_token=nobody", "Bearer alice", "", 200, "@alice:x"},
		{"none", "GET", "/_matrix/client/v3/user", "", "", 401, "M_MISSING_TOKEN"},
		{"another scheme", "GET", "/_matrix/client/v3/user", "Basic alice", "", 401, "M_MISSING_TOKEN"},
		{"wrong", "GET", "/_matrix/client/v3/user", "Bearer x", "", 401, "M_UNKNOWN_TOKEN"},
		{"guest where guests may not", "GET", "/_matrix/client/v3/user", "Bearer guest", "", 403, "M_GUEST_ACCESS_FORBIDDEN"},
		{"guest where guests may", "GET", "/_matrix/client/v3/guest", "Bearer guest", "", 200, "@guest:x"},
		{"optional, absent", "GET", "/_matrix/client/v3/maybe", "", "", 200, ""},
		{"optional, present", "GET", "/_matrix/client/v3/maybe", "Bearer alice", "", 200, "@alice:x"},
		{"optional, wrong", "GET", "/_matrix/client/v3/maybe", "Bearer x", "", 401, "M_UNKNOWN_TOKEN"},
		{"server", "PUT", "/_matrix/federation/v1/send/1", "X-Matrix", `{"a":1}`, 200, "remote.7"},
		{"server, unsigned", "PUT", "/_matrix/federation/v1/send/1", "", `{}`, 401, "M_UNAUTHORIZED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := f.do(t, c.method, c.target, c.body, "Authorization", c.header)
			if c.status == 200 {
				if want := `{"who":"` + c.want + `"}`; w.Code != 200 || w.Body.String() != want {
					t.Fatalf("got %d %s, want %s", w.Code, w.Body, want)
				}
				return
			}
			checkError(t, w, c.status, c.want)
		})
	}
	if got := checkError(t, f.do(t, "GET", "/_matrix/client/v3/user", "", "Authorization", "Bearer old"), 401, "M_UNKNOWN_TOKEN"); got["soft_logout"] != true {
		t.Errorf("soft_logout is lost: %v", got)
	}
	f.do(t, "GET", "/_matrix/client/v3/user?user_id=%40bob%3Ax&device_id=DD", "", "Authorization", "Bearer bridge", "User-Agent", "U")
	if want := (Credentials{Token: "bridge", AsUser: "@bob:x", AsDevice: "DD", Address: "192.0.2.1", Agent: "U"}); f.auth.last != want {
		t.Errorf("credentials %+v, want %+v", f.auth.last, want)
	}
}

func whoami(_ context.Context, r *Request) (any, error) {
	return map[string]string{"who": string(r.Session.User) + string(r.Origin)}, nil
}

func TestBodies(t *testing.T) {
	echoBody := func(_ context.Context, r *Request) (any, error) { return map[string]int{"len": len(r.Body)}, nil }
	f := newFixture(t, nil,
		Route{Method: "POST", Path: "/_matrix/client/v3/small", MaxBody: 10, Handler: echoBody},
		Route{Method: "POST", Path: "/_matrix/client/v3/default", Handler: echoBody},
		Route{Method: "POST", Path: "/_matrix/client/v3/self", MaxBody: -1, Handler: func(_ context.Context, r *Request) (any, error) {
			if r.Body != nil {
				return nil, errors.New("the body was read")
			}
			n, err := io.Copy(io.Discard, r.HTTP.Body)
			return map[string]int64{"len": n}, err
		}},
	)
	for _, c := range []struct {
		target string
		n      int
		status int
	}{
		{"small", 0, 200}, {"small", 10, 200}, {"small", 11, 413},
		{"default", 1 << 20, 200}, {"default", 1<<20 + 1, 413},
		{"self", 3 << 20, 200},
	} {
		for _, chunked := range []bool{false, true} {
			req := httptest.NewRequest("POST", "/_matrix/client/v3/"+c.target, strings.NewReader(strings.Repeat("x", c.n)))
			if chunked {
				req.ContentLength = -1
			}
			w := httptest.NewRecorder()
			f.h.ServeHTTP(w, req)
			if c.status == 413 {
				checkError(t, w, 413, "M_TOO_LARGE")
			} else if want := fmt.Sprintf(`{"len":%d}`, c.n); w.Code != 200 || w.Body.String() != want {
				t.Errorf("%s %d chunked=%v: got %d %s", c.target, c.n, chunked, w.Code, w.Body)
			}
		}
	}
}

func TestRateLimits(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Limits = Limits{LimitMessage: {PerSecond: 0.5, Burst: 2}} },
		Route{Method: "POST", Path: path, Auth: AuthUserOptional, Guest: true, Limit: LimitMessage, Handler: whoami},
		Route{Method: "GET", Path: path, Limit: LimitLogin, Handler: whoami})
	ok := func(token string) {
		t.Helper()
		if w := f.do(t, "POST", path, "", "Authorization", "Bearer "+token); w.Code != 200 {
			t.Fatalf("refused: %d %s", w.Code, w.Body)
		}
	}
	ok("alice")
	ok("alice")
	w := f.do(t, "POST", path, "", "Authorization", "Bearer alice")
	if got := checkError(t, w, 429, "M_LIMIT_EXCEEDED"); got["retry_after_ms"] != 2000.0 || w.Header().Get("Retry-After") != "2" {
		t.Errorf("retry after %v ms, %q s", got["retry_after_ms"], w.Header().Get("Retry-After"))
	}
	ok("guest") // another user has a bucket of his own
	for range 5 {
		ok("bridge") // exempt
		if w := f.do(t, "GET", path, ""); w.Code != 200 {
			t.Fatal("a class without a limit was limited")
		}
	}
	f.now = f.now.Add(2 * time.Second)
	ok("alice")
	checkError(t, f.do(t, "POST", path, "", "Authorization", "Bearer alice"), 429, "M_LIMIT_EXCEEDED")
	// Callers without a session are told apart by address.
	if w := f.do(t, "POST", path, ""); w.Code != 200 {
		t.Fatal("refused")
	}
}

func TestBucketTableIsBounded(t *testing.T) {
	l := newLimiter(Limits{LimitLogin: {PerSecond: 1, Burst: 1}})
	now := time.Unix(1, 0)
	for i := range maxBuckets + 1000 {
		if err := l.allow(LimitLogin, fmt.Sprint(i), now); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Microsecond)
	}
	if len(l.buckets) != maxBuckets {
		t.Errorf("%d buckets", len(l.buckets))
	}
}

func TestOverloadIsShed(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	f := newFixture(t, func(c *Config) { c.MaxRunning, c.MaxWaiting = 1, 1 },
		row(func(context.Context, *Request) (any, error) {
			inside <- struct{}{}
			<-leave
			return nil, nil
		}),
		Route{Method: "GET", Path: path, Waits: true, Handler: whoami})
	done := make(chan int)
	go func() {
		req := httptest.NewRequest("POST", path, nil)
		w := httptest.NewRecorder()
		f.h.ServeHTTP(w, req)
		done <- w.Code
	}()
	<-inside
	w := f.do(t, "POST", path, "")
	checkError(t, w, 503, "M_LIMIT_EXCEEDED")
	if w.Header().Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q", w.Header().Get("Retry-After"))
	}
	if w := f.do(t, "GET", path, ""); w.Code != 200 {
		t.Errorf("a long poll was refused: %d", w.Code)
	}
	close(leave)
	if code := <-done; code != 200 {
		t.Errorf("the first request got %d", code)
	}
}

func TestCORS(t *testing.T) {
	f := newFixture(t, nil, row(whoami), Route{Method: "GET", Path: "/_matrix/federation/v1/version", Handler: whoami})
	for _, c := range []struct {
		method, target string
		status         int
		cors           bool
	}{
		{"OPTIONS", path, 200, true},
		{"OPTIONS", "/_matrix/client/unknown", 200, true},
		{"OPTIONS", "/_matrix/media/v3/upload", 200, true},
		{"OPTIONS", "/.well-known/matrix/client", 200, true},
		{"POST", path, 200, true},
		{"POST", "/_matrix/client/unknown", 404, true},
		{"GET", "/_matrix/federation/v1/version", 200, false},
		{"OPTIONS", "/_matrix/federation/v1/version", 405, false},
	} {
		w := f.do(t, c.method, c.target, "")
		if got := w.Header().Get("Access-Control-Allow-Origin") == "*"; w.Code != c.status || got != c.cors {
			t.Errorf("%s %s: status %d, CORS %v", c.method, c.target, w.Code, got)
		}
	}
}

func TestContextEndsWithClient(t *testing.T) {
	began, ended := make(chan struct{}), make(chan error, 1)
	f := newFixture(t, nil, row(func(ctx context.Context, r *Request) (any, error) {
		if RequestID(ctx) != r.ID || r.ID == "" {
			t.Errorf("request ID %q in context, %q in request", RequestID(ctx), r.ID)
		}
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}))
	srv := httptest.NewServer(f.h)
	defer srv.Close()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, "POST", srv.URL+path, strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	go func() { <-began; cancel() }()
	if res, err := http.DefaultClient.Do(req); err == nil {
		_ = res.Body.Close()
		t.Error("an answer came")
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("context ended with %v", err)
	}
}

func TestStoppingWakesLongPolls(t *testing.T) {
	stopping := make(chan struct{})
	f := newFixture(t, func(c *Config) { c.Stopping = stopping },
		Route{Method: "GET", Path: path, Waits: true, Handler: func(ctx context.Context, r *Request) (any, error) {
			close(stopping)
			<-r.Stopping
			return nil, ctx.Err() // what it does then is not cut off
		}})
	if w := f.do(t, "GET", path, ""); w.Code != 200 {
		t.Errorf("the long poll got %d", w.Code)
	}
}

func TestClientAddress(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for _, c := range []struct{ remote, forwarded, want string }{
		{"192.0.2.1:5", "", "192.0.2.1"},
		{"192.0.2.1:5", "6.6.6.6", "192.0.2.1"},
		{"10.0.0.1:5", "", "10.0.0.1"},
		{"10.0.0.1:5", "203.0.113.9", "203.0.113.9"},
		{"10.0.0.1:5", "6.6.6.6, 203.0.113.9, 10.0.0.2", "203.0.113.9"},
		{"10.0.0.1:5", "nonsense", "10.0.0.1"},
		{"[::1]:5", "2001:db8::1", "2001:db8::1"},
		{"[::ffff:10.0.0.1]:5", "203.0.113.9", "203.0.113.9"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = c.remote
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if got := clientAddress(r, trusted); got != c.want {
			t.Errorf("%s via %q: got %s, want %s", c.remote, c.forwarded, got, c.want)
		}
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	f := newFixture(t, func(c *Config) { c.Metrics = reg }, Route{Method: "GET", Path: "/_matrix/client/v3/a/{b:.*}", Handler: whoami})
	f.do(t, "GET", "/_matrix/client/v3/a/x/y", "")
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, fam := range families {
		if fam.GetName() != "weft_http_requests_total" {
			continue
		}
		m := fam.GetMetric()[0]
		if got := fmt.Sprint(m.GetLabel()); m.GetCounter().GetValue() != 1 || !strings.Contains(got, `value:"/_matrix/client/v3/a/{b}"`) {
			t.Errorf("got %v", m)
		}
		return
	}
	t.Error("no request was counted")
}

// What passes by itself is answered with 503 and a time to wait, unless the handler says something else of it.
func TestUnavailable(t *testing.T) {
	away := errors.New("the database is away")
	fail := func(err error) Handler { return func(context.Context, *Request) (any, error) { return nil, err } }
	f := newFixture(t, func(c *Config) { c.Unavailable = func(err error) bool { return errors.Is(err, away) } },
		Route{Method: "GET", Path: "/_matrix/client/v3/away", Handler: fail(fmt.Errorf("reading: %w", away))},
		Route{Method: "GET", Path: "/_matrix/client/v3/said", Handler: fail(errors.Join(merr.Forbidden("no"), away))},
		Route{Method: "GET", Path: "/_matrix/client/v3/broken", Handler: fail(errors.New("broken"))})
	w := f.do(t, "GET", "/_matrix/client/v3/away", "")
	if got := checkError(t, w, 503, "M_UNKNOWN"); got["retry_after_ms"] != 1000.0 || w.Header().Get("Retry-After") != "1" || strings.Contains(w.Body.String(), "database") {
		t.Errorf("it says %v and %v", got, w.Header())
	}
	checkError(t, f.do(t, "GET", "/_matrix/client/v3/said", ""), 403, "M_FORBIDDEN")
	checkError(t, f.do(t, "GET", "/_matrix/client/v3/broken", ""), 500, "M_UNKNOWN")
}
