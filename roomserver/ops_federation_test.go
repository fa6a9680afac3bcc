package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/sjson"

	"weft/internal/eventstore"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

func TestTwoServersInEveryVersion(t *testing.T) {
	federated(t, []id.Server{"a", "b"}, func(t *testing.T, f *federation) {
		a, b := f.nodes["a"], f.nodes["b"]
		for _, v := range event.Versions() {
			t.Run(string(v), func(t *testing.T) {
				f.t = t
				room := a.createRoomAs(alice, api.CreateRoom{RoomVersion: v, Preset: "public_chat", Name: "versions"})
				b.mustSet("join", room, bob, "", through("a"), withContent(`{"displayname":"Bob"}`))
				f.deliver()
				a.mustSendAs(alice, room, "m.room.message", nil, `{"body":"hello","msgtype":"m.text"}`)
				f.deliver()
				b.mustSendAs(bob, room, "m.room.message", nil, `{"body":"hello yourself","msgtype":"m.text"}`)
				b.mustSet("join", room, bob2, "")
				f.deliver()
				f.agree(room, "a", "b")
				if got := a.content(room, "m.room.member", string(bob), "displayname"); got != "Bob" {
					t.Errorf("bob is called %q", got)
				}
				if got := b.content(room, "m.room.create", "", "room_version"); got != string(v) {
					t.Errorf("the version is %q", got)
				}
				b.mustSet("leave", room, bob, "")
				f.deliver()
				f.agree(room, "a", "b")
				if got := a.membership(room, bob); got != "leave" {
					t.Errorf("bob's membership on a is %q", got)
				}
			})
		}
	})
}

func TestSecondLocalUserJoinsWithoutFederation(t *testing.T) {
	federated(t, []id.Server{"a", "b"}, func(t *testing.T, f *federation) {
		a, b := f.nodes["a"], f.nodes["b"]
		room := a.createRoomAs(alice, api.CreateRoom{Preset: "public_chat"})
		done := make(chan error, 8)
		for i := range cap(done) {
			go func() { done <- b.set("join", room, id.User(fmt.Sprintf("@user%d:b", i)), "", through("a")) }()
		}
		for range cap(done) {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if told := b.told(); len(told) != 2 {
			t.Errorf("eight users joined by %v", told)
		}
		f.deliver()
		f.agree(room, "a", "b")
		if got := a.row(room).Joined; got != 9 {
			t.Errorf("%d are joined", got)
		}
	})
}

// What happens in a room between the template of a join and the end of the join is there after it, though the newcomer
// turned away what it was sent, and nothing more is said in the room.
func TestWhatHappensDuringAJoin(t *testing.T) {
	federated(t, []id.Server{"a", "b"}, func(t *testing.T, f *federation) {
		a, b := f.nodes["a"], f.nodes["b"]
		room := a.createRoomAs(alice, api.CreateRoom{Preset: "public_chat"})
		var said []id.Event
		b.cfg.Remote.(*linked).during = func(call string) {
			said = append(said,
				a.mustSendAs(alice, room, "m.room.message", nil, `{"body":"`+call+`","msgtype":"m.text"}`),
				a.mustSendAs(alice, room, "m.room.topic", ptr(""), `{"topic":"`+call+`"}`))
			f.deliver()
		}
		b.mustSet("join", room, bob, "", through("a"))
		if len(said) != 4 {
			t.Fatalf("said during the join: %v", said)
		}
		waitFor(t, func() bool {
			return !slices.ContainsFunc(said, func(ev id.Event) bool {
				e := b.stored(ev)
				return e == nil || e.Flags&eventstore.Outlier != 0
			})
		})
		f.deliver()
		f.agree(room, "a", "b")
		if got := b.content(room, "m.room.topic", "", "topic"); got != "send_join" {
			t.Errorf("the topic is %q", got)
		}
	})
}

func TestInviteOverFederation(t *testing.T) {
	federated(t, []id.Server{"a", "b"}, func(t *testing.T, f *federation) {
		a, b := f.nodes["a"], f.nodes["b"]
		room := a.createRoomAs(alice, api.CreateRoom{Preset: "private_chat", Name: "Den"})
		wantCode(t, "joining uninvited", b.set("join", room, bob, "", through("a")), 403, "M_FORBIDDEN")
		// Reject, three times over.
		for range 3 {
			a.mustSet("invite", room, alice, bob, func(r *api.SetMembership) { r.Reason = "come" })
			if got := b.membership(room, bob); got != "invite" {
				t.Fatalf("bob's membership on b is %q", got)
			}
			if !b.row(room).Stub {
				t.Fatal("an invite made b a member of the room")
			}
			b.mustSet("leave", room, bob, "")
			if got := a.membership(room, bob); got != "leave" {
				t.Fatalf("bob's membership on a is %q", got)
			}
			if got := b.membership(room, bob); got != "leave" {
				t.Fatalf("bob's membership on b is %q", got)
			}
		}
		// Take it back.
		a.mustSet("invite", room, alice, bob)
		f.deliver()
		a.mustSet("leave", room, alice, bob, action("kick"))
		f.deliver()
		if got := b.membership(room, bob); got != "leave" {
			t.Errorf("after the invite was taken back bob's membership is %q", got)
		}
		// Accept, by the inviter's server alone.
		a.mustSet("invite", room, alice, bob)
		b.mustSet("join", room, bob, "")
		f.deliver()
		f.agree(room, "a", "b")
		// A server that is in the room gets the invite as an event of it.
		a.mustSet("invite", room, alice, bob2)
		if got := b.membership(room, bob2); got != "invite" {
			t.Errorf("bob2's membership is %q", got)
		}
		f.deliver()
		f.agree(room, "a", "b")
		b.told()
		b.mustSet("leave", room, bob2, "")
		if told := b.told(); len(told) != 0 {
			t.Errorf("leaving a room the server is in asked others: %v", told)
		}
		f.deliver()
		a.mustSet("invite", room, alice, bob2)
		b.mustSet("join", room, bob2, "")
		f.deliver()
		f.agree(room, "a", "b")
		wantCode(t, "inviting who is in the room", a.set("invite", room, alice, bob2), 403, "M_FORBIDDEN")
		a.mustSet("ban", room, alice, bob2)
		f.deliver()
		wantCode(t, "joining when banned", b.set("join", room, bob2, "", through("a")), 403, "M_FORBIDDEN")
		wantCode(t, "inviting who is banned", a.set("invite", room, alice, bob2), 403, "M_FORBIDDEN")
		a.mustSet("leave", room, alice, bob2, action("unban"))
		f.deliver()
		f.agree(room, "a", "b")
	})
}

func TestInviteThatCannotBeDelivered(t *testing.T) {
	federated(t, []id.Server{"a", "b"}, func(t *testing.T, f *federation) {
		a, b := f.nodes["a"], f.nodes["b"]
		b.cfg.UserExists = func(_ context.Context, u id.User) (bool, error) { return u == bob, nil }
		room := a.createRoomAs(alice, api.CreateRoom{Preset: "private_chat"})
		before := a.timeline(room)
		wantCode(t, "a user who does not exist", a.set("invite", room, alice, bob2), 403, "M_FORBIDDEN")
		wantCode(t, "a server that is not there", a.set("invite", room, alice, "@x:nowhere"), 502, "M_CONNECTION_FAILED")
		a.mustSendAs(alice, room, "m.room.server_acl", stateKey(""), `{"allow":["*"],"deny":["b"]}`)
		wantCode(t, "a server that is not allowed", a.set("invite", room, alice, bob), 403, "M_FORBIDDEN")
		if got := a.timeline(room); len(got) != len(before)+1 {
			t.Errorf("a failed invite left something: %v", got)
		}
	})
}

func TestRejectingAnInviteWhoseRoomIsGone(t *testing.T) {
	for _, v := range []event.RoomVersion{"1", "10", "12"} {
		federated(t, []id.Server{"a", "b"}, func(t *testing.T, f *federation) {
			a, b := f.nodes["a"], f.nodes["b"]
			room := a.createRoomAs(alice, api.CreateRoom{RoomVersion: v, Preset: "private_chat", Invite: []id.User{bob}})
			empty := a.createRoomAs(alice, api.CreateRoom{RoomVersion: v, Preset: "private_chat", Invite: []id.User{bob}})
			a.mustSet("leave", empty, alice, "")
			b.mustSet("leave", empty, bob, "")
			if got := a.membership(empty, bob); got != "leave" {
				t.Errorf("in the empty room bob's membership on a is %q", got)
			}
			delete(f.nodes, "a")
			b.mustSet("leave", room, bob, "", func(r *api.SetMembership) { r.Reason = "too late" })
			f.nodes["a"] = a
			if got := b.membership(room, bob); got != "leave" {
				t.Errorf("bob's membership is %q", got)
			}
			if err := b.ForgetRoom(context.Background(), bob, room); err != nil {
				t.Error(err)
			}
			// And once more, with the server back.
			if got := a.membership(room, bob); got != "invite" {
				t.Errorf("bob's membership on a is %q", got)
			}
			b.mustSet("join", room, bob, "", through("a"))
			f.deliver()
			f.agree(room, "a", "b")
		})
	}
}

func TestKnockOverFederation(t *testing.T) {
	federated(t, []id.Server{"a", "b"}, func(t *testing.T, f *federation) {
		a, b := f.nodes["a"], f.nodes["b"]
		for _, c := range []struct {
			version  event.RoomVersion
			joinRule string
		}{{"7", "knock"}, {"10", "knock_restricted"}, {"12", "knock"}} {
			room := a.createRoomAs(alice, api.CreateRoom{RoomVersion: c.version, Preset: "private_chat", Name: "Knock"})
			wantCode(t, "knocking on a closed room", b.set("knock", room, bob, "", through("a")), 403, "M_FORBIDDEN")
			a.mustSendAs(alice, room, "m.room.join_rules", stateKey(""), `{"join_rule":"`+c.joinRule+`"}`)
			wantCode(t, "joining without an invite", b.set("join", room, bob, "", through("a")), 403, "M_FORBIDDEN")
			for _, reason := range []string{"let me in", "please"} {
				b.mustSet("knock", room, bob, "", through("a"), func(r *api.SetMembership) { r.Reason = reason })
				if got := a.content(room, "m.room.member", string(bob), "reason"); got != reason {
					t.Errorf("the reason is %q, want %q", got, reason)
				}
			}
			if got := b.shown(room, bob)["m.room.name"]; !strings.Contains(got, "Knock") {
				t.Errorf("the room is shown as %q", got)
			}
			// Withdraw; no server is named: those that came with the knock are asked.
			b.mustSet("leave", room, bob, "")
			if got := a.membership(room, bob) + " " + b.membership(room, bob); got != "leave leave" {
				t.Errorf("after the withdrawal: %s", got)
			}
			b.mustSet("knock", room, bob, "", through("a"))
			a.mustSet("leave", room, alice, bob, action("kick"))
			b.mustSet("knock", room, bob, "", through("a"), func(r *api.SetMembership) { r.Reason = "again" })
			a.mustSet("invite", room, alice, bob)
			if got := b.membership(room, bob); got != "invite" {
				t.Errorf("the accepted knock is %q", got)
			}
			wantCode(t, "knocking when invited", b.set("knock", room, bob, "", through("a")), 403, "M_FORBIDDEN")
			b.mustSet("join", room, bob, "")
			wantCode(t, "knocking when joined", b.set("knock", room, bob, "", through("a")), 403, "M_FORBIDDEN")
			f.deliver()
			f.agree(room, "a", "b")
			a.mustSet("ban", room, alice, bob)
			f.deliver()
			wantCode(t, "knocking when banned", b.set("knock", room, bob, "", through("a")), 403, "M_FORBIDDEN")
		}
		old := a.createRoomAs(alice, api.CreateRoom{RoomVersion: "6", Preset: "private_chat"})
		if err := b.set("knock", old, bob, "", through("a")); err == nil {
			t.Error("a knock on a room of version 6 was taken")
		}
	})
}

func TestRestrictedJoinsOverFederation(t *testing.T) {
	federated(t, []id.Server{"a", "b", "c"}, func(t *testing.T, f *federation) {
		a, b, c := f.nodes["a"], f.nodes["b"], f.nodes["c"]
		for _, v := range []event.RoomVersion{"8", "11", "12"} {
			space := a.createRoomAs(alice, api.CreateRoom{Preset: "public_chat"})
			room := a.createRoomAs(alice, api.CreateRoom{RoomVersion: v, Preset: "public_chat", InitialState: []api.StateEvent{{
				Type: "m.room.join_rules", Content: json.RawMessage(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"` + string(space) + `"}]}`),
			}}})
			levels := func(invite int, users string) {
				t.Helper()
				if v != "12" {
					users = `"@alice:a":100` + map[bool]string{true: ",", false: ""}[users != ""] + users
				}
				a.mustSendAs(alice, room, "m.room.power_levels", stateKey(""), fmt.Sprintf(`{"invite":%d,"users":{%s}}`, invite, users))
				f.deliver()
			}
			levels(100, "")
			wantCode(t, "outside the space", b.set("join", room, bob, "", through("a")), 403, "M_FORBIDDEN")
			b.mustSet("join", space, bob, "", through("a"))
			b.mustSet("join", room, bob, "", through("a"))
			c.mustSet("join", space, carol, "", through("a"))
			f.deliver()
			f.agree(room, "a", "b")
			// b knows that carol may join, but has nobody who may invite.
			wantCode(t, "through b alone", c.set("join", room, carol, "", through("b")), 403, "M_FORBIDDEN")
			c.mustSet("join", room, carol, "", through("b", "a"))
			f.deliver()
			f.agree(room, "a", "b", "c")
			if got := b.content(room, "m.room.member", string(carol), "join_authorised_via_users_server"); got != string(alice) {
				t.Errorf("authorised by %q", got)
			}
			// Another user of c: c is in the room, and must ask others.
			c.mustSet("join", space, "@carol2:c", "", through("a"))
			f.deliver()
			c.mustSet("join", room, "@carol2:c", "", through("c"))
			f.deliver()
			f.agree(room, "a", "b", "c")
			// Now bob may invite, so b can let carol in, as soon as it knows of the space.
			levels(100, `"@bob:b":100`)
			c.mustSet("leave", room, carol, "")
			f.deliver()
			c.told()
			c.mustSet("leave", room, "@carol2:c", "")
			f.deliver()
			c.mustSet("join", room, carol, "", through("b"))
			f.deliver()
			if got := a.content(room, "m.room.member", string(carol), "join_authorised_via_users_server"); got != string(bob) {
				t.Errorf("authorised by %q", got)
			}
			f.agree(room, "a", "b", "c")
		}
	})
}

func TestJoinAsksServersInTurn(t *testing.T) {
	federated(t, []id.Server{"a", "b", "c"}, func(t *testing.T, f *federation) {
		a, b, c := f.nodes["a"], f.nodes["b"], f.nodes["c"]
		room := a.createRoomAs(alice, api.CreateRoom{Preset: "public_chat", RoomVersion: "12"})
		c.mustSet("join", room, carol, "", through("nowhere", "b", "a"))
		if got, want := fmt.Sprint(c.told()), "[make_join nowhere make_join b make_join a send_join a]"; got != want {
			t.Errorf("asked %s, want %s", got, want)
		}
		wantCode(t, "nobody to ask", b.set("join", room, bob, ""), 404, "M_NOT_FOUND")
		wantCode(t, "nobody knows", b.set("join", "!unknown:nowhere", bob, "", through("a")), 404, "M_NOT_FOUND")
		wantCode(t, "nobody there", b.set("join", room, bob, "", through("nowhere")), 502, "M_CONNECTION_FAILED")
		// By the server of another than the creator.
		f.deliver()
		b.mustSet("join", room, bob, "", through("c"))
		f.deliver()
		f.agree(room, "a", "b", "c")
		// Everybody of b leaves; the room goes on; they come back.
		b.mustSet("leave", room, bob, "")
		f.deliver()
		a.mustSendAs(alice, room, "m.room.name", stateKey(""), `{"name":"meanwhile"}`)
		f.deliver()
		if got := b.content(room, "m.room.name", "", "name"); got != "" {
			t.Errorf("a server that left heard of the name %q", got)
		}
		b.mustSet("join", room, bob2, "", through("a"))
		f.deliver()
		f.agree(room, "a", "b", "c")
	})
}

func TestKickBanAndRejoinOverFederation(t *testing.T) {
	federated(t, []id.Server{"a", "b"}, func(t *testing.T, f *federation) {
		a, b := f.nodes["a"], f.nodes["b"]
		room := a.createRoomAs(alice, api.CreateRoom{Preset: "public_chat"})
		b.mustSet("join", room, bob, "", through("a"))
		f.deliver()
		a.mustSet("leave", room, alice, bob, action("kick"))
		f.deliver()
		if got := b.membership(room, bob); got != "leave" {
			t.Fatalf("after the kick bob's membership on b is %q", got)
		}
		b.mustSet("join", room, bob, "", through("a"))
		f.deliver()
		f.agree(room, "a", "b")
		a.mustSet("ban", room, alice, bob)
		f.deliver()
		if got := b.membership(room, bob); got != "ban" {
			t.Fatalf("after the ban bob's membership on b is %q", got)
		}
		wantCode(t, "joining when banned", b.set("join", room, bob, "", through("a")), 403, "M_FORBIDDEN")
		a.mustSet("leave", room, alice, bob, action("unban"))
		b.mustSet("join", room, bob, "", through("a"))
		f.deliver()
		f.agree(room, "a", "b")
		if got := b.membership(room, bob); got != "join" {
			t.Errorf("bob's membership is %q", got)
		}
	})
}

func TestMakeMembershipRefused(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		room := a.createRoomAs(alice, api.CreateRoom{Preset: "public_chat", RoomVersion: "10"})
		a.mustSet("ban", room, alice, bob)
		req := func(change func(*api.MakeMembership)) error {
			r := api.MakeMembership{Origin: "b", Room: room, User: bob2, Membership: "join", Versions: event.Versions()}
			change(&r)
			_, err := a.MakeMembership(context.Background(), r)
			return err
		}
		if err := req(func(*api.MakeMembership) {}); err != nil {
			t.Fatal(err)
		}
		for what, c := range map[string]struct {
			change func(*api.MakeMembership)
			status int
			code   string
		}{
			"another server's user": {func(r *api.MakeMembership) { r.User = carol }, 403, "M_FORBIDDEN"},
			"unknown room":          {func(r *api.MakeMembership) { r.Room = nowhere }, 404, "M_NOT_FOUND"},
			"banned":                {func(r *api.MakeMembership) { r.User = bob }, 403, "M_FORBIDDEN"},
			"version":               {func(r *api.MakeMembership) { r.Versions = []event.RoomVersion{"11"} }, 400, "M_INCOMPATIBLE_ROOM_VERSION"},
			"no version":            {func(r *api.MakeMembership) { r.Versions = nil }, 400, "M_INCOMPATIBLE_ROOM_VERSION"},
			"leave of a stranger":   {func(r *api.MakeMembership) { r.Membership = "leave" }, 403, "M_FORBIDDEN"},
			"knock on a public one": {func(r *api.MakeMembership) { r.Membership = "knock" }, 403, "M_FORBIDDEN"},
			"invite":                {func(r *api.MakeMembership) { r.Membership = "invite" }, 400, "M_INVALID_PARAM"},
		} {
			wantCode(t, what, req(c.change), c.status, c.code)
		}
		err := req(func(r *api.MakeMembership) { r.Versions = nil })
		if got := merr.From(err).Extra["room_version"]; got != "10" {
			t.Errorf("the error names the version %v", got)
		}
		a.mustSendAs(alice, room, "m.room.server_acl", stateKey(""), `{"allow":["*"],"deny":["b"]}`)
		wantCode(t, "a denied server", req(func(*api.MakeMembership) {}), 403, "M_FORBIDDEN")
	})
}

func TestSendMembershipRefused(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		for _, v := range []event.RoomVersion{"1", "10", "12"} {
			room := a.createRoomAs(alice, api.CreateRoom{Preset: "public_chat", RoomVersion: v})
			a.mustSet("ban", room, alice, "@banned:b")
			member := func(user id.User, membership string, change ...func(*event.Builder)) *event.Event {
				return a.forge(room, state(user, "m.room.member", string(user), `{"membership":"`+membership+`"}`), change...)
			}
			send := func(ev *event.Event, membership string, change ...func(*api.SendMembership)) error {
				r := api.SendMembership{Origin: "b", Room: room, EventID: ev.ID, Membership: membership, Event: slices.Clone(ev.JSON())}
				for _, c := range change {
					c(&r)
				}
				_, err := a.SendMembership(context.Background(), r)
				return err
			}
			otherKey := func(b *event.Builder) { b.StateKey = stateKey(string(bob2)) }
			noKey := func(b *event.Builder) { b.StateKey = nil }
			before := len(a.timeline(room))
			for _, endpoint := range []string{"join", "leave"} {
				for what, err := range map[string]error{
					"message":           send(a.forge(room, message(bob, "x")), endpoint),
					"no state key":      send(member(bob, endpoint, noKey), endpoint),
					"another state key": send(member(bob, endpoint, otherKey), endpoint),
					"another's user":    send(member(carol, endpoint), endpoint),
					"another event ID":  send(member(bob, endpoint), endpoint, func(r *api.SendMembership) { r.EventID = "$other:b" }),
					"an invite":         send(member(bob, "invite"), endpoint),
					"another endpoint":  send(member(bob, map[string]string{"join": "leave", "leave": "join"}[endpoint]), endpoint),
					"no signature": send(member(bob, endpoint), endpoint, func(r *api.SendMembership) {
						r.Event, _ = sjson.DeleteBytes(r.Event, "signatures")
						r.Event, _ = sjson.SetRawBytes(r.Event, "signatures", []byte(`{}`))
					}),
					"other content": send(member(bob, endpoint), endpoint, func(r *api.SendMembership) {
						r.Event, _ = sjson.SetBytes(r.Event, "content.displayname", "x")
					}),
				} {
					if e := merr.From(err); err == nil || e.Status != 400 {
						t.Errorf("version %s, send_%s of %s: %v, want 400", v, endpoint, what, err)
					}
				}
			}
			wantCode(t, "a banned user's join", send(member("@banned:b", "join"), "join"), 403, "M_FORBIDDEN")
			wantCode(t, "a stranger's leave", send(member(bob, "leave"), "leave"), 403, "M_FORBIDDEN")
			wantCode(t, "an unknown room", send(member(bob, "join"), "join", func(r *api.SendMembership) { r.Room = nowhere }), 404, "M_NOT_FOUND")
			if after := len(a.timeline(room)); after != before {
				t.Errorf("version %s: %d events became %d", v, before, after)
			}
			join := member(bob, "join")
			for range 2 { // a second time: the answer to the first was lost
				if err := send(join, "join"); err != nil {
					t.Errorf("version %s: %v", v, err)
				}
			}
			a.mustSendAs(alice, room, "m.room.server_acl", stateKey(""), `{"allow":["*"],"deny":["b"]}`)
			wantCode(t, "a denied server", send(member(bob2, "join"), "join"), 403, "M_FORBIDDEN")
		}
	})
}

// Nobody authorises a join of whoever does not meet the conditions, template or not.
func TestSendMembershipSignsOnlyWhatMeetsTheConditions(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		space := a.createRoomAs(alice, api.CreateRoom{Preset: "public_chat"})
		room := a.createRoomAs(alice, api.CreateRoom{RoomVersion: "10", Preset: "public_chat"})
		a.mustSendAs(alice, room, "m.room.join_rules", stateKey(""), `{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"`+string(space)+`"}]}`)
		try := func(content string) error {
			ev := a.forge(room, state(bob, "m.room.member", string(bob), content))
			_, err := a.SendMembership(context.Background(), api.SendMembership{Origin: "b", Room: room, EventID: ev.ID, Membership: "join", Event: ev.JSON()})
			return err
		}
		wantCode(t, "not in the space", try(`{"membership":"join","join_authorised_via_users_server":"@alice:a"}`), 403, "M_FORBIDDEN")
		wantCode(t, "unauthorised", try(`{"membership":"join"}`), 403, "M_FORBIDDEN")
		wantCode(t, "another's authority", try(`{"membership":"join","join_authorised_via_users_server":"@carol:c"}`), 400, "M_INVALID_PARAM")
		unknown := `{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"!unknown:c"}]}`
		a.mustSendAs(alice, room, "m.room.join_rules", stateKey(""), unknown)
		wantCode(t, "a condition nobody here knows", try(`{"membership":"join","join_authorised_via_users_server":"@alice:a"}`), 400, "M_UNABLE_TO_AUTHORISE_JOIN")
	})
}

func TestReceiveInviteRefused(t *testing.T) {
	federated(t, []id.Server{"a", "b"}, func(t *testing.T, f *federation) {
		a, b := f.nodes["a"], f.nodes["b"]
		for _, v := range []event.RoomVersion{"1", "10", "12"} {
			room := a.createRoomAs(alice, api.CreateRoom{RoomVersion: v, Preset: "private_chat"})
			create := slices.Clone(a.stateEvent(room, "m.room.create", "").JSON())
			req := func(spec eventSpec, change ...func(*api.ReceiveInvite)) error {
				ev := a.forge(room, spec)
				r := api.ReceiveInvite{Origin: "a", Room: room, EventID: ev.ID, Version: v, Event: slices.Clone(ev.JSON()), Stripped: []json.RawMessage{create}}
				for _, c := range change {
					c(&r)
				}
				_, err := b.ReceiveInvite(context.Background(), r)
				return err
			}
			invite := func(target id.User, membership string) eventSpec {
				return state(alice, "m.room.member", string(target), `{"membership":"`+membership+`"}`)
			}
			for what, err := range map[string]error{
				"a message":        req(message(alice, "x")),
				"a ban":            req(invite(bob, "ban")),
				"another's user":   req(invite(carol, "invite")),
				"another origin":   req(invite(bob, "invite"), func(r *api.ReceiveInvite) { r.Origin = "c" }),
				"another event ID": req(invite(bob, "invite"), func(r *api.ReceiveInvite) { r.EventID = "$other:a" }),
				"another room":     req(invite(bob, "invite"), func(r *api.ReceiveInvite) { r.Room = nowhere }),
				"a wrong signature": req(invite(bob, "invite"), func(r *api.ReceiveInvite) {
					r.Event, _ = sjson.SetBytes(r.Event, "signatures.a.ed25519:1", strings.Repeat("A", 86))
				}),
				"other content": req(invite(bob, "invite"), func(r *api.ReceiveInvite) {
					r.Event, _ = sjson.SetBytes(r.Event, "content.is_direct", true)
				}),
			} {
				wantCode(t, string(v)+" "+what, err, 400, "M_INVALID_PARAM")
			}
			wantCode(t, "an unknown version", req(invite(bob, "invite"), func(r *api.ReceiveInvite) { r.Version = "99" }), 400, "M_INCOMPATIBLE_ROOM_VERSION")
			noCreate := req(invite(bob, "invite"), func(r *api.ReceiveInvite) { r.Stripped = nil })
			noPDU := req(invite(bob2, "invite"), func(r *api.ReceiveInvite) {
				r.Stripped = append(r.Stripped, json.RawMessage(`{"type":"m.room.name","state_key":"","sender":"@alice:a","content":{"name":"x"}}`))
			})
			forged, _ := sjson.SetBytes(create, "signatures.a.ed25519:1", strings.Repeat("A", 86))
			badSign := req(invite("@bob3:b", "invite"), func(r *api.ReceiveInvite) { r.Stripped = []json.RawMessage{forged} })
			if v == "12" {
				wantCode(t, "no create event", noCreate, 400, "M_MISSING_PARAM")
				wantCode(t, "an event without a format", noPDU, 400, "M_INVALID_PARAM")
				wantCode(t, "a forged create event", badSign, 400, "M_INVALID_PARAM")
			} else if err := errors.Join(noCreate, noPDU, badSign); err != nil {
				t.Errorf("version %s is strict: %v", v, err)
			} else if got := b.shown(room, bob2)["m.room.name"]; !strings.Contains(got, `"x"`) {
				t.Errorf("version %s: the name is shown as %s", v, got)
			}
			if err := req(invite(bob, "invite")); err != nil {
				t.Errorf("version %s: %v", v, err)
			}
		}
	})
}
