package syncapi

import (
	"context"
	"fmt"
	"net/url"
	"testing"

	"weft/internal/eventstore"
	"weft/matrix/id"
	roomapi "weft/roomserver/api"
)

func (e *env) get(user id.User, path string, params ...string) reply {
	e.t.Helper()
	q := url.Values{}
	for i := 0; i < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	return e.do(user, "GET", path+"?"+q.Encode(), nil)
}

func (r *room) path(rest string) string { return v3 + "/rooms/" + string(r.id) + rest }

func TestMessages(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		r.say(alice, "1")
		start := e.sync(alice, "")
		for i := 2; i <= 6; i++ {
			r.say(alice, fmt.Sprint(i))
		}
		page := e.get(alice, r.path("/messages"), "dir", "b", "limit", "4")
		expect(t, "latest", bodies(page.Get("chunk")), "6 5 4 3")
		page = e.get(alice, r.path("/messages"), "dir", "b", "limit", "4", "from", page.Get("end").Str)
		expect(t, "earliest", bodies(page.Get("chunk")), "2 1 member create")
		expect(t, "no end", page.Get("end").Exists(), false)
		expect(t, "start", page.Get("start").Exists(), true)
		forward := e.get(alice, r.path("/messages"), "dir", "f", "from", start.next(), "limit", "2")
		expect(t, "after a sync", bodies(forward.Get("chunk")), "2 3")
		expect(t, "on", bodies(e.get(alice, r.path("/messages"), "dir", "f", "from", forward.Get("end").Str).Get("chunk")), "4 5 6")
		expect(t, "before a sync", bodies(e.get(alice, r.path("/messages"), "dir", "b", "from", start.next(), "limit", "1").Get("chunk")), "1")
		expect(t, "up to a sync", bodies(e.get(alice, r.path("/messages"), "dir", "b", "to", start.next()).Get("chunk")), "6 5 4 3 2")
		gap := e.sync(alice, start.next(), "filter", `{"room":{"timeline":{"limit":2}}}`)
		prev := gap.in("join", r, "timeline.prev_batch").Str
		expect(t, "before a timeline", bodies(e.get(alice, r.path("/messages"), "dir", "b", "from", prev, "limit", "2").Get("chunk")), "4 3")
		expect(t, "filter", bodies(e.get(alice, r.path("/messages"), "dir", "b", "filter", `{"types":["m.room.member"]}`).Get("chunk")), "member")
		lazy := e.get(alice, r.path("/messages"), "dir", "b", "filter", `{"lazy_load_members":true}`)
		expect(t, "lazy state", lazy.Get("state.0.state_key").Str, alice)
		for _, c := range [][]string{{"dir", "x"}, {"from", "x", "dir", "b"}, {"from", "s1_x", "dir", "b"}, {"from", "t1_1", "dir", "b"},
			{"limit", "-1", "dir", "b"}, {"to", "x", "dir", "b"}, {"filter", "{", "dir", "b"}} {
			a := e.get(alice, r.path("/messages"), c...)
			expect(t, fmt.Sprint(c), a.Get("errcode").Str, "M_INVALID_PARAM")
		}
		expect(t, "no dir", e.get(alice, r.path("/messages")).Get("errcode").Str, "M_MISSING_PARAM")
		expect(t, "stranger", e.get(bob, r.path("/messages"), "dir", "b").status, 403)
		expect(t, "no room", e.get(bob, v3+"/rooms/!no:home/messages", "dir", "b").status, 403)
	})
}

// An event of a branch that was cut off comes late and lies higher in the graph than what was
// said here meanwhile. Of that nothing may be lost between a timeline and the
// history before it.
func TestMessagesBeforeLateBranch(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		since := e.sync(alice, "")
		late := r.build(carol, "m.room.message", nil, obj{"body": "late"}, "")
		for i := 1; i <= 4; i++ {
			r.say(alice, fmt.Sprint(i))
		}
		tips := r.tips
		branch := r.put(late, option{})
		r.tips = append(tips, branch)
		r.say(alice, "5")
		r.say(alice, "6")
		for name, gap := range map[string]reply{
			"limited": e.sync(alice, since.next(), "filter", `{"room":{"timeline":{"limit":3}}}`),
			"initial": e.sync(alice, "", "filter", `{"room":{"timeline":{"limit":3}}}`),
		} {
			expect(t, name, bodies(gap.in("join", r, "timeline.events")), "late 5 6")
			prev := gap.in("join", r, "timeline.prev_batch").Str
			page := e.get(alice, r.path("/messages"), "dir", "b", "from", prev, "limit", "3")
			expect(t, name+": omitted", bodies(page.Get("chunk")), "4 3 2")
			page = e.get(alice, r.path("/messages"), "dir", "b", "from", page.Get("end").Str)
			expect(t, name+": the rest", bodies(page.Get("chunk")), "1 member create")
			forward := e.get(alice, r.path("/messages"), "dir", "f", "from", prev)
			expect(t, name+": forward", bodies(forward.Get("chunk")), "late 2 3 4 5 6")
		}
		whole := e.sync(alice, "").in("join", r, "timeline.prev_batch").Str
		expect(t, "before the first event", bodies(e.get(alice, r.path("/messages"), "dir", "b", "from", whole).Get("chunk")), "")
	})
}

func TestMessagesVisibility(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		r.state_(alice, "m.room.history_visibility", "", obj{"history_visibility": "joined"})
		r.say(alice, "before")
		r.member(bob, "join")
		r.say(alice, "during")
		r.member(bob, "leave")
		r.say(alice, "after")
		expect(t, "left", bodies(e.get(bob, r.path("/messages"), "dir", "b").Get("chunk")), "member during member history_visibility member create")
		expect(t, "forward", bodies(e.get(bob, r.path("/messages"), "dir", "f", "limit", "50").Get("chunk")), "create member history_visibility member during member")
		members := e.get(bob, r.path("/members"))
		expect(t, "members when left", len(members.Get("chunk").Array()), 2)
		expect(t, "joined members", e.get(bob, r.path("/joined_members")).status, 403)
		r.state_(alice, "m.room.history_visibility", "", obj{"history_visibility": "world_readable"})
		expect(t, "open to the world", bodies(e.get("@eve:home", r.path("/messages"), "dir", "b", "limit", "1").Get("chunk")), "history_visibility")
	})
}

// fakeRooms has one older message on another server.
type fakeRooms struct {
	roomapi.Rooms
	asked []roomapi.Backfill
	fill  func() bool
}

func (f *fakeRooms) Backfill(_ context.Context, req roomapi.Backfill) (bool, error) {
	f.asked = append(f.asked, req)
	return f.fill(), nil
}

func TestMessagesBackfill(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		old := r.build(carol, "m.room.message", nil, obj{"body": "from before"}, "")
		r.tips[0].Depth++ // room for the old one
		r.put(r.build(alice, "m.room.message", nil, obj{"body": "first"}, ""), option{missing: old.ID})
		rooms := &fakeRooms{}
		rooms.fill = func() bool {
			if len(rooms.asked) > 1 {
				return false
			}
			r.put(old, option{backfill: true})
			return true
		}
		e.srv.cfg.Rooms = rooms
		expect(t, "filled", bodies(e.get(alice, r.path("/messages"), "dir", "b").Get("chunk")), "first from before member create")
		expect(t, "asked for", rooms.asked[0].Room, r.id)
	})
}

// A user who comes back into a room has history missing right before what /sync shows.
func TestMessagesBackfillBeforeTimeline(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		r.say(alice, "long ago")
		r.tips[0].Depth += 10
		missed := r.build(carol, "m.room.message", nil, obj{"body": "missed"}, "")
		r.tips[0].Depth++
		edge := r.put(r.build(alice, "m.room.message", nil, obj{"body": "back"}, ""), option{missing: missed.ID})
		rooms := &fakeRooms{}
		e.srv.cfg.Rooms = rooms
		rooms.fill = func() bool { return false }
		prev := e.sync(alice, "").in("join", r, "timeline.prev_batch").Str
		expect(t, "not to be had", bodies(e.get(alice, r.path("/messages"), "dir", "b", "from", prev).Get("chunk")), "long ago member create")
		rooms.fill = func() bool {
			r.put(missed, option{backfill: true})
			rooms.fill = func() bool { return false }
			return true
		}
		expect(t, "filled", bodies(e.get(alice, r.path("/messages"), "dir", "b", "from", prev).Get("chunk")), "missed long ago member create")
		expect(t, "around", bodies(e.get(alice, r.path("/context/"+string(edge.ID))).Get("events_before")), "missed long ago member create")
		expect(t, "asked for", rooms.asked[0].Before, edge.Depth)
	})
}

func TestContextAndEvent(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		var mid *eventstore.Event
		for i := 1; i <= 7; i++ {
			if ev := r.say(alice, fmt.Sprint(i)); i == 4 {
				mid = ev
			}
		}
		path := r.path("/context/" + string(mid.ID))
		got := e.get(alice, path, "limit", "4")
		expect(t, "before", bodies(got.Get("events_before")), "3 2")
		expect(t, "event", got.Get("event.content.body").Str, "4")
		expect(t, "after", bodies(got.Get("events_after")), "5 6")
		expect(t, "state", bodies(got.Get("state")), "create member")
		expect(t, "on", bodies(e.get(alice, r.path("/messages"), "dir", "f", "from", got.Get("end").Str).Get("chunk")), "7")
		expect(t, "back", bodies(e.get(alice, r.path("/messages"), "dir", "b", "limit", "1", "from", got.Get("start").Str).Get("chunk")), "1")
		none := e.get(alice, path, "limit", "0")
		expect(t, "alone", len(none.Get("events_before").Array())+len(none.Get("events_after").Array()), 0)
		expect(t, "/event", e.get(alice, r.path("/event/"+string(mid.ID))).Get("content.body").Str, "4")
		expect(t, "room_id", e.get(alice, r.path("/event/"+string(mid.ID))).Get("room_id").Str, r.id)
		e.want(alice, 404, "M_NOT_FOUND", "GET", r.path("/event/$nothing"), nil)
		e.want(bob, 404, "M_NOT_FOUND", "GET", r.path("/event/"+string(mid.ID)), nil)
		e.want(bob, 403, "M_FORBIDDEN", "GET", path, nil)
		other := e.newRoom(alice)
		e.want(alice, 404, "M_NOT_FOUND", "GET", other.path("/event/"+string(mid.ID)), nil)
		r.state_(alice, "m.room.history_visibility", "", obj{"history_visibility": "joined"})
		hidden := r.say(alice, "hidden")
		r.member(bob, "join")
		e.want(bob, 404, "M_NOT_FOUND", "GET", r.path("/event/"+string(hidden.ID)), nil)
	})
}

func TestMembers(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		at := e.sync(alice, "")
		r.state_(bob, "m.room.member", string(bob), obj{"membership": "join", "displayname": "Bob", "avatar_url": "mxc://a/b"})
		r.member(carol, "join")
		r.member(carol, "leave")
		keys := func(params ...string) string {
			out := ""
			for _, ev := range e.get(alice, r.path("/members"), params...).Get("chunk").Array() {
				out += ev.Get("state_key").Str + " "
			}
			return out
		}
		expect(t, "all", keys(), "@alice:home @bob:home @carol:away ")
		expect(t, "joined", keys("membership", "join"), "@alice:home @bob:home ")
		expect(t, "not left", keys("not_membership", "leave"), "@alice:home @bob:home ")
		expect(t, "left", keys("membership", "leave"), "@carol:away ")
		expect(t, "at a sync", keys("at", at.next()), "@alice:home ")
		expect(t, "at prev_batch", keys("at", at.in("join", r, "timeline.prev_batch").Str), "@alice:home ")
		e.want(alice, 400, "M_INVALID_PARAM", "GET", r.path("/members?membership=x"), nil)
		e.want(alice, 400, "M_INVALID_PARAM", "GET", r.path("/members?at=x"), nil)
		joined := e.get(alice, r.path("/joined_members")).Get("joined")
		expect(t, "joined_members", joined.Get(`@bob\:home`).Raw, `{"display_name":"Bob","avatar_url":"mxc://a/b"}`)
		expect(t, "count", len(joined.Map()), 2)
		e.want(bob, 200, "", "GET", r.path("/joined_members"), nil)
		e.want("@eve:home", 403, "M_FORBIDDEN", "GET", r.path("/joined_members"), nil)
	})
}
