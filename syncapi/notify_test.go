package syncapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"weft/internal/eventstore"
	"weft/internal/sqldb"
	"weft/internal/upkeep"
	"weft/matrix/id"
)

const testRules = `{"global":{
	"override":[{"rule_id":".m.rule.invite_for_me","enabled":true,"default":true,"actions":["notify"],"conditions":[
		{"kind":"event_match","key":"type","pattern":"m.room.member"},{"kind":"event_match","key":"content.membership","pattern":"invite"},
		{"kind":"event_match","key":"state_key","pattern":"@bob:home"}]},
		{"rule_id":".m.rule.contains_display_name","enabled":true,"default":true,"actions":["notify",{"set_tweak":"highlight"}],
		"conditions":[{"kind":"contains_display_name"}]},
		{"rule_id":".m.rule.roomnotif","enabled":true,"default":true,"actions":["notify",{"set_tweak":"highlight"}],"conditions":[
		{"kind":"event_match","key":"content.body","pattern":"@room"},{"kind":"sender_notification_permission","key":"room"}]}],
	"underride":[{"rule_id":".m.rule.message","enabled":true,"default":true,"actions":["notify"],"conditions":[
		{"kind":"event_match","key":"type","pattern":"m.room.message"}]}]}}`

func (e *env) rules(users ...id.User) {
	e.t.Helper()
	for _, u := range users {
		e.ok(e.accounts.SetAccountData(e.t.Context(), u, "", "m.push_rules", json.RawMessage(testRules)))
	}
}

// relates makes the content of an event that relates to another.
func relates(body, rel string, to *eventstore.Event) obj {
	return obj{"msgtype": "m.text", "body": body, "m.relates_to": obj{"rel_type": rel, "event_id": to.ID}}
}

func TestUnreadCounts(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		e.rules(alice, bob)
		r := e.newRoom(alice)
		r.state_(bob, "m.room.member", string(bob), obj{"membership": "join", "displayname": "Bobby"})
		since := e.sync(bob, "").next()
		a := r.say(alice, "one")
		b := r.send(alice, "m.room.message", relates("two", "m.thread", a))
		r.send(alice, "m.room.message", relates("hi bobby", "m.thread", a))
		d := r.say(alice, "@room three")
		r.send(alice, "m.room.message", relates("four", "m.thread", a))
		f := r.send(alice, "m.room.message", relates("ref", "m.reference", a))
		r.send(alice, "m.room.reaction", relates("x", "m.annotation", f))
		const threads = `{"room":{"timeline":{"unread_thread_notifications":true}}}`
		counts := func() string {
			plain := e.sync(bob, since)
			split := e.sync(bob, since, "filter", threads)
			num := func(g reply, path string) string {
				x := g.in("join", r, path)
				return x.Get("notification_count").Raw + "/" + x.Get("highlight_count").Raw
			}
			return num(plain, "unread_notifications") + " " + num(split, "unread_notifications") + " " +
				num(split, "unread_thread_notifications."+string(a.ID))
		}
		mark := func(ev *eventstore.Event, thread string) {
			t.Helper()
			body := obj{}
			if thread != "" {
				body["thread_id"] = thread
			}
			e.want(bob, 200, "", "POST", r.path("/receipt/m.read/"+string(ev.ID)), body)
		}
		expect(t, "all", counts(), "6/2 3/1 3/1")
		mark(a, "main")
		expect(t, "first of the main timeline", counts(), "5/2 2/1 3/1")
		mark(b, string(a.ID))
		expect(t, "first of the thread", counts(), "4/2 2/1 2/1")
		mark(d, "")
		expect(t, "without a thread", counts(), "2/0 1/0 1/0")
		list := e.want(bob, 200, "", "GET", v3+"/notifications?limit=4", nil)
		expect(t, "list", len(list.Get("notifications").Array()), 4)
		expect(t, "newest", list.Get("notifications.0.event.content.body").Str+list.Get("notifications.0.read").Raw, "reffalse")
		rest := e.want(bob, 200, "", "GET", v3+"/notifications?from="+list.Get("next_token").Str, nil)
		expect(t, "rest", len(rest.Get("notifications").Array()), 2)
		expect(t, "highlights", len(e.want(bob, 200, "", "GET", v3+"/notifications?only=highlight", nil).Get("notifications").Array()), 2)
		e.want(bob, 400, "M_INVALID_PARAM", "GET", v3+"/notifications?from=-", nil)
		r.say(bob, "answer")
		expect(t, "by an answer", counts(), "1/0 0/0 1/0")
		expect(t, "own events", e.sync(alice, "").in("join", r, "unread_notifications.notification_count").Int(), 1)
	})
}

// What is redacted counts nothing, wherever its redaction is: before it, or beyond the page in which it is judged.
func TestRedactedEventsCountNothing(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		e.rules(bob)
		r := e.newRoom(alice)
		r.state_(bob, "m.room.member", string(bob), obj{"membership": "join", "displayname": "Bobby"})
		since := e.sync(bob, "").next()
		late := r.build(alice, "m.room.message", nil, obj{"msgtype": "m.text", "body": "late"}, "")
		first := r.put(r.build(alice, "m.room.redaction", nil, obj{}, late.ID), option{})
		r.put(late, option{redacted: first.NID})
		expect(t, "the redaction came first", e.unread(bob, r, since), "0/0")
		root := r.say(alice, "root")
		e.sync(bob, since)
		var bad []*eventstore.Event
		e.paused(func() {
			for range followPage - 3 {
				r.send(alice, "x.other", obj{})
			}
			bad = append(bad, r.say(alice, "hi bobby"), r.send(alice, "m.room.message", relates("hi bobby", "m.thread", root)), r.say(alice, "hi"))
			for _, ev := range bad {
				r.put(r.build(alice, "m.room.redaction", nil, obj{}, ev.ID), option{})
			}
		})
		expect(t, "the redaction is on the next page", e.unread(bob, r, ""), "1/0")
	})
}

// A receipt that was worked out before another one was stored must not take that one's effect back, nor may a redaction
// of what was read since.
func TestReceiptsAtOnce(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		e.rules(bob)
		r := e.newRoom(alice)
		r.member(bob, "join")
		var said []*eventstore.Event
		for range 4 {
			said = append(said, r.say(alice, "hello"))
		}
		expect(t, "all", e.unread(bob, r, ""), "4/0")
		room, err := e.r.Room(t.Context(), r.id)
		e.ok(err)
		mine := func(n int, private bool) receipt {
			return receipt{user: bob, private: private, event: said[n].ID, ts: 1}
		}
		effect := func(n int, private bool) *readEffect {
			f, err := e.srv.readEffect(t.Context(), r.nid, mine(n, private), said[n].StreamPos)
			e.ok(err)
			return f
		}
		early, further := effect(0, false), effect(2, true)
		_, err = e.srv.storeReceipt(t.Context(), room, mine(2, true), said[2].StreamPos, further)
		e.ok(err)
		_, err = e.srv.storeReceipt(t.Context(), room, mine(0, false), said[0].StreamPos, early)
		expect(t, "the other one", errors.Is(err, errMoved), true)
		expect(t, "one is left", e.unread(bob, r, ""), "1/0")
		user, err := e.r.UserNID(t.Context(), bob)
		e.ok(err)
		e.ok(e.db.Update(t.Context(), func(tx *sqldb.Tx) error {
			return e.srv.lowerUnread(t.Context(), tx, []lowering{{unreadKey{user, r.nid, threadMain}, unreadCount{1, 0}, said[1].StreamPos}})
		}))
		expect(t, "what was read is not taken from what was not", e.unread(bob, r, ""), "1/0")
	})
}

// One user's rules, of whatever form, leave everybody else's counts alone.
func TestRulesThatAreNotUnderstood(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		e.rules(bob)
		r := e.newRoom(alice)
		for _, u := range []id.User{bob, carol} {
			r.member(u, "join")
		}
		for _, rules := range []string{`{"global":{"override":[{"rule_id":"x","enabled":true,"actions":[],"conditions":[{"kind":"room_member_count","is":2}]}]}}`, `7`} {
			e.ok(e.accounts.SetAccountData(t.Context(), carol, "", "m.push_rules", json.RawMessage(rules)))
			since := e.sync(bob, "").next()
			last := r.say(alice, "one")
			expect(t, "bob's", e.unread(bob, r, since), "1/0")
			expect(t, "carol's", e.unread(carol, r, ""), "0/0")
			e.want(bob, 200, "", "POST", r.path("/receipt/m.read/"+string(last.ID)), obj{})
		}
	})
}

// Rows that count nothing any more go, in batches; the others stay, and what comes later counts from where it was read.
func TestReadCountsGo(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		e.rules(alice, bob)
		r := e.newRoom(alice)
		r.member(bob, "join")
		read := r.say(alice, "one")
		e.sync(bob, "")
		e.want(bob, 200, "", "POST", r.path("/receipt/m.read/"+string(read.ID)), obj{})
		bobNID, err := e.r.UserNID(t.Context(), bob)
		e.ok(err)
		const others = 2*upkeep.Batch + 100
		e.ok(e.db.Update(t.Context(), func(tx *sqldb.Tx) error {
			var rows [][]any
			for n := range others { // two of three have read all
				rows = append(rows, []any{1_000_000 + n/3, int64(r.nid), n % 3, 1, 2, (n % 3) / 2, 0})
			}
			return sqldb.Insert(t.Context(), tx, `INSERT INTO unread (user_nid, room_nid, thread, read_pos, pos, notify, highlight) VALUES `, rows, "")
		}))
		n, err := e.srv.deleteRead(t.Context())
		e.ok(err)
		expect(t, "removed", n, 1+others-others/3)
		var left, counted int
		e.ok(e.db.QueryRow(t.Context(), `SELECT COUNT(*), SUM(notify) FROM unread`).Scan(&left, &counted))
		expect(t, "left", left, others/3)
		expect(t, "what they count", counted, others/3)
		two := r.say(alice, "two")
		expect(t, "unread", e.unread(bob, r, ""), "1/0")
		var from, to int64
		e.ok(e.db.QueryRow(t.Context(), `SELECT read_pos, pos FROM unread WHERE user_nid = $1`, int64(bobNID)).Scan(&from, &to))
		expect(t, "from where", from, two.StreamPos-1)
		expect(t, "to where", to, two.StreamPos)
	})
}

func TestNotificationsOfInvitesAndRedactions(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		e.rules(bob)
		r := e.newRoom(alice)
		r.state_(alice, "m.room.member", string(bob), obj{"membership": "invite"})
		list := func() int {
			return len(e.want(bob, 200, "", "GET", v3+"/notifications", nil).Get("notifications").Array())
		}
		expect(t, "invite", list(), 1)
		r.member(bob, "join")
		bad := r.say(alice, "bad")
		expect(t, "message", list(), 2)
		r.put(r.build(alice, "m.room.redaction", nil, obj{}, bad.ID), option{})
		expect(t, "redacted", list(), 1)
		e.ok(e.accounts.SetAccountData(t.Context(), bob, "", "m.ignored_user_list", json.RawMessage(`{"ignored_users":{"@alice:home":{}}}`)))
		for e.srv.follower.rules.has(bob) { // until the bus has told
			runtime.Gosched()
		}
		r.say(alice, "ignored")
		expect(t, "ignored, with what they said before", list(), 0)
	})
}

func (c *ruleCache) has(u id.User) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rules[u] != nil
}

// What was judged is not judged again by a process that starts later, and another process's progress is noticed.
func TestFollowerRestart(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		e.rules(bob)
		r := e.newRoom(alice)
		r.member(bob, "join")
		r.say(alice, "one")
		e.sync(bob, "")
		again, err := newFollower(t.Context(), e.srv, &cursors{shares: e.srv.shares})
		e.ok(err)
		r.say(alice, "two")
		e.sync(bob, "")
		to, err := position(t.Context(), e.db)
		e.ok(err)
		for _, f := range []*follower{e.srv.follower, again} {
			expect(t, "followed", f.catchUp(t.Context(), to, 0, nil), to.Events)
		}
		expect(t, "counts", e.sync(bob, "").in("join", r, "unread_notifications.notification_count").Int(), 2)
	})
}

func TestRelations(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		r.member(bob, "join")
		root := r.say(alice, "root")
		one := r.send(bob, "m.room.message", relates("one", "m.thread", root))
		before := e.sync(alice, "")
		r.send(bob, "x.other", relates("two", "m.thread", root))
		edit := relates("* edited", "m.replace", root)
		edit["m.new_content"] = obj{"body": "edited"}
		r.send(alice, "m.room.message", edit)
		forged := relates("forged", "m.replace", root)
		r.send(bob, "m.room.message", forged)
		r.send(bob, "m.room.message", relates("ref", "m.reference", root))
		deep := r.send(bob, "m.reaction", relates("deep", "m.annotation", one))
		base := v1 + "/rooms/" + string(r.id) + "/relations/" + string(root.ID)
		expect(t, "all", bodies(e.get(alice, base).Get("chunk")), "ref forged * edited two one")
		expect(t, "by relation", bodies(e.get(alice, base+"/m.thread").Get("chunk")), "two one")
		expect(t, "by type", bodies(e.get(alice, base+"/m.thread/m.room.message").Get("chunk")), "one")
		expect(t, "forward", bodies(e.get(alice, base, "dir", "f", "limit", "2").Get("chunk")), "one two")
		page := e.get(alice, base, "dir", "f", "limit", "2")
		page = e.get(alice, base, "dir", "f", "limit", "2", "from", page.Get("next_batch").Str)
		expect(t, "second page", bodies(page.Get("chunk")), "* edited forged")
		page = e.get(alice, base, "limit", "4")
		expect(t, "last page", bodies(e.get(alice, base, "from", page.Get("next_batch").Str).Get("chunk")), "one")
		expect(t, "since a sync", bodies(e.get(alice, base, "dir", "f", "from", before.next(), "limit", "2").Get("chunk")), "two * edited")
		recursive := e.get(alice, base+"/m.annotation", "recurse", "true")
		expect(t, "recursive", bodies(recursive.Get("chunk"))+recursive.Get("recursion_depth").Raw, "deep3")
		e.want("@eve:home", 403, "M_FORBIDDEN", "GET", base, nil)
		e.want(alice, 404, "M_NOT_FOUND", "GET", v1+"/rooms/"+string(r.id)+"/relations/$no", nil)
		expect(t, "bad from", e.get(alice, base, "from", "x").Get("errcode").Str, "M_INVALID_PARAM")

		shown := e.get(alice, r.path("/event/"+string(root.ID))).Get("unsigned.m\\.relations")
		expect(t, "replacement", shown.Get("m\\.replace.content.body").Str, "* edited")
		expect(t, "references", len(shown.Get("m\\.reference.chunk").Array()), 1)
		thread := shown.Get("m\\.thread")
		expect(t, "thread", fmt.Sprint(thread.Get("count").Raw, thread.Get("latest_event.content.body").Str, thread.Get("current_user_participated").Raw), "2twotrue")
		expect(t, "in /sync", e.sync(alice, "").in("join", r, `timeline.events.3.unsigned.m\.relations.m\.thread.count`).Int(), 2)

		r.put(r.build(bob, "m.room.redaction", nil, obj{}, deep.ID), option{})
		r.put(r.build(bob, "m.room.redaction", nil, obj{}, one.ID), option{})
		expect(t, "redacted", bodies(e.get(alice, base+"/m.thread").Get("chunk")), "two")
		expect(t, "filter", bodies(e.sync(alice, "", "filter", `{"room":{"timeline":{"related_by_rel_types":["m.reference"],"related_by_senders":["@bob:home"]}}}`).
			in("join", r, "timeline.events")), "root")
	})
}

func TestThreads(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		r.member(bob, "join")
		one, two := r.say(alice, "one"), r.say(bob, "two")
		r.send(alice, "m.room.message", relates("1a", "m.thread", one))
		r.send(bob, "m.room.message", relates("2a", "m.thread", two))
		path := v1 + "/rooms/" + string(r.id) + "/threads"
		expect(t, "order", bodies(e.get(alice, path).Get("chunk")), "two one")
		again := r.send(alice, "m.room.message", relates("1b", "m.thread", one))
		expect(t, "moved", bodies(e.get(alice, path).Get("chunk")), "one two")
		expect(t, "latest", e.get(alice, path).Get("chunk.0.unsigned.m\\.relations.m\\.thread.latest_event.event_id").Str, again.ID)
		first := e.get(alice, path, "limit", "1")
		expect(t, "page", bodies(first.Get("chunk")), "one")
		expect(t, "next", bodies(e.get(alice, path, "limit", "1", "from", first.Get("next_batch").Str).Get("chunk")), "two")
		expect(t, "participated", bodies(e.get(alice, path, "include", "participated").Get("chunk")), "one")
		r.put(r.build(alice, "m.room.redaction", nil, obj{}, again.ID), option{})
		expect(t, "moved back", bodies(e.get(alice, path).Get("chunk")), "two one")
		expect(t, "bad", e.get(alice, path, "include", "x").Get("errcode").Str, "M_INVALID_PARAM")
		e.want("@eve:home", 403, "M_FORBIDDEN", "GET", path, nil)
	})
}

// What backfill brings in relates to events, too.
func TestRelationsOfBackfilled(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		root := r.say(alice, "root")
		r.put(r.build(carol, "m.room.message", nil, relates("old", "m.thread", root), ""), option{backfill: true})
		e.srv.follower.work(t.Context(), true)
		expect(t, "found", bodies(e.get(alice, v1+"/rooms/"+string(r.id)+"/relations/"+string(root.ID)).Get("chunk")), "old")
	})
}
