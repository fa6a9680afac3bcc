package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

func TestLocalMemberships(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		const carl, dora id.User = "@carl:a", "@dora:a"
		room := a.createRoomAs(alice, api.CreateRoom{Preset: "private_chat", RoomVersion: "11"})
		refused := func(what string, err error) {
			t.Helper()
			wantCode(t, what, err, 403, "M_FORBIDDEN")
		}
		refused("joining without an invite", a.set("join", room, carl, ""))
		refused("inviting from outside", a.set("invite", room, carl, dora))
		a.mustSet("invite", room, alice, carl, withContent(`{"is_direct":true}`))
		if !a.invited(room, carl, "is_direct") {
			t.Error("is_direct is lost")
		}
		refused("inviting oneself", a.set("invite", room, alice, alice))
		a.mustSet("join", room, carl, "", withContent(`{"displayname":"Carl"}`))
		refused("inviting who is in the room", a.set("invite", room, alice, carl))
		refused("joining for another", a.set("join", room, alice, dora))
		refused("kicking who is not there", a.set("leave", room, alice, dora, action("kick")))
		refused("kicking without power", a.set("leave", room, carl, alice, action("kick")))
		a.mustSet("leave", room, alice, carl, action("kick"), func(r *api.SetMembership) { r.Reason = "noise" })
		if got := a.content(room, "m.room.member", string(carl), "reason"); got != "noise" {
			t.Errorf("the reason is %q", got)
		}
		refused("kicking who has left", a.set("leave", room, alice, carl, action("kick")))
		refused("joining after a kick", a.set("join", room, carl, ""))
		refused("unbanning who is not banned", a.set("leave", room, alice, carl, action("unban")))
		a.mustSet("ban", room, alice, carl)
		refused("inviting who is banned", a.set("invite", room, alice, carl))
		refused("leaving when banned", a.set("leave", room, carl, ""))
		refused("knocking where it is not allowed", a.set("knock", room, dora, ""))
		a.mustSet("leave", room, alice, carl, action("unban"))
		if got := a.membership(room, carl); got != "leave" {
			t.Errorf("after the unban the membership is %q", got)
		}
		a.mustSet("invite", room, alice, carl)
		a.mustSet("leave", room, carl, "")
		refused("leaving what one was never in", a.set("leave", room, dora, ""))
		a.mustSendAs(alice, room, "m.room.join_rules", stateKey(""), `{"join_rule":"knock"}`)
		a.mustSet("knock", room, dora, "", func(r *api.SetMembership) { r.Reason = "let me in" })
		a.mustSet("knock", room, dora, "", func(r *api.SetMembership) { r.Reason = "please" })
		if got := a.content(room, "m.room.member", string(dora), "reason"); got != "please" {
			t.Errorf("the knock's reason is %q", got)
		}
		refused("joining after a knock", a.set("join", room, dora, ""))
		a.mustSet("invite", room, alice, dora)
		refused("knocking when invited", a.set("knock", room, dora, ""))
		a.mustSet("join", room, dora, "")
		refused("knocking when joined", a.set("knock", room, dora, ""))
		wantCode(t, "joining an unknown room", a.set("join", nowhere, dora, ""), 404, "M_NOT_FOUND")
		wantCode(t, "leaving an unknown room", a.set("leave", nowhere, dora, ""), 404, "M_NOT_FOUND")
		refused("inviting to an unknown room", a.set("invite", nowhere, dora, carl))
		refused("kicking in an unknown room", a.set("leave", nowhere, dora, carl, action("kick")))
		wantCode(t, "an unknown membership", a.set("guest", room, dora, ""), 400, "M_INVALID_PARAM")
		refused("acting for another server's user", a.set("join", room, bob, ""))
	})
}

func TestMembershipsAreIdempotent(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		room := a.createRoomAs(alice, api.CreateRoom{Preset: "public_chat"})
		steps := []struct {
			what string
			do   func() error
			adds int
		}{
			{"join", func() error { return a.set("join", room, alice2, "", withContent(`{"displayname":"Two"}`)) }, 1},
			{"join again", func() error { return a.set("join", room, alice2, "", withContent(`{"displayname":"Two"}`)) }, 0},
			{"a new name", func() error { return a.set("join", room, alice2, "", withContent(`{"displayname":"Deux"}`)) }, 1},
			{"leave", func() error { return a.set("leave", room, alice2, "") }, 1},
			{"leave again", func() error { return a.set("leave", room, alice2, "") }, 0},
			{"invite", func() error { return a.set("invite", room, alice, alice2) }, 1},
			{"invite again", func() error { return a.set("invite", room, alice, alice2) }, 0},
			{"ban", func() error { return a.set("ban", room, alice, alice2) }, 1},
			{"ban again", func() error { return a.set("ban", room, alice, alice2) }, 0},
		}
		for _, s := range steps {
			before := len(a.timeline(room))
			if err := s.do(); err != nil {
				t.Fatalf("%s: %v", s.what, err)
			}
			if got := len(a.timeline(room)) - before; got != s.adds {
				t.Errorf("%s made %d events, want %d", s.what, got, s.adds)
			}
		}
	})
}

// What a client may not say about itself is left out of its member events.
func TestStateSaidTwiceIsOneEvent(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		const carl id.User = "@carl:a"
		room := a.createRoomAs(alice, api.CreateRoom{Preset: "public_chat", RoomVersion: "11"})
		a.mustSet("join", room, carl, "")
		first := a.mustSendAs(alice, room, "a.state", stateKey(""), `{"a":1,"b":2}`)
		if again := a.mustSendAs(alice, room, "a.state", stateKey(""), `{"b":2, "a":1}`); again != first {
			t.Errorf("the same state became %s after %s", again, first)
		}
		if other := a.mustSendAs(alice, room, "a.state", stateKey("k"), `{"a":1,"b":2}`); other == first {
			t.Error("another state key gave the same event")
		}
		if other := a.mustSendAs(alice, room, "a.state", nil, `{"a":1,"b":2}`); other == first {
			t.Error("a message gave the state event")
		}
		if changed := a.mustSendAs(alice, room, "a.state", stateKey(""), `{"a":2}`); changed == first {
			t.Error("new content gave the old event")
		}
		if back := a.mustSendAs(alice, room, "a.state", stateKey(""), `{"a":1,"b":2}`); back == first {
			t.Error("state that was replaced meanwhile gave the old event")
		}
		_, err := a.sendAs(carl, room, "a.state", stateKey(""), `{"a":1,"b":2}`)
		wantCode(t, "another's state without power", err, 403, "M_FORBIDDEN")
		a.mustSet("leave", room, alice, "")
		_, err = a.sendAs(alice, room, "a.state", stateKey(""), `{"a":1,"b":2}`)
		wantCode(t, "one's own state after leaving", err, 403, "M_FORBIDDEN")
	})
}

func TestMemberContentOfClients(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		room := a.createRoomAs(alice, api.CreateRoom{RoomVersion: "8", Preset: "public_chat"})
		a.mustSet("join", room, alice2, "")
		a.mustSendAs(alice2, room, "m.room.member", stateKey(string(alice2)),
			`{"membership":"join","displayname":"Bobby","join_authorised_via_users_server":"unused","custom":1}`)
		e := a.stateEvent(room, "m.room.member", string(alice2))
		if got, want := string(e.Content()), `{"custom":1,"displayname":"Bobby","membership":"join"}`; got != want {
			t.Errorf("the content is %s, want %s", got, want)
		}
		_, err := a.sendAs(alice2, room, "m.room.member", stateKey("nobody"), `{"membership":"join"}`)
		wantCode(t, "a state key that is no user", err, 400, "M_INVALID_PARAM")
		_, err = a.sendAs(alice2, room, "m.room.member", stateKey(string(alice2)), `{"displayname":"x"}`)
		wantCode(t, "no membership", err, 400, "M_BAD_JSON")
		a.mustSendAs(alice, room, "m.room.member", stateKey(string(alice2)), `{"membership":"ban"}`)
		if got := a.membership(room, alice2); got != "ban" {
			t.Errorf("the membership is %q", got)
		}
	})
}

func TestSendEvent(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		ctx := context.Background()
		room := a.createRoomAs(alice, api.CreateRoom{Preset: "public_chat", RoomVersion: "12"})
		other := a.createRoomAs(alice, api.CreateRoom{Preset: "public_chat"})
		a.mustSet("join", room, alice2, "")
		by := a.mustSendAs(alice, room, "m.room.message", nil, `{"body":"x"}`)
		txn := api.SendEvent{Room: room, Sender: alice, Type: "m.room.message", Content: json.RawMessage(`{}`),
			Txn: api.Txn{Device: "D", Scope: "send", ID: "1"}, Timestamp: 1234}
		first, err := a.SendEvent(ctx, txn)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := a.SendEvent(ctx, txn); err != nil || again != first {
			t.Errorf("the same transaction gave %s, %v; then %s", first, err, again)
		}
		if got := a.stored(first).OriginServerTS; got != 1234 {
			t.Errorf("the timestamp is %d", got)
		}
		redact := func(user id.User, in id.Room, target id.Event) error {
			_, err := a.SendEvent(ctx, api.SendEvent{Room: in, Sender: user, Type: "m.room.redaction", Redacts: target, Content: json.RawMessage(`{}`)})
			return err
		}
		wantCode(t, "redacting what others wrote", redact(alice2, room, by), 403, "M_FORBIDDEN")
		wantCode(t, "redacting in another room", redact(alice, other, by), 404, "M_NOT_FOUND")
		wantCode(t, "redacting what is not there, without power", redact(alice2, room, "$nothing"), 403, "M_FORBIDDEN")
		if err := redact(alice, room, by); err != nil {
			t.Error(err)
		}
		if e := a.stored(by); e.RedactedBy == 0 || string(e.Content()) != "{}" {
			t.Errorf("not redacted: %s", e.Content())
		}
		for what, c := range map[string]struct {
			user    id.User
			room    id.Room
			typ     string
			key     *string
			content string
			status  int
			code    string
		}{
			"not joined":         {"@mallory:a", room, "m.room.message", nil, `{}`, 403, "M_FORBIDDEN"},
			"no such room":       {alice, nowhere, "m.room.message", nil, `{}`, 403, "M_FORBIDDEN"},
			"no object":          {alice, room, "m.room.message", nil, `[]`, 400, "M_BAD_JSON"},
			"a float":            {alice, room, "m.room.message", nil, `{"a":0.1}`, 400, "M_BAD_JSON"},
			"too large":          {alice, room, "m.room.message", nil, `{"a":"` + string(make65k()) + `"}`, 413, "M_TOO_LARGE"},
			"no type":            {alice, room, "", nil, `{}`, 400, "M_INVALID_PARAM"},
			"a level of creator": {alice, room, "m.room.power_levels", stateKey(""), `{"users":{"@alice:a":100}}`, 400, "M_BAD_JSON"},
			"a level too high":   {alice, room, "m.room.power_levels", stateKey(""), `{"users":{"@alice2:a":9007199254740992}}`, 400, "M_BAD_JSON"},
			"a second create":    {alice, room, "m.room.create", stateKey(""), `{"room_version":"12","x":1}`, 400, "M_INVALID_PARAM"},
			"the create again":   {alice, room, "m.room.create", stateKey(""), `{"room_version":"12"}`, 400, "M_INVALID_PARAM"},
			"no power":           {alice2, room, "m.room.name", stateKey(""), `{"name":"x"}`, 403, "M_FORBIDDEN"},
			"an alias elsewhere": {alice, room, "m.room.canonical_alias", stateKey(""), `{"alias":"#none:a"}`, 400, "M_BAD_ALIAS"},
			"no alias":           {alice, room, "m.room.canonical_alias", stateKey(""), `{"alias":"%none:a"}`, 400, "M_INVALID_PARAM"},
			"alt elsewhere":      {alice, room, "m.room.canonical_alias", stateKey(""), `{"alt_aliases":["#none:a"]}`, 400, "M_BAD_ALIAS"},
			"alt no alias":       {alice, room, "m.room.canonical_alias", stateKey(""), `{"alt_aliases":["%none:a"]}`, 400, "M_INVALID_PARAM"},
		} {
			_, err := a.sendAs(c.user, c.room, c.typ, c.key, c.content)
			wantCode(t, what, err, c.status, c.code)
		}
	})
}

func make65k() []byte {
	out := make([]byte, 66_000)
	for i := range out {
		out[i] = 'x'
	}
	return out
}

func TestForgetRoom(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		ctx := context.Background()
		room := a.createRoomAs(alice, api.CreateRoom{Preset: "private_chat", Invite: []id.User{alice2}})
		wantCode(t, "joined", a.ForgetRoom(ctx, alice, room), 400, "M_UNKNOWN")
		wantCode(t, "invited", a.ForgetRoom(ctx, alice2, room), 400, "M_UNKNOWN")
		wantCode(t, "a stranger", a.ForgetRoom(ctx, "@x:a", room), 404, "M_NOT_FOUND")
		wantCode(t, "no such room", a.ForgetRoom(ctx, alice, nowhere), 404, "M_NOT_FOUND")
		a.mustSet("leave", room, alice2, "")
		for range 2 {
			if err := a.ForgetRoom(ctx, alice2, room); err != nil {
				t.Fatal(err)
			}
		}
		m, err := a.store.Member(ctx, a.row(room).NID, alice2)
		if err != nil || !m.Forgotten {
			t.Errorf("%+v, %v", m, err)
		}
		a.mustSet("leave", room, alice, "")
		if err := a.ForgetRoom(ctx, alice, room); err != nil {
			t.Error(err)
		}
	})
}

func TestRestrictedJoinsOfOneServer(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		for _, c := range []struct {
			version  event.RoomVersion
			joinRule string
		}{{"8", "restricted"}, {"10", "knock_restricted"}, {"12", "restricted"}} {
			space := a.createRoomAs(alice, api.CreateRoom{Preset: "public_chat"})
			room := a.createRoomAs(alice, api.CreateRoom{RoomVersion: c.version, Preset: "public_chat"})
			rules := func(allow string) {
				t.Helper()
				a.mustSendAs(alice, room, "m.room.join_rules", stateKey(""), `{"join_rule":"`+c.joinRule+`","allow":`+allow+`}`)
			}
			good := `[{"type":"m.room_membership","room_id":"` + string(space) + `"}]`
			rules(good)
			wantCode(t, "outside", a.set("join", room, alice2, ""), 403, "M_FORBIDDEN")
			a.mustSet("join", space, alice2, "")
			a.mustSet("join", room, alice2, "")
			if got := a.content(room, "m.room.member", string(alice2), "join_authorised_via_users_server"); got != string(alice) {
				t.Errorf("authorised by %q", got)
			}
			a.mustSet("join", room, alice2, "", withContent(`{"displayname":"x"}`))
			a.mustSet("leave", room, alice2, "")
			a.mustSet("leave", space, alice2, "")
			wantCode(t, "after leaving", a.set("join", room, alice2, ""), 403, "M_FORBIDDEN")
			a.mustSet("invite", room, alice, alice2)
			a.mustSet("join", room, alice2, "")
			if got := a.content(room, "m.room.member", string(alice2), "join_authorised_via_users_server"); got != "" {
				t.Errorf("an invited user was authorised by %q", got)
			}
			a.mustSet("leave", room, alice2, "")
			a.mustSet("join", space, alice2, "")
			for _, bad := range []string{`["invalid"]`, `"invalid"`, `[{"type":"m.other","room_id":"` + string(space) + `"}]`, `[{"type":"m.room_membership"}]`} {
				rules(bad)
				wantCode(t, bad, a.set("join", room, alice2, ""), 403, "M_FORBIDDEN")
			}
			rules(good)
			a.mustSet("ban", room, alice, alice2)
			if err := a.set("join", room, alice2, ""); !errors.Is(err, merr.ErrForbidden) {
				t.Errorf("a banned user: %v", err)
			}
		}
	})
}
