package syncapi

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"weft/internal/eventstore"
	"weft/internal/sqldb"
	"weft/internal/stream"
	"weft/matrix/id"
)

func TestSyncTimeline(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		r.state_(alice, "m.room.name", "", obj{"name": "x"})
		first := e.sync(alice, "")
		expect(t, "initial timeline", bodies(first.in("join", r, "timeline.events")), "create member name")
		expect(t, "limited", first.in("join", r, "timeline.limited").Raw, "false")
		expect(t, "no state twice", first.in("join", r, "state").Exists(), false)
		expect(t, "members", first.in("join", r, "summary.m\\.joined_member_count").Int(), 1)
		if e.sync(alice, first.next()).in("join", r, "").Exists() {
			t.Error("a room without news is in the answer")
		}
		r.say(alice, "one")
		for i := range 12 {
			r.state_(alice, "x.state", fmt.Sprint(i%3), obj{"n": i})
		}
		r.say(alice, "two")
		gap := e.sync(alice, first.next(), "filter", `{"room":{"timeline":{"limit":3}}}`)
		expect(t, "gap", bodies(gap.in("join", r, "timeline.events")), "x.state x.state two")
		expect(t, "limited", gap.in("join", r, "timeline.limited").Bool(), true)
		// The state at the start of the timeline: what changed in the gap, and nothing else.
		var got []string
		for _, ev := range gap.in("join", r, "state.events").Array() {
			got = append(got, ev.Get("state_key").Str+"="+ev.Get("content.n").Raw)
		}
		expect(t, "state of the gap", strings.Join(got, " "), "0=9 1=7 2=8")
		after := e.sync(alice, first.next(), "filter", `{"room":{"timeline":{"limit":3}}}`, "use_state_after", "true")
		got = nil
		for _, ev := range after.in("join", r, "state_after.events").Array() {
			got = append(got, ev.Get("state_key").Str+"="+ev.Get("content.n").Raw)
		}
		expect(t, "state after", len(got), 3)
		expect(t, "no state beside it", after.in("join", r, "state").Exists(), false)
		for _, want := range []string{"0=9", "1=10", "2=11"} {
			if !strings.Contains(strings.Join(got, " "), want) {
				t.Errorf("state_after lacks %s: %v", want, got)
			}
		}
		full := e.sync(alice, gap.next(), "full_state", "true")
		expect(t, "full state", len(full.in("join", r, "state.events").Array()), 6)
	})
}

func TestSyncMissingEvents(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		first := e.sync(alice, "")
		r.say(alice, "before the gap")
		r.put(r.build(carol, "m.room.message", nil, obj{"body": "after the gap"}, ""), option{missing: "$nowhere"})
		r.say(alice, "end")
		got := e.sync(alice, first.next())
		expect(t, "timeline", bodies(got.in("join", r, "timeline.events")), "after the gap end")
		expect(t, "limited", got.in("join", r, "timeline.limited").Bool(), true)
	})
}

func TestSyncHidden(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		first := e.sync(alice, "")
		r.put(r.build(alice, "m.room.message", nil, obj{"body": "soft"}, ""), option{flags: 4})
		r.put(r.build(alice, "m.room.message", nil, obj{"body": "bad"}, ""), option{flags: 2})
		secret := r.say(alice, "secret")
		r.put(r.build(alice, "m.room.redaction", nil, obj{"reason": "oops"}, secret.ID), option{})
		got := e.sync(alice, first.next()).in("join", r, "timeline.events")
		expect(t, "timeline", bodies(got), "message redaction")
		expect(t, "redacted_because", got.Get("0.unsigned.redacted_because.content.reason").Str, "oops")
		expect(t, "content", got.Get("0.content").Raw, "{}")
	})
}

func TestSyncTransactionID(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		r.member(bob, "join")
		r.put(r.build(alice, "m.room.message", nil, obj{"body": "hi"}, ""), option{txn: "t1"})
		mine := e.sync(alice, "").in("join", r, "timeline.events.3.unsigned")
		expect(t, "own", mine.Get("transaction_id").Str, "t1")
		expect(t, "membership", mine.Get("membership").Str, "join")
		other := e.from(alice, "OTHER", "GET", v3+"/sync", nil).in("join", r, "timeline.events.3.unsigned")
		expect(t, "other device", other.Get("transaction_id").Exists(), false)
		expect(t, "before joining", e.sync(bob, "").in("join", r, "timeline.events.1.unsigned.membership").Str, "leave")
	})
}

func TestSyncMemberships(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		r.state_(alice, "m.room.name", "", obj{"name": "the room"})
		since := e.sync(bob, "").next()
		r.state_(alice, "m.room.member", string(bob), obj{"membership": "invite"})
		invited := e.sync(bob, since)
		expect(t, "invite", bodies(invited.in("invite", r, "invite_state.events")), "create name member")
		expect(t, "initial invite", e.sync(bob, "").in("invite", r, "").Exists(), true)
		r.say(alice, "before bob")
		r.member(bob, "join")
		joined := e.sync(bob, invited.next(), "filter", `{"room":{"timeline":{"limit":2}}}`)
		expect(t, "joined", bodies(joined.in("join", r, "timeline.events")), "before bob member")
		expect(t, "limited", joined.in("join", r, "timeline.limited").Bool(), true)
		expect(t, "full state", len(joined.in("join", r, "state.events").Array()), 4)
		expect(t, "not invited any more", joined.in("invite", r, "").Exists(), false)
		r.say(alice, "still here")
		r.state_(alice, "m.room.topic", "", obj{"topic": "old"})
		r.state_(alice, "m.room.member", string(bob), obj{"membership": "leave"})
		r.say(alice, "not for bob")
		r.state_(alice, "m.room.topic", "", obj{"topic": "new"})
		left := e.sync(bob, joined.next())
		expect(t, "left", bodies(left.in("leave", r, "timeline.events")), "still here topic member")
		expect(t, "not joined any more", left.in("join", r, "").Exists(), false)
		expect(t, "nothing later", e.sync(bob, left.next()).Get("rooms").Exists(), false)
		whole := e.sync(bob, "", "filter", `{"room":{"include_leave":true,"timeline":{"limit":0}}}`)
		for _, ev := range whole.in("leave", r, "state.events").Array() {
			if ev.Get("type").Str == "m.room.topic" && ev.Get("content.topic").Str != "old" {
				t.Error("a left room shows state from after leaving")
			}
		}
		expect(t, "state of the left room", len(whole.in("leave", r, "state.events").Array()), 5)
		r.member(bob, "join")
		back := e.sync(bob, left.next())
		expect(t, "rejoined with all state", len(back.in("join", r, "state.events").Array()) > 0 || len(back.in("join", r, "timeline.events").Array()) > 8, true)
		cumulative := e.sync(bob, since)
		expect(t, "came and went and came", cumulative.in("leave", r, "").Exists(), false)
		expect(t, "is there", cumulative.in("join", r, "").Exists(), true)
	})
}

func TestSyncRejectedInvite(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		r.state_(alice, "m.room.history_visibility", "", obj{"history_visibility": "joined"})
		since := e.sync(bob, "").next()
		r.state_(alice, "m.room.member", string(bob), obj{"membership": "invite"})
		r.say(alice, "secret")
		r.member(bob, "leave")
		got := e.sync(bob, since)
		expect(t, "timeline", bodies(got.in("leave", r, "timeline.events")), "member member")
		expect(t, "no state", got.in("leave", r, "state").Exists(), false)
	})
}

// What a client has been told of a knock or an invite is not told again when it is taken back.
func TestSyncTakenBack(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		for _, c := range []struct {
			step string
			by   id.User // who ends it
		}{{"knock", bob}, {"knock", alice}, {"invite", bob}, {"invite", alice}} {
			r := e.newRoom(alice)
			r.say(alice, "secret")
			r.state_(map[string]id.User{"knock": bob, "invite": alice}[c.step], "m.room.member", string(bob), obj{"membership": c.step})
			since := e.sync(bob, "").next()
			last := r.state_(c.by, "m.room.member", string(bob), obj{"membership": "leave"})
			got := e.sync(bob, since)
			what := c.step + " ended by " + string(c.by)
			expect(t, what, bodies(got.in("leave", r, "timeline.events")), "member")
			expect(t, what, got.in("leave", r, "timeline.events.0.event_id").Str, last.ID)
			expect(t, what+", limited", got.in("leave", r, "timeline.limited").Bool(), false)
			expect(t, what+", state", got.in("leave", r, "state").Exists(), false)
			expect(t, what+", later", e.sync(bob, got.next()).in("leave", r, "").Exists(), false)
		}
	})
}

// A state event from another branch of the room than the timeline's is in the state or in the
// timeline, whatever the timeline's filter hides, and once: a client knows the room's name.
func TestSyncMergedBranches(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		fork := r.say(alice, "1")
		r.say(alice, "3")
		last := r.say(alice, "4")
		since := e.sync(alice, "").next()
		r.tips = []*eventstore.Event{fork}
		name := r.state_(alice, "m.room.name", "", obj{"name": "N"})
		between := e.sync(alice, since).next()
		r.tips = []*eventstore.Event{last, name}
		merge := r.send(alice, "x.merge", obj{})
		expect(t, "parents of the merge", len(merge.PrevEvents), 2)
		for _, c := range []struct{ filter, since, timeline, named string }{
			{`{}`, "", "create member 1 3 4 name x.merge", "timeline"},
			{`{"limit":1}`, "", "x.merge", "state"},
			{`{"limit":2}`, "", "name x.merge", "timeline"},
			// Events are in the order of their arrival (client-server §6.4): the name is the latest that passes.
			{`{"not_types":["x.merge"],"limit":1}`, "", "name", "timeline"},
			{`{"not_types":["x.merge","m.room.name"],"limit":1}`, "", "4", "state"},
			{`{"not_types":["m.room.name"],"limit":2}`, "", "4 x.merge", "state"},
			{`{"types":[]}`, "", "", "state"},
			{`{}`, since, "name x.merge", "timeline"},
			{`{"limit":1}`, since, "x.merge", "state"},
			{`{"not_types":["x.merge"]}`, since, "name", "timeline"},
			{`{"not_types":["x.merge","m.room.name"]}`, since, "", "state"},
			{`{"not_types":["x.merge"]}`, between, "", ""},
		} {
			what := c.filter + " since " + c.since
			got := e.sync(alice, c.since, "filter", `{"room":{"timeline":`+c.filter+`}}`)
			expect(t, what, bodies(got.in("join", r, "timeline.events")), c.timeline)
			var named []string
			for _, part := range []string{"state", "timeline"} {
				for _, ev := range got.in("join", r, part+".events").Array() {
					if ev.Get("event_id").Str == string(name.ID) {
						named = append(named, part)
					}
				}
			}
			expect(t, what+": the name is in", strings.Join(named, " "), c.named)
			after := e.sync(alice, c.since, "filter", `{"room":{"timeline":`+c.filter+`}}`, "use_state_after", "true")
			expect(t, what+": state_after has the name", strings.Contains(after.in("join", r, "state_after").Raw, string(name.ID)), c.named != "")
		}
	})
}

func TestSyncLazyMembers(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		r.member(bob, "join")
		r.member(carol, "join")
		r.state_(alice, "m.room.name", "", obj{"name": "named"})
		for range 5 {
			r.say(carol, "talk")
		}
		const lazy = `{"room":{"timeline":{"limit":2},"state":{"lazy_load_members":true}}}`
		members := func(a reply, path string) string {
			var out []string
			for _, ev := range a.in("join", r, path).Array() {
				if ev.Get("type").Str == "m.room.member" {
					out = append(out, ev.Get("state_key").Str)
				}
			}
			return strings.Join(out, " ")
		}
		first := e.sync(alice, "", "filter", lazy)
		got := members(first, "state.events")
		expect(t, "senders and the user", strings.Contains(got, string(alice)) && strings.Contains(got, string(carol)) && !strings.Contains(got, string(bob)), true)
		r.say(bob, "me too")
		second := e.sync(alice, first.next(), "filter", lazy)
		expect(t, "the new sender", members(second, "state.events"), bob)
		r.say(bob, "again")
		third := e.sync(alice, second.next(), "filter", lazy)
		expect(t, "not twice", members(third, "state.events"), "")
		redundant := strings.Replace(lazy, `"lazy_load_members":true`, `"lazy_load_members":true,"include_redundant_members":true`, 1)
		expect(t, "twice when asked", members(e.sync(alice, second.next(), "filter", redundant), "state.events"), bob)
		expect(t, "after", members(e.sync(alice, "", "filter", lazy, "use_state_after", "true"), "state_after.events") != "", true)
	})
}

func TestSyncFilter(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r, other := e.newRoom(alice), e.newRoom(alice)
		r.member(bob, "join")
		r.say(alice, "from alice")
		r.say(bob, "from bob")
		r.send(bob, "m.room.message", obj{"body": "image", "url": "mxc://x/y"})
		for _, c := range []struct{ filter, want string }{
			{`{"room":{"timeline":{"types":["m.room.message"]}}}`, "from alice from bob image"},
			{`{"room":{"timeline":{"types":["m.*.m*ge"]}}}`, "from alice from bob image"},
			{`{"room":{"timeline":{"not_types":["m.room.m*"]}}}`, "create"},
			{`{"room":{"timeline":{"types":[]}}}`, ""},
			{`{"room":{"timeline":{"senders":["@bob:home"],"types":["m.room.message"]}}}`, "from bob image"},
			{`{"room":{"timeline":{"not_senders":["@bob:home"],"types":["m.room.message"]}}}`, "from alice"},
			{`{"room":{"timeline":{"contains_url":true}}}`, "image"},
			{`{"room":{"timeline":{"limit":1}}}`, "image"},
			{`{"room":{"timeline":{"not_rooms":["` + string(r.id) + `"]}}}`, ""},
		} {
			expect(t, c.filter, bodies(e.sync(alice, "", "filter", c.filter).in("join", r, "timeline.events")), c.want)
		}
		only := e.sync(alice, "", "filter", `{"room":{"rooms":["`+string(r.id)+`"]}}`)
		expect(t, "rooms", only.in("join", r, "").Exists() && !only.in("join", other, "").Exists(), true)
		fields := e.sync(alice, "", "filter", `{"event_fields":["content.body","type"],"room":{"timeline":{"limit":1}}}`)
		expect(t, "event_fields", fields.in("join", r, "timeline.events.0").Raw, `{"content":{"body":"image"},"type":"m.room.message"}`)
		pdu := e.sync(alice, "", "filter", `{"event_format":"federation"}`)
		expect(t, "event_format", pdu.in("join", r, "timeline.events.0.hashes").Exists(), true)
	})
}

func TestFilterStore(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		path := v3 + "/user/" + string(alice) + "/filter"
		got := e.want(alice, 200, "", "POST", path, `{"room":{"timeline":{"limit":1}}}`)
		filterID := got.Get("filter_id").Str
		expect(t, "same filter, same ID", e.want(alice, 200, "", "POST", path, `{"room":{"timeline":{"limit":1}}}`).Get("filter_id").Str, filterID)
		expect(t, "read back", e.want(alice, 200, "", "GET", path+"/"+filterID, nil).Get("room.timeline.limit").Int(), 1)
		e.want(alice, 404, "M_NOT_FOUND", "GET", path+"/nothing", nil)
		e.want(bob, 403, "M_FORBIDDEN", "GET", path+"/"+filterID, nil)
		for _, bad := range []string{``, `[]`, `{`, `{"room":1}`, `{"room":{"timeline":{"limit":-1}}}`, `{"room":{"rooms":["x"]}}`,
			`{"presence":{"senders":["x"]}}`, `{"event_format":"x"}`} {
			if a := e.do(alice, "POST", path, bad); a.status != 400 {
				t.Errorf("%s: %d %s", bad, a.status, a.Raw)
			}
		}
		r := e.newRoom(alice)
		expect(t, "used", len(e.sync(alice, "", "filter", filterID).in("join", r, "timeline.events").Array()), 1)
		e.want(alice, 400, "M_INVALID_PARAM", "GET", v3+"/sync?filter=none", nil)
	})
}

func TestSyncParameters(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		for _, c := range []struct{ query, code string }{
			{"since=x", "M_INVALID_PARAM"}, {"since=s1_0", "M_INVALID_PARAM"}, {"since=s1_0_0_0_0_0_0_0_-1", "M_INVALID_PARAM"},
			{"since=s1_zz_0_0_0_0_0_0_0", "M_UNKNOWN_POS"}, {"since=t1_1_1_1", "M_INVALID_PARAM"},
			{"timeout=x", "M_INVALID_PARAM"}, {"full_state=x", "M_INVALID_PARAM"}, {"set_presence=x", "M_INVALID_PARAM"}, {"filter={", "M_NOT_JSON"},
		} {
			e.want(alice, 400, c.code, "GET", v3+"/sync?"+c.query, nil)
		}
	})
}

func TestSyncAccountData(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		set := func(room *room, typ, content string) {
			t.Helper()
			var raw json.RawMessage
			if content != "" {
				raw = json.RawMessage(content)
			}
			if room == nil {
				e.ok(e.accounts.SetAccountData(t.Context(), alice, "", typ, raw))
				return
			}
			e.ok(e.accounts.SetAccountData(t.Context(), alice, room.id, typ, raw))
		}
		set(nil, "m.direct", `{"a":1}`)
		set(r, "m.tag", `{"tags":{}}`)
		first := e.sync(alice, "")
		expect(t, "global", first.Get("account_data.events.0.type").Str, "m.direct")
		expect(t, "room", first.in("join", r, "account_data.events.0.type").Str, "m.tag")
		set(r, "m.tag", `{"tags":{"x":{}}}`)
		second := e.sync(alice, first.next())
		expect(t, "changed", second.in("join", r, "account_data.events.0.content.tags.x").Exists(), true)
		expect(t, "no timeline", second.in("join", r, "timeline").Exists(), false)
		expect(t, "global is old", second.Get("account_data").Exists(), false)
		set(nil, "m.direct", "")
		expect(t, "deleted", e.sync(alice, second.next()).Get("account_data.events.0.content").Raw, "{}")
		expect(t, "filtered", e.sync(alice, second.next(), "filter", `{"account_data":{"not_types":["m.*"]}}`).Get("account_data").Exists(), false)
	})
}

func TestSyncToDevice(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		first := e.sync(alice, "")
		for i := range 150 {
			e.todev.msgs = append(e.todev.msgs, json.RawMessage(fmt.Sprintf(`{"n":%d}`, i)))
		}
		e.move(stream.ToDevice, 150, alice)
		second := e.sync(alice, first.next())
		expect(t, "a page", len(second.Get("to_device.events").Array()), 100)
		expect(t, "again", len(e.sync(alice, first.next()).Get("to_device.events").Array()), 100)
		third := e.sync(alice, second.next())
		expect(t, "the rest", third.Get("to_device.events.0.n").Int(), 100)
		expect(t, "acknowledged", e.todev.deleted, 100)
		expect(t, "nothing left", e.sync(alice, third.next()).Get("to_device").Exists(), false)
		expect(t, "acknowledged", e.todev.deleted, 150)
		e.keys.counts = map[string]int{"signed_curve25519": 7}
		idle := e.sync(alice, third.next())
		expect(t, "counts in each answer", idle.Get("device_one_time_keys_count.signed_curve25519").Int(), 7)
		expect(t, "fallback", idle.Get("device_unused_fallback_key_types").Raw, `["signed_curve25519"]`)
	})
}

func TestSyncDeviceLists(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		since := e.sync(alice, "").next()
		r.member(carol, "join")
		joined := e.sync(alice, since)
		expect(t, "who joined", joined.Get("device_lists.changed").Raw, `["@carol:away"]`)
		e.keys.changed = append(e.keys.changed, carol, "@stranger:else", alice)
		e.move(stream.DeviceLists, 3, carol)
		changed := e.sync(alice, joined.next())
		expect(t, "who changed", changed.Get("device_lists.changed").Raw, `["@alice:home","@carol:away"]`)
		r.member(carol, "leave")
		left := e.sync(alice, changed.next())
		expect(t, "who left", left.Get("device_lists.left").Raw, `["@carol:away"]`)
		r.member(carol, "join")
		since = e.sync(alice, left.next()).next()
		r.member(alice, "leave")
		expect(t, "when I left", e.sync(alice, since).Get("device_lists.left").Raw, `["@carol:away"]`)
		got := e.want(alice, 200, "", "GET", v3+"/keys/changes?from="+joined.next()+"&to="+since, nil)
		expect(t, "/keys/changes", got.Get("left").Raw, `["@carol:away"]`)
		e.want(alice, 400, "M_MISSING_PARAM", "GET", v3+"/keys/changes", nil)
		e.want(alice, 400, "M_INVALID_PARAM", "GET", v3+"/keys/changes?from=x&to=y", nil)
	})
}

func TestSyncIgnoredUsers(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r, from := e.newRoom(alice), e.newRoom(bob)
		r.member(bob, "join")
		since := e.sync(alice, "").next()
		e.ok(e.accounts.SetAccountData(t.Context(), alice, "", "m.ignored_user_list", json.RawMessage(`{"ignored_users":{"@bob:home":{}}}`)))
		r.say(bob, "unwanted")
		r.state_(bob, "m.room.name", "", obj{"name": "shown"})
		from.state_(bob, "m.room.member", string(alice), obj{"membership": "invite"})
		got := e.sync(alice, since)
		expect(t, "timeline", bodies(got.in("join", r, "timeline.events")), "name")
		expect(t, "invite", got.in("invite", from, "").Exists(), false)
	})
}

func TestSyncLongPoll(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		r.member(bob, "join")
		quiet := e.newRoom("@dan:home")
		since := e.sync(alice, "").next()
		poll := func() chan reply {
			before := e.srv.requests.asleep.Load()
			out := make(chan reply, 1)
			go func() { out <- e.sync(alice, since, "timeout", "20000") }()
			for e.srv.requests.asleep.Load() == before {
				runtime.Gosched() // until the request waits
			}
			return out
		}
		answer := poll()
		quiet.say("@dan:home", "not for alice")
		r.say(bob, "wake up")
		got := <-answer
		expect(t, "woken by", bodies(got.in("join", r, "timeline.events")), "wake up")
		since = got.next()
		answer = poll()
		e.todev.msgs = append(e.todev.msgs, json.RawMessage(`{}`))
		e.move(stream.ToDevice, 1, alice)
		got = <-answer
		expect(t, "woken by a message", len(got.Get("to_device.events").Array()), 1)
		since = got.next()
		answer = poll()
		e.keys.changed = append(e.keys.changed, bob)
		e.move(stream.DeviceLists, 1, bob)
		got = <-answer
		expect(t, "woken by devices", got.Get("device_lists.changed").Raw, `["@bob:home"]`)
		since = got.next()
		start := time.Now()
		got = e.sync(alice, since, "timeout", "50")
		expect(t, "time is up", got.Get("rooms").Exists() || time.Since(start) < 50*time.Millisecond, false)
		since = got.next()
		answer = poll()
		close(e.stopping)
		got = <-answer
		expect(t, "the server stops", got.next() == since && !got.Get("rooms").Exists(), true)
		// Meanwhile one that comes is answered, with what there is.
		r.say(bob, "last words")
		got = e.sync(alice, since, "timeout", "20000")
		expect(t, "after the stop began", bodies(got.in("join", r, "timeline.events")), "last words")
		expect(t, "nobody waits", e.srv.requests.asleep.Load(), 0)
	})
}

// A first sync has rooms that the user was made to leave, and not those that the user left.
func TestFirstSyncAfterLeaving(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		left, kicked, banned, forgotten := e.newRoom(alice), e.newRoom(alice), e.newRoom(alice), e.newRoom(alice)
		for _, r := range []*room{left, kicked, banned, forgotten} {
			r.member(bob, "join")
		}
		left.member(bob, "leave")
		kicked.state_(alice, "m.room.member", string(bob), obj{"membership": "leave"})
		banned.state_(alice, "m.room.member", string(bob), obj{"membership": "ban"})
		ban := forgotten.state_(alice, "m.room.member", string(bob), obj{"membership": "ban"})
		e.ok(e.db.Update(t.Context(), func(tx *sqldb.Tx) error {
			_, err := e.w.Forget(t.Context(), tx, forgotten.nid, ban.StateKeyNID)
			return err
		}))
		first := e.sync(bob, "")
		for r, want := range map[*room]bool{left: false, kicked: true, banned: true, forgotten: false} {
			expect(t, "is shown", first.in("leave", r, "timeline.events").Exists(), want)
		}
		expect(t, "not again", e.sync(bob, first.next(), "full_state", "true").Get("rooms").Exists(), false)
		all := e.sync(bob, "", "filter", `{"room":{"include_leave":true}}`)
		expect(t, "with include_leave", all.in("leave", left, "timeline.events").Exists() && all.in("leave", banned, "timeline.events").Exists(), true)
	})
}

// A room that was forgotten is in the answer that tells of the leaving, and in none after it.
func TestSyncForgotten(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		r.member(bob, "join")
		since := e.sync(bob, "").next()
		left := r.member(bob, "leave")
		e.ok(e.db.Update(t.Context(), func(tx *sqldb.Tx) error {
			_, err := e.w.Forget(t.Context(), tx, r.nid, left.StateKeyNID)
			return err
		}))
		const all = `{"room":{"include_leave":true}}`
		expect(t, "incremental", e.sync(bob, since, "filter", all).in("leave", r, "").Exists(), true)
		expect(t, "full state", e.sync(bob, since, "filter", all, "full_state", "true").in("leave", r, "").Exists(), true)
		expect(t, "first", e.sync(bob, "", "filter", all).in("leave", r, "").Exists(), false)
		expect(t, "messages", e.get(bob, r.path("/messages"), "dir", "b").status, 403)
	})
}
