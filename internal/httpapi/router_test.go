package httpapi

import (
	"context"
	_ "embed"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"weft/matrix/id"
	"weft/matrix/merr"
)

// The endpoints of the client-server and server-server APIs of v1.19.
//
//go:embed testdata/endpoints.txt
var specEndpoints string

// specRoutes makes a row of every endpoint of the specification; the handler
// answers with the row's path and variables.
func specRoutes() []Route {
	var routes []Route
	for line := range strings.Lines(specEndpoints) {
		method, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		routes = append(routes, Route{Method: method, Path: path, Handler: echo(path)})
	}
	return append(routes,
		Route{Method: "GET", Path: "/_matrix/client/v3/rooms/{roomId}/state/{eventType}", Handler: echo("state-empty")},
		Route{Method: "PUT", Path: "/_matrix/client/v3/rooms/{roomId}/state/{eventType}", Handler: echo("put-state-empty")},
		Route{Method: "GET", Path: "/_matrix/client/v3/free/{a}/{rest:.*}", Handler: echo("free")},
	)
}

func echo(path string) Handler {
	return func(_ context.Context, r *Request) (any, error) {
		vars := map[string]string{"": path}
		maps.Copy(vars, r.Vars)
		return vars, nil
	}
}

func quiet() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}

func TestRouting(t *testing.T) {
	r := newRouter(specRoutes())
	const v3 = "/_matrix/client/v3/"
	for _, c := range []struct {
		method, path string
		want         string // the row's path; empty: none
		vars         map[string]string
		status       int // of the error
	}{
		{"GET", v3 + "sync", v3 + "sync", nil, 0},
		{"HEAD", v3 + "sync", v3 + "sync", nil, 0},
		{"GET", "/_matrix/client/r0/sync", "/_matrix/client/r0/sync", nil, 0},
		{"GET", "/_matrix/media/r0/config", "/_matrix/media/r0/config", nil, 0},
		{"GET", "/_matrix/client/versions", "/_matrix/client/versions", nil, 0},
		{"PUT", v3 + "rooms/!a:b/send/m.room.message/7", v3 + "rooms/{roomId}/send/{eventType}/{txnId}",
			map[string]string{"roomId": "!a:b", "eventType": "m.room.message", "txnId": "7"}, 0},
		{"PUT", v3 + "rooms/%21a%2Fb%3Ac/send/m.x/a%20b", v3 + "rooms/{roomId}/send/{eventType}/{txnId}",
			map[string]string{"roomId": "!a/b:c", "eventType": "m.x", "txnId": "a b"}, 0},
		{"GET", v3 + "rooms/!a:b/state/m.room.name/", v3 + "rooms/{roomId}/state/{eventType}",
			map[string]string{"roomId": "!a:b", "eventType": "m.room.name"}, 0},
		{"PUT", v3 + "rooms/!a:b/state/m.room.name", v3 + "rooms/{roomId}/state/{eventType}",
			map[string]string{"roomId": "!a:b", "eventType": "m.room.name"}, 0},
		{"GET", v3 + "rooms/!a:b/state/m.x/key%2Fwith%2Fslashes", v3 + "rooms/{roomId}/state/{eventType}/{stateKey}",
			map[string]string{"roomId": "!a:b", "eventType": "m.x", "stateKey": "key/with/slashes"}, 0},
		{"GET", v3 + "rooms/%2F%2F/state", v3 + "rooms/{roomId}/state", map[string]string{"roomId": "//"}, 0},
		{"GET", v3 + "free/x/a/b//c", v3 + "free/{a}/{rest:.*}", map[string]string{"a": "x", "rest": "a/b//c"}, 0},
		{"GET", v3 + "free/x/", v3 + "free/{a}/{rest:.*}", map[string]string{"a": "x", "rest": ""}, 0},
		{"GET", v3 + "pushrules", v3 + "pushrules/", nil, 0},
		{"GET", v3 + "pushrules/", v3 + "pushrules/", nil, 0},
		{"GET", v3 + "pushrules/global", v3 + "pushrules/global/", nil, 0},
		{"GET", v3 + "profile/@a:b/displayname", v3 + "profile/{userId}/{keyName}",
			map[string]string{"userId": "@a:b", "keyName": "displayname"}, 0},
		{"GET", "/_matrix/federation/v1/query/profile", "/_matrix/federation/v1/query/profile", nil, 0},
		{"GET", "/_matrix/federation/v1/query/other", "/_matrix/federation/v1/query/{queryType}", map[string]string{"queryType": "other"}, 0},
		{"PUT", "/_matrix/federation/v1/send/1", "/_matrix/federation/v1/send/{txnId}", map[string]string{"txnId": "1"}, 0},
		{"PUT", "/_matrix/federation/v1/send/1/", "/_matrix/federation/v1/send/{txnId}", map[string]string{"txnId": "1"}, 0},
		{"POST", v3 + "rooms/!a:b/receipt/m.read/$e", v3 + "rooms/{roomId}/receipt/{receiptType}/{eventId}",
			map[string]string{"roomId": "!a:b", "receiptType": "m.read", "eventId": "$e"}, 0},
		{"POST", v3 + "sync", "", nil, 405},
		{"PATCH", v3 + "rooms/!a:b/send/m.x/1", "", nil, 405},
		{"GET", v3 + "nonsense", "", nil, 404},
		{"GET", "/", "", nil, 404},
		{"GET", "", "", nil, 404},
		{"GET", "//_matrix/client/v3/sync", "", nil, 404},
		{"GET", "/_matrix/client/v3/../v3/sync", "", nil, 404},
		{"GET", "/_matrix/client/v9/sync", "", nil, 404},
		{"GET", v3 + "rooms/!a:b/state/a/b/c", "", nil, 404},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			req := httptest.NewRequest(c.method, "http://x/", nil)
			u, err := req.URL.Parse("http://x" + strings.ReplaceAll(c.path, "..", "%2E."))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(c.path, "/_matrix/client/v3/..") {
				u.Path, u.RawPath = mustUnescape(t, c.path), c.path
			}
			req.URL = u
			e, vars, err := r.match(req)
			if c.want == "" {
				var me *merr.Error
				if !errors.As(err, &me) || me.Status != c.status || me.Code != "M_UNRECOGNIZED" {
					t.Fatalf("got %v, %v; want status %d", e, err, c.status)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if e.Path != c.want || len(vars) != len(c.vars) || (c.vars != nil && !maps.Equal(vars, c.vars)) {
				t.Fatalf("got %s %v, want %s %v", e.Path, vars, c.want, c.vars)
			}
		})
	}
}

func mustUnescape(t *testing.T, s string) string {
	t.Helper()
	u, err := http.NewRequest("GET", "http://x"+s, nil)
	if err != nil {
		t.Fatal(err)
	}
	return u.URL.Path
}

// Every endpoint of the specification reaches its own row.
func TestRoutingReachesEveryRow(t *testing.T) {
	r := newRouter(specRoutes())
	n := 0
	for line := range strings.Lines(specEndpoints) {
		method, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		concrete := path
		for strings.Contains(concrete, "{") {
			i, j := strings.Index(concrete, "{"), strings.Index(concrete, "}")
			concrete = concrete[:i] + "v%2F" + concrete[j+1:]
		}
		e, _, err := r.match(httptest.NewRequest(method, concrete, nil))
		if err != nil || e.Path != path {
			t.Errorf("%s %s: got %v, %v", method, concrete, e, err)
		}
		n++
	}
	t.Logf("%d endpoints", n)
}

func TestDuplicateRowsPanic(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic for two rows of one shape")
		}
	}()
	newRouter([]Route{
		{Method: "GET", Path: "/a/b/c/d/{x}", Handler: echo("")},
		{Method: "GET", Path: "/a/b/c/d/{y}", Handler: echo("")},
	})
}

type anyToken struct{}

func (anyToken) Authenticate(context.Context, Credentials) (Session, error) {
	return Session{User: "@a:b", Device: "D"}, nil
}

// BenchmarkRequest measures what a whole request costs around its handler, with
// every endpoint of the specification in the table.
func BenchmarkRequest(b *testing.B) {
	routes := specRoutes()
	for i := range routes {
		routes[i].Handler = func(context.Context, *Request) (any, error) { return nil, nil }
		routes[i].Auth = AuthUser
		routes[i].Limit = LimitMessage
		if strings.HasPrefix(routes[i].Path, "/_matrix/federation") {
			routes[i].Auth = AuthServer
		}
	}
	h := NewHandler(Config{
		Log: quiet(), Auth: anyToken{}, Limits: Limits{LimitMessage: {PerSecond: 1e9, Burst: 1e9}},
		VerifyServer: func(*http.Request, []byte) (id.Server, error) { return "b", nil },
	}, routes)
	for _, c := range []struct{ name, method, path string }{
		{"sync", "GET", "/_matrix/client/v3/sync?since=s1_2_3&timeout=30000"},
		{"send", "PUT", "/_matrix/client/v3/rooms/%21abcdefgh%3Aexample.org/send/m.room.message/m1234567.8"},
		{"federation-send", "PUT", "/_matrix/federation/v1/send/1700000000000"},
		{"profile", "GET", "/_matrix/client/v3/profile/@a:b/displayname"},
		{"unknown", "GET", "/_matrix/client/v3/nonsense"},
	} {
		b.Run(c.name, func(b *testing.B) {
			req := httptest.NewRequest(c.method, c.path, nil)
			req.Header.Set("Authorization", "Bearer t0ken")
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(&discard{h: http.Header{}}, req)
			}
		})
	}
}

type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}
