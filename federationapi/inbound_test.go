package federationapi

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
	"weft/internal/fedclient"
	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
	roomapi "weft/roomserver/api"
)

const v1, v2 = "/_matrix/federation/v1", "/_matrix/federation/v2"

func esc(s any) string { return url.PathEscape(fmt.Sprint(s)) }

// list reads a list of events of an answer, by their IDs.
func (a answer) list(field string) []id.Event {
	a.t.Helper()
	var body map[string]json.RawMessage
	a.into(&body)
	var raw []json.RawMessage
	if err := json.Unmarshal(body[field], &raw); err != nil || raw == nil {
		a.t.Fatalf("%s: %v in %.200s", field, err, a.body)
	}
	return call{txn: fedclient.Transaction{PDUs: raw}}.pdus()
}

func TestEveryEndpointIsSigned(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		open := []string{"/version", "/openid/userinfo", "/_matrix/key/", "/.well-known/"}
		for _, r := range s.server.Routes() {
			path := r.Path
			for _, v := range []string{"{roomId}", "{eventId}", "{userId}", "{txnId}", "{keyId}", "{serverName}"} {
				path = strings.ReplaceAll(path, v, "x")
			}
			a := s.do("", r.Method, path, "{}")
			if !slices.ContainsFunc(open, func(o string) bool { return strings.Contains(path, o) }) {
				a.fails(http.StatusUnauthorized, "M_UNAUTHORIZED")
			} else if gjson.GetBytes(a.body, "errcode").Str == "M_UNAUTHORIZED" {
				t.Errorf("%s wants a signature", path)
			}
		}
	})
}

// TestRoomAccess sends every request about a room as a server that is not in it,
// as one that an ACL denies, with broken parameters and about unknown rooms.
func TestRoomAccess(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		r := s.newRoom(alice, oscar, tina)
		said := r.say(alice, "hi")
		other := s.newRoom(alice, oscar).say(alice, "elsewhere")
		r.acl(two)
		stub := s.stubRoom(alice)
		type endpoint struct {
			method, path string // %[1]s: the room, %[2]s: the event, %[3]s: a user
			member       bool   // only for servers in the room
			event        bool   // fails for an event of another room
		}
		endpoints := []endpoint{
			{"GET", v1 + "/state/%[1]s?event_id=%[2]s", true, true},
			{"GET", v1 + "/state_ids/%[1]s?event_id=%[2]s", true, true},
			{"GET", v1 + "/event_auth/%[1]s/%[2]s", true, true},
			{"GET", v1 + "/backfill/%[1]s?v=%[2]s&limit=5", true, false},
			{"POST", v1 + "/get_missing_events/%[1]s", true, false},
			{"GET", v1 + "/timestamp_to_event/%[1]s?ts=1&dir=f", true, false},
			{"GET", v1 + "/make_join/%[1]s/%[3]s?ver=10", false, false},
			{"GET", v1 + "/make_leave/%[1]s/%[3]s", false, false},
			{"GET", v1 + "/make_knock/%[1]s/%[3]s?ver=10", false, false},
			{"PUT", v1 + "/send_join/%[1]s/%[2]s", false, false},
			{"PUT", v2 + "/send_join/%[1]s/%[2]s", false, false},
			{"PUT", v1 + "/send_leave/%[1]s/%[2]s", false, false},
			{"PUT", v2 + "/send_leave/%[1]s/%[2]s", false, false},
			{"PUT", v1 + "/send_knock/%[1]s/%[2]s", false, false},
			{"GET", v1 + "/hierarchy/%[1]s", false, false},
		}
		s.parts.answer = roomapi.SentMembership{Event: json.RawMessage(`{}`)}
		for _, e := range endpoints {
			ask := func(origin id.Server, room id.Room, ev id.Event) answer {
				path := fmt.Sprintf(e.path, esc(room), esc(ev), esc("@u:"+string(origin)))
				path, _, _ = strings.Cut(path, "%!(EXTRA")
				return s.do(origin, e.method, path, "{}")
			}
			if a := ask(one, r.id, said.ID); a.status != http.StatusOK && !strings.Contains(e.path, "hierarchy") {
				t.Errorf("%s: %d %s", e.path, a.status, a.body)
			}
			ask(one, "!unknown:home.example", said.ID).fails(http.StatusNotFound, "M_NOT_FOUND")
			ask(one, stub.id, said.ID).fails(http.StatusNotFound, "M_NOT_FOUND")
			ask(two, r.id, said.ID).fails(http.StatusForbidden, "M_FORBIDDEN")
			ask(one, "no room", said.ID).fails(http.StatusBadRequest, "M_INVALID_PARAM")
			if e.member {
				ask(three, r.id, said.ID).fails(http.StatusForbidden, "M_FORBIDDEN")
			}
			if e.event {
				ask(one, r.id, "$unknownunknownunknownunknownunknownunknownunk").fails(http.StatusNotFound, "M_NOT_FOUND")
				ask(one, r.id, other.ID).fails(http.StatusNotFound, "M_NOT_FOUND")
				ask(one, r.id, "nonsense").fails(http.StatusBadRequest, "M_INVALID_PARAM")
			}
		}
	})
}

func TestGetEvent(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		r := s.newRoom(alice, oscar, tina)
		said := r.say(alice, "hi")
		rejected := r.putAs(eventstore.Rejected, r.build(alice, "m.room.message", nil, message("no")))[0]
		soft := r.putAs(eventstore.SoftFailed, r.build(oscar, "m.room.message", nil, message("soft")))[0]
		outlier := r.putAs(eventstore.Outlier, r.build(alice, "m.room.message", nil, message("outlier")))[0]
		r.send(alice, "m.room.history_visibility", ptr(""), map[string]any{"history_visibility": "joined"})
		r.member(alice, tina, "leave")
		hidden := r.say(alice, "secret")
		member := r.member(tina, tina, "join")

		path := func(e *eventstore.Event) string { return v1 + "/event/" + esc(e.ID) }
		var txn struct {
			Origin id.Server
			TS     int64 `json:"origin_server_ts"`
			PDUs   []json.RawMessage
		}
		s.get(one, path(said)).into(&txn)
		if txn.Origin != home || txn.TS == 0 || len(txn.PDUs) != 1 || string(txn.PDUs[0]) != string(said.JSON()) {
			t.Errorf("got %+v", txn)
		}
		body := func(origin id.Server, e *eventstore.Event) string {
			a := s.get(origin, path(e))
			if got := a.list("pdus"); !slices.Equal(got, ids(e)) {
				t.Errorf("got %v", got)
			}
			return gjson.GetBytes(a.body, "pdus.0.content.body").Str
		}
		if got := body(one, soft); got != "soft" {
			t.Errorf("a soft-failed event has the body %q", got)
		}
		if got := body(two, hidden); got != "" {
			t.Errorf("an event of a time when the server was not in the room has the body %q", got)
		}
		if got := body(one, hidden); got != "secret" {
			t.Errorf("a server that was in the room gets the body %q", got)
		}
		if got := body(one, outlier); got != "" {
			t.Errorf("an event of which it is not known who may see it has the body %q", got)
		}
		if got := s.get(two, path(member)).list("pdus"); !slices.Equal(got, ids(member)) {
			t.Errorf("got %v", got)
		}
		s.get(one, path(rejected)).fails(http.StatusNotFound, "M_NOT_FOUND")
		s.get(one, v1+"/event/"+esc("$unknown")).fails(http.StatusNotFound, "M_NOT_FOUND")
		s.get(one, v1+"/event/nonsense").fails(http.StatusBadRequest, "M_INVALID_PARAM")
		s.get(three, path(said)).fails(http.StatusForbidden, "M_FORBIDDEN")
		r.acl(one)
		s.get(one, path(said)).fails(http.StatusForbidden, "M_FORBIDDEN")
	})
}

func TestState(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		r := s.newRoom(alice, oscar)
		before := r.say(alice, "before")
		topic := r.send(alice, "m.room.topic", ptr(""), map[string]any{"topic": "x"})
		after := r.say(alice, "after")
		outlier := r.putAs(eventstore.Outlier, r.build(alice, "m.room.message", nil, message("outlier")))[0]
		for e, want := range map[*eventstore.Event]int{before: 3, topic: 3, after: 4} {
			q := "/" + esc(r.id) + "?event_id=" + esc(e.ID)
			a := s.get(one, v1+"/state"+q)
			state, chain := a.list("pdus"), a.list("auth_chain")
			if len(state) != want || slices.Contains(state, topic.ID) != (e == after) {
				t.Errorf("state before %s: %v", e.ID, state)
			}
			var got struct {
				PDUs []id.Event `json:"pdu_ids"`
				Auth []id.Event `json:"auth_chain_ids"`
			}
			s.get(one, v1+"/state_ids"+q).into(&got)
			if !slices.Equal(got.PDUs, state) || !slices.Equal(got.Auth, chain) {
				t.Errorf("state_ids has %v, %v; state %v, %v", got.PDUs, got.Auth, state, chain)
			}
			for _, ev := range state {
				stored, err := s.r.EventByID(s.ctx(), ev)
				s.ok(err)
				for _, a := range stored.AuthEvents {
					if !slices.Contains(chain, a) {
						t.Errorf("the auth chain lacks %s", a)
					}
				}
			}
		}
		for _, endpoint := range []string{"/state/", "/state_ids/"} {
			s.get(one, v1+endpoint+esc(r.id)).fails(http.StatusBadRequest, "M_INVALID_PARAM")
			s.get(one, v1+endpoint+esc(r.id)+"?event_id="+esc(outlier.ID)).fails(http.StatusNotFound, "M_NOT_FOUND")
		}
		a := s.get(one, v1+"/event_auth/"+esc(r.id)+"/"+esc(after.ID))
		if got := a.list("auth_chain"); len(got) != 2 { // the create event and alice's join
			t.Errorf("auth chain %v", got)
		}
	})
}

func TestManyMembersAreStreamed(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		const n = 2000
		r := s.newRoom(alice, oscar)
		var events []*event.Event
		tips, depth := r.tips, r.depth
		for i := range n {
			u := id.User(fmt.Sprintf("@u%d:two.example", i))
			e := r.build(u, "m.room.member", ptr(string(u)), map[string]any{"membership": "join", "displayname": "U"})
			r.tips, r.depth = []*event.Event{e}, e.Depth
			events = append(events, e)
		}
		r.tips, r.depth = tips, depth
		r.putAs(0, events...)
		last := r.say(alice, "hi")
		a := s.get(one, v1+"/state/"+esc(r.id)+"?event_id="+esc(last.ID))
		if got := a.list("pdus"); len(got) != n+3 || !containsAll(got, []id.Event{events[0].ID, events[n-1].ID}) {
			t.Errorf("%d state events", len(got))
		}
		var got struct {
			PDUs []id.Event `json:"pdu_ids"`
		}
		s.get(one, v1+"/state_ids/"+esc(r.id)+"?event_id="+esc(last.ID)).into(&got)
		if len(got.PDUs) != n+3 {
			t.Errorf("%d state event IDs", len(got.PDUs))
		}

		row, err := s.r.RoomByNID(s.ctx(), r.nid)
		s.ok(err)
		entries, err := s.r.CurrentState(row).All(s.ctx())
		s.ok(err)
		sent := roomapi.SentMembership{Event: json.RawMessage(`{"the":"join"}`), Version: "10"}
		for _, e := range entries {
			sent.State = append(sent.State, e.Event)
		}
		sent.AuthChain = sent.State[:2]
		s.parts.answer = sent
		path := "/send_join/" + esc(r.id) + "/" + esc(last.ID)
		a = s.do(three, http.MethodPut, v2+path, `{"signed":1}`)
		if len(a.list("state")) != n+3 || len(a.list("auth_chain")) != 2 {
			t.Error("the state of send_join is not whole")
		}
		if !strings.HasPrefix(string(a.body), `{"origin":"home.example","members_omitted":false,"event":{"the":"join"},"state":[{`) {
			t.Errorf("got %.150s", a.body)
		}
		if got := s.parts.sent; got.Origin != three || got.Room != r.id || got.EventID != last.ID || got.Membership != "join" || string(got.Event) != `{"signed":1}` {
			t.Errorf("the room server got %+v", got)
		}
		old := s.do(three, http.MethodPut, v1+path, `{"signed":1}`)
		if string(old.body) != "[200,"+string(a.body)+"]" {
			t.Errorf("v1 has another body: %.150s", old.body)
		}
	})
}

func TestBackfill(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		r := s.newRoom(alice, oscar, tina)
		sent := r.talk(130)
		r.putAs(eventstore.Rejected, r.build(alice, "m.room.message", nil, message("no")))
		other := s.newRoom(alice, oscar).say(alice, "elsewhere")
		reversed := slices.Clone(sent)
		slices.Reverse(reversed)
		ask := func(query string) answer { return s.get(one, v1+"/backfill/"+esc(r.id)+"?"+query) }
		v := "v=" + url.QueryEscape(string(sent[129]))
		for query, n := range map[string]int{v: 10, v + "&limit=1": 1, v + "&limit=20": 20, v + "&limit=100000": 100} {
			if got := ask(query).list("pdus"); !slices.Equal(got, reversed[:n]) {
				t.Errorf("%s gives %d events", query, len(got))
			}
		}
		// Two places: the deeper one first, and nothing twice.
		if got := ask("limit=3&" + v + "&v=" + esc(sent[128])).list("pdus"); !slices.Equal(got, reversed[:3]) {
			t.Errorf("got %v", got)
		}
		if got := ask("limit=500&v=" + esc(sent[0])).list("pdus"); len(got) != 5 {
			t.Errorf("the beginning of the room has %d events", len(got))
		}
		for _, v := range []id.Event{other.ID, "$unknown"} {
			if got := ask("limit=3&v=" + esc(v)).list("pdus"); len(got) != 0 {
				t.Errorf("got %v", got)
			}
		}
		ask("limit=3").fails(http.StatusBadRequest, "M_MISSING_PARAM")
		ask("limit=3&v=nonsense").fails(http.StatusBadRequest, "M_INVALID_PARAM")
		ask(v+"&limit=0").fails(http.StatusBadRequest, "M_INVALID_PARAM")
		ask(v+"&limit=many").fails(http.StatusBadRequest, "M_INVALID_PARAM")
		ask(strings.Repeat("v=$a&", 101)).fails(http.StatusRequestEntityTooLarge, "M_TOO_LARGE")
	})
}

func TestHistoryIsRedactedForNewcomers(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		r := s.newRoom(alice, oscar)
		r.send(alice, "m.room.history_visibility", ptr(""), map[string]any{"history_visibility": "joined"})
		old := r.say(alice, "secret")
		join := r.member(tina, tina, "join")
		said := r.say(alice, "hi")
		for origin, want := range map[id.Server]string{one: "secret", two: ""} {
			a := s.get(origin, v1+"/backfill/"+esc(r.id)+"?limit=3&v="+esc(said.ID))
			if got := a.list("pdus"); !slices.Equal(got, ids(said, join, old)) {
				t.Errorf("%s gets %v", origin, got)
			}
			if got := gjson.GetBytes(a.body, "pdus.2.content.body").Str; got != want {
				t.Errorf("%s sees %q", origin, got)
			}
			if got := gjson.GetBytes(a.body, "pdus.0.content.body").Str; got != "hi" {
				t.Errorf("%s sees %q", origin, got)
			}
			a = s.do(origin, http.MethodPost, v1+"/get_missing_events/"+esc(r.id), `{"latest_events":["`+string(said.ID)+`"],"earliest_events":[],"limit":2}`)
			if got := a.list("events"); !slices.Equal(got, ids(old, join)) {
				t.Errorf("%s gets %v", origin, got)
			}
			if got := gjson.GetBytes(a.body, "events.0.content.body").Str; got != want {
				t.Errorf("%s sees %q", origin, got)
			}
		}
	})
}

func TestGetMissingEvents(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		r := s.newRoom(alice, oscar)
		sent := r.talk(80)
		ask := func(latest, earliest []id.Event, rest string) answer {
			t.Helper()
			l, err := json.Marshal(latest)
			s.ok(err)
			e, err := json.Marshal(earliest)
			s.ok(err)
			return s.do(one, http.MethodPost, v1+"/get_missing_events/"+esc(r.id), fmt.Sprintf(`{"latest_events":%s,"earliest_events":%s%s}`, l, e, rest))
		}
		cases := []struct {
			name             string
			latest, earliest []id.Event
			rest             string
			want             []id.Event
		}{
			{"between two events", sent[9:10], sent[4:5], "", sent[5:9]},
			{"ten unless told", sent[60:61], sent[:1], "", sent[50:60]},
			{"a limit", sent[60:61], sent[:1], `,"limit":3`, sent[57:60]},
			{"a bound", sent[79:80], sent[:1], `,"limit":1000`, sent[29:79]},
			{"a limit of nothing", sent[9:10], nil, `,"limit":0`, nil},
			{"a negative limit", sent[9:10], nil, `,"limit":-5`, nil},
			{"a least depth", sent[9:10], nil, fmt.Sprintf(`,"min_depth":%d`, r.depth-80+9), sent[8:9]},
			{"two latest events", sent[8:10], sent[5:6], "", sent[6:8]},
			{"an unknown latest event", []id.Event{"$unknown"}, nil, "", nil},
			{"nothing", nil, nil, "", nil},
		}
		for _, c := range cases {
			if got := ask(c.latest, c.earliest, c.rest).list("events"); !slices.Equal(got, c.want) {
				t.Errorf("%s: got %d events, want %d", c.name, len(got), len(c.want))
			}
		}
		ask([]id.Event{"nonsense"}, nil, "").fails(http.StatusBadRequest, "M_INVALID_PARAM")
		ask(nil, slices.Repeat([]id.Event{"$a"}, 101), "").fails(http.StatusRequestEntityTooLarge, "M_TOO_LARGE")
		ask(nil, nil, `,"limit":"x"`).fails(http.StatusBadRequest, "M_BAD_JSON")
		s.do(one, http.MethodPost, v1+"/get_missing_events/"+esc(r.id), `{`).fails(http.StatusBadRequest, "M_NOT_JSON")
	})
}

func TestTimestampToEvent(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		r := s.newRoom(alice, oscar)
		sent := r.talk(500)
		at := func(e id.Event) int64 {
			ev, err := s.r.EventByID(s.ctx(), e)
			s.ok(err)
			return ev.OriginServerTS
		}
		ask := func(q string) answer { return s.get(one, v1+"/timestamp_to_event/"+esc(r.id)+"?"+q) }
		for _, i := range []int{0, 1, 250, 498, 499} {
			ts := at(sent[i])
			want := fmt.Sprintf(`{"event_id":"%s","origin_server_ts":%d}`, sent[i], ts)
			ask(fmt.Sprintf("dir=f&ts=%d", ts)).is(want)
			ask(fmt.Sprintf("dir=b&ts=%d", ts)).is(want)
			ask(fmt.Sprintf("dir=f&ts=%d", ts-10)).is(want)
			ask(fmt.Sprintf("dir=b&ts=%d", ts+10)).is(want)
		}
		ask(fmt.Sprintf("dir=f&ts=%d", at(sent[499])+1)).fails(http.StatusNotFound, "M_NOT_FOUND")
		ask("dir=b&ts=1").fails(http.StatusNotFound, "M_NOT_FOUND")
		ask("dir=b").fails(http.StatusBadRequest, "M_MISSING_PARAM")
		ask("ts=5").fails(http.StatusBadRequest, "M_MISSING_PARAM")
		ask("dir=x&ts=5").fails(http.StatusBadRequest, "M_INVALID_PARAM")
		ask("dir=f&ts=now").fails(http.StatusBadRequest, "M_INVALID_PARAM")
		ask("dir=f&ts=-1").fails(http.StatusBadRequest, "M_INVALID_PARAM")
		// Clocks that disagree: the nearest one counts, not the first in the order.
		r.ts -= 100_000
		early := r.say(alice, "my clock is slow")
		ts := early.OriginServerTS
		ask(fmt.Sprintf("dir=f&ts=%d", ts-1)).is(fmt.Sprintf(`{"event_id":"%s","origin_server_ts":%d}`, nearest(s, sent, early, ts-1), ts))
	})
}

// nearest gives the first event of a list or the one event with the time that follows ts.
func nearest(s *site, sent []id.Event, e *eventstore.Event, ts int64) id.Event {
	s.t.Helper()
	for _, i := range sent {
		ev, err := s.r.EventByID(s.ctx(), i)
		s.ok(err)
		if ev.OriginServerTS > ts && ev.OriginServerTS <= e.OriginServerTS {
			return ev.ID
		}
	}
	return e.ID
}

func TestMakeMembership(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		r := s.newRoom(alice, oscar)
		for _, m := range []string{"join", "leave", "knock"} {
			path := v1 + "/make_" + m + "/" + esc(r.id) + "/" + esc(tina)
			s.get(two, path).is(`{"event":{"type":"m.room.member"},"room_version":"10"}`)
			got := s.parts.made
			if got.Membership != m || got.Origin != two || got.Room != r.id || got.User != tina || !slices.Equal(got.Versions, []event.RoomVersion{"1"}) {
				t.Errorf("the room server got %+v", got)
			}
			s.get(two, path+"?ver=10&ver=org.x").is(`{"event":{"type":"m.room.member"},"room_version":"10"}`)
			if !slices.Equal(s.parts.made.Versions, []event.RoomVersion{"10", "org.x"}) {
				t.Errorf("versions %v", s.parts.made.Versions)
			}
			s.get(three, path).fails(http.StatusForbidden, "M_FORBIDDEN")
			s.get(two, v1+"/make_"+m+"/"+esc(r.id)+"/nobody").fails(http.StatusBadRequest, "M_INVALID_PARAM")
		}
		s.parts.err = merr.IncompatibleRoomVersion("too new").With("room_version", "10")
		a := s.get(two, v1+"/make_join/"+esc(r.id)+"/"+esc(tina))
		a.fails(http.StatusBadRequest, "M_INCOMPATIBLE_ROOM_VERSION")
		if gjson.GetBytes(a.body, "room_version").Str != "10" {
			t.Errorf("got %s", a.body)
		}
	})
}

func TestSendMembership(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		r := s.newRoom(alice, oscar)
		path := func(endpoint string) string { return endpoint + "/" + esc(r.id) + "/" + esc("$e") }
		s.do(two, "PUT", path(v2+"/send_leave"), "{}").is(`{}`)
		s.do(two, "PUT", path(v1+"/send_leave"), "{}").is(`[200,{}]`)
		s.do(two, "PUT", path(v1+"/send_knock"), "{}").is(`{"knock_room_state":[]}`)
		if s.parts.sent.Membership != "knock" {
			t.Errorf("got %+v", s.parts.sent)
		}
		s.parts.answer.Stripped = []json.RawMessage{json.RawMessage(`{"type":"m.room.name"}`)}
		s.do(two, "PUT", path(v1+"/send_knock"), "{}").is(`{"knock_room_state":[{"type":"m.room.name"}]}`)
		s.parts.err = merr.Forbidden("no")
		for _, e := range []string{v1 + "/send_leave", v2 + "/send_leave", v1 + "/send_join", v2 + "/send_join", v1 + "/send_knock"} {
			s.do(two, "PUT", path(e), "{}").fails(http.StatusForbidden, "M_FORBIDDEN")
			s.do(two, "PUT", e+"/"+esc(r.id)+"/nonsense", "{}").fails(http.StatusBadRequest, "M_INVALID_PARAM")
		}
	})
}

func TestInvites(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		path := "/invite/" + esc("!r:one.example") + "/" + esc("$e")
		s.do(one, "PUT", v2+path, `{"room_version":"10","event":{"a":1},"invite_room_state":[{"b":2}]}`).is(`{"event":{"signed":true}}`)
		got := s.parts.invited
		if got.Origin != one || got.Room != "!r:one.example" || got.EventID != "$e" || got.Version != "10" || string(got.Event) != `{"a":1}` || len(got.Stripped) != 1 {
			t.Errorf("the room server got %+v", got)
		}
		s.do(one, "PUT", v1+path, `{"a":1,"unsigned":{"invite_room_state":[{"b":2}]}}`).is(`[200,{"event":{"signed":true}}]`)
		if got := s.parts.invited; got.Version != "1" || len(got.Stripped) != 1 {
			t.Errorf("the room server got %+v", got)
		}
		s.do(one, "PUT", v2+path, `{"event":{}}`).fails(http.StatusBadRequest, "M_MISSING_PARAM")
		s.do(one, "PUT", v2+path, `{"room_version":"10"}`).fails(http.StatusBadRequest, "M_MISSING_PARAM")
		s.do(one, "PUT", v2+path, `[]`).fails(http.StatusBadRequest, "M_BAD_JSON")
		many := `[` + strings.Repeat(`{},`, 200) + `{}]`
		s.do(one, "PUT", v2+path, `{"room_version":"10","event":{},"invite_room_state":`+many+`}`).fails(http.StatusRequestEntityTooLarge, "M_TOO_LARGE")
		s.do(one, "PUT", v2+"/invite/"+esc("!r:one.example")+"/nonsense", `{"room_version":"10","event":{}}`).fails(http.StatusBadRequest, "M_INVALID_PARAM")
		s.do(one, "PUT", v2+"/invite/nonsense/"+esc("$e"), `{"room_version":"10","event":{}}`).fails(http.StatusBadRequest, "M_INVALID_PARAM")
		// A room that is known to have a version that v1 cannot carry.
		r := s.newRoom(alice, oscar)
		s.do(one, "PUT", v1+"/invite/"+esc(r.id)+"/"+esc("$e"), `{}`).fails(http.StatusBadRequest, "M_INCOMPATIBLE_ROOM_VERSION")
		s.parts.err = merr.Forbidden("no")
		s.do(one, "PUT", v2+path, `{"room_version":"10","event":{}}`).fails(http.StatusForbidden, "M_FORBIDDEN")
	})
}

func TestServerKeys(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		pub := s.key.Public().(ed25519.PublicKey)
		for _, path := range []string{"/_matrix/key/v2/server", "/_matrix/key/v2/server/ed25519:1"} {
			a := s.get("", path)
			var keys struct {
				Server id.Server `json:"server_name"`
				Until  int64     `json:"valid_until_ts"`
				Verify map[string]struct{ Key string }
				Keys   map[id.KeyID]struct{ Key string } `json:"verify_keys"`
				Old    map[id.KeyID]struct {
					Key     string
					Expired int64 `json:"expired_ts"`
				} `json:"old_verify_keys"`
			}
			a.into(&keys)
			now := s.server.Now().UnixMilli()
			if keys.Server != home || keys.Until <= now || keys.Until > now+7*24*3600*1000 {
				t.Errorf("got %+v", keys)
			}
			if len(keys.Keys) != 1 || keys.Keys["ed25519:1"].Key != canonical.EncodeBase64(pub) || keys.Old["ed25519:0"].Expired != 123 {
				t.Errorf("got %+v", keys)
			}
			if err := canonical.VerifyJSON(a.body, string(home), "ed25519:1", pub); err != nil {
				t.Errorf("not signed: %v", err)
			}
		}
	})
}

func TestNotary(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		pub := s.key.Public().(ed25519.PublicKey)
		check := func(a answer, signers ...id.Server) {
			t.Helper()
			var got struct {
				Keys []json.RawMessage `json:"server_keys"`
			}
			a.into(&got)
			if got.Keys == nil || len(got.Keys) != len(signers) {
				t.Fatalf("got %s", a.body)
			}
			for _, k := range got.Keys {
				name := gjson.GetBytes(k, "server_name").Str
				if !slices.Contains(signers, id.Server(name)) {
					t.Errorf("keys of %s", name)
				}
				for _, signer := range []string{name, string(home)} {
					if err := canonical.VerifyJSON(k, signer, "ed25519:1", pub); err != nil {
						t.Errorf("the keys of %s lack the signature of %s: %v", name, signer, err)
					}
				}
			}
		}
		const q = "/_matrix/key/v2/query"
		check(s.get("", q+"/one.example"), one)
		check(s.get("", q+"/home.example"), home)
		a := s.get("", q+"/one.example?minimum_valid_until_ts=77")
		check(a, one)
		if gjson.GetBytes(a.body, "server_keys.0.valid_until_ts").Int() != 77 {
			t.Errorf("got %s", a.body)
		}
		s.get("", q+"/two.example").fails(http.StatusNotFound, "M_NOT_FOUND")
		s.get("", q+"/not%20a%20name").fails(http.StatusBadRequest, "M_INVALID_PARAM")
		s.get("", q+"/one.example?minimum_valid_until_ts=x").fails(http.StatusBadRequest, "M_INVALID_PARAM")
		post := func(body string) answer { return s.do("", http.MethodPost, q, body) }
		check(post(`{"server_keys":{"one.example":{"ed25519:1":{"minimum_valid_until_ts":9}},"two.example":{},"home.example":{},"no name!":{}}}`), one, home)
		check(post(`{"server_keys":{}}`))
		post(`{}`).fails(http.StatusBadRequest, "M_MISSING_PARAM")
		post(`{"server_keys":[]}`).fails(http.StatusBadRequest, "M_BAD_JSON")
		var many []string
		for i := range 101 {
			many = append(many, fmt.Sprintf(`"s%d.example":{}`, i))
		}
		post(`{"server_keys":{`+strings.Join(many, ",")+`}}`).fails(http.StatusRequestEntityTooLarge, "M_TOO_LARGE")
	})
}

func TestQueries(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		s.get(one, v1+"/query/directory?room_alias="+esc("#known:home.example")).is(`{"room_id":"!r:home.example","servers":[]}`)
		s.get(one, v1+"/query/directory?room_alias="+esc("#other:home.example")).fails(http.StatusNotFound, "M_NOT_FOUND")
		s.get(one, v1+"/query/directory?room_alias="+esc("#known:one.example")).fails(http.StatusNotFound, "M_NOT_FOUND")
		s.get(one, v1+"/query/directory").fails(http.StatusBadRequest, "M_INVALID_PARAM")

		profile := v1 + "/query/profile?user_id="
		s.get(one, profile+esc(alice)).is(`{"displayname":"Alice","m.tz":"Europe/Paris"}`)
		s.get(one, profile+esc(alice)+"&field=displayname").is(`{"displayname":"Alice"}`)
		s.get(one, profile+esc(alice)+"&field=avatar_url").is(`{}`)
		s.get(one, profile+esc(alice)+"&field=m.tz").is(`{"m.tz":"Europe/Paris"}`)
		s.get(one, profile+esc(alice)+"&field=x").fails(http.StatusNotFound, "M_NOT_FOUND")
		s.get(one, profile+esc(bob)).fails(http.StatusNotFound, "M_NOT_FOUND")
		s.get(one, profile+esc(oscar)).fails(http.StatusNotFound, "M_NOT_FOUND")
		s.get(one, profile+"nobody").fails(http.StatusBadRequest, "M_INVALID_PARAM")
		s.get(one, v1+"/query/profile").fails(http.StatusBadRequest, "M_MISSING_PARAM")

		s.get("", v1+"/version").is(`{"server":{"name":"Weft","version":"1.2.3"}}`)
		s.get("", "/.well-known/matrix/server").is(`{"m.server":"federation.home.example:443"}`)
		s.get("", v1+"/openid/userinfo?access_token=good").is(`{"sub":"@alice:home.example"}`)
		s.get("", v1+"/openid/userinfo?access_token=bad").fails(http.StatusUnauthorized, "M_UNKNOWN_TOKEN")
		s.get("", v1+"/openid/userinfo").fails(http.StatusUnauthorized, "M_MISSING_TOKEN")
		if n := s.net.alive[one]; n == 0 {
			t.Error("nobody was told that the server was heard of")
		}
	})
}

func TestPublicRooms(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		const empty = `{"chunk":[],"total_room_count_estimate":0}`
		for query, want := range map[string]roomapi.ListPublicRooms{
			"":                  {Limit: 100},
			"?limit=7&since=x":  {Limit: 7, Since: "x"},
			"?limit=999999":     {Limit: 500},
			"?limit=0":          {Limit: 100},
			"?limit=9999999999": {Limit: 500},
		} {
			s.get(one, v1+"/publicRooms"+query).is(empty)
			if got := s.parts.listed; got.Limit != want.Limit || got.Since != want.Since {
				t.Errorf("%s asks for %+v", query, got)
			}
		}
		s.get(one, v1+"/publicRooms?limit=x").fails(http.StatusBadRequest, "M_INVALID_PARAM")
		s.do(one, "POST", v1+"/publicRooms", `{"limit":3,"filter":{"generic_search_term":"cat","room_types":["m.space",null]}}`).is(empty)
		if got := s.parts.listed; got.Limit != 3 || got.SearchTerm != "cat" || len(got.RoomTypes) != 2 || got.RoomTypes[1] != nil {
			t.Errorf("asks for %+v", got)
		}
		s.do(one, "POST", v1+"/publicRooms", `{"limit":-3}`).is(empty)
		s.do(one, "POST", v1+"/publicRooms", `{"limit":"3"}`).fails(http.StatusBadRequest, "M_BAD_JSON")
	})
}

func TestDeviceKeys(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		s.get(one, v1+"/user/devices/"+esc(alice)).is(`{"user_id":"@alice:home.example","stream_id":5,"devices":[]}`)
		s.get(one, v1+"/user/devices/"+esc(bob)).fails(http.StatusNotFound, "M_NOT_FOUND")
		s.get(one, v1+"/user/devices/"+esc(oscar)).fails(http.StatusNotFound, "M_NOT_FOUND")
		s.get(one, v1+"/user/devices/nobody").fails(http.StatusBadRequest, "M_INVALID_PARAM")
		s.do(one, "POST", v1+"/user/keys/query", `{"device_keys":{"@alice:home.example":["A"]}}`).
			is(`{"device_keys":{},"master_keys":{"@alice:home.example":{}}}`)
		if got := s.parts.queried; got.Origin != one || got.User != "" || len(got.Devices[alice]) != 1 {
			t.Errorf("asks for %+v", got)
		}
		s.do(one, "POST", v1+"/user/keys/claim", `{"one_time_keys":{"@alice:home.example":{"A":"signed_curve25519"}}}`).is(`{"one_time_keys":{}}`)
		if got := s.parts.claimed; got.Origin != one || got.Keys[alice]["A"] != "signed_curve25519" {
			t.Errorf("asks for %+v", got)
		}
		s.do(one, "POST", v1+"/user/keys/query", `{"device_keys":7}`).fails(http.StatusBadRequest, "M_BAD_JSON")
		s.do(one, "POST", v1+"/user/keys/claim", `{"one_time_keys":7}`).fails(http.StatusBadRequest, "M_BAD_JSON")
		s.parts.err = merr.LimitExceeded("slowly")
		s.do(one, "POST", v1+"/user/keys/query", `{}`).fails(http.StatusTooManyRequests, "M_LIMIT_EXCEEDED")
		s.do(one, "POST", v1+"/user/keys/claim", `{}`).fails(http.StatusTooManyRequests, "M_LIMIT_EXCEEDED")
	})
}
