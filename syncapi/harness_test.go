package syncapi

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/tidwall/gjson"

	clientapi "weft/clientapi/api"
	fedapi "weft/federationapi/api"
	"weft/internal/bus"
	"weft/internal/eventstore"
	"weft/internal/eventstore/write"
	"weft/internal/httpapi"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/internal/statetree"
	"weft/internal/stream"
	keyapi "weft/keyserver/api"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	alice = id.User("@alice:home")
	bob   = id.User("@bob:home")
	carol = id.User("@carol:away")
)

type obj = map[string]any

// env is a sync API over a store that the test writes itself, and fakes of the other components.
type env struct {
	t        *testing.T
	srv      *Server
	h        http.Handler
	db       *sqldb.DB
	r        *eventstore.Reader
	w        *write.Writer
	bus      bus.Bus
	accounts *fakeAccounts
	keys     *fakeKeys
	todev    *fakeToDevice
	out      *fakeOutbound
	key      ed25519.PrivateKey

	stopping chan struct{} // closed: the server stops

	mu  sync.Mutex
	now time.Time
}

func (e *env) clock() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now
}

func (e *env) advance(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now = e.now.Add(d)
}

// eachDB runs a test on both databases.
func eachDB(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) { test(t, newEnv(t, open())) })
}

func newEnv(t *testing.T, db *sqldb.DB) *env {
	t.Helper()
	return newNode(t, db, bus.NewLocal(), nil)
}

// newNode is newEnv with a bus that others may share, and a change of the configuration.
func newNode(t *testing.T, db *sqldb.DB, b bus.Bus, change func(*env, *Config)) *env {
	t.Helper()
	e := newStill(t, db, b, change)
	e.run()
	return e
}

// newStill is newNode before its background work runs.
func newStill(t *testing.T, db *sqldb.DB, b bus.Bus, change func(*env, *Config)) *env {
	t.Helper()
	ctx := t.Context()
	e := &env{t: t, db: db, bus: b, now: time.UnixMilli(1_700_000_000_000), key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)),
		stopping: make(chan struct{})}
	e.ok(stream.Migrate(ctx, db))
	e.ok(eventstore.Migrate(ctx, db))
	var err error
	e.r, err = eventstore.Open(db, eventstore.Options{})
	e.ok(err)
	e.w, err = write.New(ctx, db, e.r)
	e.ok(err)
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	e.accounts = &fakeAccounts{e: e}
	e.keys, e.todev, e.out = &fakeKeys{}, &fakeToDevice{}, &fakeOutbound{}
	cfg := Config{DB: db, Events: e.r, Tail: eventstore.NewTail(e.r), Bus: e.bus, Log: logrus.NewEntry(quiet), Now: e.clock, ServerName: "home",
		Accounts: e.accounts, Keys: e.keys, ToDevice: e.todev, Outbound: e.out}
	if change != nil {
		change(e, &cfg)
	}
	e.srv, err = New(ctx, cfg)
	e.ok(err)
	e.h = httpapi.NewHandler(httpapi.Config{Log: logrus.NewEntry(quiet), Auth: e.accounts, Now: e.clock, Stopping: e.stopping}, e.srv.Routes())
	return e
}

// run starts the background work, until the test ends.
func (e *env) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.srv.Run(ctx) }()
	e.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			e.t.Error(err)
		}
	})
}

func (e *env) ok(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

// answer is a response: its status and JSON body.
type reply struct {
	status int
	gjson.Result
}

// do makes a request of a user; the access token is the user ID and the device.
func (e *env) do(user id.User, method, path string, body any) reply {
	e.t.Helper()
	return e.from(user, "DEV", method, path, body)
}

func (e *env) from(user id.User, device, method, path string, body any) reply {
	e.t.Helper()
	var b []byte
	switch x := body.(type) {
	case nil:
	case string:
		b = []byte(x)
	default:
		var err error
		b, err = json.Marshal(x)
		e.ok(err)
	}
	req := httptest.NewRequest(method, path, bytes.NewReader(b))
	req.Header.Set("Authorization", "Bearer "+string(user)+"|"+device)
	w := httptest.NewRecorder()
	e.h.ServeHTTP(w, req)
	if !gjson.ValidBytes(w.Body.Bytes()) {
		e.t.Fatalf("%s %s: not JSON: %s", method, path, w.Body.Bytes())
	}
	return reply{w.Code, gjson.ParseBytes(w.Body.Bytes())}
}

// want makes a request that must be answered with a status and, where code is not empty, an errcode.
func (e *env) want(user id.User, status int, code, method, path string, body any) reply {
	e.t.Helper()
	a := e.do(user, method, path, body)
	if a.status != status || code != "" && a.Get("errcode").Str != code {
		e.t.Fatalf("%s %s: got %d %s, want %d %s", method, path, a.status, a.Raw, status, code)
	}
	return a
}

// sync makes a sync request that must succeed; params are pairs of names and values.
func (e *env) sync(user id.User, since string, params ...string) reply {
	e.t.Helper()
	q := url.Values{}
	if since != "" {
		q.Set("since", since)
	}
	for i := 0; i < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	return e.want(user, 200, "", "GET", v3+"/sync?"+q.Encode(), nil)
}

// in gives a part of a room's section.
func (a reply) in(section string, room *room, path string) gjson.Result {
	key := strings.NewReplacer(".", `\.`, "!", `\!`).Replace(string(room.id))
	p := "rooms." + section + "." + key
	if path != "" {
		p += "." + path
	}
	return a.Get(p)
}

func (a reply) next() string { return a.Get("next_batch").Str }

// bodies gives the bodies, or types, of events.
func bodies(list gjson.Result) string {
	var out []string
	for _, e := range list.Array() {
		if b := e.Get("content.body"); b.Exists() {
			out = append(out, b.Str)
			continue
		}
		out = append(out, strings.TrimPrefix(e.Get("type").Str, "m.room."))
	}
	return strings.Join(out, " ")
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// room is a room that the test writes event by event. Nothing is judged.
type room struct {
	*env
	nid     nid.Room
	id      id.Room
	version event.RoomVersion
	state   statetree.Root
	tips    []*eventstore.Event
	ts      int64
}

// newRoom makes a room with a create event, its creator in it, and open history.
func (e *env) newRoom(creator id.User) *room {
	e.t.Helper()
	r := &room{env: e, version: "10"}
	n, err := e.w.RoomNID(e.t.Context())
	e.ok(err)
	r.nid, r.id = n, id.Room(fmt.Sprintf("!room%d:home", n))
	e.ok(e.db.Update(e.t.Context(), func(tx *sqldb.Tx) error {
		_, err := e.w.InsertRoom(e.t.Context(), tx, r.nid, r.id, r.version)
		return err
	}))
	r.state_(creator, "m.room.create", "", obj{"room_version": r.version, "creator": creator})
	r.member(creator, "join")
	return r
}

func (r *room) build(sender id.User, typ string, stateKey *string, content any, redacts id.Event) *event.Event {
	r.t.Helper()
	raw, err := json.Marshal(content)
	r.ok(err)
	rules, err := event.Version(r.version)
	r.ok(err)
	r.ts++
	b := event.Builder{Rules: rules, RoomID: r.id, Sender: sender, Type: typ, StateKey: stateKey, Content: raw, Redacts: redacts,
		PrevEvents: []id.Event{}, AuthEvents: []id.Event{}, Depth: 1, OriginServerTS: r.clock().UnixMilli() + r.ts}
	for _, t := range r.tips {
		b.PrevEvents = append(b.PrevEvents, t.ID)
		b.Depth = max(b.Depth, t.Depth+1)
	}
	e, err := b.Build(sender.Server(), "ed25519:1", r.key)
	r.ok(err)
	return e
}

// option says how an event is stored.
type option struct {
	flags    eventstore.Flags
	txn      string
	backfill bool
	missing  id.Event  // a previous event that is not here
	redacted nid.Event // by what came before
}

// put stores an event as the next of the room.
func (r *room) put(ev *event.Event, o option) *eventstore.Event {
	r.t.Helper()
	ctx := r.t.Context()
	e := &eventstore.Event{Event: ev, RoomNID: r.nid, Flags: o.flags}
	var err error
	e.NID, err = r.w.EventNIDs(ctx, 1, 0)
	r.ok(err)
	types, keys, err := r.w.Intern(ctx, []string{ev.Type}, []string{string(ev.Sender), ev.StateKey})
	r.ok(err)
	e.TypeNID = types[ev.Type]
	if ev.IsState {
		e.StateKeyNID = keys[ev.StateKey]
	}
	e.HasState, e.StateBefore = true, r.state
	live := !o.backfill && o.flags == 0
	batch := statetree.NewBatch(r.r)
	after := r.state
	if live && ev.IsState {
		after, err = statetree.Apply(ctx, batch, r.state, []statetree.Change{{Key: e.Key(), Event: e.NID}}, batch)
		r.ok(err)
	}
	row := r.w.Row(e, eventstore.Parents{})
	var users []string
	if ev.Type == "m.room.member" {
		users = []string{ev.StateKey}
	}
	r.ok(r.db.Update(ctx, func(tx *sqldb.Tx) error {
		current, err := r.r.Uncommitted(tx).RoomByNID(ctx, r.nid)
		if err != nil {
			return err
		}
		if live {
			if err := r.w.UpdateRoom(ctx, tx, write.RoomUpdate{NID: r.nid, Revision: current.Revision, CurrentState: after,
				Extremities: []nid.Event{e.NID}, Depth: max(e.Depth, current.Depth), Version: r.version}); err != nil {
				return err
			}
		}
		if err := r.w.InsertNodes(ctx, tx, batch); err != nil {
			return err
		}
		if o.backfill {
			e.StreamPos, err = r.w.BackfillPositions(ctx, tx, 1)
		} else {
			e.StreamPos, err = stream.Advance(ctx, tx, stream.Events, 1)
		}
		if err != nil {
			return err
		}
		if err := r.w.InsertEvents(ctx, tx, []write.Row{row}); err != nil {
			return err
		}
		if o.missing != "" {
			if err := r.w.AddBackward(ctx, tx, r.nid, []write.Backward{{Event: e.NID, Missing: o.missing}}); err != nil {
				return err
			}
		}
		if o.txn != "" {
			if _, err := r.w.PutTxn(ctx, tx, write.Txn{User: ev.Sender, Device: "DEV", Scope: "send", ID: o.txn, Event: e.NID}); err != nil {
				return err
			}
		}
		if ev.Redacts != "" {
			if target, err := r.r.NID(ctx, ev.Redacts); err != nil {
				return err
			} else if target != 0 {
				if err := r.w.SetRedacted(ctx, tx, target, e.NID); err != nil {
					return err
				}
			}
		}
		if o.redacted != 0 {
			if err := r.w.SetRedacted(ctx, tx, e.NID, o.redacted); err != nil {
				return err
			}
		}
		pos := e.StreamPos
		tx.OnCommit(func() {
			bus.PublishUpdate(r.bus, bus.Update{Stream: stream.Events, Pos: pos, Rooms: []string{string(r.id)}, Users: users})
		})
		if !live || ev.Type != "m.room.member" {
			return nil
		}
		user := id.User(ev.StateKey)
		_, err = r.w.SetMembers(ctx, tx, r.nid, []write.MemberChange{{User: user, UserNID: e.StateKeyNID,
			Membership: eventstore.ParseMembership(ev.Membership()), Event: e.NID, StreamPos: e.StreamPos, Local: user.Server() == "home"}})
		return err
	}))
	if live {
		r.tips, r.state = []*eventstore.Event{e}, after
	}
	return e
}

func (r *room) send(sender id.User, typ string, content any) *eventstore.Event {
	r.t.Helper()
	return r.put(r.build(sender, typ, nil, content, ""), option{})
}

func (r *room) state_(sender id.User, typ, key string, content any) *eventstore.Event {
	r.t.Helper()
	return r.put(r.build(sender, typ, &key, content, ""), option{})
}

func (r *room) say(sender id.User, text string) *eventstore.Event {
	r.t.Helper()
	return r.send(sender, "m.room.message", obj{"msgtype": "m.text", "body": text})
}

// member changes a membership, by the user itself.
func (r *room) member(user id.User, membership string) *eventstore.Event {
	r.t.Helper()
	return r.state_(user, "m.room.member", string(user), obj{"membership": membership})
}

// fakeAccounts knows every user, and account data.
type fakeAccounts struct {
	clientapi.Accounts
	e    *env
	mu   sync.Mutex
	data []clientapi.AccountData
	of   []id.User
}

func (*fakeAccounts) Authenticate(_ context.Context, c httpapi.Credentials) (httpapi.Session, error) {
	user, device, _ := strings.Cut(c.Token, "|")
	return httpapi.Session{User: id.User(user), Device: id.Device(device)}, nil
}

func (f *fakeAccounts) GetAccountData(_ context.Context, user id.User, room id.Room, typ string) (json.RawMessage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.data) - 1; i >= 0; i-- {
		if d := f.data[i]; f.of[i] == user && d.Room == room && d.Type == typ && d.Content != nil {
			return d.Content, nil
		}
	}
	return nil, merr.NotFound("no such account data")
}

func (f *fakeAccounts) SetAccountData(ctx context.Context, user id.User, room id.Room, typ string, content json.RawMessage) error {
	return f.e.db.Update(ctx, func(tx *sqldb.Tx) error {
		pos, err := stream.Advance(ctx, tx, stream.AccountData, 1)
		if err != nil {
			return err
		}
		tx.OnCommit(func() {
			f.mu.Lock()
			f.data, f.of = append(f.data, clientapi.AccountData{Room: room, Type: typ, Content: content, Pos: pos}), append(f.of, user)
			f.mu.Unlock()
			bus.PublishUpdate(f.e.bus, bus.Update{Stream: stream.AccountData, Pos: pos, Users: []string{string(user)}})
		})
		return nil
	})
}

func (f *fakeAccounts) ListAccountData(_ context.Context, user id.User, from, to int64) ([]clientapi.AccountData, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []clientapi.AccountData
	for i, d := range f.data {
		if f.of[i] == user && d.Pos > from && d.Pos <= to {
			out = append(out, d)
		}
	}
	return out, nil
}

func (f *fakeAccounts) ListRuleChanges(_ context.Context, from int64) ([]id.User, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []id.User
	for i, d := range f.data {
		if d.Room == "" && (d.Type == "m.push_rules" || d.Type == "m.ignored_user_list") && d.Pos > from {
			out = append(out, f.of[i])
		}
	}
	return out, nil
}

func (f *fakeAccounts) GetAccount(_ context.Context, user id.User) (clientapi.Account, error) {
	if user.Server() != "home" {
		return clientapi.Account{}, merr.NotFound("no such user")
	}
	return clientapi.Account{User: user}, nil
}

type fakeKeys struct {
	keyapi.Keys
	counts  map[string]int
	changed []id.User // at positions 1, 2, …
}

func (f *fakeKeys) KeyCounts(context.Context, id.User, id.Device) (keyapi.KeyCounts, error) {
	return keyapi.KeyCounts{OneTime: f.counts, UnusedFallback: []string{"signed_curve25519"}}, nil
}

func (f *fakeKeys) ListChanged(_ context.Context, from, to int64) ([]id.User, error) {
	return f.changed[from:to], nil
}

type fakeToDevice struct {
	keyapi.ToDevice
	mu      sync.Mutex
	msgs    []json.RawMessage // at positions 1, 2, …; nil: deleted
	deleted int64
}

func (f *fakeToDevice) ListMessages(_ context.Context, _ id.User, _ id.Device, from, to int64, limit int) ([]json.RawMessage, int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []json.RawMessage
	for pos := from + 1; pos <= to && pos <= int64(len(f.msgs)); pos++ {
		if m := f.msgs[pos-1]; m != nil {
			if out = append(out, m); len(out) == limit {
				return out, pos, nil
			}
		}
	}
	return out, to, nil
}

func (f *fakeToDevice) DeleteMessages(_ context.Context, _ id.User, _ id.Device, upTo int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.msgs[:upTo] {
		f.msgs[i] = nil
	}
	f.deleted = upTo
	return nil
}

type fakeOutbound struct {
	fedapi.Outbound
	mu   sync.Mutex
	sent []fedapi.EDU
}

func (f *fakeOutbound) SendEDU(_ context.Context, e fedapi.EDU) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = append(f.sent, e)
	return nil
}

func (f *fakeOutbound) of(typ string) []fedapi.EDU {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []fedapi.EDU
	for _, e := range f.sent {
		if e.Type == typ {
			out = append(out, e)
		}
	}
	return out
}

// move advances a stream as its owner would, and wakes a user.
func (e *env) move(s stream.Name, n int, user id.User) {
	e.t.Helper()
	e.ok(e.db.Update(e.t.Context(), func(tx *sqldb.Tx) error {
		pos, err := stream.Advance(e.t.Context(), tx, s, int64(n))
		tx.OnCommit(func() { bus.PublishUpdate(e.bus, bus.Update{Stream: s, Pos: pos, Users: []string{string(user)}}) })
		return err
	}))
}
