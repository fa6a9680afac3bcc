package remote

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/fedclient"
	"weft/internal/fedclient/keyring"
	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// peer is another server that speaks to the synthetic one, by hand: a name of a
// second one, whose key the first can fetch.
type peer struct {
	t testing.TB
	*identity
}

// newPeers gives a synthetic server and a peer that trust each other.
func newPeers(t testing.TB, o Options) (*Server, *peer) {
	t.Helper()
	s := serve(t, o)
	return s, &peer{t, serve(t, Options{Authority: s.Authority()}).identities[0]}
}

func (p *peer) user() id.User { return id.User("@visitor:" + string(p.name)) }

// template asks for a join or a leave, and builds it.
func (p *peer) build(s *Server, r *Room, t *fedclient.Template, err error) *event.Event {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
	b, err := event.ParseProto(t.Event, r.rules)
	if err != nil {
		p.t.Fatal(err)
	}
	if t.RoomVersion != r.Version() || b.RoomID != r.ID || b.Sender != p.user() {
		p.t.Fatalf("the template %s %s", t.RoomVersion, t.Event)
	}
	e, err := b.Build(p.name, p.keyID, p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	return e
}

// joined is what a send_join answer holds.
type joined struct {
	event        *event.Event
	state, chain []id.Event
	result       *fedclient.JoinResult
}

func (p *peer) join(s *Server, r *Room) joined {
	p.t.Helper()
	t, err := p.client.MakeJoin(p.t.Context(), s.Name(), r.ID, p.user(), event.Versions())
	out := joined{event: p.build(s, r, t, err)}
	out.result, err = p.client.SendJoin(p.t.Context(), s.Name(), r.ID, out.event.ID, out.event.JSON(), true, func(list fedclient.List, pdu json.RawMessage) error {
		e, err := event.Parse(pdu, r.rules)
		if err != nil || e.Redacted() {
			p.t.Errorf("%s: %v", pdu, err)
			return err
		}
		if list == fedclient.State {
			out.state = append(out.state, e.ID)
		} else {
			out.chain = append(out.chain, e.ID)
		}
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// message builds a message of the peer's user after some events, whose auth events
// are those of its last one.
func (p *peer) message(r *Room, body string, prev ...id.Event) *event.Event {
	p.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	st, err := r.before(prev)
	if err != nil {
		p.t.Fatal(err)
	}
	b, err := r.template(st, prev, p.user(), "m.room.message", nil, []byte(`{"body":"`+body+`","msgtype":"m.text"}`))
	if err != nil {
		p.t.Fatal(err)
	}
	b.OriginServerTS = time.Now().UnixMilli()
	e, err := b.Build(p.name, p.keyID, p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	return e
}

func (p *peer) send(s *Server, txn string, events ...[]byte) map[id.Event]string {
	p.t.Helper()
	t := fedclient.Transaction{ID: txn, OriginServerTS: time.Now().UnixMilli(), EDUs: []json.RawMessage{[]byte(`{"edu_type":"m.typing","content":{}}`)}}
	for _, e := range events {
		t.PDUs = append(t.PDUs, e)
	}
	failed, err := p.client.SendTransaction(p.t.Context(), s.Name(), t)
	if err != nil {
		p.t.Fatal(err)
	}
	return failed
}

func sorted(list []id.Event) []id.Event { return slices.Sorted(slices.Values(list)) }

func TestJoinAnswer(t *testing.T) {
	for _, v := range versions {
		s, p := newPeers(t, Options{Servers: 2})
		r := newRoom(t, s, RoomOptions{Version: v, Members: 30})
		if _, err := r.Branchy(60, 3, 5); err != nil {
			t.Fatal(err)
		}
		before, err := r.State()
		if err != nil {
			t.Fatal(err)
		}
		j := p.join(s, r)
		if !slices.Equal(sorted(j.state), slices.Sorted(maps.Values(before))) {
			t.Errorf("version %s: the state has %d events, not the %d expected, or others", v, len(j.state), len(before))
		}
		// The chain is complete: what is named is there, in one list or the other.
		all := append(slices.Clone(j.state), j.chain...)
		for _, e := range all {
			ev, err := r.event(e)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range ev.AuthEvents {
				if !slices.Contains(j.chain, a) {
					t.Errorf("version %s: %s names %s, which is not part of the chain", v, e, a)
				}
			}
		}
		if create := before[key{Type: "m.room.create"}]; !slices.Contains(j.chain, create) {
			t.Errorf("version %s: the chain lacks the create event", v)
		}
		if j.result.MembersOmitted || j.result.Event == nil {
			t.Errorf("%+v", j.result)
		}
		if got, err := r.AwaitJoin(t.Context(), p.user()); err != nil || got.Event != j.event.ID || got.Bytes < int64(len(j.state)*400) {
			t.Errorf("%+v %v", got, err)
		}
		checkStateWithPeer(t, r, p)
		if got := s.Problems(); len(got) != 0 {
			t.Error(got)
		}
	}
}

// checkStateWithPeer asks for all the peer may ask for, and compares.
func checkStateWithPeer(t *testing.T, r *Room, p *peer) {
	t.Helper()
	ctx, server := t.Context(), r.s.Name()
	list := r.list()
	for _, at := range []int{0, 3, len(r.initial), len(r.initial) + 7, len(list) - 30, len(list) - 1} {
		eventID := list[at].id
		r.mu.Lock()
		st, err := r.stateBefore(eventID)
		want := slices.Sorted(maps.Values(r.stateMap(st)))
		r.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		ids, err := p.client.GetStateIDs(ctx, server, r.ID, eventID)
		if err != nil || !slices.Equal(sorted(ids.State), want) {
			t.Errorf("state_ids at %d: %v, %v", at, ids, err)
		}
		var state, chain []id.Event
		err = p.client.GetState(ctx, server, r.ID, eventID, func(l fedclient.List, raw json.RawMessage) error {
			e, err := event.Parse(raw, r.rules)
			if l == fedclient.State {
				state = append(state, e.ID)
			} else {
				chain = append(chain, e.ID)
			}
			return err
		})
		if err != nil || !slices.Equal(sorted(state), want) || !slices.Equal(chain, ids.AuthChain) {
			t.Errorf("state at %d: %v", at, err)
		}
		got, err := p.client.GetEvent(ctx, server, eventID)
		if err != nil || string(got) != string(list[at].json) {
			t.Errorf("event %d: %s %v", at, got, err)
		}
		e, err := event.Parse(got, r.rules)
		if err != nil {
			t.Fatal(err)
		}
		var auth []id.Event
		err = p.client.GetEventAuth(ctx, server, r.ID, eventID, func(_ fedclient.List, raw json.RawMessage) error {
			a, err := event.Parse(raw, r.rules)
			auth = append(auth, a.ID)
			return err
		})
		if err != nil {
			t.Error(err)
		}
		for _, a := range e.AuthEvents {
			if !slices.Contains(auth, a) {
				t.Errorf("event_auth of %d lacks %s", at, a)
			}
		}
	}
}

func TestHistoryForPeers(t *testing.T) {
	s, p := newPeers(t, Options{})
	r := newRoom(t, s, RoomOptions{Version: "11", Members: 10})
	j := p.join(s, r)
	f, err := r.Linear(30)
	if err != nil {
		t.Fatal(err)
	}
	ids := func(raws []json.RawMessage, err error) (out []id.Event) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		for _, raw := range raws {
			e, err := event.Parse(raw, r.rules)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, e.ID)
		}
		return out
	}
	all := make([]id.Event, 0)
	for _, e := range r.list() {
		all = append(all, e.id)
	}
	backward := slices.Clone(all)
	slices.Reverse(backward)
	if got := ids(p.client.Backfill(t.Context(), s.Name(), r.ID, []id.Event{f.Last()}, 20)); !slices.Equal(got, backward[:20]) {
		t.Errorf("backfill: %v", got)
	}
	if got := ids(p.client.Backfill(t.Context(), s.Name(), r.ID, []id.Event{f.Last()}, 500)); !slices.Equal(got, backward) {
		t.Errorf("backfill to the beginning: %d events", len(got))
	}
	missing := func(latest id.Event, limit int) []id.Event {
		t.Helper()
		return ids(p.client.GetMissingEvents(t.Context(), s.Name(), r.ID, fedclient.MissingEvents{
			Earliest: []id.Event{j.event.ID}, Latest: []id.Event{latest}, Limit: limit,
		}))
	}
	joinAt := slices.Index(all, j.event.ID)
	if got := missing(f.Events[9].ID, 100); !slices.Equal(got, all[joinAt+1:joinAt+10]) {
		t.Errorf("missing events: %v", got)
	}
	if got := missing(f.Events[9].ID, 3); !slices.Equal(got, all[joinAt+7:joinAt+10]) {
		t.Errorf("three missing events: %v", got)
	}
}

func TestEventsOfPeers(t *testing.T) {
	s, p := newPeers(t, Options{Servers: 2})
	r := newRoom(t, s, RoomOptions{Version: "12", Members: 10})
	j := p.join(s, r)
	first := p.message(r, "one", j.event.ID)
	if failed := p.send(s, "a", first.JSON()); len(failed) != 0 {
		t.Errorf("%v", failed)
	}
	second := p.message(r, "two", first.ID)
	forged, err := event.Parse([]byte(strings.Replace(string(second.JSON()), `"two"`, `"six"`, 1)), r.rules)
	if err != nil {
		t.Fatal(err)
	}
	if failed := p.send(s, "b", []byte(strings.Replace(string(second.JSON()), `"two"`, `"six"`, 1)), []byte(`{"room_id":"!none"}`)); len(failed) != 1 || failed[forged.ID] == "" {
		t.Errorf("an event with a wrong hash: %v", failed)
	}
	unsigned := []byte(strings.Replace(string(second.JSON()), string(p.keyID), "ed25519:2", 1))
	if failed := p.send(s, "c", unsigned); len(failed) != 1 {
		t.Errorf("an event that is not signed: %v", failed)
	}
	// A topic by a user without power; and the same event twice, of which the second is ignored.
	r.mu.Lock()
	st, err := r.current()
	empty := ""
	b, err2 := r.template(st, r.parents(), p.user(), "m.room.topic", &empty, []byte(`{"topic":"mine"}`))
	r.mu.Unlock()
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	topic, err := b.Build(p.name, p.keyID, p.key)
	if err != nil {
		t.Fatal(err)
	}
	failed := p.send(s, "d", topic.JSON(), second.JSON(), second.JSON())
	if len(failed) != 1 || !strings.Contains(failed[topic.ID], "rule") {
		t.Errorf("an event that is not allowed: %v", failed)
	}
	if _, err := r.Received(t.Context(), second.ID); err != nil {
		t.Error(err)
	}
	if got := s.EDUs(); got["m.typing"] != 4 {
		t.Errorf("EDUs: %v", got)
	}
	if got := s.Problems(); len(got) != 4 {
		t.Errorf("%d problems: %q", len(got), got)
	}
	// Events that fork what this server makes next are merged into it.
	if _, err := r.Linear(3); err != nil {
		t.Fatal(err)
	}
	late := p.message(r, "late", second.ID)
	if failed := p.send(s, "e", late.JSON()); len(failed) != 0 {
		t.Errorf("%v", failed)
	}
	f, err := r.Linear(1)
	if err != nil || len(f.Events[0].PrevEvents) != 2 || !slices.Contains(f.Events[0].PrevEvents, late.ID) {
		t.Errorf("%v %v", f.Events[0].PrevEvents, err)
	}
	// Until its user leaves, the server is in the room.
	if _, err := p.client.GetEvent(t.Context(), s.Name(), f.Last()); err != nil {
		t.Error(err)
	}
	tmpl, err := p.client.MakeLeave(t.Context(), s.Name(), r.ID, p.user())
	leave := p.build(s, r, tmpl, err)
	if err := p.client.SendLeave(t.Context(), s.Name(), r.ID, leave.ID, leave.JSON()); err != nil {
		t.Error(err)
	}
	if _, err := p.client.GetEvent(t.Context(), s.Name(), f.Last()); !errors.Is(err, merr.ErrForbidden) {
		t.Errorf("after the leave: %v", err)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	s, p := newPeers(t, Options{})
	r := newRoom(t, s, RoomOptions{Version: "12", Members: 3})
	ctx := t.Context()
	status := func(err error) int {
		if e, ok := fedclient.AsRemote(err); ok {
			return e.Status
		}
		return 0
	}
	do := func(method, path string, unsigned bool) error {
		_, err := p.client.Do(ctx, fedclient.Request{Destination: s.Name(), Method: method, Path: path, Unsigned: unsigned})
		return err
	}
	if err := do("GET", "/_matrix/federation/v1/publicRooms", false); status(err) != 404 || !strings.Contains(err.Error(), "M_UNRECOGNIZED") {
		t.Errorf("an unknown endpoint: %v", err)
	}
	if err := do("GET", "/_matrix/federation/v1/state/"+url.PathEscape(string(r.ID))+"?event_id=x", true); status(err) != 401 {
		t.Errorf("without a signature: %v", err)
	}
	if err := do("GET", "/_matrix/federation/v1/state/"+url.PathEscape(string(r.ID))+"?event_id=x", false); status(err) != 403 {
		t.Errorf("of a server that is not in the room: %v", err)
	}
	if _, err := p.client.MakeJoin(ctx, s.Name(), r.ID, p.user(), []event.RoomVersion{"1", "11"}); !errors.Is(err, merr.ErrIncompatibleRoomVersion) {
		t.Errorf("a room version that is not understood: %v", err)
	}
	if _, err := p.client.MakeJoin(ctx, s.Name(), r.ID, "@a:elsewhere.test", event.Versions()); status(err) != 403 {
		t.Errorf("a user of another server: %v", err)
	}
	if _, err := p.client.MakeJoin(ctx, s.Name(), "!none:nowhere.test", p.user(), event.Versions()); status(err) != 404 {
		t.Errorf("an unknown room: %v", err)
	}
	tmpl, err := p.client.MakeJoin(ctx, s.Name(), r.ID, p.user(), event.Versions())
	join := p.build(s, r, tmpl, err)
	visit := func(fedclient.List, json.RawMessage) error { return nil }
	if _, err := p.client.SendJoin(ctx, s.Name(), r.ID, "$another", join.JSON(), false, visit); status(err) != 400 {
		t.Errorf("another event ID: %v", err)
	}
	forged := []byte(strings.Replace(string(join.JSON()), string(p.keyID), "ed25519:2", 1))
	if _, err := p.client.SendJoin(ctx, s.Name(), r.ID, join.ID, forged, false, visit); status(err) == 0 || status(err) == 200 {
		t.Errorf("a join that is not signed: %v", err)
	}
	if got := r.Joins(); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	if got := s.Traffic(); got["make_join"].Failed != 3 || got["send_join"].Failed != 2 || got["unrecognised"].Failed != 1 {
		t.Errorf("%+v", got)
	}
}

// The old form of send_join, which servers ask for that do not know the new one.
func TestJoinAnswerV1(t *testing.T) {
	s, p := newPeers(t, Options{})
	r := newRoom(t, s, RoomOptions{Version: "10", Members: 3})
	tmpl, err := p.client.MakeJoin(t.Context(), s.Name(), r.ID, p.user(), event.Versions())
	join := p.build(s, r, tmpl, err)
	res, err := p.client.Do(t.Context(), fedclient.Request{
		Destination: s.Name(), Method: "PUT", Body: join.JSON(),
		Path: "/_matrix/federation/v1/send_join/" + url.PathEscape(string(r.ID)) + "/" + url.PathEscape(string(join.ID)),
	})
	if err != nil {
		t.Fatal(err)
	}
	var pair []json.RawMessage
	var answer struct{ State, AuthChain []json.RawMessage }
	if err := json.Unmarshal(res.Body, &pair); err != nil || len(pair) != 2 || string(pair[0]) != "200" {
		t.Fatalf("%s %v", res.Body, err)
	}
	if err := json.Unmarshal(pair[1], &answer); err != nil || len(answer.State) != len(r.initial)+2 {
		t.Errorf("%d events %v", len(answer.State), err)
	}
}

// Each name has its own key, and each is a notary for the others.
func TestKeysOfAllNames(t *testing.T) {
	s, p := newPeers(t, Options{Servers: 3, Host: "localhost"})
	names := s.Names()
	if len(names) != 3 || !strings.HasPrefix(string(names[0]), "localhost:") {
		t.Fatalf("%v", names)
	}
	want := keyring.Want{"elsewhere.test": {"ed25519:1": 0}}
	for _, n := range names {
		raw, err := p.client.ServerKeys(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := keyring.Parse(raw, n, time.Now())
		if err != nil || !keys.Keys[signingKeyID].Public.Equal(s.identity(n).public()) {
			t.Errorf("%s: %v", n, err)
		}
		want[n] = map[id.KeyID]int64{signingKeyID: 0}
	}
	all, err := p.client.NotaryKeys(t.Context(), names[1], want)
	if err != nil || len(all) != 3 {
		t.Fatalf("%d %v", len(all), err)
	}
	one, err := p.client.NotaryKeysOf(t.Context(), names[1], names[2], 0)
	if err != nil || len(one) != 1 {
		t.Fatalf("%d %v", len(one), err)
	}
	for _, raw := range append(all, one...) {
		if err := canonical.VerifyJSON(raw, string(names[1]), signingKeyID, s.identity(names[1]).public()); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
	}
	none, err := p.client.NotaryKeysOf(t.Context(), names[1], "elsewhere.test", 0)
	if err != nil || len(none) != 0 {
		t.Errorf("%v %v", none, err)
	}
}

func TestQueriesAboutUsers(t *testing.T) {
	s, p := newPeers(t, Options{Servers: 2})
	ctx := t.Context()
	user := s.member(1)
	if got, err := p.client.QueryProfile(ctx, user, ""); err != nil || string(got["displayname"]) != `"member-000001"` {
		t.Errorf("%s %v", got, err)
	}
	if got, err := p.client.QueryProfile(ctx, user, "avatar_url"); err != nil || len(got) != 0 {
		t.Errorf("%s %v", got, err)
	}
	if got, err := p.client.GetUserDevices(ctx, user); err != nil || len(got.Devices) != 0 {
		t.Errorf("%+v %v", got, err)
	}
	if got, err := p.client.QueryKeys(ctx, user.Server(), map[id.User][]id.Device{user: nil}); err != nil || len(got.DeviceKeys) != 1 {
		t.Errorf("%+v %v", got, err)
	}
	if got, err := p.client.ClaimKeys(ctx, user.Server(), map[id.User]map[id.Device]string{user: {"D": "signed_curve25519"}}); err != nil || len(got) != 0 {
		t.Errorf("%v %v", got, err)
	}
	if got, err := p.client.GetVersion(ctx, s.Name()); err != nil || got.Name == "" {
		t.Errorf("%v %v", got, err)
	}
	// A name answers for its own users only.
	_, err := p.client.Do(ctx, fedclient.Request{Destination: s.Name(), Method: "GET", Path: "/_matrix/federation/v1/user/devices/" + url.PathEscape(string(user))})
	if !errors.Is(err, merr.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestServeRefusesAndCloses(t *testing.T) {
	if _, err := Serve(t.Context(), Options{Servers: MaxServers + 1}); err == nil {
		t.Error("too many names")
	}
	if _, err := Serve(t.Context(), Options{Host: "192.0.2.1"}); err == nil {
		t.Error("an address that is not this machine's")
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Serve(ctx, Options{Servers: 2})
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsOf(s.Authority())}}
	defer client.CloseIdleConnections()
	get := func() error {
		res, err := client.Get("https://" + string(s.Name()) + "/_matrix/federation/v1/version")
		if err != nil {
			return err
		}
		return res.Body.Close()
	}
	if err := get(); err != nil {
		t.Error(err)
	}
	cancel()
	if err := s.Close(); err != nil { // waits for the end that the context began
		t.Error(err)
	}
	if err := get(); err == nil {
		t.Error("it still answers")
	}
	if _, err := s.NewRoom(ctx, RoomOptions{Members: 10}); err == nil {
		t.Error("a room was made though the context has ended")
	}
}

// An authority is made once and found again.
func TestAuthorityInAFolder(t *testing.T) {
	dir := t.TempDir()
	a, err := OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := OpenAuthority(dir)
	if err != nil || !a.cert.Equal(b.cert) || a.File != b.File {
		t.Fatal(err)
	}
	cert, err := b.Issue("127.0.0.1", "a.test")
	if err != nil {
		t.Fatal(err)
	}
	verify(t, a, cert, "a.test")
	verify(t, a, cert, "127.0.0.1")
	if _, err := a.Issue(); err == nil {
		t.Error("a certificate for nobody")
	}
}
