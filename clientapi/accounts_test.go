package clientapi

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/clientapi/api"
	"weft/internal/httpapi"
	"weft/matrix/id"
)

func TestRegister(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		flows := e.want(401, "", "POST", c3+"/register", "", `{}`)
		if flows.Get("flows.0.stages.0").Str != "m.login.dummy" || !flows.Get("params").IsObject() || flows.Get("session").Str == "" {
			t.Errorf("flows: %s", flows.Raw)
		}
		if flows.Get("errcode").Exists() {
			t.Errorf("the first challenge has an errcode: %s", flows.Raw)
		}
		// The session of a probe is good for the registration that follows.
		a := e.ok("POST", c3+"/register", "", obj{"username": "Alice", "password": "p\u00e4ss", "device_id": "DEV",
			"auth": obj{"type": "m.login.dummy", "session": flows.Get("session").Str}})
		if a.Get("user_id").Str != "@alice:test" || a.Get("device_id").Str != "DEV" || a.Get("access_token").Str == "" {
			t.Errorf("registered: %s", a.Raw)
		}
		who := e.ok("GET", c3+"/account/whoami", a.Get("access_token").Str, nil)
		if who.Get("user_id").Str != "@alice:test" || who.Get("device_id").Str != "DEV" || who.Get("is_guest").Bool() {
			t.Errorf("whoami: %s", who.Raw)
		}
		if !slices.Contains(e.keys.changed, "DEV") {
			t.Errorf("the key server was not told of the device: %v", e.keys.changed)
		}
		dummy := obj{"type": "m.login.dummy"}
		quiet := e.ok("POST", c3+"/register", "", obj{"username": "quiet", "password": "x", "inhibit_login": true, "auth": dummy})
		if quiet.Get("access_token").Exists() || quiet.Get("user_id").Str != "@quiet:test" {
			t.Errorf("inhibit_login: %s", quiet.Raw)
		}
		nameless := e.ok("POST", c3+"/register", "", obj{"password": "x", "auth": dummy})
		if u := nameless.Get("user_id").Str; len(u) < 10 {
			t.Errorf("a user without a name is %q", u)
		}
		for _, c := range []struct {
			name   string
			body   any
			status int
			code   string
		}{
			{"taken", obj{"username": "alice", "password": "x", "auth": dummy}, 400, "M_USER_IN_USE"},
			{"bad characters", obj{"username": "al,ice", "password": "x", "auth": dummy}, 400, "M_INVALID_USERNAME"},
			{"NUL", obj{"username": "al\x00ice", "password": "x", "auth": dummy}, 400, "M_INVALID_USERNAME"},
			{"no password", obj{"username": "bob", "auth": dummy}, 400, "M_MISSING_PARAM"},
			{"long password", obj{"username": "bob", "password": strings.Repeat("x", 600), "auth": dummy}, 400, "M_INVALID_PARAM"},
			{"name of wrong type", `{"username":7}`, 400, "M_BAD_JSON"},
			{"not JSON", `{"username":`, 400, "M_NOT_JSON"},
			{"unknown stage", obj{"username": "bob", "password": "x", "auth": obj{"type": "m.login.magic"}}, 400, "M_UNRECOGNIZED"},
			{"unknown session", obj{"username": "bob", "password": "x", "auth": obj{"type": "m.login.dummy", "session": "x"}}, 401, "M_UNKNOWN"},
			{"NUL in a device", obj{"username": "bob", "password": "x", "device_id": "a\x00", "auth": dummy}, 400, "M_INVALID_PARAM"},
		} {
			t.Run(c.name, func(t *testing.T) { e.want(c.status, c.code, "POST", c3+"/register", "", c.body) })
		}
		if _, err := e.srv.GetAccount(t.Context(), "@bob:test"); err == nil {
			t.Error("a refused registration made an account")
		}
		e.want(400, "M_INVALID_PARAM", "POST", c3+"/register?kind=robot", "", `{}`)
		e.want(403, "M_FORBIDDEN", "POST", c3+"/register?kind=guest", "", `{}`)
		if !e.ok("GET", c3+"/register/available?username=carol", "", nil).Get("available").Bool() {
			t.Error("carol is not available")
		}
		e.want(400, "M_USER_IN_USE", "GET", c3+"/register/available?username=alice", "", nil)
		e.want(400, "M_INVALID_USERNAME", "GET", c3+"/register/available?username=a,b", "", nil)
		e.want(400, "M_MISSING_PARAM", "GET", c3+"/register/available", "", nil)
	})
}

func TestRegistrationModes(t *testing.T) {
	validity := "/_matrix/client/v1/register/m.login.registration_token/validity?token="
	t.Run("closed", func(t *testing.T) {
		eachDB(t, func(c *Config) { c.Registration.Mode = "" }, func(t *testing.T, e *env) {
			e.want(403, "M_FORBIDDEN", "POST", c3+"/register", "", obj{"username": "a", "password": "x", "auth": obj{"type": "m.login.dummy"}})
			e.want(403, "M_FORBIDDEN", "GET", validity+"x", "", nil)
		})
	})
	t.Run("token", func(t *testing.T) {
		eachDB(t, func(c *Config) { c.Registration = Registration{Mode: "token", Tokens: []string{"fixed"}} }, func(t *testing.T, e *env) {
			if err := e.srv.CreateRegistrationToken(t.Context(), "once", 1, time.Time{}); err != nil {
				t.Fatal(err)
			}
			if err := e.srv.CreateRegistrationToken(t.Context(), "brief", -1, e.clock.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			if err := e.srv.CreateRegistrationToken(t.Context(), "a b", 1, time.Time{}); err == nil {
				t.Error("a token with a space was taken")
			}
			use := func(name, token string) answer {
				return e.do("POST", c3+"/register", "", obj{"username": name, "password": "x",
					"auth": obj{"type": "m.login.registration_token", "token": token}})
			}
			if a := use("a", "wrong"); a.status != 401 || a.Get("errcode").Str != "M_UNAUTHORIZED" || a.Get("flows.0.stages.0").Str != "m.login.registration_token" {
				t.Errorf("wrong token: %d %s", a.status, a.Raw)
			}
			for i, c := range []struct {
				token  string
				status int
			}{{"once", 200}, {"once", 401}, {"fixed", 200}, {"fixed", 200}, {"brief", 200}} {
				if a := use(string(rune('b'+i)), c.token); a.status != c.status {
					t.Errorf("%d %s: got %d %s", i, c.token, a.status, a.Raw)
				}
			}
			if e.ok("GET", validity+"once", "", nil).Get("valid").Bool() || !e.ok("GET", validity+"brief", "", nil).Get("valid").Bool() {
				t.Error("validity is wrong")
			}
			e.clock.Advance(2 * time.Hour)
			if e.ok("GET", validity+"brief", "", nil).Get("valid").Bool() {
				t.Error("an expired token is valid")
			}
			e.want(400, "M_UNRECOGNIZED", "POST", c3+"/register", "", obj{"username": "z", "password": "x", "auth": obj{"type": "m.login.dummy"}})
		})
	})
	t.Run("guests", func(t *testing.T) {
		eachDB(t, func(c *Config) { c.Registration.Guests = true }, func(t *testing.T, e *env) {
			a := e.ok("POST", c3+"/register?kind=guest", "", `{}`)
			token := a.Get("access_token").Str
			if !e.ok("GET", c3+"/account/whoami", token, nil).Get("is_guest").Bool() {
				t.Error("the guest is none")
			}
			e.want(403, "M_GUEST_ACCESS_FORBIDDEN", "GET", c3+"/devices", token, nil)
		})
	})
	if _, err := New(context.Background(), Config{Registration: Registration{Mode: "maybe"}}); err == nil {
		t.Error("an unknown mode was taken")
	}
}

func TestSharedSecretRegistration(t *testing.T) {
	const path = "/_synapse/admin/v1/register"
	eachDB(t, nil, func(t *testing.T, e *env) { e.want(403, "M_FORBIDDEN", "GET", path, "", nil) })
	eachDB(t, func(c *Config) { c.Registration = Registration{SharedSecret: "s3cret"} }, func(t *testing.T, e *env) {
		send := func(q sharedSecretRequest, secret string) answer {
			q.Nonce = e.ok("GET", path, "", nil).Get("nonce").Str
			q.MAC = q.mac(secret)
			return e.do("POST", path, "", q)
		}
		a := send(sharedSecretRequest{Username: "Root", Password: "pw", Admin: true}, "s3cret")
		if a.status != 200 || a.Get("user_id").Str != "@root:test" || a.Get("access_token").Str == "" {
			t.Fatalf("got %d %s", a.status, a.Raw)
		}
		if !e.account("root").Admin {
			t.Error("root is no administrator")
		}
		name := "Nick"
		if a := send(sharedSecretRequest{Username: "nick", Password: "pw", DisplayName: &name}, "s3cret"); a.status != 200 {
			t.Fatalf("got %d %s", a.status, a.Raw)
		}
		if got := e.ok("GET", c3+"/profile/@nick:test/displayname", "", nil).Get("displayname").Str; got != name {
			t.Errorf("display name %q", got)
		}
		if e.account("nick").Admin {
			t.Error("nick is an administrator")
		}
		if a := send(sharedSecretRequest{Username: "eve", Password: "pw"}, "guess"); a.status != 403 {
			t.Errorf("wrong secret: %d %s", a.status, a.Raw)
		}
		if a := send(sharedSecretRequest{Username: "us,er", Password: "pw"}, "s3cret"); a.Get("errcode").Str != "M_INVALID_USERNAME" {
			t.Errorf("bad name: %d %s", a.status, a.Raw)
		}
		q := sharedSecretRequest{Nonce: "made-up", Username: "eve", Password: "pw"}
		q.MAC = q.mac("s3cret")
		e.want(400, "M_UNKNOWN", "POST", path, "", q)
		// A nonce works once, and not for long.
		q.Nonce = e.ok("GET", path, "", nil).Get("nonce").Str
		q.MAC = q.mac("s3cret")
		e.clock.Advance(2 * nonceLifetime)
		e.want(400, "M_UNKNOWN", "POST", path, "", q)
		q.Nonce = e.ok("GET", path, "", nil).Get("nonce").Str
		q.MAC = q.mac("s3cret")
		e.ok("POST", path, "", q)
		e.want(400, "M_UNKNOWN", "POST", path, "", q)
	})
}

func TestLogin(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		e.register("alice")
		for _, name := range []string{"alice", "@alice:test", "@ALICE:test", "Alice"} {
			a := e.ok("POST", c3+"/login", "", obj{"type": "m.login.password", "password": "pass-alice", "identifier": obj{"type": "m.id.user", "user": name}})
			if a.Get("user_id").Str != "@alice:test" {
				t.Errorf("login as %q: %s", name, a.Raw)
			}
		}
		e.ok("POST", c3+"/login", "", obj{"type": "m.login.password", "password": "pass-alice", "user": "alice"})
		user := func(u string) obj { return obj{"type": "m.id.user", "user": u} }
		for _, c := range []struct {
			name   string
			body   any
			status int
			code   string
		}{
			{"wrong password", obj{"type": "m.login.password", "password": "x", "identifier": user("alice")}, 403, "M_FORBIDDEN"},
			{"no such user", obj{"type": "m.login.password", "password": "x", "identifier": user("nobody")}, 403, "M_FORBIDDEN"},
			{"other server", obj{"type": "m.login.password", "password": "pass-alice", "identifier": user("@alice:away")}, 403, "M_FORBIDDEN"},
			{"NUL", obj{"type": "m.login.password", "password": "x", "identifier": user("al\x00")}, 403, "M_FORBIDDEN"},
			{"email", obj{"type": "m.login.password", "password": "x", "identifier": obj{"type": "m.id.thirdparty", "medium": "email", "address": "a@b"}}, 403, "M_FORBIDDEN"},
			{"unknown identifier", obj{"type": "m.login.password", "password": "x", "identifier": obj{"type": "m.id.dog"}}, 400, "M_UNKNOWN"},
			{"no identifier", obj{"type": "m.login.password", "password": "x"}, 400, "M_MISSING_PARAM"},
			{"no password", obj{"type": "m.login.password", "identifier": user("alice")}, 400, "M_MISSING_PARAM"},
			{"no type", obj{}, 400, "M_MISSING_PARAM"},
			{"unknown type", obj{"type": "m.login.magic"}, 400, "M_UNKNOWN"},
			{"bad token", obj{"type": "m.login.token", "token": "x"}, 403, "M_FORBIDDEN"},
			{"no token", obj{"type": "m.login.token"}, 400, "M_MISSING_PARAM"},
			{"appservice without token", obj{"type": "m.login.application_service", "identifier": user("alice")}, 401, "M_MISSING_TOKEN"},
		} {
			t.Run(c.name, func(t *testing.T) { e.want(c.status, c.code, "POST", c3+"/login", "", c.body) })
		}
		flows := e.ok("GET", c3+"/login", "", nil)
		if flows.Get("flows.#.type").Raw != `["m.login.password","m.login.token","m.login.application_service"]` {
			t.Errorf("flows: %s", flows.Raw)
		}
	})
}

func TestLoginAgainOnADevice(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		e.register("alice")
		first := e.login("alice", obj{"device_id": "D", "initial_device_display_name": "one"}).Get("access_token").Str
		e.ok("GET", c3+"/account/whoami", first, nil)
		second := e.login("alice", obj{"device_id": "D", "initial_device_display_name": "two"}).Get("access_token").Str
		e.want(401, "M_UNKNOWN_TOKEN", "GET", c3+"/account/whoami", first, nil)
		if got := e.ok("GET", c3+"/devices/D", second, nil).Get("display_name").Str; got != "one" {
			t.Errorf("the device was renamed to %q", got)
		}
	})
}

func TestLoginToken(t *testing.T) {
	const path = "/_matrix/client/v1/login/get_token"
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		e.want(401, "", "POST", path, token, `{}`)
		get := func() string {
			a := e.ok("POST", path, token, obj{"auth": passwordAuth("alice", "pass-alice")})
			if a.Get("expires_in_ms").Int() <= 0 {
				t.Errorf("no expiry: %s", a.Raw)
			}
			return a.Get("login_token").Str
		}
		lt := get()
		a := e.ok("POST", c3+"/login", "", obj{"type": "m.login.token", "token": lt})
		if a.Get("user_id").Str != "@alice:test" {
			t.Errorf("got %s", a.Raw)
		}
		e.want(403, "M_FORBIDDEN", "POST", c3+"/login", "", obj{"type": "m.login.token", "token": lt})
		lt = get()
		e.clock.Advance(loginTokenLifetime)
		e.want(403, "M_FORBIDDEN", "POST", c3+"/login", "", obj{"type": "m.login.token", "token": lt})
		e.runUpkeep()
		var n int
		if err := e.db.QueryRow(t.Context(), `SELECT COUNT(*) FROM short_tokens`).Scan(&n); err != nil || n != 0 {
			t.Errorf("%d expired tokens are left (%v)", n, err)
		}
	})
}

func TestLogout(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		a, device := e.register("alice")
		b := e.login("alice", nil).Get("access_token").Str
		e.ok("GET", c3+"/account/whoami", a, nil)
		e.ok("POST", c3+"/logout", a, nil)
		e.want(401, "M_UNKNOWN_TOKEN", "GET", c3+"/account/whoami", a, nil)
		if !slices.Contains(e.keys.deleted, device) {
			t.Errorf("the keys of %s were not deleted: %v", device, e.keys.deleted)
		}
		if n := len(e.ok("GET", c3+"/devices", b, nil).Get("devices").Array()); n != 1 {
			t.Errorf("%d devices", n)
		}
		c := e.login("alice", nil).Get("access_token").Str
		e.ok("POST", c3+"/logout/all", c, nil)
		for _, tok := range []string{b, c} {
			e.want(401, "M_UNKNOWN_TOKEN", "GET", c3+"/account/whoami", tok, nil)
		}
		e.want(401, "M_UNKNOWN_TOKEN", "POST", c3+"/logout", "made-up", nil)
		e.want(401, "M_MISSING_TOKEN", "POST", c3+"/logout", "", nil)
		// The token may come in the query, and under the old path.
		d := e.login("alice", nil).Get("access_token").Str
		e.ok("POST", "/_matrix/client/r0/logout?access_token="+d, "", nil)
		e.want(401, "M_UNKNOWN_TOKEN", "GET", c3+"/account/whoami", d, nil)
	})
}

func TestRefreshTokens(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		e.register("alice")
		first := e.login("alice", obj{"refresh_token": true, "device_id": "D"})
		if first.Get("expires_in_ms").Int() != time.Hour.Milliseconds() {
			t.Errorf("got %s", first.Raw)
		}
		refresh := func(token string) answer { return e.do("POST", c3+"/refresh", "", obj{"refresh_token": token}) }
		whoami := func(a answer) int { return e.do("GET", c3+"/account/whoami", a.Get("access_token").Str, nil).status }
		rt := func(a answer) string { return a.Get("refresh_token").Str }

		second := refresh(rt(first))
		if second.status != 200 || rt(second) == rt(first) {
			t.Fatalf("got %d %s", second.status, second.Raw)
		}
		// The answer got lost: the old token still works, and the lost pair ends.
		third := refresh(rt(first))
		if third.status != 200 {
			t.Fatalf("got %d %s", third.status, third.Raw)
		}
		if got := whoami(second); got != 401 {
			t.Errorf("the lost pair works: %d", got)
		}
		if got := whoami(first); got != 200 {
			t.Errorf("the old pair ended before the new one was used: %d", got)
		}
		// Using the new access token ends the old pair.
		if got := whoami(third); got != 200 {
			t.Errorf("the new pair does not work: %d", got)
		}
		if got := whoami(first); got != 401 {
			t.Errorf("the old access token works after the new one was used: %d", got)
		}
		if a := refresh(rt(first)); a.status != 401 || a.Get("errcode").Str != "M_UNKNOWN_TOKEN" {
			t.Errorf("the old refresh token: %d %s", a.status, a.Raw)
		}
		// Using the new refresh token does, too.
		fourth := refresh(rt(third))
		fifth := refresh(rt(fourth))
		if fifth.status != 200 || refresh(rt(third)).status != 401 {
			t.Errorf("got %d %s", fifth.status, fifth.Raw)
		}
		// An access token ends by itself, softly.
		if got := whoami(fifth); got != 200 {
			t.Errorf("got %d", got)
		}
		e.clock.Advance(2 * time.Hour)
		a := e.want(401, "M_UNKNOWN_TOKEN", "GET", c3+"/account/whoami", fifth.Get("access_token").Str, nil)
		if !a.Get("soft_logout").Bool() {
			t.Errorf("not soft: %s", a.Raw)
		}
		sixth := refresh(rt(fifth))
		if whoami(sixth) != 200 {
			t.Errorf("got %d %s", sixth.status, sixth.Raw)
		}
		if n := len(e.ok("GET", c3+"/devices", sixth.Get("access_token").Str, nil).Get("devices").Array()); n != 2 {
			t.Errorf("%d devices", n)
		}
		e.want(400, "M_MISSING_PARAM", "POST", c3+"/refresh", "", `{}`)
	})
}

func TestChangePassword(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		other := e.login("alice", nil).Get("access_token").Str
		e.want(401, "", "POST", c3+"/account/password", token, obj{"new_password": "two"})
		e.want(401, "M_FORBIDDEN", "POST", c3+"/account/password", token, obj{"new_password": "two", "auth": passwordAuth("alice", "wrong")})
		e.want(400, "M_MISSING_PARAM", "POST", c3+"/account/password", token, obj{"auth": passwordAuth("alice", "pass-alice")})
		e.ok("POST", c3+"/account/password", token, obj{"new_password": "two", "auth": passwordAuth("alice", "pass-alice")})
		e.ok("GET", c3+"/account/whoami", token, nil)
		e.want(401, "M_UNKNOWN_TOKEN", "GET", c3+"/account/whoami", other, nil)
		login := func(p string) answer {
			return e.do("POST", c3+"/login", "", obj{"type": "m.login.password", "user": "alice", "password": p})
		}
		if login("pass-alice").status != 403 {
			t.Error("the old password works")
		}
		kept := login("two").Get("access_token").Str
		e.ok("POST", c3+"/account/password", token, obj{"new_password": "three", "logout_devices": false, "auth": passwordAuth("alice", "two")})
		e.ok("GET", c3+"/account/whoami", kept, nil)
		if err := e.srv.SetPassword(t.Context(), "@nobody:test", "x", true); err == nil {
			t.Error("set the password of nobody")
		}
	})
}

func TestUIABinding(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		bob, _ := e.register("bob")
		for _, d := range []string{"A", "B"} {
			e.login("alice", obj{"device_id": d})
		}
		session := e.want(401, "", "POST", c3+"/delete_devices", token, obj{"devices": []string{"A"}}).Get("session").Str
		auth := passwordAuth("alice", "pass-alice")
		auth["session"] = session
		for _, c := range []struct {
			name, token, path string
			body              obj
		}{
			{"another body", token, "/delete_devices", obj{"devices": []string{"B"}, "auth": auth}},
			{"another path", token, "/account/deactivate", obj{"auth": auth}},
			{"another user", bob, "/delete_devices", obj{"devices": []string{"A"}, "auth": auth}},
		} {
			t.Run(c.name, func(t *testing.T) { e.want(403, "M_FORBIDDEN", "POST", c3+c.path, c.token, c.body) })
		}
		e.ok("POST", c3+"/delete_devices", token, obj{"auth": auth, "devices": []string{"A"}})
		e.want(404, "M_NOT_FOUND", "GET", c3+"/devices/A", token, nil)
		e.ok("GET", c3+"/devices/B", token, nil)
		// Another user's password is no proof.
		e.want(403, "M_FORBIDDEN", "DELETE", c3+"/devices/B", token, obj{"auth": passwordAuth("bob", "pass-bob")})
		// A session ends.
		session = e.want(401, "", "DELETE", c3+"/devices/B", token, nil).Get("session").Str
		e.clock.Advance(2 * uiaLifetime)
		auth["session"] = session
		a := e.want(401, "M_UNKNOWN", "DELETE", c3+"/devices/B", token, obj{"auth": auth})
		auth["session"] = a.Get("session").Str
		e.ok("DELETE", c3+"/devices/B", token, obj{"auth": auth})
		e.want(400, "M_BAD_JSON", "DELETE", c3+"/devices/B", token, `{"auth":"x"}`)
	})
}

func TestDevices(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		e.register("alice")
		token := e.login("alice", obj{"device_id": "D", "initial_device_display_name": "phone"}).Get("access_token").Str
		e.clock.Advance(time.Minute)
		d := e.ok("GET", c3+"/devices/D", token, nil)
		if d.Get("display_name").Str != "phone" || d.Get("last_seen_ip").Str != "192.0.2.1" || d.Get("last_seen_ts").Int() != e.clock.Now().UnixMilli() {
			t.Errorf("got %s", d.Raw)
		}
		if err := e.srv.flushLastSeen(t.Context()); err != nil {
			t.Fatal(err)
		}
		list, err := e.srv.ListDevices(t.Context(), "@alice:test")
		i := slices.IndexFunc(list, func(d api.Device) bool { return d.ID == "D" })
		if err != nil || len(list) != 2 || list[i].LastSeenTS != e.clock.Now().UnixMilli() || list[i].LastSeenIP != "192.0.2.1" {
			t.Errorf("after the flush: %+v %v", list, err)
		}
		e.ok("PUT", c3+"/devices/D", token, obj{"display_name": "tablet"})
		e.ok("PUT", c3+"/devices/D", token, obj{})
		if got := e.ok("GET", c3+"/devices/D", token, nil).Get("display_name").Str; got != "tablet" {
			t.Errorf("got %q", got)
		}
		e.want(404, "M_NOT_FOUND", "PUT", c3+"/devices/none", token, obj{"display_name": "x"})
		e.want(400, "M_INVALID_PARAM", "PUT", c3+"/devices/D", token, obj{"display_name": "a\x00b"})
		e.want(404, "M_NOT_FOUND", "GET", c3+"/devices/none", token, nil)
		e.want(400, "M_INVALID_PARAM", "GET", c3+"/devices/%00", token, nil)
		e.want(401, "M_MISSING_TOKEN", "GET", c3+"/devices", "", nil)
	})
}

func TestDeactivate(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, device := e.register("alice")
		e.ok("PUT", c3+"/user/@alice:test/account_data/a.b", token, `{"x":1}`)
		e.want(401, "M_FORBIDDEN", "POST", c3+"/account/deactivate", token, obj{"auth": passwordAuth("alice", "wrong")})
		a := e.ok("POST", c3+"/account/deactivate", token, obj{"erase": true, "auth": passwordAuth("alice", "pass-alice")})
		if a.Get("id_server_unbind_result").Str != "success" {
			t.Errorf("got %s", a.Raw)
		}
		e.want(401, "M_UNKNOWN_TOKEN", "GET", c3+"/account/whoami", token, nil)
		e.want(403, "M_USER_DEACTIVATED", "POST", c3+"/login", "", obj{"type": "m.login.password", "user": "alice", "password": "pass-alice"})
		e.want(404, "M_NOT_FOUND", "GET", c3+"/profile/@alice:test", "", nil)
		e.want(400, "M_USER_IN_USE", "POST", c3+"/register", "", obj{"username": "alice", "password": "x", "auth": obj{"type": "m.login.dummy"}})
		if !e.account("alice").Deactivated || !slices.Contains(e.keys.deleted, device) || !slices.Contains(e.sync.deleted, id.User("@alice:test")) {
			t.Error("not all was deleted")
		}
		if _, err := e.srv.GetAccountData(t.Context(), "@alice:test", "", "a.b"); err == nil {
			t.Error("account data is left")
		}
		if err := e.srv.spread.all(t.Context()); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := e.db.QueryRow(t.Context(), `SELECT COUNT(*) FROM profile_spread`).Scan(&n); err != nil || n != 0 {
			t.Errorf("%d notes are left (%v)", n, err)
		}
	})
}

func TestThreepids(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		if got := e.ok("GET", c3+"/account/3pid", token, nil).Get("threepids").Raw; got != "[]" {
			t.Errorf("got %s", got)
		}
		e.want(403, "M_THREEPID_DENIED", "POST", c3+"/account/3pid/add", token, `{}`)
		e.want(403, "M_THREEPID_DENIED", "POST", c3+"/register/email/requestToken", "", `{}`)
		e.want(400, "M_MISSING_PARAM", "POST", c3+"/account/3pid/delete", token, `{}`)
		e.ok("POST", c3+"/account/3pid/delete", token, obj{"medium": "email", "address": "a@b"})
	})
}

func TestTokensAreStoredAsHashes(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		var stored []byte
		if err := e.db.QueryRow(t.Context(), `SELECT token_hash FROM access_tokens`).Scan(&stored); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(stored), token) || string(stored) != string(tokenHash(token)) {
			t.Errorf("stored %x", stored)
		}
		var hash string
		if err := e.db.QueryRow(t.Context(), `SELECT password_hash FROM accounts`).Scan(&hash); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(hash, "$argon2id$v=19$m=64,t=1,p=1$") {
			t.Errorf("stored %q", hash)
		}
	})
}

func TestAnotherNodesLogoutReachesTheCache(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		e.ok("GET", c3+"/account/whoami", token, nil)
		if _, ok := e.srv.sessions.get(tokenHash(token)); !ok {
			t.Fatal("the session is not in the cache")
		}
		// What another node's message does:
		e.srv.sessions.drop(tokenHash(token))
		if _, ok := e.srv.sessions.get(tokenHash(token)); ok {
			t.Error("the session is still in the cache")
		}
		// A lookup that began before must not bring it back.
		mark := e.srv.sessions.mark()
		e.srv.sessions.drop(tokenHash(token))
		e.srv.sessions.put(tokenHash(token), cachedSession{}, mark)
		if _, ok := e.srv.sessions.get(tokenHash(token)); ok {
			t.Error("an old lookup brought the session back")
		}
		// A lost message costs at most the entry's lifetime.
		e.ok("GET", c3+"/account/whoami", token, nil)
		if _, err := e.db.Exec(t.Context(), `DELETE FROM access_tokens`); err != nil {
			t.Fatal(err)
		}
		e.ok("GET", c3+"/account/whoami", token, nil)
		e.clock.Advance(sessionCacheTTL + time.Second)
		e.want(401, "M_UNKNOWN_TOKEN", "GET", c3+"/account/whoami", token, nil)
	})
}

const asFile = `
id: bridge
url: http://127.0.0.1:1
as_token: as-secret
hs_token: hs-secret
sender_localpart: bot
rate_limited: false
namespaces:
  users: [{exclusive: true, regex: "@irc_.*"}]
  aliases: [{exclusive: true, regex: "#irc_.*"}]
`

func TestAppservice(t *testing.T) {
	as, err := ParseAppservice([]byte(asFile))
	if err != nil {
		t.Fatal(err)
	}
	eachDB(t, func(c *Config) { c.Appservices = []Appservice{as}; c.Registration.Mode = RegistrationClosed }, func(t *testing.T, e *env) {
		const tok = "as-secret"
		asType := "m.login.application_service"
		if got := e.ok("GET", c3+"/account/whoami", tok, nil).Get("user_id").Str; got != "@bot:test" {
			t.Errorf("the sender is %q", got)
		}
		sess, err := e.srv.Authenticate(t.Context(), httpapi.Credentials{Token: tok})
		if err != nil || sess.Appservice != "bridge" || !sess.Unlimited {
			t.Errorf("%+v %v", sess, err)
		}
		e.want(403, "M_FORBIDDEN", "GET", c3+"/account/whoami?user_id=@irc_a:test", tok, nil)
		e.want(403, "M_FORBIDDEN", "GET", c3+"/account/whoami?user_id=@alice:test", tok, nil)
		e.want(401, "", "POST", c3+"/register", "", obj{"type": asType, "username": "irc_a"})
		e.want(400, "M_EXCLUSIVE", "POST", c3+"/register", tok, obj{"type": asType, "username": "alice"})
		e.want(400, "M_MISSING_PARAM", "POST", c3+"/register", tok, obj{"type": asType})
		a := e.ok("POST", c3+"/register", tok, obj{"type": asType, "username": "irc_a", "inhibit_login": true})
		if a.Get("user_id").Str != "@irc_a:test" || a.Get("access_token").Exists() {
			t.Errorf("got %s", a.Raw)
		}
		if got := e.ok("GET", c3+"/account/whoami?user_id=@irc_a:test", tok, nil).Get("user_id").Str; got != "@irc_a:test" {
			t.Errorf("acting as %q", got)
		}
		e.want(400, "M_UNKNOWN_DEVICE", "GET", c3+"/account/whoami?user_id=@irc_a:test&device_id=X", tok, nil)
		e.want(201, "", "PUT", c3+"/devices/X?user_id=@irc_a:test", tok, obj{"display_name": "bridge"})
		if got := e.ok("GET", c3+"/account/whoami?user_id=@irc_a:test&device_id=X", tok, nil).Get("device_id").Str; got != "X" {
			t.Errorf("device %q", got)
		}
		l := e.ok("POST", c3+"/login", tok, obj{"type": asType, "identifier": obj{"type": "m.id.user", "user": "irc_a"}})
		e.ok("GET", c3+"/account/whoami", l.Get("access_token").Str, nil)
		e.want(401, "M_UNKNOWN_TOKEN", "POST", c3+"/login", "wrong", obj{"type": asType, "identifier": obj{"type": "m.id.user", "user": "irc_a"}})
		// No question for the password.
		e.ok("DELETE", c3+"/devices/X?user_id=@irc_a:test", tok, nil)
	})
	eachDB(t, func(c *Config) { c.Appservices = []Appservice{as} }, func(t *testing.T, e *env) {
		e.want(400, "M_EXCLUSIVE", "POST", c3+"/register", "", obj{"username": "irc_z", "password": "x", "auth": obj{"type": "m.login.dummy"}})
		e.want(400, "M_EXCLUSIVE", "GET", c3+"/register/available?username=irc_z", "", nil)
	})
}

func TestAppserviceRegistrationErrors(t *testing.T) {
	for name, file := range map[string]string{
		"no YAML":   "id: [",
		"no id":     "as_token: a\nhs_token: b\nsender_localpart: c",
		"no token":  "id: a\nhs_token: b\nsender_localpart: c",
		"no sender": "id: a\nas_token: a\nhs_token: b",
	} {
		if _, err := ParseAppservice([]byte(file)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	a := Appservice{ID: "x", ASToken: "t", HSToken: "h", SenderLocalpart: "s"}
	if _, err := compileAppservices([]Appservice{a, a}, "test"); err == nil {
		t.Error("an id was taken twice")
	}
	a.Namespaces.Users = []Namespace{{Regex: "("}}
	if _, err := compileAppservices([]Appservice{a}, "test"); err == nil {
		t.Error("a bad expression was taken")
	}
}

func TestAccountsAPI(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		ctx := t.Context()
		if err := e.srv.CreateAccount(ctx, api.CreateAccount{User: "@u:test", Password: "p", Admin: true}); err != nil {
			t.Fatal(err)
		}
		if err := e.srv.CreateAccount(ctx, api.CreateAccount{User: "@u:test"}); err == nil {
			t.Error("made twice")
		}
		if err := e.srv.CreateAccount(ctx, api.CreateAccount{User: "@u:away"}); err == nil {
			t.Error("made on another server")
		}
		if a := e.account("u"); !a.Admin || a.Created != e.clock.Now().UnixMilli() {
			t.Errorf("%+v", a)
		}
		if _, err := e.srv.GetAccount(ctx, "@u:away"); err == nil {
			t.Error("found on another server")
		}
	})
}
