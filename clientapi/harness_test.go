package clientapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/tidwall/gjson"

	"weft/clientapi/api"
	"weft/internal/bus"
	"weft/internal/eventstore"
	"weft/internal/fedclient"
	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/internal/stream"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// clock is the time that a test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// env is a client API over fakes of the other components.
type env struct {
	t      *testing.T
	srv    *Server
	h      http.Handler
	clock  *clock
	rooms  *fakeRooms
	dir    *fakeDirectory
	keys   *fakeKeys
	sync   *fakeSync
	fed    *fakeFed
	todev  *fakeToDevice
	backup *fakeBackup
	bus    *bus.Local
	db     *sqldb.DB
	// names of rooms in answers about spaces
	names map[id.Room]string
}

// eachDB runs a test on both databases.
func eachDB(t *testing.T, change func(*Config), test func(t *testing.T, e *env)) {
	t.Helper()
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		test(t, newEnv(t, open(), change))
	})
}

func newEnv(t *testing.T, db *sqldb.DB, change func(*Config)) *env {
	t.Helper()
	ctx := t.Context()
	if err := stream.Migrate(ctx, db); err != nil {
		t.Fatal(err)
	}
	if err := eventstore.Migrate(ctx, db); err != nil {
		t.Fatal(err)
	}
	reader, err := eventstore.Open(db, eventstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	b := bus.NewLocal()
	e := &env{t: t, clock: &clock{now: time.UnixMilli(1_700_000_000_000)}, rooms: &fakeRooms{}, dir: &fakeDirectory{},
		keys: &fakeKeys{}, sync: &fakeSync{}, fed: &fakeFed{}, todev: &fakeToDevice{}, backup: &fakeBackup{}, bus: b, db: db}
	cfg := Config{DB: db, Events: reader, Bus: b, Log: logrus.NewEntry(quiet), Now: e.clock.Now, ServerName: "test",
		Rooms: e.rooms, Directory: e.dir, Keys: e.keys, ToDevice: e.todev, Backup: e.backup, Sync: e.sync, Fed: e.fed,
		Registration: Registration{Mode: RegistrationOpen},
		Passwords:    PasswordCost{MemoryKiB: 64, Passes: 1}}
	if change != nil {
		change(&cfg)
	}
	if e.srv, err = New(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	e.h = httpapi.NewHandler(httpapi.Config{Log: logrus.NewEntry(quiet), Auth: e.srv, Now: e.clock.Now}, e.srv.Routes())
	return e
}

// answer is a response: its status and JSON body.
type answer struct {
	status int
	gjson.Result
	header http.Header
}

// do makes a request. body may be nil, a string of JSON or a value.
// runUpkeep removes what has had its time.
func (e *env) runUpkeep() {
	e.t.Helper()
	for _, task := range e.srv.upkeep() {
		if _, err := task.Run(e.t.Context()); err != nil {
			e.t.Fatal(err)
		}
	}
}

func (e *env) do(method, path, token string, body any) answer {
	e.t.Helper()
	var b []byte
	switch x := body.(type) {
	case nil:
	case string:
		b = []byte(x)
	default:
		var err error
		if b, err = json.Marshal(x); err != nil {
			e.t.Fatal(err)
		}
	}
	req := httptest.NewRequest(method, path, bytes.NewReader(b))
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	e.h.ServeHTTP(w, req)
	return answer{w.Code, gjson.ParseBytes(w.Body.Bytes()), w.Header()}
}

// want makes a request that must be answered with a status and, where code is
// not empty, an errcode.
func (e *env) want(status int, code, method, path, token string, body any) answer {
	e.t.Helper()
	a := e.do(method, path, token, body)
	if a.status != status || code != "" && a.Get("errcode").Str != code {
		e.t.Errorf("%s %s: got %d %s, want %d %s", method, path, a.status, a.Raw, status, code)
	}
	return a
}

func (e *env) ok(method, path, token string, body any) answer {
	e.t.Helper()
	a := e.do(method, path, token, body)
	if a.status != 200 {
		e.t.Fatalf("%s %s: got %d %s, want 200", method, path, a.status, a.Raw)
	}
	return a
}

type obj = map[string]any

const c3 = "/_matrix/client/v3"

// register makes a user with the password "pass-"+name.
func (e *env) register(name string) (token string, device id.Device) {
	e.t.Helper()
	a := e.ok("POST", c3+"/register", "", obj{"username": name, "password": "pass-" + name, "auth": obj{"type": "m.login.dummy"}})
	return a.Get("access_token").Str, id.Device(a.Get("device_id").Str)
}

func (e *env) login(name string, more obj) answer {
	e.t.Helper()
	body := obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": name}, "password": "pass-" + name}
	for k, v := range more {
		body[k] = v
	}
	return e.ok("POST", c3+"/login", "", body)
}

// passwordAuth is the auth object of a user's password stage.
func passwordAuth(name, password string) obj {
	return obj{"type": "m.login.password", "password": password, "identifier": obj{"type": "m.id.user", "user": name}}
}

func (e *env) account(name string) api.Account {
	e.t.Helper()
	a, err := e.srv.GetAccount(e.t.Context(), id.User("@"+name+":test"))
	if err != nil {
		e.t.Fatal(err)
	}
	return a
}

type fakeSync struct{ deleted []id.User }

func (*fakeSync) ReceiveEDU(context.Context, id.Server, string, json.RawMessage) error { return nil }

func (f *fakeSync) DeleteUserData(_ context.Context, u id.User) error {
	f.deleted = append(f.deleted, u)
	return nil
}

// fakeFed is another server that knows some profiles and rooms.
type fakeFed struct {
	profiles map[id.User]string
	asked    int
	query    fedclient.PublicRoomsQuery
	posted   bool
	err      error

	mu sync.Mutex
	// told are answers about rooms, by server and room; spaces are the questions.
	told   map[string]string
	spaces []string
}

func (f *fakeFed) GetHierarchy(_ context.Context, server id.Server, room id.Room) (json.RawMessage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	q := string(server) + string(room)
	f.spaces = append(f.spaces, q)
	if a, ok := f.told[q]; ok {
		return json.RawMessage(a), nil
	}
	return nil, merr.NotFound("no such room")
}

func (f *fakeFed) QueryProfile(_ context.Context, u id.User, _ string) (map[string]json.RawMessage, error) {
	f.asked++
	if f.err != nil {
		return nil, f.err
	}
	p, ok := f.profiles[u]
	if !ok {
		return nil, merr.NotFound("no such user")
	}
	var out map[string]json.RawMessage
	return out, json.Unmarshal([]byte(p), &out)
}

func (f *fakeFed) GetPublicRooms(_ context.Context, _ id.Server, q fedclient.PublicRoomsQuery) (json.RawMessage, error) {
	f.query, f.posted = q, false
	return json.RawMessage(`{"chunk":[{"room_id":"!far:away"}]}`), f.err
}

func (f *fakeFed) QueryPublicRooms(_ context.Context, _ id.Server, q fedclient.PublicRoomsQuery) (json.RawMessage, error) {
	f.query, f.posted = q, true
	return json.RawMessage(`{"chunk":[{"room_id":"!far:away"}]}`), f.err
}
