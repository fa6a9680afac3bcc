package clientevent_test

import (
	"testing"

	"github.com/tidwall/gjson"

	"weft/internal/clientevent"
	"weft/internal/eventstore"
	"weft/matrix/event"
	"weft/matrix/id"
)

func stored(t *testing.T, version event.RoomVersion, eventID id.Event, raw string) *eventstore.Event {
	t.Helper()
	rules, err := event.Version(version)
	if err != nil {
		t.Fatal(err)
	}
	e, err := event.ParseStored([]byte(raw), eventID, rules)
	if err != nil {
		t.Fatal(err)
	}
	return &eventstore.Event{Event: e, HasState: true}
}

const rest = `"depth":3,"hashes":{"sha256":"x"},"origin_server_ts":1000,"prev_events":[],"room_id":"!r:home","sender":"@a:home","signatures":{},`

func TestAppend(t *testing.T) {
	state := stored(t, "10", "$name", `{"auth_events":[],"content":{"name":"a \"b\""},`+rest+`"state_key":"","type":"m.room.name"}`)
	before := stored(t, "10", "$old", `{"auth_events":[],"content":{"name":"old"},`+rest+`"state_key":"","type":"m.room.name"}`)
	text := stored(t, "10", "$text", `{"auth_events":[],"content":{"body":"<é\n>"},`+rest+`"type":"m.room.message"}`)
	oldRedaction := stored(t, "10", "$red", `{"auth_events":[],"content":{"reason":"x"},`+rest[:len(rest)-len(`"room_id":"!r:home","sender":"@a:home","signatures":{},`)]+
		`"redacts":"$text","room_id":"!r:home","sender":"@a:home","signatures":{},"type":"m.room.redaction"}`)
	newRedaction := stored(t, "11", "$red", `{"auth_events":[],"content":{"redacts":"$text"},`+rest+`"type":"m.room.redaction"}`)
	for _, c := range []struct {
		name string
		e    *eventstore.Event
		o    clientevent.Options
		want string
	}{
		{"message", text, clientevent.Options{}, `{"content":{"body":"<é\n>"},"event_id":"$text","origin_server_ts":1000,"room_id":"!r:home","sender":"@a:home","type":"m.room.message","unsigned":{}}`},
		{"no room_id in sync", text, clientevent.Options{Format: clientevent.Sync, TxnID: "t1", Now: 1500, Membership: "join"},
			`{"content":{"body":"<é\n>"},"event_id":"$text","origin_server_ts":1000,"sender":"@a:home","type":"m.room.message","unsigned":{"age":500,"membership":"join","transaction_id":"t1"}}`},
		{"state", state, clientevent.Options{Format: clientevent.Sync, Replaced: before},
			`{"content":{"name":"a \"b\""},"event_id":"$name","origin_server_ts":1000,"sender":"@a:home","state_key":"","type":"m.room.name","unsigned":{"prev_content":{"name":"old"},"prev_sender":"@a:home","replaces_state":"$old"}}`},
		{"federation", text, clientevent.Options{Format: clientevent.Federation, Now: 1},
			`{"auth_events":[],"content":{"body":"<é\n>"},` + rest + `"type":"m.room.message","unsigned":{"age":0}}`},
		{"redacts in content too", oldRedaction, clientevent.Options{},
			`{"content":{"reason":"x","redacts":"$text"},"event_id":"$red","origin_server_ts":1000,"redacts":"$text","room_id":"!r:home","sender":"@a:home","type":"m.room.redaction","unsigned":{}}`},
		{"redacts on top too", newRedaction, clientevent.Options{},
			`{"content":{"redacts":"$text"},"event_id":"$red","origin_server_ts":1000,"redacts":"$text","room_id":"!r:home","sender":"@a:home","type":"m.room.redaction","unsigned":{}}`},
		{"relations", text, clientevent.Options{Relations: []byte(`{"m.thread":{}}`), Format: clientevent.Sync},
			`{"content":{"body":"<é\n>"},"event_id":"$text","origin_server_ts":1000,"sender":"@a:home","type":"m.room.message","unsigned":{"m.relations":{"m.thread":{}}}}`},
	} {
		got := string(clientevent.Make(c.e, c.o))
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
		if !gjson.Valid(got) {
			t.Errorf("%s: no JSON", c.name)
		}
	}
	got := gjson.ParseBytes(clientevent.Make(text, clientevent.Options{Redaction: newRedaction}))
	if got.Get("unsigned.redacted_because.event_id").Str != "$red" {
		t.Errorf("redacted_because: %s", got.Raw)
	}
}

func TestStripped(t *testing.T) {
	state := stored(t, "10", "$name", `{"auth_events":[],"content":{"name":"x"},`+rest+`"state_key":"","type":"m.room.name"}`)
	const want = `{"content":{"name":"x"},"sender":"@a:home","state_key":"","type":"m.room.name"}`
	if got := string(clientevent.AppendStripped(nil, state)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	got, ok := clientevent.AppendStrippedJSON(nil, state.JSON())
	if !ok || string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, bad := range []string{``, `{`, `[]`, `{"content":{},"sender":"@a:b","type":"x"}`, `{"content":1,"sender":"@a:b","type":"x","state_key":""}`} {
		if got, ok := clientevent.AppendStrippedJSON(nil, []byte(bad)); ok || len(got) > 0 {
			t.Errorf("%s was taken: %s", bad, got)
		}
	}
}
