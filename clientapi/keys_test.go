package clientapi

import (
	"strings"
	"testing"
	"time"

	"weft/matrix/event"
)

func TestKeys(t *testing.T) {
	eachDB(t, func(c *Config) {
		c.Appservices = []Appservice{{ID: "as", ASToken: "as-token", HSToken: "h", SenderLocalpart: "bot"}}
	}, func(t *testing.T, e *env) {
		e.register("alice")
		token := e.login("alice", obj{"device_id": "D", "initial_device_display_name": "phone"}).Get("access_token").Str
		a := e.ok("POST", c3+"/keys/upload", token, obj{"device_keys": obj{"user_id": "@alice:test", "device_id": "D"},
			"one_time_keys": obj{"signed_curve25519:A": obj{"key": "k"}}})
		if a.Get("one_time_key_counts.signed_curve25519").Int() != 1 {
			t.Errorf("got %s", a.Raw)
		}
		if q := e.keys.uploaded[0]; q.Device != "D" || q.DisplayName != "phone" || q.DeviceKeys == nil || len(q.OneTimeKeys) != 1 {
			t.Errorf("uploaded %+v", q)
		}
		if got := e.ok("POST", c3+"/keys/query", token, obj{"device_keys": obj{"@bob:away": []string{"X"}}}).Get("device_keys").Raw; got != "{}" {
			t.Errorf("got %s", got)
		}
		if q := e.keys.queried; q.User != "@alice:test" || len(q.Devices["@bob:away"]) != 1 || q.TimeoutMS != 10_000 {
			t.Errorf("queried %+v", q)
		}
		if got := e.ok("POST", c3+"/keys/claim", token, obj{"one_time_keys": obj{"@bob:away": obj{"X": "signed_curve25519"}}, "timeout": 1 << 40}).Raw; got != `{"one_time_keys":{}}` {
			t.Errorf("got %s", got)
		}
		if q := e.keys.claimed; q.Keys["@bob:away"]["X"] != "signed_curve25519" || q.TimeoutMS != maxKeyTimeout {
			t.Errorf("claimed %+v", q)
		}
		if got := e.ok("POST", c3+"/keys/signatures/upload", token, `{}`).Raw; got != `{"failures":{}}` {
			t.Errorf("got %s", got)
		}
		for _, c := range []struct{ name, path, token, body, code string }{
			{"no device", "upload", "as-token", `{}`, "M_MISSING_PARAM"},
			{"another's keys", "upload", token, `{"device_keys":{"user_id":"@bob:test","device_id":"D"}}`, "M_BAD_JSON"},
			{"another device's keys", "upload", token, `{"device_keys":{"user_id":"@alice:test","device_id":"E"}}`, "M_BAD_JSON"},
			{"keys are a list", "upload", token, `{"device_keys":[]}`, "M_BAD_JSON"},
			{"devices are an object", "query", token, `{"device_keys":{"@b:a":{"x":true}}}`, "M_BAD_JSON"},
			{"no users", "query", token, `{}`, "M_MISSING_PARAM"},
			{"no user ID", "query", token, `{"device_keys":{"b":[]}}`, "M_INVALID_PARAM"},
			{"negative timeout", "query", token, `{"device_keys":{},"timeout":-1}`, "M_INVALID_PARAM"},
			{"claim nothing", "claim", token, `{}`, "M_MISSING_PARAM"},
			{"claim from nobody", "claim", token, `{"one_time_keys":{"b":{}}}`, "M_INVALID_PARAM"},
			{"signatures", "signatures/upload", token, `[]`, "M_BAD_JSON"},
		} {
			t.Run(c.name, func(t *testing.T) { e.want(400, c.code, "POST", c3+"/keys/"+c.path, c.token, c.body) })
		}
	})
}

func TestCrossSigningUpload(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		path := c3 + "/keys/device_signing/upload"
		first := obj{"master_key": obj{"k": 1}}
		e.ok("POST", path, token, first)
		e.ok("POST", path, token, first)
		second := obj{"master_key": obj{"k": 2}}
		session := e.want(401, "", "POST", path, token, second).Get("session").Str
		if e.keys.cross != `{"k":1}` {
			t.Errorf("the keys changed: %s", e.keys.cross)
		}
		auth := passwordAuth("alice", "pass-alice")
		auth["session"] = session
		second["auth"] = auth
		e.ok("POST", path, token, second)
		e.ok("POST", path, token, second)
		if e.keys.cross != `{"k":2}` {
			t.Errorf("the keys are %s", e.keys.cross)
		}
	})
}

func TestSendToDevice(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, device := e.register("alice")
		path := c3 + "/sendToDevice/m.test/t1"
		e.ok("PUT", path, token, `{"messages":{"@bob:test":{"*":{"b":1,"a":2}}}}`)
		q := e.todev.sent[0]
		if q.Sender != "@alice:test" || q.Device != device || q.Type != "m.test" || q.TxnID != "t1" || string(q.Messages["@bob:test"]["*"]) != `{"a":2,"b":1}` {
			t.Errorf("sent %+v", q)
		}
		e.want(400, "M_MISSING_PARAM", "PUT", path, token, `{}`)
		e.want(400, "M_INVALID_PARAM", "PUT", path, token, `{"messages":{"bob":{}}}`)
		e.want(400, "M_BAD_JSON", "PUT", path, token, `{"messages":{"@bob:test":{"*":1}}}`)
		e.want(400, "M_BAD_JSON", "PUT", path, token, `{"messages":[]}`)
	})
}

func TestKeyBackup(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		base := c3 + "/room_keys"
		e.want(404, "M_NOT_FOUND", "GET", base+"/version", token, nil)
		v := e.ok("POST", base+"/version", token, `{"algorithm":"m.megolm_backup.v1","auth_data":{"a":1}}`)
		if v.Get("version").Str != "1" {
			t.Errorf("got %s", v.Raw)
		}
		if got := e.ok("GET", base+"/version", token, nil).Get("version").Str; got != "1" {
			t.Errorf("got %q", got)
		}
		e.want(404, "M_NOT_FOUND", "GET", base+"/version/9", token, nil)
		e.ok("PUT", base+"/version/1", token, `{"algorithm":"m.megolm_backup.v1","auth_data":{},"version":"1"}`)
		e.want(400, "M_INVALID_PARAM", "PUT", base+"/version/1", token, `{"algorithm":"x","auth_data":{},"version":"2"}`)
		e.want(400, "M_MISSING_PARAM", "POST", base+"/version", token, `{"algorithm":"x"}`)
		const key = `{"first_message_index":1,"forwarded_count":0,"is_verified":true,"session_data":{"x":1}}`
		e.ok("PUT", base+"/keys/!r:test/s1?version=1", token, key)
		e.ok("PUT", base+"/keys/!r:test?version=1", token, `{"sessions":{"s2":`+key+`}}`)
		if got := e.ok("PUT", base+"/keys?version=1", token, `{"rooms":{"!q:test":{"sessions":{"s3":`+key+`}}}}`).Raw; got != `{"count":1,"etag":"e"}` {
			t.Errorf("got %s", got)
		}
		if got := e.ok("GET", base+"/keys/!r:test/s1?version=1", token, nil).Raw; got != key {
			t.Errorf("got %s", got)
		}
		if got := len(e.ok("GET", base+"/keys/!r:test?version=1", token, nil).Get("sessions").Map()); got != 2 {
			t.Errorf("%d sessions", got)
		}
		if got := len(e.ok("GET", base+"/keys?version=1", token, nil).Get("rooms").Map()); got != 2 {
			t.Errorf("%d rooms", got)
		}
		if got := e.ok("GET", base+"/keys/!none:test?version=1", token, nil).Raw; got != `{"sessions":{}}` {
			t.Errorf("got %s", got)
		}
		e.want(404, "M_NOT_FOUND", "GET", base+"/keys/!r:test/none?version=1", token, nil)
		a := e.want(403, "M_WRONG_ROOM_KEYS_VERSION", "PUT", base+"/keys/!r:test/s1?version=7", token, key)
		if a.Get("current_version").Str != "1" {
			t.Errorf("got %s", a.Raw)
		}
		e.want(400, "M_MISSING_PARAM", "PUT", base+"/keys/!r:test/s1", token, key)
		e.want(400, "M_BAD_JSON", "PUT", base+"/keys/!r:test/s1?version=1", token, `{}`)
		e.want(400, "M_BAD_JSON", "PUT", base+"/keys/!r:test/s1?version=1", token, strings.Replace(key, "true", "1", 1))
		e.want(400, "M_INVALID_PARAM", "PUT", base+"/keys?version=1", token, `{"rooms":{"q":{"sessions":{}}}}`)
		e.ok("DELETE", base+"/keys/!r:test?version=1", token, nil)
		if got := len(e.ok("GET", base+"/keys?version=1", token, nil).Get("rooms").Map()); got != 1 {
			t.Errorf("%d rooms", got)
		}
		e.ok("DELETE", base+"/version/1", token, nil)
		e.want(404, "M_NOT_FOUND", "GET", base+"/version", token, nil)
	})
}

func TestModeration(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		admin, _ := e.register("root")
		token, _ := e.register("alice")
		if _, err := e.db.Exec(t.Context(), `UPDATE accounts SET admin = 1 WHERE localpart = 'root'`); err != nil {
			t.Fatal(err)
		}
		const base = "/_matrix/client/v1/admin/"
		e.ok("GET", c3+"/account/whoami", token, nil) // into the cache
		e.want(403, "M_FORBIDDEN", "GET", base+"suspend/@root:test", token, nil)
		e.want(400, "M_INVALID_PARAM", "GET", base+"suspend/@alice:away", admin, nil)
		e.want(404, "M_NOT_FOUND", "GET", base+"lock/@nobody:test", admin, nil)
		e.want(403, "M_FORBIDDEN", "PUT", base+"lock/@root:test", admin, `{"locked":true}`)
		e.want(400, "M_BAD_JSON", "PUT", base+"lock/@alice:test", admin, `{"locked":1}`)
		e.ok("PUT", base+"suspend/@alice:test", admin, `{"suspended":true}`)
		if !e.ok("GET", base+"suspend/@alice:test", admin, nil).Get("suspended").Bool() {
			t.Error("not suspended")
		}
		e.want(403, "M_USER_SUSPENDED", "PUT", c3+"/rooms/!r:test/send/m.room.message/1", token, `{}`)
		e.want(403, "M_USER_SUSPENDED", "PUT", c3+"/profile/@alice:test/displayname", token, `{"displayname":"x"}`)
		e.want(403, "M_USER_SUSPENDED", "PUT", c3+"/rooms/!r:test/redact/$x/1", token, `{}`)
		e.ok("POST", c3+"/rooms/!r:test/leave", token, nil)
		e.ok("PUT", base+"suspend/@alice:test", admin, `{"suspended":false}`)
		e.ok("PUT", c3+"/rooms/!r:test/send/m.room.message/1", token, `{}`)

		e.ok("PUT", base+"lock/@alice:test", admin, `{"locked":true}`)
		a := e.want(401, "M_USER_LOCKED", "GET", c3+"/account/whoami", token, nil)
		if !a.Get("soft_logout").Bool() {
			t.Errorf("got %s", a.Raw)
		}
		e.want(401, "M_USER_LOCKED", "POST", c3+"/login", "", obj{"type": "m.login.password", "user": "alice", "password": "pass-alice"})
		e.ok("POST", c3+"/logout", token, nil)
		e.want(401, "M_UNKNOWN_TOKEN", "GET", c3+"/account/whoami", token, nil)
		if !e.ok("GET", base+"lock/@alice:test", admin, nil).Get("locked").Bool() {
			t.Error("not locked")
		}
		w := e.ok("GET", c3+"/admin/whois/@root:test", admin, nil)
		if w.Get("user_id").Str != "@root:test" || len(w.Get("devices").Map()) != 1 || !strings.Contains(w.Raw, `"ip":"192.0.2.1"`) {
			t.Errorf("got %s", w.Raw)
		}
	})
}

func TestReports(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		bob, _ := e.register("bob")
		r := e.newRoom("@alice:test")
		ev := r.set("@alice:test", "m.room.name", "", obj{"name": "bad"})
		room := c3 + "/rooms/" + string(r.id)
		e.ok("POST", room+"/report/"+string(ev.ID), token, `{"reason":"bad","score":-100}`)
		e.ok("POST", room+"/report", bob, `{"reason":"bad"}`)
		e.ok("POST", c3+"/users/@alice:test/report", bob, `{"reason":""}`)
		var n int
		if err := e.db.QueryRow(t.Context(), `SELECT COUNT(*) FROM reports WHERE reason = 'bad' OR user_id = '@alice:test'`).Scan(&n); err != nil || n != 3 {
			t.Errorf("%d reports (%v)", n, err)
		}
		e.want(404, "M_NOT_FOUND", "POST", room+"/report/"+string(ev.ID), bob, `{}`)
		e.want(404, "M_NOT_FOUND", "POST", room+"/report/$none", token, `{}`)
		e.want(404, "M_NOT_FOUND", "POST", c3+"/rooms/!none:test/report", token, `{}`)
		e.want(404, "M_NOT_FOUND", "POST", c3+"/users/@nobody:test/report", token, `{}`)
		e.want(400, "M_BAD_JSON", "POST", room+"/report", token, `{"reason":7}`)
	})
}

func TestOpenID(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		a := e.ok("POST", c3+"/user/@alice:test/openid/request_token", token, `{}`)
		if a.Get("token_type").Str != "Bearer" || a.Get("matrix_server_name").Str != "test" || a.Get("expires_in").Int() != 3600 {
			t.Errorf("got %s", a.Raw)
		}
		if user, err := e.srv.OpenIDUser(t.Context(), a.Get("access_token").Str); err != nil || user != "@alice:test" {
			t.Errorf("%q %v", user, err)
		}
		e.want(401, "M_UNKNOWN_TOKEN", "GET", c3+"/account/whoami", a.Get("access_token").Str, nil)
		e.clock.Advance(time.Hour)
		if _, err := e.srv.OpenIDUser(t.Context(), a.Get("access_token").Str); err == nil {
			t.Error("the token did not expire")
		}
		e.want(403, "M_FORBIDDEN", "POST", c3+"/user/@bob:test/openid/request_token", token, `{}`)
	})
}

func TestDiscovery(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		v := e.ok("GET", "/_matrix/client/versions", "", nil)
		if !strings.Contains(v.Get("versions").Raw, `"v1.19"`) || !v.Get("unstable_features").IsObject() {
			t.Errorf("got %s", v.Raw)
		}
		e.want(401, "M_MISSING_TOKEN", "GET", c3+"/capabilities", "", nil)
		token, _ := e.register("alice")
		c := e.ok("GET", c3+"/capabilities", token, nil).Get("capabilities")
		if c.Get("m\\.room_versions.default").Str != string(event.DefaultVersion) || len(c.Get("m\\.room_versions.available").Map()) != len(event.Versions()) ||
			!c.Get("m\\.change_password.enabled").Bool() || c.Get("m\\.account_moderation").Exists() {
			t.Errorf("got %s", c.Raw)
		}
		e.want(404, "M_NOT_FOUND", "GET", "/.well-known/matrix/client", "", nil)
		e.want(404, "M_NOT_FOUND", "GET", "/.well-known/matrix/support", "", nil)
		if got := e.ok("GET", c3+"/thirdparty/protocols", token, nil).Raw; got != "{}" {
			t.Errorf("got %s", got)
		}
		e.want(404, "M_NOT_FOUND", "GET", c3+"/thirdparty/protocol/irc", token, nil)
		if got := e.ok("GET", c3+"/voip/turnServer", token, nil).Raw; got != "{}" {
			t.Errorf("got %s", got)
		}
		e.want(404, "M_UNRECOGNIZED", "GET", c3+"/nothing", token, nil)
		e.want(405, "M_UNRECOGNIZED", "PUT", c3+"/login", token, nil)
	})
	eachDB(t, func(c *Config) {
		c.WellKnown = WellKnown{ClientBaseURL: "https://m.test", SupportContacts: []SupportContact{{Role: "m.role.admin", Email: "a@test"}}}
		c.TURN = TURN{URIs: []string{"turn:t"}, SharedSecret: "s"}
	}, func(t *testing.T, e *env) {
		if got := e.ok("GET", "/.well-known/matrix/client", "", nil).Raw; got != `{"m.homeserver":{"base_url":"https://m.test"}}` {
			t.Errorf("got %s", got)
		}
		if got := e.ok("GET", "/.well-known/matrix/support", "", nil).Raw; got != `{"contacts":[{"role":"m.role.admin","email_address":"a@test"}]}` {
			t.Errorf("got %s", got)
		}
		e.register("alice")
		a := e.login("alice", nil)
		if a.Get("well_known.m\\.homeserver.base_url").Str != "https://m.test" {
			t.Errorf("got %s", a.Raw)
		}
		turn := e.ok("GET", c3+"/voip/turnServer", a.Get("access_token").Str, nil)
		if turn.Get("ttl").Int() != 86400 || turn.Get("username").Str != "1700086400:@alice:test" || turn.Get("password").Str == "" {
			t.Errorf("got %s", turn.Raw)
		}
	})
}
