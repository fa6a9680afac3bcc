package spaces

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"weft/matrix/event"
	"weft/matrix/id"
)

func child(room string, ts int64, content string) Child {
	return Child{Type: typeChild, StateKey: room, Content: json.RawMessage(content), Sender: "@a:x", TS: ts}
}

func names(list []Child) string {
	var out strings.Builder
	for _, c := range list {
		out.WriteString(c.StateKey[1:2])
	}
	return out.String()
}

// The specification's example, and orders that are not valid.
func TestOrder(t *testing.T) {
	long := strings.Repeat("a", 51)
	var list []Child
	for _, c := range []struct {
		room  string
		ts    int64
		order string
	}{
		{"!e:x", 1640641000000, ``}, {"!d:x", 1640741000000, ``}, {"!c:x", 1640841000000, `"first"`}, {"!a:x", 1640141000000, `"aaaa"`},
		{"!b:x", 1640341000000, `" "`}, {"!f:x", 1640941000000, `"` + long + `"`}, {"!g:x", 1640941000001, `"é"`}, {"!h:x", 1640941000002, `7`},
		{"!k:x", 1640941000004, `""`}, {"!j:x", 1640941000003, ``}, {"!i:x", 1640941000003, ``}, {"!l:x", 1640941000005, `"a\nb"`},
		{"!n:x", 1640141000001, `"aaaa"`},
	} {
		content := `{"via":["x"]}`
		if c.order != "" {
			content = `{"via":["x"],"order":` + c.order + `}`
		}
		list = append(list, child(c.room, c.ts, content))
	}
	if got := names(first(list)); got != "bancedfghijkl" {
		t.Errorf("got %s", got)
	}
}

func TestValidity(t *testing.T) {
	for _, c := range []struct {
		child Child
		want  bool
	}{
		{child("!r:x", 1, `{"via":["x"]}`), true},
		{child("!hash", 1, `{"via":["x","y"]}`), true},
		{child("!r:x", 1, `{"via":[]}`), false},
		{child("!r:x", 1, `{"via":["x",7]}`), false},
		{child("!r:x", 1, `{"via":"x"}`), false},
		{child("!r:x", 1, `{"via":{"0":"x"}}`), false},
		{child("!r:x", 1, `{}`), false},
		{child("#r:x", 1, `{"via":["x"]}`), false},
		{child("", 1, `{"via":["x"]}`), false},
		{Child{Type: "m.space.parent", StateKey: "!r:x", Content: json.RawMessage(`{"via":["x"]}`)}, false},
	} {
		if got := c.child.valid(); got != c.want {
			t.Errorf("%s %s: %v", c.child.StateKey, c.child.Content, got)
		}
	}
}

func TestViaAndSuggested(t *testing.T) {
	c := child("!r:x", 1, `{"via":["b.example","us.example","a.example","b.example","no server","c.example"],"suggested":true}`)
	if got := c.Via("us.example", 2); !slices.Equal(got, []id.Server{"b.example", "a.example"}) {
		t.Errorf("via %v", got)
	}
	list := []Child{c, child("!s:x", 1, `{"via":["x"],"suggested":"true"}`), child("!t:x", 1, `{"via":["x"]}`)}
	if got := names(OnlySuggested(list)); got != "r" || names(list) != "rst" {
		t.Errorf("suggested %s of %s", got, names(list))
	}
}

func TestBounds(t *testing.T) {
	var many []Child
	for i := range MaxChildren + 10 {
		many = append(many, child(fmt.Sprintf("!%d:x", i), int64(-i), `{"via":["x"]}`))
	}
	if got := first(many); len(got) != MaxChildren || got[0].TS != -int64(MaxChildren+9) {
		t.Errorf("%d children, the first at %d", len(got), got[0].TS)
	}
	big := `{"via":["x"],"pad":"` + strings.Repeat("p", maxChildrenBytes/3) + `"}`
	if got := first([]Child{child("!a:x", 1, big), child("!b:x", 2, big), child("!c:x", 3, big), child("!d:x", 4, `{"via":["x"]}`)}); names(got) != "ab" {
		t.Errorf("kept %s", names(got))
	}
}

// A join rule counts in the room versions that have it.
func TestOpenAndRestricted(t *testing.T) {
	for _, c := range []struct {
		rule             string
		version          string
		open, restricted bool
	}{
		{"", "1", true, false}, {"public", "1", true, false}, {"invite", "11", false, false}, {"private", "11", false, false},
		{"knock", "6", false, false}, {"knock", "7", true, false}, {"knock", "", true, false}, {"knock", "org.example.new", true, false},
		{"restricted", "7", false, false}, {"restricted", "8", false, true}, {"restricted", "", false, true},
		{"knock_restricted", "9", false, false}, {"knock_restricted", "10", true, true}, {"else", "11", false, false},
	} {
		s := Summary{JoinRule: c.rule, Version: event.RoomVersion(c.version)}
		if s.Open() != c.open || s.Restricted() != c.restricted {
			t.Errorf("%q in version %q: open %v, restricted %v", c.rule, c.version, s.Open(), s.Restricted())
		}
	}
	if s := (Summary{JoinRule: "invite", WorldReadable: true}); !s.Open() {
		t.Error("a world-readable room is not open")
	}
}

func TestParse(t *testing.T) {
	const raw = `{"room":{"room_id":"!s:x","room_type":"m.space","name":7,"topic":"T","canonical_alias":"none","num_joined_members":-3,
		"allowed_room_ids":["!a:x","b"],"children_state":[
			{"type":"m.space.child","state_key":"!b:x","content":{"via":["x"]},"sender":"@a:x","origin_server_ts":2},
			{"type":"m.space.child","state_key":"!a:x","content":{"via":["x"]},"sender":"@a:x","origin_server_ts":1},
			{"type":"m.space.child","state_key":"!c:x","content":{"via":[]},"sender":"@a:x","origin_server_ts":1},
			{"type":"m.space.child","state_key":"!d:x","content":["via"],"sender":"@a:x","origin_server_ts":1},
			{"type":"m.space.child","state_key":"!e:x","content":{"via":["x"]},"sender":"a","origin_server_ts":1},
			"nonsense",{"type":"m.space.child","state_key":"!f:x","sender":"@a:x"}]},
		"children":[{"room_id":"!b:x","canonical_alias":"#b:x"},{"room_id":"b"},7],"inaccessible_children":["!a:x"]}`
	h, err := Parse([]byte(raw), "!s:x")
	if err != nil {
		t.Fatal(err)
	}
	if r := h.Room; r.Name != "" || r.Topic != "T" || r.CanonicalAlias != "" || r.NumJoinedMembers != 0 || len(r.AllowedRooms) != 1 || names(r.Children) != "ab" {
		t.Errorf("the room is %+v", r)
	}
	if len(h.Children) != 1 || h.Children[0].CanonicalAlias != "#b:x" || len(h.Inaccessible) != 1 {
		t.Errorf("got %+v", h)
	}
	noSpace, err := Parse([]byte(strings.Replace(raw, "m.space", "other", 1)), "!s:x")
	if err != nil || len(noSpace.Room.Children) != 0 {
		t.Errorf("a room that is no space has children: %v, %v", noSpace, err)
	}
	for _, bad := range []string{``, `[]`, `{}`, `{"room":{"room_id":"!other:x"}}`, `{"room":`} {
		if h, err := Parse([]byte(bad), "!s:x"); err == nil {
			t.Errorf("%s: %+v", bad, h)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"room":{"room_id":"!s:x","room_type":"m.space","children_state":[{"type":"m.space.child","state_key":"!b:x","content":{"via":["x"]},"sender":"@a:x","origin_server_ts":2}]},"children":[{"room_id":"!b:x"}],"inaccessible_children":["!c:x"]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, err := Parse(raw, "!s:x")
		if err != nil {
			return
		}
		again, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		h2, err := Parse(again, "!s:x")
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if twice, err := json.Marshal(h2); err != nil || string(twice) != string(again) {
			t.Errorf("%s became %s (%v)", again, twice, err)
		}
	})
}
