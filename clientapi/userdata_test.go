package clientapi

import (
	"fmt"
	"strings"
	"testing"

	"weft/internal/bus"
	"weft/internal/stream"
	"weft/matrix/id"
)

func TestAccountData(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		bob, _ := e.register("bob")
		global, room := c3+"/user/@alice:test/account_data/", c3+"/user/@alice:test/rooms/!r:test/account_data/"
		heard := make(chan bus.Update, 10)
		defer bus.SubscribeUpdates(e.bus, func(u bus.Update) { heard <- u })()

		e.ok("PUT", global+"a.b", token, `{"x":1.5}`)
		u := <-heard
		if u.Stream != stream.AccountData || u.Pos != 1 || len(u.Users) != 1 || u.Users[0] != "@alice:test" {
			t.Errorf("woken by %+v", u)
		}
		e.ok("PUT", room+"a.b", token, `{"x":2}`)
		e.ok("PUT", global+"a.b", token, `{"x":3}`)
		if got := e.ok("GET", global+"a.b", token, nil).Raw; got != `{"x":3}` {
			t.Errorf("global: %s", got)
		}
		if got := e.ok("GET", room+"a.b", token, nil).Raw; got != `{"x":2}` {
			t.Errorf("room: %s", got)
		}
		for _, c := range []struct {
			name, method, path, token string
			body                      any
			status                    int
			code                      string
		}{
			{"another's", "GET", global + "a.b", bob, nil, 403, "M_FORBIDDEN"},
			{"another's, write", "PUT", global + "a.b", bob, `{}`, 403, "M_FORBIDDEN"},
			{"none", "GET", global + "c.d", token, nil, 404, "M_NOT_FOUND"},
			{"no object", "PUT", global + "a.b", token, `[]`, 400, "M_BAD_JSON"},
			{"no JSON", "PUT", global + "a.b", token, `{`, 400, "M_NOT_JSON"},
			{"empty body", "PUT", global + "a.b", token, nil, 400, "M_NOT_JSON"},
			{"managed", "PUT", global + "m.push_rules", token, `{}`, 405, "M_BAD_JSON"},
			{"managed in a room", "PUT", room + "m.fully_read", token, `{}`, 405, "M_BAD_JSON"},
			{"bad room", "PUT", c3 + "/user/@alice:test/rooms/r/account_data/a", token, `{}`, 400, "M_INVALID_PARAM"},
			{"bad user", "PUT", c3 + "/user/alice/account_data/a", token, `{}`, 400, "M_INVALID_PARAM"},
			{"long type", "PUT", global + strings.Repeat("t", 256), token, `{}`, 400, "M_INVALID_PARAM"},
			{"too large", "PUT", global + "a.b", token, `{"x":"` + strings.Repeat("y", maxDataContent) + `"}`, 413, "M_TOO_LARGE"},
		} {
			t.Run(c.name, func(t *testing.T) { e.want(c.status, c.code, c.method, c.path, c.token, c.body) })
		}
		ctx := t.Context()
		all, err := e.srv.ListAccountData(ctx, "@alice:test", 0, 100)
		if err != nil || len(all) != 3 || all[0].Type != "m.push_rules" || all[1].Room != "!r:test" || string(all[2].Content) != `{"x":3}` {
			t.Errorf("list: %+v %v", all, err)
		}
		if later, err := e.srv.ListAccountData(ctx, "@alice:test", 2, 100); err != nil || len(later) != 1 || later[0].Pos != 3 {
			t.Errorf("list from 2: %+v %v", later, err)
		}
		// A deleted piece is in the list, without content.
		if err := e.srv.SetAccountData(ctx, "@alice:test", "", "a.b", nil); err != nil {
			t.Fatal(err)
		}
		e.want(404, "M_NOT_FOUND", "GET", global+"a.b", token, nil)
		if later, err := e.srv.ListAccountData(ctx, "@alice:test", 3, 100); err != nil || len(later) != 1 || later[0].Content != nil {
			t.Errorf("list from 3: %+v %v", later, err)
		}
	})
}

func TestTags(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		tags := c3 + "/user/@alice:test/rooms/!r:test/tags"
		if got := e.ok("GET", tags, token, nil).Raw; got != `{"tags":{}}` {
			t.Errorf("got %s", got)
		}
		e.ok("PUT", tags+"/m.favourite", token, `{"order":0.25}`)
		e.ok("PUT", tags+"/u.work", token, `{}`)
		e.ok("DELETE", tags+"/u.other", token, nil)
		if got := e.ok("GET", tags, token, nil).Raw; got != `{"tags":{"m.favourite":{"order":0.25},"u.work":{}}}` {
			t.Errorf("got %s", got)
		}
		if got := e.ok("GET", c3+"/user/@alice:test/rooms/!r:test/account_data/m.tag", token, nil).Get("tags.m\\.favourite.order").Num; got != 0.25 {
			t.Errorf("got %v", got)
		}
		e.ok("DELETE", tags+"/u.work", token, nil)
		if got := e.ok("GET", tags, token, nil).Raw; got != `{"tags":{"m.favourite":{"order":0.25}}}` {
			t.Errorf("got %s", got)
		}
		e.want(400, "M_BAD_JSON", "PUT", tags+"/x", token, `{"order":"first"}`)
		for i := range maxTags - 1 {
			e.ok("PUT", fmt.Sprintf("%s/u.%d", tags, i), token, `{}`)
		}
		e.want(403, "M_RESOURCE_LIMIT_EXCEEDED", "PUT", tags+"/u.last", token, `{}`)
	})
}

func TestPushRules(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		rules := c3 + "/pushrules/"
		all := e.ok("GET", rules, token, nil)
		if got := all.Get("global.override.#.rule_id").Raw; got != `[".m.rule.master",".m.rule.suppress_notices",".m.rule.invite_for_me",".m.rule.member_event",".m.rule.is_user_mention",".m.rule.is_room_mention",".m.rule.tombstone",".m.rule.reaction",".m.rule.room.server_acl",".m.rule.suppress_edits"]` {
			t.Errorf("override: %s", got)
		}
		if got := all.Get("global.underride.#.rule_id").Raw; got != `[".m.rule.call",".m.rule.encrypted_room_one_to_one",".m.rule.room_one_to_one",".m.rule.message",".m.rule.encrypted"]` {
			t.Errorf("underride: %s", got)
		}
		if all.Get("global.override.0.enabled").Bool() || !all.Get("global.override.1.enabled").Bool() {
			t.Error("the master rule is on, or another is off")
		}
		if got := all.Get("global.override.2.conditions.2.pattern").Str; got != "@alice:test" {
			t.Errorf("invite_for_me is for %q", got)
		}
		for _, kind := range []string{"content", "room", "sender"} {
			if got := all.Get("global." + kind).Raw; got != "[]" {
				t.Errorf("%s: %s", kind, got)
			}
		}
		ids := func(kind string) string {
			return e.ok("GET", rules+"global/", token, nil).Get(kind + ".#(default==false)#.rule_id").Raw
		}
		put := func(path string, body any) { e.ok("PUT", rules+"global/"+path, token, body) }
		put("override/a", `{"actions":["notify"],"conditions":[{"kind":"event_match","key":"type","pattern":"x"}]}`)
		put("override/b", `{"actions":[]}`)
		put("override/c?after=b", `{"actions":[]}`)
		put("override/d?before=a", `{"actions":[]}`)
		if got := ids("override"); got != `["b","c","d","a"]` {
			t.Errorf("order %s", got)
		}
		put("override/b?after=a", `{"actions":["notify"]}`)
		put("override/c", `{"actions":["notify"]}`)
		if got := ids("override"); got != `["c","d","a","b"]` {
			t.Errorf("order %s", got)
		}
		if got := e.ok("GET", rules+"global/", token, nil).Get("override.0.rule_id").Str; got != ".m.rule.master" {
			t.Errorf("%s is above the master rule", got)
		}
		put("sender/@bob:test", `{"actions":["dont_notify"]}`)
		put("content/cake", `{"actions":["notify",{"set_tweak":"sound","value":"x"}],"pattern":"cake"}`)
		put("room/!foo:example.com", `{"actions":["notify"]}`)
		one := e.ok("GET", rules+"global/content/cake", token, nil)
		if one.Raw != `{"rule_id":"cake","default":false,"enabled":true,"pattern":"cake","actions":["notify",{"set_tweak":"sound","value":"x"}]}` {
			t.Errorf("got %s", one.Raw)
		}
		put("content/cake/enabled", `{"enabled":false}`)
		put("content/cake/actions", `{"actions":[]}`)
		put("override/.m.rule.master/enabled", `{"enabled":true}`)
		put("underride/.m.rule.message/actions", `{"actions":[]}`)
		if e.ok("GET", rules+"global/content/cake/enabled", token, nil).Get("enabled").Bool() {
			t.Error("still enabled")
		}
		if got := e.ok("GET", rules+"global/content/cake/actions", token, nil).Raw; got != `{"actions":[]}` {
			t.Errorf("actions %s", got)
		}
		if !e.ok("GET", rules+"global/override/.m.rule.master", token, nil).Get("enabled").Bool() {
			t.Error("the master rule is off")
		}
		data, err := e.srv.GetAccountData(t.Context(), "@alice:test", "", "m.push_rules")
		if err != nil || string(data) != e.ok("GET", rules, token, nil).Raw {
			t.Errorf("account data %s %v", data, err)
		}
		e.ok("DELETE", rules+"global/override/d", token, nil)
		if got := ids("override"); got != `["c","a","b"]` {
			t.Errorf("order %s", got)
		}
		before, err := stream.Position(t.Context(), e.db, stream.AccountData)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name, method, path string
			body               any
			status             int
			code               string
		}{
			{"default", "DELETE", "override/.m.rule.master", nil, 400, "M_INVALID_PARAM"},
			{"reserved name", "PUT", "override/.mine", `{"actions":[]}`, 400, "M_INVALID_PARAM"},
			{"slash", "PUT", "override/a%2Fb", `{"actions":[]}`, 400, "M_INVALID_PARAM"},
			{"no kind", "PUT", "upperride/a", `{"actions":[]}`, 400, "M_INVALID_PARAM"},
			{"no actions", "PUT", "override/a", `{}`, 400, "M_MISSING_PARAM"},
			{"unknown action", "PUT", "override/a", `{"actions":["shout"]}`, 400, "M_INVALID_PARAM"},
			{"bad tweak", "PUT", "override/a", `{"actions":[{}]}`, 400, "M_INVALID_PARAM"},
			{"bad condition", "PUT", "override/a", `{"actions":[],"conditions":[{}]}`, 400, "M_INVALID_PARAM"},
			{"a count that is no string", "PUT", "override/a", `{"actions":[],"conditions":[{"kind":"room_member_count","is":2}]}`, 400, "M_INVALID_PARAM"},
			{"a pattern that is no string", "PUT", "override/a", `{"actions":[],"conditions":[{"kind":"event_match","key":"type","pattern":2}]}`, 400, "M_INVALID_PARAM"},
			{"a key that is no string", "PUT", "override/a", `{"actions":[],"conditions":[{"kind":"event_match","key":2}]}`, 400, "M_INVALID_PARAM"},
			{"no pattern", "PUT", "content/a", `{"actions":[]}`, 400, "M_MISSING_PARAM"},
			{"no room", "PUT", "room/a", `{"actions":[]}`, 400, "M_INVALID_PARAM"},
			{"before nothing", "PUT", "override/x?before=none", `{"actions":[]}`, 400, "M_UNKNOWN"},
			{"after a default", "PUT", "override/x?after=.m.rule.reaction", `{"actions":[]}`, 400, "M_UNKNOWN"},
			{"enable nothing", "PUT", "override/none/enabled", `{"enabled":true}`, 404, "M_NOT_FOUND"},
			{"enable how", "PUT", "override/a/enabled", `{}`, 400, "M_MISSING_PARAM"},
			{"no such rule", "GET", "override/none", nil, 404, "M_NOT_FOUND"},
			{"delete nothing", "DELETE", "override/none", nil, 404, "M_NOT_FOUND"},
		} {
			t.Run(c.name, func(t *testing.T) { e.want(c.status, c.code, c.method, rules+"global/"+c.path, token, c.body) })
		}
		if after, err := stream.Position(t.Context(), e.db, stream.AccountData); err != nil || after != before {
			t.Errorf("refused requests moved the stream from %d to %d (%v)", before, after, err)
		}
	})
}

func TestMergeRulesFollowsTheDefaults(t *testing.T) {
	stored := []pushRule{
		{ID: ".m.rule.gone", Default: true, Enabled: true},
		{ID: "mine", Enabled: true},
		{ID: ".m.rule.b", Default: true, Enabled: false, Actions: raw(`"notify"`)},
	}
	defaults := []pushRule{defaultRule(masterRule, nil, nil), defaultRule(".m.rule.a", nil, nil), defaultRule(".m.rule.b", nil, nil)}
	got := mergeRules(stored, defaults)
	var names []string
	for _, r := range got {
		names = append(names, r.ID)
	}
	if strings.Join(names, " ") != ".m.rule.master mine .m.rule.a .m.rule.b" {
		t.Errorf("got %v", names)
	}
	if got[3].Enabled || len(got[3].Actions) != 1 {
		t.Errorf("the user's choice was lost: %+v", got[3])
	}
}

func TestPushers(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		bob, _ := e.register("bob")
		p := func(more obj) obj {
			out := obj{"kind": "http", "app_id": "app", "pushkey": "key", "app_display_name": "App", "device_display_name": "Dev",
				"lang": "en", "profile_tag": "tag", "data": obj{"url": "https://push.example/_matrix/push/v1/notify", "format": "event_id_only"}}
			for k, v := range more {
				out[k] = v
			}
			return out
		}
		list := func(token string) answer { return e.ok("GET", c3+"/pushers", token, nil) }
		e.ok("POST", c3+"/pushers/set", token, p(nil))
		e.ok("POST", c3+"/pushers/set", token, p(obj{"lang": "fr"}))
		got := list(token).Get("pushers")
		if len(got.Array()) != 1 || got.Get("0.lang").Str != "fr" || got.Get("0.data.format").Str != "event_id_only" || got.Get("0.profile_tag").Str != "tag" {
			t.Errorf("got %s", got.Raw)
		}
		// The same key of another user takes its place, unless it is appended.
		e.ok("POST", c3+"/pushers/set", bob, p(obj{"append": true}))
		if n := len(list(token).Get("pushers").Array()); n != 1 {
			t.Errorf("alice has %d", n)
		}
		e.ok("POST", c3+"/pushers/set", bob, p(nil))
		if n := len(list(token).Get("pushers").Array()); n != 0 {
			t.Errorf("alice has %d", n)
		}
		e.ok("POST", c3+"/pushers/set", bob, p(obj{"kind": nil}))
		if n := len(list(bob).Get("pushers").Array()); n != 0 {
			t.Errorf("bob has %d", n)
		}
		for _, c := range []struct {
			name string
			body any
			code string
		}{
			{"kind", p(obj{"kind": "pigeon"}), "M_INVALID_PARAM"},
			{"no lang", p(obj{"lang": ""}), "M_MISSING_PARAM"},
			{"no url", p(obj{"data": obj{}}), "M_MISSING_PARAM"},
			{"bad url", p(obj{"data": obj{"url": "https://push.example/elsewhere"}}), "M_INVALID_PARAM"},
			{"no pushkey", p(obj{"pushkey": ""}), "M_MISSING_PARAM"},
			{"long pushkey", p(obj{"pushkey": strings.Repeat("k", 513)}), "M_INVALID_PARAM"},
			{"data", p(obj{"data": 7}), "M_BAD_JSON"},
		} {
			t.Run(c.name, func(t *testing.T) { e.want(400, c.code, "POST", c3+"/pushers/set", token, c.body) })
		}
		// Pushers of sessions that a new password ends go with them.
		other := e.login("alice", nil).Get("access_token").Str
		e.ok("POST", c3+"/pushers/set", other, p(obj{"pushkey": "other"}))
		e.ok("POST", c3+"/pushers/set", token, p(obj{"pushkey": "mine"}))
		e.ok("POST", c3+"/account/password", token, obj{"new_password": "two", "auth": passwordAuth("alice", "pass-alice")})
		if got := list(token).Get("pushers.#.pushkey").Raw; got != `["mine"]` {
			t.Errorf("left: %s", got)
		}
	})
}

func TestProfile(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		bob, _ := e.register("bob")
		me := c3 + "/profile/@alice:test"
		if got := e.ok("GET", me, "", nil).Raw; got != `{"displayname":"alice"}` {
			t.Errorf("a new profile is %s", got)
		}
		room := e.newRoom("@alice:test")
		e.ok("PUT", me+"/displayname", token, `{"displayname":"Alice"}`)
		e.ok("PUT", me+"/avatar_url", token, `{"avatar_url":"mxc://a/b"}`)
		e.ok("PUT", me+"/m.tz", token, `{"m.tz":"Europe/Berlin"}`)
		e.ok("PUT", me+"/org.example.x", token, `{"org.example.x":{"n": [1.5, null]}}`)
		if got := e.ok("GET", me, "", nil).Raw; got != `{"avatar_url":"mxc://a/b","displayname":"Alice","m.tz":"Europe/Berlin","org.example.x":{"n":[1.5,null]}}` {
			t.Errorf("got %s", got)
		}
		if got := e.ok("GET", me+"/displayname", "", nil).Raw; got != `{"displayname":"Alice"}` {
			t.Errorf("got %s", got)
		}
		if n := len(e.rooms.members); n != 2 || e.rooms.members[1].Room != room.id || e.rooms.members[1].Membership != "join" ||
			string(e.rooms.members[1].Content) != `{"avatar_url":"mxc://a/b","displayname":"Alice"}` {
			t.Errorf("sent to rooms: %+v", e.rooms.members)
		}
		e.ok("DELETE", me+"/m.tz", token, nil)
		e.ok("DELETE", me+"/m.tz", token, nil)
		e.ok("PUT", me+"/avatar_url", token, `{"avatar_url":""}`)
		e.want(404, "M_NOT_FOUND", "GET", me+"/m.tz", "", nil)
		e.want(404, "M_NOT_FOUND", "GET", me+"/avatar_url", "", nil)
		for _, c := range []struct {
			name, method, path, token string
			body                      any
			status                    int
			code                      string
		}{
			{"another's", "PUT", me + "/displayname", bob, `{"displayname":"x"}`, 403, "M_FORBIDDEN"},
			{"absent", "PUT", me + "/displayname", token, `{}`, 400, "M_MISSING_PARAM"},
			{"no string", "PUT", me + "/displayname", token, `{"displayname":7}`, 400, "M_BAD_JSON"},
			{"NUL", "PUT", me + "/displayname", token, `{"displayname":"a\u0000"}`, 400, "M_INVALID_PARAM"},
			{"bad key", "PUT", me + "/Upper.Case", token, `{"Upper.Case":1}`, 400, "M_INVALID_PARAM"},
			{"no namespace", "PUT", me + "/nickname", token, `{"nickname":1}`, 400, "M_INVALID_PARAM"},
			{"long key", "PUT", me + "/a." + strings.Repeat("b", 255), token, `{}`, 400, "M_KEY_TOO_LARGE"},
			{"large", "PUT", me + "/org.big", token, `{"org.big":"` + strings.Repeat("x", maxProfile) + `"}`, 400, "M_PROFILE_TOO_LARGE"},
			{"nobody", "GET", c3 + "/profile/@nobody:test", "", nil, 404, "M_NOT_FOUND"},
			{"no user ID", "GET", c3 + "/profile/alice", "", nil, 400, "M_INVALID_PARAM"},
		} {
			t.Run(c.name, func(t *testing.T) { e.want(c.status, c.code, c.method, c.path, c.token, c.body) })
		}
		e.want(404, "M_NOT_FOUND", "GET", me+"/org.big", "", nil)
	})
}

func TestRemoteProfile(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		e.fed.profiles = map[id.User]string{"@far:away": `{"displayname":"Far","x.y":1}`}
		for range 2 {
			if got := e.ok("GET", c3+"/profile/@far:away/displayname", "", nil).Get("displayname").Str; got != "Far" {
				t.Errorf("got %q", got)
			}
		}
		if e.fed.asked != 1 {
			t.Errorf("asked %d times", e.fed.asked)
		}
		e.want(404, "M_NOT_FOUND", "GET", c3+"/profile/@gone:away", "", nil)
		e.fed.err = fmt.Errorf("connection refused")
		e.want(502, "M_CONNECTION_FAILED", "GET", c3+"/profile/@other:away", "", nil)
	})
	eachDB(t, func(c *Config) { c.Fed = nil }, func(t *testing.T, e *env) {
		e.want(404, "M_NOT_FOUND", "GET", c3+"/profile/@far:away", "", nil)
	})
}

func TestProfileReachesRoomsLater(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		e.newRoom("@alice:test")
		// The process ended before rooms were told: the note is all there is.
		if err := e.srv.storeProfileField(t.Context(), "@alice:test", fieldDisplayName, []byte(`"Later"`)); err != nil {
			t.Fatal(err)
		}
		if err := e.srv.spread.all(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(e.rooms.members) != 1 || string(e.rooms.members[0].Content) != `{"displayname":"Later"}` {
			t.Errorf("sent: %+v", e.rooms.members)
		}
		if err := e.srv.spread.all(t.Context()); err != nil || len(e.rooms.members) != 1 {
			t.Errorf("sent again: %+v %v", e.rooms.members, err)
		}
		// A deactivated user leaves.
		e.ok("POST", c3+"/account/deactivate", token, obj{"auth": passwordAuth("alice", "pass-alice")})
		if err := e.srv.spread.all(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(e.rooms.members); n != 2 || e.rooms.members[1].Membership != "leave" {
			t.Errorf("sent: %+v", e.rooms.members)
		}
	})
}

func TestUserDirectory(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		tokens := map[string]string{}
		for _, name := range []string{"alice", "bob", "carol", "dave_x"} {
			tokens[name], _ = e.register(name)
		}
		e.ok("PUT", c3+"/profile/@alice:test/displayname", tokens["alice"], `{"displayname":"Älice Cooper"}`)
		private := e.newRoom("@bob:test")
		private.set("@alice:test", "m.room.member", "@alice:test", obj{"membership": "join", "displayname": "Freddy"})
		private.member("@zed:away", "join")
		find := func(who, term string) string {
			return e.ok("POST", c3+"/user_directory/search", tokens[who], obj{"search_term": term}).Get("results.#.user_id").Raw
		}
		for _, c := range []struct{ who, term, want string }{
			{"bob", "cooper", `["@alice:test"]`},
			{"bob", "älice", `["@alice:test"]`},
			{"bob", "@alice", `["@alice:test"]`},
			{"bob", "cooper alice", `["@alice:test"]`},
			{"bob", "freddy", `[]`},
			{"bob", "zed", `["@zed:away"]`},
			{"bob", "bob", `[]`},
			{"bob", "%", `[]`},
			{"carol", "cooper", `[]`},
			{"carol", "zed", `[]`},
		} {
			if got := find(c.who, c.term); got != c.want {
				t.Errorf("%s looking for %q: %s, want %s", c.who, c.term, got, c.want)
			}
		}
		public := e.newRoom("@alice:test")
		public.set("@alice:test", "m.room.join_rules", "", obj{"join_rule": "public"})
		public.member("@dave_x:test", "join")
		if got := find("carol", "cooper"); got != `["@alice:test"]` {
			t.Errorf("in a public room: %s", got)
		}
		if got := find("carol", "dave_x"); got != `["@dave_x:test"]` {
			t.Errorf("underscore: %s", got)
		}
		a := e.ok("POST", c3+"/user_directory/search", tokens["carol"], obj{"search_term": "test", "limit": 1})
		if !a.Get("limited").Bool() || len(a.Get("results").Array()) != 1 {
			t.Errorf("limited: %s", a.Raw)
		}
		e.want(400, "M_MISSING_PARAM", "POST", c3+"/user_directory/search", tokens["bob"], `{}`)
		e.want(400, "M_INVALID_PARAM", "POST", c3+"/user_directory/search", tokens["bob"], obj{"search_term": "x", "limit": 0})
	})
}
