package event

import (
	"strings"
	"testing"
)

// topLevel holds every key that any version keeps, and some that none keeps.
const topLevel = `"age":1,"auth_events":[],"content":%s,"depth":1,"event_id":"$e:a","hashes":{"sha256":"x","md5":"y"},"membership":"join",` +
	`"origin":"a","origin_server_ts":1,"prev_events":[],"prev_state":[],"redacts":"$r","room_id":"!r:a","sender":"@u:a","signatures":{},` +
	`"state_key":"","type":"%s","unsigned":{"age":1},"zzz":1`

func sample(typ, content string) string {
	s := strings.Replace(topLevel, "%s", content, 1)
	return "{" + strings.Replace(s, "%s", typ, 1) + "}"
}

// redactedSample is what is left of sample.
func redactedSample(typ, content string, old bool) string {
	s := `{"auth_events":[],"content":` + content + `,"depth":1,"event_id":"$e:a","hashes":{"md5":"y","sha256":"x"},`
	if old {
		s += `"membership":"join","origin":"a",`
	}
	s += `"origin_server_ts":1,"prev_events":[],`
	if old {
		s += `"prev_state":[],`
	}
	return s + `"room_id":"!r:a","sender":"@u:a","signatures":{},"state_key":"","type":"` + typ + `"}`
}

// spec: rooms/v1 … rooms/v12 (Redactions)
func TestRedaction(t *testing.T) {
	const (
		member = `{"avatar_url":"mxc","displayname":"d","is_direct":true,"join_authorised_via_users_server":"@a:a","membership":"join",` +
			`"third_party_invite":{"display_name":"x","signed":{"mxid":"@b:b","token":"t"}}}`
		levels = `{"ban":1,"events":{"m":1},"events_default":2,"invite":3,"kick":4,"notifications":{"room":5},"redact":6,"state_default":7,` +
			`"users":{"@u:a":100},"users_default":8,"xyz":9}`
	)
	tests := []struct {
		typ, content string
		from, to     int
		want         string
	}{
		{"m.room.message", `{"body":"b","membership":"join","creator":"c"}`, 1, 12, `{}`},
		{"m.room.topic", `{"topic":"b"}`, 1, 12, `{}`},
		{"m.room.name", `{}`, 1, 12, `{}`},

		{"m.room.member", member, 1, 8, `{"membership":"join"}`},
		{"m.room.member", member, 9, 10, `{"join_authorised_via_users_server":"@a:a","membership":"join"}`},
		{"m.room.member", member, 11, 12, `{"join_authorised_via_users_server":"@a:a","membership":"join","third_party_invite":{"signed":{"mxid":"@b:b","token":"t"}}}`},
		{"m.room.member", `{"third_party_invite":{"display_name":"x"}}`, 11, 12, `{"third_party_invite":{}}`},
		{"m.room.member", `{"membership":"x","third_party_invite":["signed"]}`, 11, 12, `{"membership":"x"}`},
		{"m.room.member", `{"membership":{"a":[1,{"b":"}"}]}}`, 1, 12, `{"membership":{"a":[1,{"b":"}"}]}}`},

		{"m.room.create", `{"creator":"@a:a","m.federate":false,"room_version":"1"}`, 1, 10, `{"creator":"@a:a"}`},
		{"m.room.create", `{"creator":"@a:a","m.federate":false,"room_version":"1"}`, 11, 12, `{"creator":"@a:a","m.federate":false,"room_version":"1"}`},

		{"m.room.join_rules", `{"allow":[{"type":"t"}],"join_rule":"restricted","x":1}`, 1, 7, `{"join_rule":"restricted"}`},
		{"m.room.join_rules", `{"allow":[{"type":"t"}],"join_rule":"restricted","x":1}`, 8, 12, `{"allow":[{"type":"t"}],"join_rule":"restricted"}`},

		{"m.room.power_levels", levels, 1, 10, `{"ban":1,"events":{"m":1},"events_default":2,"kick":4,"redact":6,"state_default":7,"users":{"@u:a":100},"users_default":8}`},
		{"m.room.power_levels", levels, 11, 12, `{"ban":1,"events":{"m":1},"events_default":2,"invite":3,"kick":4,"redact":6,"state_default":7,"users":{"@u:a":100},"users_default":8}`},

		{"m.room.aliases", `{"aliases":["#a:a"],"x":1}`, 1, 5, `{"aliases":["#a:a"]}`},
		{"m.room.aliases", `{"aliases":["#a:a"],"x":1}`, 6, 12, `{}`},

		{"m.room.history_visibility", `{"a":1,"history_visibility":"shared"}`, 1, 12, `{"history_visibility":"shared"}`},

		{"m.room.redaction", `{"reason":"r","redacts":"$x"}`, 1, 10, `{}`},
		{"m.room.redaction", `{"reason":"r","redacts":"$x"}`, 11, 12, `{"redacts":"$x"}`},
	}
	for _, tc := range tests {
		for i, v := range Versions() {
			if i+1 < tc.from || i+1 > tc.to {
				continue
			}
			r := rulesOf(t, v)
			got, err := RedactJSON([]byte(sample(tc.typ, tc.content)), r)
			if err != nil {
				t.Fatal(err)
			}
			if want := redactedSample(tc.typ, tc.want, i+1 <= 10); string(got) != want {
				t.Errorf("version %s, %s\n gives %s\n  want %s", v, tc.typ, got, want)
			}
			again, err := RedactJSON(got, r)
			if err != nil || string(again) != string(got) {
				t.Errorf("version %s: a second redaction gives %s, %v", v, again, err)
			}
		}
	}
}

func TestRedactionOfOddObjects(t *testing.T) {
	r := rulesOf(t, "11")
	for in, want := range map[string]string{
		`{}`:                                `{}`,
		`{"x":1}`:                           `{}`,
		`{"type":1,"x":2}`:                  `{"type":1}`,
		`{"content":{"a":1}}`:               `{"content":{}}`,
		`{"content":[1],"type":"m"}`:        `{"content":{},"type":"m"}`,
		`{"content":1,"type":"m"}`:          `{"content":{},"type":"m"}`,
		`{"a":1,"depth":2,"x":3}`:           `{"depth":2}`,
		`{"type":"m","content":{},"b":[1]}`: `{"content":{},"type":"m"}`,
	} {
		if got, err := RedactJSON([]byte(in), r); err != nil || string(got) != want {
			t.Errorf("%s gives %s, %v; want %s", in, got, err, want)
		}
	}
	for _, bad := range []string{``, `[]`, `1`, `{"a":1.5}`} {
		if got, err := RedactJSON([]byte(bad), r); err == nil {
			t.Errorf("%s gives %s", bad, got)
		}
	}
}
