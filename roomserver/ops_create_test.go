package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

// timeline gives "type/state key" of the events of a room, in the order of the stream.
func (n *node) timeline(room id.Room) []string {
	n.w.t.Helper()
	ctx := context.Background()
	rows, err := n.store.EventStream(ctx, 0, 1<<40, 10_000)
	if err != nil {
		n.w.t.Fatal(err)
	}
	var out []string
	for _, row := range rows {
		e, err := n.store.Event(ctx, row.Event)
		if err != nil {
			n.w.t.Fatal(err)
		}
		if e.RoomID == room && e.Visible() {
			out = append(out, e.Type+"/"+e.StateKey)
		}
	}
	return out
}

func TestCreateRoomOrderOfEvents(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		room := a.createRoomAs(alice, api.CreateRoom{
			Visibility: "public", AliasLocalpart: "pub", Name: "Pub", Topic: "Ale", IsDirect: true,
			Invite:         []id.User{alice2},
			CreatorProfile: json.RawMessage(`{"displayname":"Alice","membership":"ban"}`),
			InviteProfiles: map[id.User]json.RawMessage{alice2: json.RawMessage(`{"displayname":"Two"}`)},
			InitialState: []api.StateEvent{
				{Type: "m.room.history_visibility", Content: json.RawMessage(`{"history_visibility":"joined"}`)},
				{Type: "m.room.name", Content: json.RawMessage(`{"name":"overridden"}`)},
				{Type: "m.room.encryption", Content: json.RawMessage(`{"algorithm":"m.megolm.v1.aes-sha2"}`)},
				{Type: "org.example", StateKey: "key", Content: json.RawMessage(`{}`)},
			},
		})
		want := []string{
			"m.room.create/", "m.room.member/@alice:a", "m.room.power_levels/", "m.room.canonical_alias/",
			"m.room.join_rules/", "m.room.guest_access/",
			"m.room.history_visibility/", "m.room.encryption/", "org.example/key",
			"m.room.name/", "m.room.topic/", "m.room.member/@alice2:a",
		}
		if got := a.timeline(room); !slices.Equal(got, want) {
			t.Errorf("the events are\n%v, want\n%v", got, want)
		}
		for what, c := range map[string][4]string{
			"the preset":          {"m.room.join_rules", "", "join_rule", "public"},
			"the initial state":   {"m.room.history_visibility", "", "history_visibility", "joined"},
			"the name":            {"m.room.name", "", "name", "Pub"},
			"the topic":           {"m.room.topic", "", "topic", "Ale"},
			"the rich topic":      {"m.room.topic", "", `m\.topic.m\.text.0.body`, "Ale"},
			"the alias":           {"m.room.canonical_alias", "", "alias", "#pub:a"},
			"guests":              {"m.room.guest_access", "", "guest_access", "forbidden"},
			"the creator's name":  {"m.room.member", string(alice), "displayname", "Alice"},
			"the invited's name":  {"m.room.member", string(alice2), "displayname", "Two"},
			"the invite's direct": {"m.room.member", string(alice2), "is_direct", "true"},
			"the invite":          {"m.room.member", string(alice2), "membership", "invite"},
			"the creator's join":  {"m.room.member", string(alice), "membership", "join"},
		} {
			if got := a.content(room, c[0], c[1], c[2]); got != c[3] {
				t.Errorf("%s is %q, want %q", what, got, c[3])
			}
		}
		found, err := a.ResolveAlias(context.Background(), "#pub:a")
		if err != nil || found.Room != room {
			t.Errorf("the alias leads to %v, %v", found, err)
		}
		if ok, err := a.IsPublished(context.Background(), room); err != nil || !ok {
			t.Errorf("published: %v, %v", ok, err)
		}
	})
}

func TestCreateRoomPresets(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		for _, c := range []struct {
			preset, visibility       string
			joinRule, guests, invite string
		}{
			{"", "", "invite", "can_join", "0"},
			{"", "private", "invite", "can_join", "0"},
			{"", "public", "public", "forbidden", "50"},
			{"private_chat", "public", "invite", "can_join", "0"},
			{"public_chat", "", "public", "forbidden", "50"},
			{"trusted_private_chat", "", "invite", "can_join", "0"},
		} {
			room := a.createRoomAs(alice, api.CreateRoom{Preset: c.preset, Visibility: c.visibility})
			got := []string{a.content(room, "m.room.join_rules", "", "join_rule"), a.content(room, "m.room.guest_access", "", "guest_access"),
				a.content(room, "m.room.power_levels", "", "invite"), a.content(room, "m.room.history_visibility", "", "history_visibility")}
			if want := []string{c.joinRule, c.guests, c.invite, "shared"}; !slices.Equal(got, want) {
				t.Errorf("preset %q, visibility %q: %v, want %v", c.preset, c.visibility, got, want)
			}
		}
	})
}

func TestCreateRoomPowerAndCreators(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		invite := []id.User{alice2}
		for _, c := range []struct {
			name            string
			req             api.CreateRoom
			users, creators string
			tombstone       string
		}{
			{"11", api.CreateRoom{RoomVersion: "11"}, `{"@alice:a":100}`, "", "100"},
			{"11 trusted", api.CreateRoom{RoomVersion: "11", Preset: "trusted_private_chat", Invite: invite}, `{"@alice2:a":100,"@alice:a":100}`, "", "100"},
			{"12", api.CreateRoom{RoomVersion: "12"}, `{}`, "", "150"},
			{"12 trusted", api.CreateRoom{RoomVersion: "12", Preset: "trusted_private_chat", Invite: invite,
				CreationContent: json.RawMessage(`{"additional_creators":["@x:a","@alice2:a","@alice:a"]}`)}, `{}`, `["@x:a","@alice2:a"]`, "150"},
			{"12 override", api.CreateRoom{RoomVersion: "12", PowerLevelContent: json.RawMessage(`{"users":{"@alice2:a":70},"events":{"m.room.name":1}}`)},
				`{"@alice2:a":70}`, "", "150"},
			{"12 override of state_default", api.CreateRoom{RoomVersion: "12", PowerLevelContent: json.RawMessage(`{"state_default":200}`)}, `{}`, "", "201"},
		} {
			room := a.createRoomAs(alice, c.req)
			if got := a.content(room, "m.room.power_levels", "", "users"); got != c.users {
				t.Errorf("%s: users %s, want %s", c.name, got, c.users)
			}
			if got := a.content(room, "m.room.power_levels", "", `events.m\.room\.tombstone`); got != c.tombstone {
				t.Errorf("%s: a tombstone needs %s, want %s", c.name, got, c.tombstone)
			}
			if got := a.content(room, "m.room.create", "", "additional_creators"); got != c.creators {
				t.Errorf("%s: additional creators %s, want %s", c.name, got, c.creators)
			}
		}
	})
}

func TestCreateRoomCreateEvent(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		for _, v := range event.Versions() {
			room := a.createRoomAs(alice, api.CreateRoom{RoomVersion: v,
				CreationContent: json.RawMessage(`{"creator":"@mallory:a","room_version":"99","m.federate":false,"type":"m.space"}`)})
			create := a.stateEvent(room, "m.room.create", "")
			rules := rulesOf(t, v)
			creator := gjson.GetBytes(create.Content(), "creator").Str
			if rules.CreatorInContent && creator != string(alice) || !rules.CreatorInContent && creator != "" {
				t.Errorf("version %s: creator %q", v, creator)
			}
			if got := gjson.GetBytes(create.Content(), "room_version").Str; got != string(v) {
				t.Errorf("version %s: room_version %q", v, got)
			}
			if gjson.GetBytes(create.Content(), "type").Str != "m.space" || gjson.GetBytes(create.Content(), "m\\.federate").Raw != "false" {
				t.Errorf("version %s: the creation content is lost: %s", v, create.Content())
			}
			if byHash := eventauth.CreateEventID(room) == create.ID; byHash != rules.RoomIDIsCreateHash {
				t.Errorf("version %s: the room ID is %s", v, room)
			}
			if !rules.RoomIDIsCreateHash && room.Server() != "a" {
				t.Errorf("version %s: the room ID is %s", v, room)
			}
		}
		room := a.createRoomAs(alice, api.CreateRoom{})
		if got := a.row(room).Version; got != event.DefaultVersion {
			t.Errorf("the default version is %s", got)
		}
	})
}

func TestCreateRoomRefused(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		a.createRoomAs(alice, api.CreateRoom{AliasLocalpart: "taken"})
		before := len(a.rooms())
		raw := func(s string) json.RawMessage { return json.RawMessage(s) }
		for name, c := range map[string]struct {
			req    api.CreateRoom
			status int
			code   string
		}{
			"version":                  {api.CreateRoom{RoomVersion: "ahfgwjyerhgiuveisbruvybseyrugvi"}, 400, "M_UNSUPPORTED_ROOM_VERSION"},
			"alias in use":             {api.CreateRoom{AliasLocalpart: "taken"}, 400, "M_ROOM_IN_USE"},
			"alias with a colon":       {api.CreateRoom{AliasLocalpart: "a:b"}, 400, "M_INVALID_PARAM"},
			"preset":                   {api.CreateRoom{Preset: "secret"}, 400, "M_BAD_JSON"},
			"visibility":               {api.CreateRoom{Visibility: "secret"}, 400, "M_BAD_JSON"},
			"creation content":         {api.CreateRoom{CreationContent: raw(`[]`)}, 400, "M_BAD_JSON"},
			"power levels":             {api.CreateRoom{PowerLevelContent: raw(`7`)}, 400, "M_BAD_JSON"},
			"power levels too low":     {api.CreateRoom{RoomVersion: "11", Name: "x", PowerLevelContent: raw(`{"users":{"@alice:a":10}}`)}, 400, "M_INVALID_ROOM_STATE"},
			"power levels of creator":  {api.CreateRoom{RoomVersion: "12", PowerLevelContent: raw(`{"users":{"@alice:a":100}}`)}, 400, "M_INVALID_ROOM_STATE"},
			"initial state: create":    {api.CreateRoom{InitialState: []api.StateEvent{{Type: "m.room.create", Content: raw(`{}`)}}}, 400, "M_INVALID_ROOM_STATE"},
			"initial state: member":    {api.CreateRoom{InitialState: []api.StateEvent{{Type: "m.room.member", StateKey: "@x:a", Content: raw(`{}`)}}}, 400, "M_INVALID_ROOM_STATE"},
			"initial state: type":      {api.CreateRoom{InitialState: []api.StateEvent{{Content: raw(`{}`)}}}, 400, "M_BAD_JSON"},
			"initial state: content":   {api.CreateRoom{InitialState: []api.StateEvent{{Type: "x", Content: raw(`3`)}}}, 400, "M_BAD_JSON"},
			"initial state: float":     {api.CreateRoom{InitialState: []api.StateEvent{{Type: "x", Content: raw(`{"a":1.5}`)}}}, 400, "M_BAD_JSON"},
			"invite":                   {api.CreateRoom{Invite: []id.User{"bob"}}, 400, "M_BAD_JSON"},
			"creators: no list":        {api.CreateRoom{CreationContent: raw(`{"additional_creators":"not-an-array"}`)}, 400, "M_BAD_JSON"},
			"creators: no strings":     {api.CreateRoom{CreationContent: raw(`{"additional_creators":["@foo:example.com",42]}`)}, 400, "M_BAD_JSON"},
			"creators: no user":        {api.CreateRoom{CreationContent: raw(`{"additional_creators":["not-a-user-id"]}`)}, 400, "M_BAD_JSON"},
			"creators: no user domain": {api.CreateRoom{CreationContent: raw(`{"additional_creators":["@invalid:dom$ain$.com"]}`)}, 400, "M_BAD_JSON"},
		} {
			c.req.Creator = alice
			_, err := a.CreateRoom(context.Background(), c.req)
			wantCode(t, name, err, c.status, c.code)
		}
		if after := len(a.rooms()); after != before {
			t.Errorf("%d rooms became %d", before, after)
		}
	})
}

// rooms lists the rooms of the store.
func (n *node) rooms() []*eventstore.Room {
	n.w.t.Helper()
	list, err := n.store.ListRooms(context.Background(), 0, 1000)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return list
}

func TestCreateRoomAliasIsTakenOnce(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		errs := make(chan error, 6)
		for range cap(errs) {
			go func() {
				_, err := a.CreateRoom(context.Background(), api.CreateRoom{Creator: alice, AliasLocalpart: "race"})
				errs <- err
			}()
		}
		made := 0
		for range cap(errs) {
			err := <-errs
			if err == nil {
				made++
			} else if !errors.Is(err, merr.ErrRoomInUse) {
				t.Errorf("got %v", err)
			}
		}
		if made != 1 || len(a.rooms()) != 1 {
			t.Errorf("%d rooms were made, %d are there", made, len(a.rooms()))
		}
	})
}

func TestCreateRoomInvitesOverFederation(t *testing.T) {
	federated(t, []id.Server{"a", "b"}, func(t *testing.T, f *federation) {
		a, b := f.nodes["a"], f.nodes["b"]
		for _, v := range []event.RoomVersion{"1", "10", "12"} {
			room := a.createRoomAs(alice, api.CreateRoom{RoomVersion: v, IsDirect: true, Name: "Direct", Invite: []id.User{bob, bob2, "@gone:nowhere"}})
			if got := []string{a.membership(room, bob), b.membership(room, bob), b.membership(room, bob2), a.membership(room, "@gone:nowhere")}; !slices.Equal(got, []string{"invite", "invite", "invite", ""}) {
				t.Errorf("version %s: memberships %v", v, got)
			}
			if !a.invited(room, bob, "is_direct") || !b.invited(room, bob, "is_direct") {
				t.Errorf("version %s: the invite is not direct", v)
			}
			shown := b.shown(room, bob)
			for typ, want := range map[string]string{"m.room.create": "room_version", "m.room.name": "Direct", "m.room.join_rules": "invite", "m.room.member": "alice"} {
				if !strings.Contains(shown[typ], want) {
					t.Errorf("version %s: %s is shown as %s", v, typ, shown[typ])
				}
			}
			for typ, text := range shown {
				if n := len(gjson.Parse(text).Map()); n != 4 {
					t.Errorf("version %s: %s is shown with %d properties: %s", v, typ, n, text)
				}
			}
			b.mustSet("join", room, bob, "")
			f.deliver()
			f.agree(room, "a", "b")
			b.mustSet("join", room, bob2, "")
			f.deliver()
			f.agree(room, "a", "b")
		}
	})
}

// invited tells whether a flag of a user's invite is true.
func (n *node) invited(room id.Room, user id.User, flag string) bool {
	n.w.t.Helper()
	m, err := n.store.Member(context.Background(), n.row(room).NID, user)
	if err != nil || m.Event == 0 {
		n.w.t.Fatalf("the member %s: %v", user, err)
	}
	e, err := n.store.Event(context.Background(), m.Event)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return gjson.GetBytes(e.Content(), flag).Bool()
}

// shown gives the stripped state of a user's invite by type.
func (n *node) shown(room id.Room, user id.User) map[string]string {
	n.w.t.Helper()
	list, err := n.store.InviteState(context.Background(), n.row(room).NID, user)
	if err != nil {
		n.w.t.Fatal(err)
	}
	out := make(map[string]string)
	for _, raw := range list {
		out[gjson.GetBytes(raw, "type").Str] = string(raw)
	}
	return out
}
