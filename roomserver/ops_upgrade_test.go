package roomserver

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"weft/matrix/event"
	"weft/matrix/id"
	"weft/roomserver/api"
)

func (n *node) upgrade(room id.Room, user id.User, version event.RoomVersion, creators ...id.User) (id.Room, error) {
	return n.UpgradeRoom(context.Background(), api.UpgradeRoom{Room: room, User: user, NewVersion: version, AdditionalCreators: creators,
		Profile: json.RawMessage(`{"displayname":"Upgrader"}`)})
}

func TestUpgradeCarriesTheRoomOver(t *testing.T) {
	federated(t, []id.Server{"a", "b"}, func(t *testing.T, f *federation) {
		a, b := f.nodes["a"], f.nodes["b"]
		for i, v := range [][2]event.RoomVersion{{"1", "6"}, {"6", "11"}, {"9", "12"}, {"11", "12"}, {"12", "12"}, {"12", "11"}} {
			alias := fmt.Sprintf("old%d", i)
			old := a.createRoomAs(alice, api.CreateRoom{
				RoomVersion: v[0], Visibility: "public", AliasLocalpart: alias, Name: "Old", Topic: "Topic",
				CreationContent: json.RawMessage(`{"type":"org.example.kind","m.federate":true}`),
				InitialState: []api.StateEvent{
					{Type: "m.room.encryption", Content: json.RawMessage(`{"algorithm":"m.megolm.v1.aes-sha2"}`)},
					{Type: "m.room.server_acl", Content: json.RawMessage(`{"allow":["*"]}`)},
					{Type: "m.room.history_visibility", Content: json.RawMessage(`{"history_visibility":"joined"}`)},
					{Type: "org.example", Content: json.RawMessage(`{}`)},
				},
			})
			b.mustSet("join", old, bob, "", through("a"))
			a.mustSet("ban", old, alice, "@troll:b")
			next, err := a.upgrade(old, alice, v[1])
			if err != nil {
				t.Fatalf("%v: %v", v, err)
			}
			for _, c := range [][4]string{
				{"m.room.create", "", "room_version", string(v[1])},
				{"m.room.create", "", "predecessor.room_id", string(old)},
				{"m.room.create", "", "type", "org.example.kind"},
				{"m.room.create", "", `m\.federate`, "true"},
				{"m.room.name", "", "name", "Old"},
				{"m.room.topic", "", "topic", "Topic"},
				{"m.room.join_rules", "", "join_rule", "public"},
				{"m.room.guest_access", "", "guest_access", "forbidden"},
				{"m.room.history_visibility", "", "history_visibility", "joined"},
				{"m.room.encryption", "", "algorithm", "m.megolm.v1.aes-sha2"},
				{"m.room.server_acl", "", "allow.0", "*"},
				{"m.room.canonical_alias", "", "alias", "#" + alias + ":a"},
				{"m.room.member", "@troll:b", "membership", "ban"},
				{"m.room.member", string(alice), "displayname", "Upgrader"},
				{"m.room.member", string(bob), "membership", ""},
				{"m.room.power_levels", "", "events_default", "0"},
				{"m.room.power_levels", "", "state_default", "50"},
				{"org.example", "", "", ""},
			} {
				if got := a.content(next, c[0], c[1], c[2]); got != c[3] {
					t.Errorf("%v: %s %s of %q is %q, want %q", v, c[0], c[2], c[1], got, c[3])
				}
			}
			if e := a.content(next, "m.room.create", "", "predecessor.event_id"); (e == "") != (v[1] == "12") {
				t.Errorf("%v: the predecessor's event is %q", v, e)
			}
			for _, c := range [][4]string{
				{"m.room.tombstone", "", "replacement_room", string(next)},
				{"m.room.canonical_alias", "", "alias", ""},
				{"m.room.power_levels", "", "events_default", "50"},
				{"m.room.power_levels", "", "invite", "50"},
			} {
				if got := a.content(old, c[0], c[1], c[2]); got != c[3] {
					t.Errorf("%v: in the old room %s %s is %q, want %q", v, c[0], c[2], got, c[3])
				}
			}
			found, err := a.ResolveAlias(context.Background(), id.RoomAlias("#"+alias+":a"))
			if err != nil || found.Room != next {
				t.Errorf("%v: the alias leads to %v, %v", v, found, err)
			}
			for room, want := range map[id.Room]bool{old: false, next: true} {
				if got, err := a.IsPublished(context.Background(), room); err != nil || got != want {
					t.Errorf("%v: %s is published: %v, %v", v, room, got, err)
				}
			}
			a.mustSendAs(alice, next, "m.room.name", stateKey(""), `{"name":"New"}`)
			f.deliver()
			wantCode(t, "speaking in the old room", func() error {
				_, err := b.sendAs(bob, old, "m.room.message", nil, `{}`)
				return err
			}(), 403, "M_FORBIDDEN")
			b.mustSet("join", next, bob, "", through("a"))
			f.deliver()
			f.agree(next, "a", "b")
			f.agree(old, "a", "b")
		}
	})
}

func TestUpgradeCreatorsAndLevels(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		const bo, ca id.User = "@bo:a", "@ca:a"
		for _, c := range []struct {
			name            string
			from, to        event.RoomVersion
			users           string // of the old room
			by              id.User
			more            []id.User
			creators, wants string
		}{
			{"admin, 11 to 12", "11", "12", `{"@bo:a":100}`, bo, nil, "", `{}`},
			{"admin and moderator, 11 to 12", "11", "12", `{"@bo:a":100,"@ca:a":100}`, bo, nil, "", `{"@ca:a":100}`},
			{"admin of 12", "12", "12", `{"@bo:a":150}`, bo, []id.User{ca}, `["@ca:a"]`, `{}`},
			{"admin of 12, a moderator becomes creator", "12", "12", `{"@bo:a":150,"@ca:a":50}`, bo, []id.User{ca, bo}, `["@ca:a"]`, `{}`},
			{"creator, 11 to 12", "11", "12", `{"@alice:a":100,"@bo:a":100,"@ca:a":50}`, alice, []id.User{bo}, `["@bo:a"]`, `{"@ca:a":50}`},
			{"creator, 12 to 11", "12", "11", `{"@bo:a":50}`, alice, []id.User{bo}, "", `{"@alice:a":100,"@bo:a":50}`},
			{"strings, 9 to 10", "9", "10", `{"@alice:a":"100","@bo:a":" 50 "}`, alice, nil, "", `{"@alice:a":100,"@bo:a":50}`},
		} {
			room := a.createRoomAs(alice, api.CreateRoom{RoomVersion: c.from, Preset: "public_chat"})
			a.mustSet("join", room, bo, "")
			a.mustSendAs(alice, room, "m.room.power_levels", stateKey(""), `{"users":`+c.users+`}`)
			next, err := a.upgrade(room, c.by, c.to, c.more...)
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			if got := a.content(next, "m.room.create", "", "additional_creators"); got != c.creators {
				t.Errorf("%s: additional creators %s, want %s", c.name, got, c.creators)
			}
			if got := a.content(next, "m.room.power_levels", "", "users"); got != c.wants {
				t.Errorf("%s: users %s, want %s", c.name, got, c.wants)
			}
			if got := a.stateEvent(next, "m.room.create", "").Sender; got != c.by {
				t.Errorf("%s: the creator is %s", c.name, got)
			}
			if got := a.content(next, "m.room.power_levels", "", `events.m\.room\.tombstone`); (got == "150") != (c.to == "12") {
				t.Errorf("%s: a tombstone needs %q", c.name, got)
			}
		}
	})
}

func TestUpgradeOfASpaceToAVersionThatKnowsLess(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		room := a.createRoomAs(alice, api.CreateRoom{RoomVersion: "10", CreationContent: json.RawMessage(`{"type":"m.space"}`),
			InitialState: []api.StateEvent{
				{Type: "m.space.child", StateKey: "!one:a", Content: json.RawMessage(`{"via":["a"]}`)},
				{Type: "m.space.child", StateKey: "!gone:a", Content: json.RawMessage(`{}`)},
				{Type: "m.room.join_rules", Content: json.RawMessage(`{"join_rule":"knock_restricted","allow":[]}`)},
			}})
		next, err := a.upgrade(room, alice, "6")
		if err != nil {
			t.Fatal(err)
		}
		if got := a.content(next, "m.space.child", "!one:a", "via.0"); got != "a" {
			t.Errorf("the child's via is %q", got)
		}
		if e := a.current(next); len(e) != len(a.current(room))-2 { // the tombstone, the child that is gone
			t.Errorf("%d state events, before %d", len(e), len(a.current(room)))
		}
		if got := a.content(next, "m.room.join_rules", "", "join_rule"); got != "invite" {
			t.Errorf("the join rule is %q", got)
		}
	})
}

func TestUpgradeRefused(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		room := a.createRoomAs(alice, api.CreateRoom{RoomVersion: "11", Preset: "public_chat"})
		a.mustSet("join", room, alice2, "")
		before := len(a.rooms())
		for what, c := range map[string]struct {
			room    id.Room
			user    id.User
			version event.RoomVersion
			more    []id.User
			status  int
			code    string
		}{
			"an unknown version":    {room, alice, "99", nil, 400, "M_UNSUPPORTED_ROOM_VERSION"},
			"without power":         {room, alice2, "12", nil, 403, "M_FORBIDDEN"},
			"from outside":          {room, "@x:a", "12", nil, 403, "M_FORBIDDEN"},
			"an unknown room":       {nowhere, alice, "12", nil, 404, "M_NOT_FOUND"},
			"a creator who is none": {room, alice, "12", []id.User{"nobody"}, 400, "M_BAD_JSON"},
		} {
			_, err := a.upgrade(c.room, c.user, c.version, c.more...)
			wantCode(t, what, err, c.status, c.code)
		}
		if got := len(a.rooms()); got != before {
			t.Errorf("%d rooms became %d", before, got)
		}
		if got := a.content(room, "m.room.tombstone", "", "body"); got != "" {
			t.Errorf("there is a tombstone: %q", got)
		}
	})
}
