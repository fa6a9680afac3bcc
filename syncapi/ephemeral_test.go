package syncapi

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"weft/matrix/id"
)

func (e *env) edu(origin id.Server, typ string, content any) error {
	e.t.Helper()
	raw, err := json.Marshal(content)
	e.ok(err)
	return e.srv.ReceiveEDU(e.t.Context(), origin, typ, raw)
}

func TestTyping(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		r.member(bob, "join")
		r.member(carol, "join")
		since := e.sync(bob, "").next()
		path := r.path("/typing/" + string(alice))
		e.want(alice, 200, "", "PUT", path, obj{"typing": true, "timeout": 10000})
		got := e.sync(bob, since)
		expect(t, "typing", got.in("join", r, "ephemeral.events.0.content.user_ids").Raw, `["@alice:home"]`)
		expect(t, "type", got.in("join", r, "ephemeral.events.0.type").Str, "m.typing")
		since = got.next()
		expect(t, "told once", e.sync(bob, since).in("join", r, "").Exists(), false)
		expect(t, "first sync", e.sync(bob, "").in("join", r, "ephemeral.events.0.content.user_ids").Raw, `["@alice:home"]`)
		e.want(alice, 200, "", "PUT", path, obj{"typing": false})
		got = e.sync(bob, since)
		expect(t, "stopped", got.in("join", r, "ephemeral.events.0.content.user_ids").Raw, `[]`)
		since = got.next()
		e.ok(e.edu("away", "m.typing", obj{"room_id": r.id, "user_id": carol, "typing": true}))
		got = e.sync(bob, since)
		expect(t, "from another server", got.in("join", r, "ephemeral.events.0.content.user_ids").Raw, `["@carol:away"]`)
		since = got.next()
		e.advance(time.Minute)
		e.srv.typing.expire(e.clock())
		expect(t, "ran out", e.sync(bob, since).in("join", r, "ephemeral.events.0.content.user_ids").Raw, `[]`)
		sent := e.out.of("m.typing")
		expect(t, "EDUs", len(sent), 2)
		expect(t, "EDU", string(sent[0].Content), fmt.Sprintf(`{"room_id":"%s","user_id":"@alice:home","typing":true}`, r.id))
		expect(t, "to", sent[0].Destinations, "[away]")
		if err := e.edu("away", "m.typing", obj{"room_id": r.id, "user_id": bob, "typing": true}); err == nil {
			t.Error("another server speaks for our user")
		}
		e.ok(e.edu("away", "m.typing", obj{"room_id": r.id, "user_id": "@nobody:away", "typing": true}))
		expect(t, "not in the room", e.sync(bob, "").in("join", r, "ephemeral.events").Raw, "[]")
		e.want(bob, 403, "M_FORBIDDEN", "PUT", path, obj{"typing": true})
		e.want("@eve:home", 403, "M_FORBIDDEN", "PUT", r.path("/typing/@eve:home"), obj{"typing": true})
		e.want(alice, 400, "M_MISSING_PARAM", "PUT", path, obj{})
		e.want(alice, 400, "M_BAD_JSON", "PUT", path, obj{"typing": "x"})
	})
}

func TestReceipts(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		r.member(bob, "join")
		r.member(carol, "join")
		first, second := r.say(alice, "1"), r.say(alice, "2")
		since := e.sync(alice, "").next()
		mark := func(typ string, ev id.Event, body any) reply {
			return e.do(bob, "POST", r.path("/receipt/"+typ+"/"+string(ev)), body)
		}
		receipt := func(a reply, ev id.Event, typ string) string {
			for _, x := range a.in("join", r, "ephemeral.events").Array() {
				if x.Get("type").Str == "m.receipt" {
					return x.Get("content").Get(string(ev)).Get(typ).Raw
				}
			}
			return ""
		}
		expect(t, "stored", mark("m.read", second.ID, obj{}).status, 200)
		got := e.sync(alice, since)
		expect(t, "told", receipt(got, second.ID, `m\.read`), `{"@bob:home":{"ts":1700000000000}}`)
		expect(t, "backward", mark("m.read", first.ID, obj{}).status, 200)
		expect(t, "not moved back", e.sync(alice, got.next()).in("join", r, "").Exists(), false)
		expect(t, "threaded", mark("m.read", first.ID, obj{"thread_id": "main"}).status, 200)
		got = e.sync(alice, got.next())
		expect(t, "thread", receipt(got, first.ID, `m\.read`), `{"@bob:home":{"ts":1700000000000,"thread_id":"main"}}`)
		expect(t, "private", mark("m.read.private", second.ID, obj{}).status, 200)
		expect(t, "private is private", e.sync(alice, got.next()).in("join", r, "").Exists(), false)
		expect(t, "private to its owner", receipt(e.sync(bob, ""), second.ID, `m\.read\.private`) != "", true)
		expect(t, "EDUs of public ones", len(e.out.of("m.receipt")), 2)
		third := r.say(alice, "3")
		e.ok(e.edu("away", "m.receipt", obj{string(r.id): obj{"m.read": obj{
			string(carol): obj{"event_ids": []id.Event{third.ID}, "data": obj{"ts": 5}}, string(bob): obj{"event_ids": []id.Event{third.ID}, "data": obj{"ts": 6}}}}}))
		expect(t, "from another server", receipt(e.sync(alice, got.next()), third.ID, `m\.read`), `{"@carol:away":{"ts":5}}`)
		expect(t, "fully read", mark("m.fully_read", first.ID, obj{}).status, 200)
		marker := func() string {
			raw, err := e.accounts.GetAccountData(t.Context(), bob, r.id, "m.fully_read")
			e.ok(err)
			return string(raw)
		}
		expect(t, "marker", marker(), fmt.Sprintf(`{"event_id":"%s"}`, first.ID))
		e.want(bob, 200, "", "POST", r.path("/read_markers"), obj{"m.fully_read": third.ID, "m.read": third.ID})
		e.want(bob, 200, "", "POST", r.path("/read_markers"), obj{"m.fully_read": first.ID})
		expect(t, "marker moves forward", marker(), fmt.Sprintf(`{"event_id":"%s"}`, third.ID))
		for _, c := range []struct {
			typ, code string
			body      any
		}{
			{"m.other", "M_INVALID_PARAM", obj{}}, {"m.read", "M_INVALID_PARAM", obj{"thread_id": ""}},
			{"m.read", "M_INVALID_PARAM", obj{"thread_id": 5}}, {"m.fully_read", "M_INVALID_PARAM", obj{"thread_id": "main"}},
			{"m.read", "M_NOT_JSON", "{"},
		} {
			expect(t, c.typ, mark(c.typ, first.ID, c.body).Get("errcode").Str, c.code)
		}
		e.want("@eve:home", 403, "M_FORBIDDEN", "POST", r.path("/receipt/m.read/"+string(first.ID)), obj{})
		e.ok(e.srv.DeleteUserData(t.Context(), bob))
		expect(t, "deleted", receipt(e.sync(alice, ""), third.ID, `m\.read.@bob\:home`), "")
	})
}

func TestPresence(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		r.member(bob, "join")
		r.member(carol, "join")
		of := func(a reply, user id.User) string {
			for _, x := range a.Get("presence.events").Array() {
				if x.Get("sender").Str == string(user) {
					return x.Get("content.presence").Str + x.Get("content.status_msg").Str
				}
			}
			return ""
		}
		path := v3 + "/presence/" + string(alice) + "/status"
		expect(t, "at first", e.want(bob, 200, "", "GET", path, nil).Get("presence").Str, "offline")
		since := e.sync(bob, "", "set_presence", "offline").next()
		e.want(alice, 200, "", "PUT", path, obj{"presence": "online", "status_msg": " here"})
		got := e.sync(bob, since, "set_presence", "offline")
		expect(t, "told", of(got, alice), "online here")
		since = got.next()
		expect(t, "once", e.sync(bob, since, "set_presence", "offline").Get("presence").Exists(), false)
		e.sync(alice, "", "set_presence", "unavailable")
		got = e.sync(bob, since, "set_presence", "offline")
		expect(t, "by /sync", of(got, alice), "unavailable here")
		since = got.next()
		e.sync(alice, "")
		got = e.sync(bob, since, "set_presence", "offline")
		expect(t, "back by /sync", of(got, alice), "online here")
		since = got.next()
		e.advance(offlineAfter)
		e.srv.presence.expire(t.Context(), e.clock())
		got = e.sync(bob, since, "set_presence", "offline")
		expect(t, "gone", of(got, alice), "offline here")
		expect(t, "EDUs", len(e.out.of("m.presence")), 4)
		since = got.next()
		e.ok(e.edu("away", "m.presence", obj{"push": []obj{{"user_id": carol, "presence": "online", "last_active_ago": 5},
			{"user_id": bob, "presence": "online"}, {"user_id": "@unknown:away", "presence": "online"}}}))
		got = e.sync(bob, since, "set_presence", "offline")
		expect(t, "from another server", of(got, carol), "online")
		expect(t, "not for our users", of(got, bob), "")
		expect(t, "known", e.srv.presence.count(), 2)
		e.advance(remoteAfter)
		e.srv.presence.expire(t.Context(), e.clock())
		expect(t, "not heard of any more", of(e.sync(bob, got.next(), "set_presence", "offline"), carol), "offline")
		e.want("@eve:home", 403, "M_FORBIDDEN", "GET", path, nil)
		e.want(bob, 403, "M_FORBIDDEN", "PUT", path, obj{"presence": "online"})
		e.want(alice, 400, "M_INVALID_PARAM", "PUT", path, obj{"presence": "x"})
		e.want(alice, 400, "M_MISSING_PARAM", "PUT", path, obj{})
		expect(t, "GetPresence", func() string { p, _ := e.srv.GetPresence(t.Context(), alice); return p.State }(), "offline")
	})
}

// The bus may bring a node's own words, and other nodes', after newer ones.
func TestPresenceOutOfOrder(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		p := e.srv.presence
		state := func() string { x, _ := p.get(carol); return x.State }
		old := p.hear(presenceChange{User: carol, State: presenceOnline})
		e.advance(remoteAfter)
		p.expire(t.Context(), e.clock())
		p.apply(old)
		expect(t, "own words that come back", state(), presenceOffline)
		other := presenceChange{User: carol, State: presenceUnavailable, Stamp: e.clock().UnixMilli() + 5}
		p.apply(other)
		expect(t, "newer", state(), presenceUnavailable)
		newer := p.hear(presenceChange{User: carol, State: presenceOnline})
		p.apply(other)
		expect(t, "older than what was heard since", state(), presenceOnline)
		expect(t, "stamps grow", newer.Stamp > other.Stamp, true)
	})
}

// Who is busy elsewhere becomes idle while a client goes on polling, and is back when active.
func TestPresenceIdle(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		ev := r.say(alice, "x")
		since := e.sync(alice, "").next()
		state := func() string { p, _ := e.srv.presence.get(alice); return p.State }
		expect(t, "syncing", state(), "online")
		for range 12 {
			e.advance(idleAfter / 11)
			e.srv.presence.begin(t.Context(), &syncRequest{user: alice})
			e.srv.presence.expire(t.Context(), e.clock())
			e.srv.presence.end(&syncRequest{user: alice})
		}
		expect(t, "idle", state(), "unavailable")
		e.sync(alice, since)
		expect(t, "polling is no activity", state(), "unavailable")
		e.want(alice, 200, "", "POST", r.path("/receipt/m.read/"+string(ev.ID)), obj{})
		expect(t, "active", state(), "online")
	})
}

func TestPresenceOfNewMembers(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		sinceBob := e.sync(bob, "").next()
		since := e.sync(alice, "").next() // bob is online since before
		r.member(bob, "join")
		got := e.sync(alice, since)
		expect(t, "of who joined", len(got.Get(`presence.events.#(sender=="@bob:home")#`).Array()), 1)
		expect(t, "of who is there", len(e.sync(bob, sinceBob).Get(`presence.events.#(sender=="@alice:home")#`).Array()), 1)
		expect(t, "once", e.sync(alice, got.next()).Get("presence").Exists(), false)
	})
}
