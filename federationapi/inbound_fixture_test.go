package federationapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	accountapi "weft/clientapi/api"
	"weft/internal/eventstore"
	"weft/internal/fedclient/keyring"
	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	keyapi "weft/keyserver/api"
	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
	roomapi "weft/roomserver/api"
	syncapi "weft/syncapi/api"
)

// site is a server behind HTTP, with components that do as they are told.
type site struct {
	*world
	server *Server
	net    *network
	http   http.Handler
	parts  *parts
}

// parts stands in for the other components. A method that a test does not expect
// is missing and panics.
type parts struct {
	roomapi.Federation
	roomapi.Directory
	keyapi.Keys
	keyapi.ToDevice
	syncapi.Sync
	accountapi.Accounts

	mu       sync.Mutex
	received []string // EDUs, "TYPE CONTENT"
	eduErr   error
	txns     []roomapi.Transaction
	txn      func(roomapi.Transaction) (map[id.Event]string, error)
	made     roomapi.MakeMembership
	sent     roomapi.SendMembership
	answer   roomapi.SentMembership
	invited  roomapi.ReceiveInvite
	listed   roomapi.ListPublicRooms
	queried  keyapi.QueryKeys
	claimed  keyapi.ClaimKeys
	err      error
}

func (p *parts) edu(typ string, content json.RawMessage) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.received = append(p.received, typ+" "+string(content))
	return p.eduErr
}

type fakeSync struct{ *parts }

func (f fakeSync) ReceiveEDU(_ context.Context, _ id.Server, typ string, content json.RawMessage) error {
	return f.edu(typ, content)
}
func (f fakeSync) GetPresence(context.Context, id.User) (p syncapi.Presence, err error) {
	return p, nil
}
func (f fakeSync) DeleteUserData(context.Context, id.User) error { return nil }

type fakeKeys struct {
	keyapi.Keys
	*parts
}

func (f fakeKeys) ReceiveEDU(_ context.Context, _ id.Server, typ string, content json.RawMessage) error {
	return f.edu(typ, content)
}

func (f fakeKeys) GetUserDevices(_ context.Context, user id.User) (json.RawMessage, error) {
	return json.RawMessage(`{"user_id":"` + string(user) + `","stream_id":5,"devices":[]}`), nil
}

func (f fakeKeys) QueryKeys(_ context.Context, req keyapi.QueryKeys) (keyapi.QueriedKeys, error) {
	f.queried = req
	return keyapi.QueriedKeys{
		MasterKeys:      map[id.User]json.RawMessage{alice: json.RawMessage(`{}`)},
		UserSigningKeys: map[id.User]json.RawMessage{alice: json.RawMessage(`{"secret":1}`)},
		Failures:        map[id.Server]json.RawMessage{one: json.RawMessage(`{}`)},
	}, f.err
}

func (f fakeKeys) ClaimKeys(_ context.Context, req keyapi.ClaimKeys) (keyapi.ClaimedKeys, error) {
	f.claimed = req
	return keyapi.ClaimedKeys{Failures: map[id.Server]json.RawMessage{one: json.RawMessage(`{}`)}}, f.err
}

func (p *parts) ReceiveToDevice(_ context.Context, _ id.Server, content json.RawMessage) error {
	return p.edu("m.direct_to_device", content)
}

func (p *parts) ReceiveTransaction(_ context.Context, req roomapi.Transaction) (map[id.Event]string, error) {
	p.mu.Lock()
	p.txns = append(p.txns, req)
	answer := p.txn
	p.mu.Unlock()
	if answer == nil {
		return map[id.Event]string{}, nil
	}
	return answer(req)
}

func (p *parts) MakeMembership(_ context.Context, req roomapi.MakeMembership) (roomapi.MembershipTemplate, error) {
	p.made = req
	return roomapi.MembershipTemplate{Version: "10", Event: json.RawMessage(`{"type":"m.room.member"}`)}, p.err
}

func (p *parts) SendMembership(_ context.Context, req roomapi.SendMembership) (roomapi.SentMembership, error) {
	p.sent = req
	return p.answer, p.err
}

func (p *parts) ReceiveInvite(_ context.Context, req roomapi.ReceiveInvite) (json.RawMessage, error) {
	p.invited = req
	return json.RawMessage(`{"signed":true}`), p.err
}

func (p *parts) ResolveAlias(_ context.Context, alias id.RoomAlias) (roomapi.ResolvedAlias, error) {
	if alias != "#known:home.example" {
		return roomapi.ResolvedAlias{}, merr.NotFound("no such alias")
	}
	return roomapi.ResolvedAlias{Room: "!r:home.example"}, nil
}

func (p *parts) ListPublicRooms(_ context.Context, req roomapi.ListPublicRooms) (roomapi.PublicRooms, error) {
	p.listed = req
	return roomapi.PublicRooms{}, p.err
}

func (p *parts) OpenIDUser(_ context.Context, token string) (id.User, error) {
	if token != "good" {
		return "", merr.UnknownToken("no such token")
	}
	return alice, nil
}

func (p *parts) GetAccount(_ context.Context, user id.User) (accountapi.Account, error) {
	if user != alice {
		return accountapi.Account{}, merr.NotFound("no such user")
	}
	return accountapi.Account{User: user}, nil
}

func (p *parts) GetProfile(_ context.Context, user id.User) (map[string]json.RawMessage, error) {
	if user != alice {
		return nil, merr.NotFound("no such user")
	}
	return map[string]json.RawMessage{"displayname": json.RawMessage(`"Alice"`), "m.tz": json.RawMessage(`"Europe/Paris"`)}, nil
}

// notary knows the keys of server one.
type notary struct{ w *world }

func (n notary) ServerKeys(_ context.Context, server id.Server, until int64, _ ...id.KeyID) (*keyring.ServerKeys, error) {
	if server != one {
		return nil, errors.New("not reached")
	}
	obj, err := canonical.Marshal(map[string]any{
		"server_name": one, "valid_until_ts": max(until, 5), "old_verify_keys": map[string]any{},
		"verify_keys": map[string]any{"ed25519:1": map[string]any{"key": "AA"}},
	})
	n.w.ok(err)
	obj, err = canonical.SignJSON(obj, string(one), "ed25519:1", n.w.key)
	n.w.ok(err)
	return &keyring.ServerKeys{Server: one, JSON: obj}, nil
}

func onBothSites(t *testing.T, test func(t *testing.T, s *site)) {
	t.Helper()
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) { test(t, newSite(t, open())) })
}

func newSite(t testing.TB, db *sqldb.DB) *site {
	t.Helper()
	w := newWorld(t, db)
	s := &site{world: w, net: newNetwork(), parts: &parts{}}
	var err error
	s.server, err = New(t.Context(), Config{
		DB: db, Events: w.r, Tail: eventstore.NewTail(w.r), Bus: w.bus, Log: w.log, ServerName: home, KeyID: "ed25519:1", PrivateKey: w.key,
		OldKeys: []OldKey{{ID: "ed25519:0", Public: make([]byte, 32), Expired: 123}},
		Version: "1.2.3", Transport: s.net, Notary: notary{w}, WellKnown: "federation.home.example:443",
		Rooms: s.parts, Directory: s.parts, Keys: fakeKeys{nil, s.parts}, ToDevice: s.parts, Sync: fakeSync{s.parts}, Accounts: s.parts,
		Limits: quickLimits(),
	})
	w.ok(err)
	s.http = httpapi.NewHandler(httpapi.Config{Log: w.log, VerifyServer: func(r *http.Request, _ []byte) (id.Server, error) {
		origin := r.Header.Get("Origin-Of-Test")
		if origin == "" {
			return "", merr.Unauthorized("not signed")
		}
		return id.Server(origin), nil
	}}, s.server.Routes())
	return s
}

// answer is what a request came back with.
type answer struct {
	t      testing.TB
	status int
	body   []byte
}

// do sends a request as a server; an empty origin does not sign it.
func (s *site) do(origin id.Server, method, path, body string) answer {
	s.t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body)).WithContext(context.Background())
	if origin != "" {
		req.Header.Set("Origin-Of-Test", string(origin))
	}
	rec := httptest.NewRecorder()
	s.http.ServeHTTP(rec, req)
	b, err := io.ReadAll(rec.Result().Body)
	s.ok(err)
	if !json.Valid(b) {
		s.t.Errorf("%s %s: not JSON: %.200s", method, path, b)
	}
	return answer{s.t, rec.Code, b}
}

func (s *site) get(origin id.Server, path string) answer {
	s.t.Helper()
	return s.do(origin, http.MethodGet, path, "")
}

// into decodes a 200.
func (a answer) into(v any) {
	a.t.Helper()
	if a.status != http.StatusOK {
		a.t.Fatalf("status %d: %.300s", a.status, a.body)
	}
	if err := json.Unmarshal(a.body, v); err != nil {
		a.t.Fatal(err)
	}
}

// is checks a whole 200.
func (a answer) is(want string) {
	a.t.Helper()
	if a.status != http.StatusOK || string(a.body) != want {
		a.t.Errorf("got %d %.500s\nwant 200 %s", a.status, a.body, want)
	}
}

// fails checks an error.
func (a answer) fails(status int, code string) {
	a.t.Helper()
	var e struct {
		Code  string `json:"errcode"`
		Error string `json:"error"`
	}
	if err := json.Unmarshal(a.body, &e); err != nil || a.status != status || e.Code != code || e.Error == "" {
		a.t.Errorf("got %d %.300s, want %d %s", a.status, a.body, status, code)
	}
}
