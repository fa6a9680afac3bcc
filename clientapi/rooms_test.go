package clientapi

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
	roomapi "weft/roomserver/api"
)

func TestCreateRoom(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		e.register("bob")
		a := e.ok("POST", c3+"/createRoom", token, `{"name":"N","topic":"T","visibility":"public","preset":"public_chat","room_alias_name":"al",
			"invite":["@bob:test","@far:away"],"is_direct":true,"room_version":"6","creation_content":{"m.federate":false},
			"power_level_content_override":{"ban":1},"initial_state":[{"type":"a.b","content":{"z":1,"a":2}}]}`)
		if a.Get("room_id").Str != "!new:test" {
			t.Errorf("got %s", a.Raw)
		}
		q := e.rooms.created[0]
		if q.Creator != "@alice:test" || q.RoomVersion != "6" || q.Visibility != "public" || q.AliasLocalpart != "al" || q.Preset != "public_chat" ||
			!q.IsDirect || len(q.Invite) != 2 || string(q.CreationContent) != `{"m.federate":false}` || string(q.PowerLevelContent) != `{"ban":1}` ||
			q.Name != "N" || q.Topic != "T" || string(q.InitialState[0].Content) != `{"a":2,"z":1}` ||
			string(q.CreatorProfile) != `{"displayname":"alice"}` || string(q.InviteProfiles["@bob:test"]) != `{"displayname":"bob"}` {
			t.Errorf("asked for %+v", q)
		}
		e.ok("POST", c3+"/createRoom", token, nil)
		if v := e.rooms.created[1].RoomVersion; v != event.DefaultVersion {
			t.Errorf("version %q", v)
		}
		for _, c := range []struct{ name, body, code string }{
			{"numeric version", `{"room_version":1}`, "M_BAD_JSON"},
			{"unknown version", `{"room_version":"ahfg"}`, "M_UNSUPPORTED_ROOM_VERSION"},
			{"visibility", `{"visibility":"hidden"}`, "M_INVALID_PARAM"},
			{"preset", `{"preset":"loud"}`, "M_INVALID_PARAM"},
			{"invite", `{"invite":["bob"]}`, "M_INVALID_PARAM"},
			{"invite list", `{"invite":"@bob:test"}`, "M_BAD_JSON"},
			{"alias", `{"room_alias_name":"a:b"}`, "M_INVALID_PARAM"},
			{"creation content", `{"creation_content":[]}`, "M_BAD_JSON"},
			{"float", `{"power_level_content_override":{"ban":1.5}}`, "M_BAD_JSON"},
			{"initial state without type", `{"initial_state":[{"content":{}}]}`, "M_BAD_JSON"},
			{"initial state without content", `{"initial_state":[{"type":"a"}]}`, "M_BAD_JSON"},
			{"name", `{"name":["N"]}`, "M_BAD_JSON"},
			{"no object", `[]`, "M_BAD_JSON"},
		} {
			t.Run(c.name, func(t *testing.T) { e.want(400, c.code, "POST", c3+"/createRoom", token, c.body) })
		}
		e.want(403, "M_THREEPID_DENIED", "POST", c3+"/createRoom", token, `{"invite_3pid":[{}]}`)
		e.want(413, "M_TOO_LARGE", "POST", c3+"/createRoom", token, obj{"topic": strings.Repeat("x", 70_000)})
		if len(e.rooms.created) != 2 {
			t.Error("a refused request reached the room server")
		}
		e.rooms.err = merr.RoomInUse("taken")
		e.want(400, "M_ROOM_IN_USE", "POST", c3+"/createRoom", token, `{}`)
	})
}

func TestMembershipCommands(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		e.register("bob")
		e.dir.aliases = map[id.RoomAlias]id.Room{"#al:test": "!r:test"}
		room := c3 + "/rooms/!r:test"
		me, bob := id.User("@alice:test"), id.User("@bob:test")
		profile := `{"displayname":"alice"}`
		for _, c := range []struct {
			name, path string
			body       any
			want       roomapi.SetMembership
		}{
			{"join by ID", c3 + "/join/!r:test?via=one&via=two:80&server_name=three", obj{"reason": "why"},
				roomapi.SetMembership{Sender: me, Target: me, Membership: "join", Reason: "why", Content: []byte(profile), Servers: []id.Server{"one", "two:80"}}},
			{"join by alias", c3 + "/join/%23al:test?server_name=three", nil,
				roomapi.SetMembership{Sender: me, Target: me, Membership: "join", Content: []byte(profile), Servers: []id.Server{"three", "test", "away"}}},
			{"join a room", room + "/join", obj{"third_party_signed": obj{"token": "t"}},
				roomapi.SetMembership{Sender: me, Target: me, Membership: "join", Content: []byte(`{"displayname":"alice","third_party_signed":{"token":"t"}}`)}},
			{"join with fields of one's own", room + "/join", obj{"a.foo": "bar", "membership": "ban", "displayname": "Eve", "reason": "why"},
				roomapi.SetMembership{Sender: me, Target: me, Membership: "join", Reason: "why", Content: []byte(`{"a.foo":"bar","displayname":"alice"}`)}},
			{"knock", c3 + "/knock/!r:test?via=one", obj{"reason": "please"},
				roomapi.SetMembership{Sender: me, Target: me, Membership: "knock", Reason: "please", Content: []byte(profile), Servers: []id.Server{"one"}}},
			{"leave", room + "/leave", obj{"reason": "bye"}, roomapi.SetMembership{Sender: me, Target: me, Membership: "leave", Reason: "bye"}},
			{"invite", room + "/invite", obj{"user_id": bob}, roomapi.SetMembership{Sender: me, Target: bob, Membership: "invite", Content: []byte(`{"displayname":"bob"}`)}},
			{"invite elsewhere", room + "/invite", obj{"user_id": "@far:away"}, roomapi.SetMembership{Sender: me, Target: "@far:away", Membership: "invite", Content: []byte(`{}`)}},
			{"kick", room + "/kick", obj{"user_id": bob, "reason": "x"}, roomapi.SetMembership{Sender: me, Target: bob, Membership: "leave", Action: "kick", Reason: "x"}},
			{"ban", room + "/ban", obj{"user_id": bob}, roomapi.SetMembership{Sender: me, Target: bob, Membership: "ban"}},
			{"unban", room + "/unban", obj{"user_id": bob}, roomapi.SetMembership{Sender: me, Target: bob, Membership: "leave", Action: "unban"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				e.ok("POST", c.path, token, c.body)
				got := e.rooms.members[len(e.rooms.members)-1]
				c.want.Room = "!r:test"
				if got.Room != c.want.Room || got.Sender != c.want.Sender || got.Target != c.want.Target || got.Membership != c.want.Membership ||
					got.Action != c.want.Action || got.Reason != c.want.Reason || string(got.Content) != string(c.want.Content) ||
					strings.Join(names(got.Servers), " ") != strings.Join(names(c.want.Servers), " ") {
					t.Errorf("got %+v\nwant %+v", got, c.want)
				}
			})
		}
		if got := e.ok("POST", room+"/join", token, nil).Get("room_id").Str; got != "!r:test" {
			t.Errorf("got %q", got)
		}
		e.ok("POST", room+"/forget", token, nil)
		if len(e.rooms.forgot) != 1 {
			t.Errorf("forgot %v", e.rooms.forgot)
		}
		before := len(e.rooms.members)
		for _, c := range []struct {
			path   string
			body   any
			status int
			code   string
		}{
			{c3 + "/join/nothing", nil, 400, "M_INVALID_PARAM"},
			{c3 + "/join/%23nope:test", nil, 404, "M_NOT_FOUND"},
			{c3 + "/join/!r:test?via=a%20b", nil, 400, "M_INVALID_PARAM"},
			{room + "/invite", `{}`, 400, "M_MISSING_PARAM"},
			{room + "/invite", obj{"user_id": "bob"}, 400, "M_INVALID_PARAM"},
			{room + "/invite", obj{"id_server": "x", "medium": "email", "address": "a@b"}, 403, "M_THREEPID_DENIED"},
			{room + "/kick", obj{"user_id": 7}, 400, "M_BAD_JSON"},
			{room + "/leave", obj{"reason": 7}, 400, "M_BAD_JSON"},
			{room + "/leave", obj{"reason": strings.Repeat("x", 5000)}, 400, "M_INVALID_PARAM"},
			{c3 + "/rooms/r/leave", nil, 400, "M_INVALID_PARAM"},
		} {
			e.want(c.status, c.code, "POST", c.path, token, c.body)
		}
		if len(e.rooms.members) != before {
			t.Error("a refused request reached the room server")
		}
	})
}

// The servers of a room are told of the devices of who comes into it, and of nobody else's.
func TestJoinTellsOfDevices(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		bob, _ := e.register("bob")
		r := e.newRoom("@alice:test")
		path := c3 + "/rooms/" + string(r.id)
		e.ok("POST", path+"/join", token, nil) // is in it already
		e.ok("POST", path+"/leave", token, nil)
		if len(e.keys.joined) != 0 {
			t.Errorf("told of the devices of %v", e.keys.joined)
		}
		e.ok("POST", path+"/join", bob, nil)
		r.member("@bob:test", "leave")
		e.ok("PUT", path+"/state/m.room.member/@bob:test", bob, `{"membership":"join"}`)
		if want := "[@bob:test " + string(r.id) + " @bob:test " + string(r.id) + "]"; fmt.Sprint(e.keys.joined) != want {
			t.Errorf("told of the devices of %v, want %s", e.keys.joined, want)
		}
		e.keys.err = errors.New("no database")
		e.ok("POST", path+"/join", bob, nil)
	})
}

func names(list []id.Server) []string {
	var out []string
	for _, s := range list {
		out = append(out, string(s))
	}
	return out
}

func TestSend(t *testing.T) {
	eachDB(t, func(c *Config) {
		c.Appservices = []Appservice{{ID: "as", ASToken: "as-token", HSToken: "h", SenderLocalpart: "bot"}}
	}, func(t *testing.T, e *env) {
		token, device := e.register("alice")
		room := c3 + "/rooms/!r:test"
		a := e.ok("PUT", room+"/send/m.room.message/t1?ts=5", token, `{"body":"x","a":1}`)
		if a.Get("event_id").Str != "$sent" {
			t.Errorf("got %s", a.Raw)
		}
		got := e.rooms.sent[0]
		if got.Type != "m.room.message" || got.StateKey != nil || string(got.Content) != `{"a":1,"body":"x"}` || got.Timestamp != 0 ||
			got.Txn != (roomapi.Txn{Device: device, Scope: "send/m.room.message/!r:test", ID: "t1"}) {
			t.Errorf("sent %+v", got)
		}
		e.ok("PUT", room+"/redact/$ev:test/t2", token, `{"reason":"spam"}`)
		got = e.rooms.sent[1]
		if got.Type != "m.room.redaction" || got.Redacts != "$ev:test" || string(got.Content) != `{"reason":"spam"}` || got.Txn.Scope != "redact/$ev:test/!r:test" {
			t.Errorf("sent %+v", got)
		}
		e.ok("PUT", room+"/send/m.room.redaction/t3", token, `{"redacts":"$ev:test"}`)
		if got = e.rooms.sent[2]; got.Redacts != "$ev:test" {
			t.Errorf("sent %+v", got)
		}
		e.ok("PUT", room+"/state/a.b/key", token, `{}`)
		if got = e.rooms.sent[3]; got.Type != "a.b" || *got.StateKey != "key" {
			t.Errorf("sent %+v", got)
		}
		for _, path := range []string{"/state/a.b", "/state/a.b/"} {
			e.ok("PUT", room+path, token, `{}`)
			if got = e.rooms.sent[len(e.rooms.sent)-1]; *got.StateKey != "" {
				t.Errorf("%s: sent %+v", path, got)
			}
		}
		// An application service may say when an event happened, and has a scope of its own.
		e.ok("PUT", room+"/send/a.b/t1?ts=5", "as-token", `{}`)
		if got = e.rooms.sent[len(e.rooms.sent)-1]; got.Timestamp != 5 || got.Txn.Device == "" || got.Txn.Device == device {
			t.Errorf("sent %+v", got)
		}
		e.want(400, "M_INVALID_PARAM", "PUT", room+"/send/a.b/t1?ts=x", "as-token", `{}`)
		before := len(e.rooms.sent)
		for _, c := range []struct {
			name, path, body string
			status           int
			code             string
		}{
			{"integer too large", "/send/a/t", `{"body": 9007199254740992}`, 400, "M_BAD_JSON"},
			{"integer too small", "/send/a/t", `{"body": -9007199254740992}`, 400, "M_BAD_JSON"},
			{"float", "/send/a/t", `{"body": 1.1}`, 400, "M_BAD_JSON"},
			{"Infinity", "/send/a/t", `{"body": Infinity}`, 400, "M_NOT_JSON"},
			{"NaN", "/state/a/t", `{"body": NaN}`, 400, "M_NOT_JSON"},
			{"list", "/send/a/t", `[]`, 400, "M_BAD_JSON"},
			{"large", "/send/a/t", `{"b":"` + strings.Repeat("x", 70_000) + `"}`, 413, "M_TOO_LARGE"},
			{"large state", "/state/a", `{"b":"` + strings.Repeat("x", 70_000) + `"}`, 413, "M_TOO_LARGE"},
			{"long type", "/send/" + strings.Repeat("t", 256) + "/t", `{}`, 413, "M_TOO_LARGE"},
			{"long key", "/state/a/" + strings.Repeat("t", 256), `{}`, 413, "M_TOO_LARGE"},
			{"redaction of nothing", "/send/m.room.redaction/t", `{}`, 400, "M_INVALID_PARAM"},
			{"redacts", "/redact/ev/t", `{}`, 400, "M_INVALID_PARAM"},
			{"reason", "/redact/$ev/t", `{"reason":1}`, 400, "M_BAD_JSON"},
			{"member without membership", "/state/m.room.member/@a:b", `{}`, 400, "M_BAD_JSON"},
			{"member of nobody", "/state/m.room.member/a", `{"membership":"join"}`, 400, "M_INVALID_PARAM"},
			{"NUL in a type", "/send/a%00/t", `{}`, 400, "M_INVALID_PARAM"},
		} {
			t.Run(c.name, func(t *testing.T) { e.want(c.status, c.code, "PUT", room+c.path, token, c.body) })
		}
		if len(e.rooms.sent) != before {
			t.Error("a refused request reached the room server")
		}
	})
}

func TestMemberState(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		r := e.newRoom("@alice:test")
		mine := r.member("@alice:test", "join")
		room := c3 + "/rooms/" + string(r.id)
		a := e.ok("PUT", room+"/state/m.room.member/@alice:test", token, `{"membership":"join","displayname":"Freddy","reason":"r","x":1}`)
		if a.Get("event_id").Str != string(mine.ID) {
			t.Errorf("got %s, want %s", a.Raw, mine.ID)
		}
		got := e.rooms.members[0]
		if got.Membership != "join" || got.Reason != "r" || string(got.Content) != `{"displayname":"Freddy","x":1}` {
			t.Errorf("asked for %+v", got)
		}
		r.member("@bob:test", "ban")
		r.member("@carol:test", "join")
		for user, action := range map[string]string{"@bob:test": "unban", "@carol:test": "kick"} {
			e.ok("PUT", room+"/state/m.room.member/"+user, token, `{"membership":"leave"}`)
			if got := e.rooms.members[len(e.rooms.members)-1]; got.Action != action {
				t.Errorf("%s: %+v", user, got)
			}
		}
	})
}

func TestCanonicalAlias(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		r := e.newRoom("@alice:test")
		e.dir.aliases = map[id.RoomAlias]id.Room{"#here:test": r.id, "#other:test": "!other:test"}
		path := c3 + "/rooms/" + string(r.id) + "/state/m.room.canonical_alias"
		for _, c := range []struct {
			body   string
			status int
			code   string
		}{
			{`{"alias":"#here:test"}`, 200, ""},
			{`{"alias":"#here:test","alt_aliases":["#here:test"]}`, 200, ""},
			{`{"alias":null}`, 200, ""},
			{`{}`, 200, ""},
			{`{"alias":"#missing:test"}`, 400, "M_BAD_ALIAS"},
			{`{"alias":"#other:test"}`, 400, "M_BAD_ALIAS"},
			{`{"alias":"#here:test","alt_aliases":["#other:test"]}`, 400, "M_BAD_ALIAS"},
			{`{"alias":"%here:test"}`, 400, "M_INVALID_PARAM"},
			{`{"alt_aliases":["%here:test"]}`, 400, "M_INVALID_PARAM"},
			{`{"alt_aliases":"#here:test"}`, 400, "M_INVALID_PARAM"},
		} {
			e.want(c.status, c.code, "PUT", path, token, c.body)
		}
		// What was in the event already is not looked up again.
		r.set("@alice:test", "m.room.canonical_alias", "", obj{"alias": "#gone:test", "alt_aliases": []string{"#here:test"}, "x": 1})
		e.ok("PUT", path, token, `{"alias":"#gone:test"}`)
		// A deleted alias leaves the event.
		before := len(e.rooms.sent)
		e.ok("DELETE", c3+"/directory/room/%23here:test", token, nil)
		if n := len(e.rooms.sent); n != before+1 || string(e.rooms.sent[before].Content) != `{"alias":"#gone:test","x":1}` {
			t.Errorf("sent %+v", e.rooms.sent[before:])
		}
	})
}

func TestUpgrade(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		path := c3 + "/rooms/!r:test/upgrade"
		a := e.ok("POST", path, token, `{"new_version":"12","additional_creators":["@bob:test"]}`)
		q := e.rooms.upgrade[0]
		if a.Get("replacement_room").Str != "!upgraded:test" || q.NewVersion != "12" || q.Room != "!r:test" || len(q.AdditionalCreators) != 1 || string(q.Profile) != `{"displayname":"alice"}` {
			t.Errorf("got %s for %+v", a.Raw, q)
		}
		e.want(400, "M_MISSING_PARAM", "POST", path, token, `{}`)
		e.want(400, "M_UNSUPPORTED_ROOM_VERSION", "POST", path, token, `{"new_version":"dog"}`)
		e.want(400, "M_BAD_JSON", "POST", path, token, `{"new_version":12}`)
		e.want(400, "M_INVALID_PARAM", "POST", path, token, `{"new_version":"12","additional_creators":["bob"]}`)
	})
}

func TestReadState(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		tokens := map[string]string{}
		for _, name := range []string{"alice", "bob", "carol", "dave", "eve"} {
			tokens[name], _ = e.register(name)
		}
		r := e.newRoom("@alice:test")
		room := c3 + "/rooms/" + string(r.id)
		r.member("@bob:test", "join")
		r.member("@carol:test", "invite")
		r.member("@carol:test", "leave") // declined
		r.member("@dave:test", "invite")
		name := r.set("@alice:test", "m.room.name", "", obj{"name": "before"})
		r.member("@bob:test", "leave")
		r.set("@alice:test", "m.room.name", "", obj{"name": "after"})
		get := func(who, rest string) answer { return e.do("GET", room+"/state"+rest, tokens[who], nil) }
		for _, c := range []struct {
			who    string
			status int
			want   string
		}{
			{"alice", 200, `{"name":"after"}`},
			{"bob", 200, `{"name":"before"}`},
			{"carol", 403, ""},
			{"dave", 403, ""},
			{"eve", 403, ""},
		} {
			a := get(c.who, "/m.room.name")
			if a.status != c.status || c.want != "" && a.Raw != c.want {
				t.Errorf("%s: %d %s", c.who, a.status, a.Raw)
			}
			if got := get(c.who, "").status; got != c.status {
				t.Errorf("%s: all state: %d", c.who, got)
			}
		}
		ev := get("bob", "/m.room.name/?format=event")
		if ev.Get("event_id").Str != string(name.ID) || ev.Get("sender").Str != "@alice:test" || ev.Get("room_id").Str != string(r.id) ||
			ev.Get("type").Str != "m.room.name" || !ev.Get("state_key").Exists() || ev.Get("content.name").Str != "before" || ev.Get("origin_server_ts").Int() == 0 {
			t.Errorf("got %s", ev.Raw)
		}
		if got := get("alice", "/m.room.member/@alice:test").Get("membership").Str; got != "join" {
			t.Errorf("got %q", got)
		}
		all := get("alice", "")
		if n := len(all.Array()); n != 6 { // create, name, four members but eve
			t.Errorf("%d events: %s", n, all.Raw)
		}
		if got := all.Get(`#(type=="m.room.name").content.name`).Str; got != "after" {
			t.Errorf("got %q", got)
		}
		e.want(404, "M_NOT_FOUND", "GET", room+"/state/m.room.topic", tokens["alice"], nil)
		e.want(400, "M_INVALID_PARAM", "GET", room+"/state/m.room.name?format=xml", tokens["alice"], nil)
		e.want(403, "M_FORBIDDEN", "GET", c3+"/rooms/!none:test/state", tokens["alice"], nil)
		e.want(401, "M_MISSING_TOKEN", "GET", room+"/state", "", nil)
		r.set("@alice:test", "m.room.history_visibility", "", obj{"history_visibility": "world_readable"})
		if a := get("eve", "/m.room.name"); a.status != 200 || a.Raw != `{"name":"after"}` {
			t.Errorf("world-readable: %d %s", a.status, a.Raw)
		}
	})
}

func TestJoinedAndMutualRooms(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		if got := e.ok("GET", c3+"/joined_rooms", token, nil).Raw; got != `{"joined_rooms":[]}` {
			t.Errorf("got %s", got)
		}
		a, b := e.newRoom("@alice:test"), e.newRoom("@alice:test")
		b.member("@far:away", "join")
		a.member("@far:away", "invite")
		if got := len(e.ok("GET", c3+"/joined_rooms", token, nil).Get("joined_rooms").Array()); got != 2 {
			t.Errorf("%d rooms", got)
		}
		mutual := "/_matrix/client/v1/mutual_rooms"
		if got := e.ok("GET", mutual+"?user_id=@far:away", token, nil).Raw; got != `{"joined":["`+string(b.id)+`"],"count":1}` {
			t.Errorf("got %s", got)
		}
		if got := e.ok("GET", mutual+"?user_id=@nobody:away", token, nil).Raw; got != `{"joined":[],"count":0}` {
			t.Errorf("got %s", got)
		}
		e.want(400, "M_INVALID_PARAM", "GET", mutual+"?user_id=@alice:test", token, nil)
		e.want(400, "M_INVALID_PARAM", "GET", mutual, token, nil)
	})
}

func TestRoomSummary(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		bob, _ := e.register("bob")
		space, r := e.newRoom("@alice:test"), e.newRoom("@alice:test")
		path := "/_matrix/client/v1/room_summary/" + string(r.id)
		e.want(404, "M_NOT_FOUND", "GET", path, bob, nil)
		r.set("@alice:test", "m.room.name", "", obj{"name": "N"})
		r.set("@alice:test", "m.room.join_rules", "", obj{"join_rule": "restricted",
			"allow": []obj{{"type": "m.room_membership", "room_id": space.id}, {"type": "x"}}})
		e.want(404, "M_NOT_FOUND", "GET", path, bob, nil)
		space.member("@bob:test", "join")
		a := e.ok("GET", path, bob, nil)
		if a.Get("allowed_room_ids").Raw != `["`+string(space.id)+`"]` || a.Get("name").Str != "N" || a.Get("num_joined_members").Int() != 1 || a.Get("room_version").Str != "10" {
			t.Errorf("got %s", a.Raw)
		}
		if got := e.ok("GET", path, token, nil).Get("membership").Str; got != "join" {
			t.Errorf("membership %q", got)
		}
		e.want(404, "M_NOT_FOUND", "GET", path, "", nil)
		r.set("@alice:test", "m.room.join_rules", "", obj{"join_rule": "public"})
		if a := e.ok("GET", path, "", nil); a.Get("allowed_room_ids").Exists() || a.Get("membership").Exists() {
			t.Errorf("got %s", a.Raw)
		}
		e.want(404, "M_NOT_FOUND", "GET", "/_matrix/client/v1/room_summary/!none:test", token, nil)
	})
}

func TestDirectory(t *testing.T) {
	eachDB(t, func(c *Config) {
		as := Appservice{ID: "as", ASToken: "as-token", HSToken: "h", SenderLocalpart: "bot"}
		as.Namespaces.Aliases = []Namespace{{Exclusive: true, Regex: "#irc_.*"}}
		c.Appservices = []Appservice{as}
	}, func(t *testing.T, e *env) {
		alice, _ := e.register("alice")
		bob, _ := e.register("bob")
		r := e.newRoom("@alice:test")
		alias := c3 + "/directory/room/%23" + "%E8%80%81%E8%99%8E:test"
		body := obj{"room_id": r.id}
		e.want(403, "M_FORBIDDEN", "PUT", alias, bob, body)
		e.ok("PUT", alias, alice, body)
		e.want(409, "M_ROOM_IN_USE", "PUT", alias, alice, body)
		got := e.ok("GET", alias, "", nil)
		if got.Get("room_id").Str != string(r.id) || !got.Get("servers").IsArray() {
			t.Errorf("got %s", got.Raw)
		}
		if got := e.ok("GET", c3+"/rooms/"+string(r.id)+"/aliases", alice, nil).Raw; got != `{"aliases":["#老虎:test"]}` {
			t.Errorf("got %s", got)
		}
		e.want(403, "M_FORBIDDEN", "GET", c3+"/rooms/"+string(r.id)+"/aliases", bob, nil)
		e.ok("DELETE", alias, alice, nil)
		e.want(404, "M_NOT_FOUND", "DELETE", alias, alice, nil)
		e.want(404, "M_NOT_FOUND", "GET", alias, "", nil)
		if got := e.ok("GET", c3+"/rooms/"+string(r.id)+"/aliases", alice, nil).Raw; got != `{"aliases":[]}` {
			t.Errorf("got %s", got)
		}
		for path, code := range map[string]string{"/directory/room/nothing": "M_INVALID_PARAM", "/directory/room/%23a:away": "M_INVALID_PARAM", "/directory/room/%23irc_x:test": "M_EXCLUSIVE"} {
			e.want(400, code, "PUT", c3+path, alice, body)
		}
		e.ok("PUT", c3+"/directory/room/%23irc_x:test", "as-token", body)
		e.want(400, "M_MISSING_PARAM", "PUT", alias, alice, `{}`)
		e.want(400, "M_INVALID_PARAM", "PUT", alias, alice, `{"room_id":"x"}`)

		list := c3 + "/directory/list/room/" + string(r.id)
		if got := e.ok("GET", list, "", nil).Get("visibility").Str; got != "private" {
			t.Errorf("visibility %q", got)
		}
		e.want(403, "M_FORBIDDEN", "PUT", list, bob, `{"visibility":"public"}`)
		r.member("@bob:test", "join")
		r.set("@alice:test", "m.room.power_levels", "", obj{"users": obj{"@alice:test": 100}, "events": obj{"m.room.canonical_alias": 60}})
		e.want(403, "M_FORBIDDEN", "PUT", list, bob, `{"visibility":"public"}`)
		e.ok("PUT", list, alice, `{"visibility":"public"}`)
		if got := e.ok("GET", list, "", nil).Get("visibility").Str; got != "public" {
			t.Errorf("visibility %q", got)
		}
		e.want(400, "M_INVALID_PARAM", "PUT", list, alice, `{"visibility":"secret"}`)
		e.want(404, "M_NOT_FOUND", "GET", c3+"/directory/list/room/!none:test", "", nil)
	})
}

func TestPublicRooms(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		path := c3 + "/publicRooms"
		if got := e.ok("GET", path+"?limit=7&since=s", "", nil).Get("chunk.0.room_id").Str; got != "!public:test" || e.dir.list.Limit != 7 || e.dir.list.Since != "s" {
			t.Errorf("got %q for %+v", got, e.dir.list)
		}
		e.ok("POST", path, token, `{"limit":9999,"filter":{"generic_search_term":"w","room_types":[null,"m.space"]}}`)
		if q := e.dir.list; q.Limit != maxPublicRooms || q.SearchTerm != "w" || len(q.RoomTypes) != 2 || q.RoomTypes[0] != nil || *q.RoomTypes[1] != "m.space" {
			t.Errorf("asked for %+v", q)
		}
		if got := e.ok("GET", path+"?server=away&limit=3", "", nil).Get("chunk.0.room_id").Str; got != "!far:away" || e.fed.query.Limit != 3 || e.fed.posted {
			t.Errorf("got %q for %+v", got, e.fed.query)
		}
		e.ok("POST", path+"?server=away", token, `{"filter":{"generic_search_term":"w"}}`)
		if !e.fed.posted || string(e.fed.query.Filter) != `{"generic_search_term":"w"}` {
			t.Errorf("asked for %+v", e.fed.query)
		}
		e.want(400, "M_INVALID_PARAM", "GET", path+"?limit=-1", "", nil)
		e.want(400, "M_INVALID_PARAM", "GET", path+"?limit=x", "", nil)
		e.want(400, "M_INVALID_PARAM", "POST", path, token, `{"limit":-1}`)
		e.want(400, "M_BAD_JSON", "POST", path, token, `{"filter":7}`)
		e.want(400, "M_INVALID_PARAM", "GET", path+"?server=a%20b", "", nil)
		e.fed.err = merr.Forbidden("no")
		e.want(403, "M_FORBIDDEN", "GET", path+"?server=away", "", nil)
	})
}
