package stateres_test

import (
	"crypto/sha1"
	"fmt"
	"testing"

	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/stateres"
	"weft/matrix/stateres/graphtest"
)

// room is a hand-made room. Event IDs are "$" and a name.
type room struct {
	t      testing.TB
	r      *event.Rules
	events stateres.MapEvents
	room   id.Room
}

type content = map[string]any

const (
	ann = "@ann:x"
	bob = "@bob:x"
	cat = "@cat:x"
)

func newRoom(t testing.TB, v event.RoomVersion) *room {
	w := &room{t: t, r: rules(t, v), events: stateres.MapEvents{}, room: "!room:x"}
	if w.r.RoomIDIsCreateHash {
		w.room = "!create"
	}
	return w
}

// add makes an event. auth names its auth events; the create event is added where
// the version wants it. The time is also the depth.
func (w *room) add(name, typ, key, sender string, c content, at int64, auth ...string) id.Event {
	w.t.Helper()
	obj := content{"type": typ, "state_key": key, "sender": sender, "content": c, "room_id": string(w.room), "depth": at,
		"origin_server_ts": at, "prev_events": []any{}, "hashes": content{}, "signatures": content{}}
	if typ == "m.room.create" && w.r.RoomIDIsCreateHash {
		delete(obj, "room_id")
	}
	if typ != "m.room.create" && !w.r.RoomIDIsCreateHash {
		auth = append([]string{"create"}, auth...)
	}
	list := []any{}
	for _, a := range auth {
		if w.r.EventFormat == event.FormatPairs {
			list = append(list, []any{"$" + a, content{}})
		} else {
			list = append(list, "$"+a)
		}
	}
	obj["auth_events"] = list
	i := id.Event("$" + name)
	if w.r.EventIDFormat == event.EventIDInBody {
		obj["event_id"] = string(i)
	}
	raw, err := canonical.Marshal(obj)
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := event.ParseStored(raw, i, w.r)
	if err != nil {
		w.t.Fatal(err)
	}
	w.events[i] = e
	return i
}

// begin makes a public room of ann's in which bob has power level 50 and cat none,
// and gives its state.
func (w *room) begin() graphtest.State {
	create := content{"room_version": string(w.r.Version)}
	if w.r.CreatorInContent {
		create["creator"] = ann
	}
	w.add("create", "m.room.create", "", ann, create, 1)
	w.add("ann", "m.room.member", ann, ann, content{"membership": "join"}, 2)
	w.add("levels", "m.room.power_levels", "", ann, w.levels(content{bob: 50}), 3, "ann")
	w.add("rules", "m.room.join_rules", "", ann, content{"join_rule": "public"}, 4, "ann", "levels")
	w.add("bob", "m.room.member", bob, bob, content{"membership": "join"}, 5, "rules", "levels")
	w.add("cat", "m.room.member", cat, cat, content{"membership": "join"}, 6, "rules", "levels")
	return w.state(nil, "create", "ann", "levels", "rules", "bob", "cat")
}

func (w *room) levels(users content) content {
	all := content{}
	for u, n := range users {
		all[u] = n
	}
	if !w.r.CreatorsPrivileged {
		all[ann] = 100
	}
	return content{"users": all}
}

// state is a state with events put over it.
func (w *room) state(base graphtest.State, names ...string) graphtest.State {
	out := graphtest.State{}
	for k, e := range base {
		out[k] = e
	}
	for _, n := range names {
		e := w.events[id.Event("$"+n)]
		out[stateres.Key{Type: e.Type, StateKey: e.StateKey}] = e.ID
	}
	return out
}

// expect resolves, and holds the result against a state with events put over it.
func (w *room) expect(what string, sets []graphtest.State, base graphtest.State, names ...string) {
	w.t.Helper()
	got, err := stateres.Resolve(w.r, sets, w.events, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	same(w.t, what, got, w.state(base, names...))
}

func eachVersion(t *testing.T, fn func(t *testing.T, v event.RoomVersion)) {
	for _, v := range event.Versions() {
		t.Run("v"+string(v), func(t *testing.T) { fn(t, v) })
	}
}

// TestBanBeatsTheBanned: what a moderator does while being banned does not last,
// though it is later by its own time. Version 1 knows no such thing.
func TestBanBeatsTheBanned(t *testing.T) {
	eachVersion(t, func(t *testing.T, v event.RoomVersion) {
		w := newRoom(t, v)
		base := w.begin()
		w.add("topic0", "m.room.topic", "", ann, content{"topic": "0"}, 7, "ann", "levels")
		base = w.state(base, "topic0")
		w.add("ban", "m.room.member", bob, ann, content{"membership": "ban"}, 10, "ann", "bob", "levels")
		w.add("topic1", "m.room.topic", "", bob, content{"topic": "1"}, 20, "bob", "levels")
		sets := []graphtest.State{w.state(base, "ban"), w.state(base, "topic1")}
		w.expect("ban against topic", sets, base, "ban")
	})
}

// TestPowerLevelsFork: of two changes of power levels the one by the more powerful
// sender comes first, and the other is tried on top of it.
func TestPowerLevelsFork(t *testing.T) {
	eachVersion(t, func(t *testing.T, v event.RoomVersion) {
		if v == "1" {
			return
		}
		w := newRoom(t, v)
		base := w.begin()
		w.add("demote", "m.room.power_levels", "", ann, w.levels(content{bob: 0}), 20, "ann", "levels")
		w.add("promote", "m.room.power_levels", "", bob, w.levels(content{bob: 50, cat: 50}), 10, "bob", "levels")
		w.add("topic", "m.room.topic", "", cat, content{"topic": "cat"}, 11, "cat", "promote")
		sets := []graphtest.State{w.state(base, "demote"), w.state(base, "promote", "topic")}
		w.expect("demotion against promotion", sets, base, "demote")
	})
}

// TestMainline: events under newer power levels win over those under older ones,
// whatever their times.
func TestMainline(t *testing.T) {
	eachVersion(t, func(t *testing.T, v event.RoomVersion) {
		if v == "1" {
			return
		}
		w := newRoom(t, v)
		base := w.begin()
		w.add("levels2", "m.room.power_levels", "", ann, w.levels(content{bob: 60}), 10, "ann", "levels")
		w.add("old", "m.room.topic", "", bob, content{"topic": "old"}, 30, "bob", "levels")
		w.add("new", "m.room.topic", "", bob, content{"topic": "new"}, 20, "bob", "levels2")
		sets := []graphtest.State{w.state(base, "old"), w.state(base, "levels2", "new")}
		w.expect("topics under two power levels", sets, base, "levels2", "new")
	})
}

// TestOnlyOneSide: a key that only one side has is kept if it is allowed.
func TestOnlyOneSide(t *testing.T) {
	eachVersion(t, func(t *testing.T, v event.RoomVersion) {
		w := newRoom(t, v)
		base := w.begin()
		w.add("topic", "m.room.topic", "", ann, content{"topic": "x"}, 10, "ann", "levels")
		w.expect("one side", []graphtest.State{w.state(base, "topic"), base, base}, base, "topic")
		w.expect("one state", []graphtest.State{base}, base)
		w.expect("equal states", []graphtest.State{base, base}, base)
		w.expect("no state", nil, nil)
	})
}

// TestManySides: more sides than a machine word has bits.
func TestManySides(t *testing.T) {
	for _, v := range []event.RoomVersion{"2", "12"} {
		w := newRoom(t, v)
		base := w.begin()
		var sets []graphtest.State
		for i := range 150 {
			name := fmt.Sprintf("topic%03d", i)
			w.add(name, "m.room.topic", "", ann, content{"topic": name}, int64(10+i), "ann", "levels")
			sets = append(sets, w.state(base, name))
		}
		w.expect("150 sides", sets, base, "topic149")
	}
}

// TestV1Order: power levels climb from the lowest depth as long as they are allowed;
// of other events the highest wins; equal depths are sorted by SHA-1.
func TestV1Order(t *testing.T) {
	w := newRoom(t, "1")
	base := w.begin()
	w.add("levels1", "m.room.power_levels", "", ann, w.levels(content{bob: 60}), 10, "ann", "levels")
	w.add("levels2", "m.room.power_levels", "", cat, w.levels(content{cat: 100}), 11, "cat", "levels")
	w.add("levels3", "m.room.power_levels", "", ann, w.levels(content{bob: 70}), 12, "ann", "levels")
	sets := []graphtest.State{w.state(base, "levels1"), w.state(base, "levels2"), w.state(base, "levels3")}
	w.expect("power levels stop at the first that is not allowed", sets, base, "levels1")

	w.add("topicA", "m.room.topic", "", ann, content{"topic": "a"}, 10, "ann", "levels")
	w.add("topicB", "m.room.topic", "", cat, content{"topic": "b"}, 30, "cat", "levels")
	w.add("topicC", "m.room.topic", "", bob, content{"topic": "c"}, 20, "bob", "levels")
	sets = []graphtest.State{w.state(base, "topicA"), w.state(base, "topicB"), w.state(base, "topicC")}
	w.expect("the highest topic that is allowed", sets, base, "topicC")

	w.add("topicD", "m.room.topic", "", cat, content{"topic": "d"}, 10, "cat", "levels")
	sets = []graphtest.State{w.state(base, "topicB"), w.state(base, "topicD")}
	w.expect("none is allowed: the lowest", sets, base, "topicD")
}

// TestV1SameDepth: at equal depth the lowest SHA-1 of the event ID wins.
func TestV1SameDepth(t *testing.T) {
	w := newRoom(t, "1")
	base := w.begin()
	var sets []graphtest.State
	winner, lowest := "", ""
	for i := range 8 {
		name := fmt.Sprintf("name%d", i)
		w.add(name, "m.room.name", "", ann, content{"name": name}, 10, "ann", "levels")
		sets = append(sets, w.state(base, name))
		if hash := fmt.Sprintf("%x", sha1.Sum([]byte("$"+name))); lowest == "" || hash < lowest {
			winner, lowest = name, hash
		}
	}
	w.expect("equal depths", sets, base, winner)
}

// TestCircle: event IDs of version 2 can be forged so that auth events form a
// circle. Resolution ends, and is the same for both orders of sides.
func TestCircle(t *testing.T) {
	w := newRoom(t, "2")
	base := w.begin()
	w.add("a", "m.room.power_levels", "", ann, w.levels(content{bob: 1}), 10, "ann", "b")
	w.add("b", "m.room.power_levels", "", ann, w.levels(content{bob: 2}), 11, "ann", "a")
	w.add("c", "m.room.topic", "", ann, content{"topic": "c"}, 12, "ann", "a")
	one, two := w.state(base, "a", "c"), w.state(base, "b")
	first, err := stateres.Resolve(w.r, []graphtest.State{one, two}, w.events, nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := stateres.Resolve(w.r, []graphtest.State{two, one}, w.events, nil)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "circle", first, second)
}

// TestStartsFromEmpty: before version 12 an event is judged by the unconflicted
// state, from then on by the auth events it names.
func TestStartsFromEmpty(t *testing.T) {
	for v, want := range map[event.RoomVersion]string{"11": "topic0", "12": "topic1"} {
		w := newRoom(t, v)
		base := w.begin()
		w.add("topic0", "m.room.topic", "", ann, content{"topic": "0"}, 7, "ann", "levels")
		// Bob has left on both sides; his topic was allowed where he sent it.
		w.add("left", "m.room.member", bob, bob, content{"membership": "leave"}, 30, "bob", "levels")
		w.add("topic1", "m.room.topic", "", bob, content{"topic": "1"}, 20, "bob", "levels")
		base = w.state(base, "left")
		w.expect("version "+string(v), []graphtest.State{w.state(base, "topic0"), w.state(base, "topic1")}, base, want)
	}
}

// TestRejectedAuthEvents: an auth event that was rejected is not used where the
// state has none.
func TestRejectedAuthEvents(t *testing.T) {
	w := newRoom(t, "12")
	base := w.begin()
	w.add("topic0", "m.room.topic", "", ann, content{"topic": "0"}, 7, "ann", "levels")
	w.add("topic1", "m.room.topic", "", bob, content{"topic": "1"}, 20, "bob", "levels")
	sets := []graphtest.State{w.state(base, "topic0"), w.state(base, "topic1")}
	w.expect("nothing rejected", sets, base, "topic1")
	got, err := stateres.Resolve(w.r, sets, w.events, func(i id.Event) bool { return i == "$bob" })
	if err != nil {
		t.Fatal(err)
	}
	same(t, "bob's join rejected", got, w.state(base, "topic0"))
}
