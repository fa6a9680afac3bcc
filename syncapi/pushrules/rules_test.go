package pushrules

import (
	"encoding/json"
	"fmt"
	"testing"
)

func newEvent(content string) *Event {
	return &Event{Room: "!r:home", Sender: "@bob:home",
		JSON:    []byte(`{"room_id":"!r:home","sender":"@bob:home","type":"m.room.message","content":` + content + `}`),
		Members: func() int64 { return 3 }, MayNotify: func(key string) bool { return key == "room" }}
}

func TestConditions(t *testing.T) {
	alice := User{DisplayName: func() string { return "Alice L." }}
	for _, c := range []struct {
		condition, content string
		want               bool
	}{
		{`{"kind":"event_match","key":"type","pattern":"m.room.message"}`, `{}`, true},
		{`{"kind":"event_match","key":"type","pattern":"M.ROOM.*"}`, `{}`, true},
		{`{"kind":"event_match","key":"type","pattern":"room"}`, `{}`, false},
		{`{"kind":"event_match","key":"content.body","pattern":"cake"}`, `{"body":"Some CAKE, please"}`, true},
		{`{"kind":"event_match","key":"content.body","pattern":"cake"}`, `{"body":"cakes"}`, false},
		{`{"kind":"event_match","key":"content.body","pattern":"cak*"}`, `{"body":"two cakes"}`, true},
		{`{"kind":"event_match","key":"content.body","pattern":"c?ke"}`, `{"body":"a coke."}`, true},
		{`{"kind":"event_match","key":"content.body","pattern":"a.b"}`, `{"body":"axb"}`, false},
		{`{"kind":"event_match","key":"content.body","pattern":"ünïcode"}`, `{"body":"an Ünïcode word"}`, true},
		{`{"kind":"event_match","key":"content.n","pattern":"1"}`, `{"n":1}`, false},
		{`{"kind":"event_match","key":"content.body"}`, `{"body":"x"}`, false},
		{`{"kind":"event_match","key":"content.m\\.x.y","pattern":"z"}`, `{"m.x":{"y":"z"}}`, true},
		{`{"kind":"event_property_is","key":"content.n","value":1}`, `{"n":1}`, true},
		{`{"kind":"event_property_is","key":"content.n","value":true}`, `{"n":true}`, true},
		{`{"kind":"event_property_is","key":"content.n","value":true}`, `{"n":false}`, false},
		{`{"kind":"event_property_is","key":"content.n","value":null}`, `{"n":null}`, true},
		{`{"kind":"event_property_is","key":"content.n","value":null}`, `{}`, false},
		{`{"kind":"event_property_is","key":"content.s","value":"A"}`, `{"s":"a"}`, false},
		{`{"kind":"event_property_contains","key":"content.l","value":"a"}`, `{"l":["b","a"]}`, true},
		{`{"kind":"event_property_contains","key":"content.l","value":1}`, `{"l":["1"]}`, false},
		{`{"kind":"event_property_contains","key":"content.l","value":"a"}`, `{"l":"a"}`, false},
		{`{"kind":"contains_display_name"}`, `{"body":"hi alice l.!"}`, true},
		{`{"kind":"contains_display_name"}`, `{"body":"malice l."}`, false},
		{`{"kind":"contains_display_name"}`, `{}`, false},
		{`{"kind":"room_member_count","is":"3"}`, `{}`, true},
		{`{"kind":"room_member_count","is":"==2"}`, `{}`, false},
		{`{"kind":"room_member_count","is":">=3"}`, `{}`, true},
		{`{"kind":"room_member_count","is":"<3"}`, `{}`, false},
		{`{"kind":"room_member_count","is":"~3"}`, `{}`, false},
		{`{"kind":"room_member_count","is":""}`, `{}`, false},
		{`{"kind":"sender_notification_permission","key":"room"}`, `{}`, true},
		{`{"kind":"sender_notification_permission","key":"other"}`, `{}`, false},
		{`{"kind":"org.example.unknown"}`, `{}`, false},
	} {
		r, err := Compile("@alice:home", json.RawMessage(`{"global":{"override":[{"rule_id":"x","enabled":true,"conditions":[`+c.condition+`],"actions":["notify"]}]}}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Eval(newEvent(c.content), alice).Notify; got != c.want {
			t.Errorf("%s on %s: got %v", c.condition, c.content, got)
		}
	}
}

func TestOrderAndActions(t *testing.T) {
	const rule = `{"rule_id":%q,"enabled":%v,"conditions":[],"pattern":"word","actions":%s}`
	mk := func(id string, enabled bool, actions string) string { return fmt.Sprintf(rule, id, enabled, actions) }
	for _, c := range []struct {
		name, rules, content string
		want                 string
	}{
		{"override first", `{"underride":[` + mk("u", true, `["notify"]`) + `],"override":[` + mk("o", true, `[]`) + `]}`, `{}`, "o false false"},
		{"disabled", `{"override":[` + mk("o", false, `["notify"]`) + `],"underride":[` + mk("u", true, `["notify"]`) + `]}`, `{}`, "u true false"},
		{"content", `{"content":[` + mk("c", true, `["notify",{"set_tweak":"highlight"}]`) + `]}`, `{"body":"a word"}`, "c true true"},
		{"content differs", `{"content":[` + mk("c", true, `["notify"]`) + `]}`, `{"body":"words"}`, " false false"},
		{"room", `{"room":[` + mk("!r:home", true, `["notify",{"set_tweak":"highlight","value":false}]`) + `]}`, `{}`, "!r:home true false"},
		{"other room", `{"room":[` + mk("!q:home", true, `["notify"]`) + `]}`, `{}`, " false false"},
		{"sender", `{"sender":[` + mk("@bob:home", true, `["notify"]`) + `]}`, `{}`, "@bob:home true false"},
		{"old words", `{"underride":[` + mk("u", true, `["dont_notify","coalesce"]`) + `]}`, `{}`, "u false false"},
	} {
		r, err := Compile("@alice:home", json.RawMessage(`{"global":`+c.rules+`}`))
		if err != nil {
			t.Fatal(err)
		}
		o := r.Eval(newEvent(c.content), User{})
		if got := fmt.Sprint(o.RuleID, " ", o.Notify, " ", o.Highlight); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	r, err := Compile("@bob:home", json.RawMessage(`{"global":{"underride":[`+mk("u", true, `["notify"]`)+`]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if r.Eval(newEvent(`{}`), User{}).Notify {
		t.Error("users are notified of their own events")
	}
	if _, err := Compile("@a:b", json.RawMessage(`[]`)); err == nil {
		t.Error("a list was taken for rules")
	}
}

// Rules that guess mentions from the text are not asked where the event says whom it mentions.
func TestMentions(t *testing.T) {
	r, err := Compile("@alice:home", json.RawMessage(`{"global":{"override":[{"rule_id":".m.rule.contains_display_name","default":true,
		"enabled":true,"conditions":[{"kind":"contains_display_name"}],"actions":["notify"]}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	u := User{DisplayName: func() string { return "alice" }}
	if !r.Eval(newEvent(`{"body":"alice"}`), u).Notify {
		t.Error("not notified")
	}
	if r.Eval(newEvent(`{"body":"alice","m.mentions":{}}`), u).Notify {
		t.Error("notified although nobody is mentioned")
	}
}

// What is not understood matches nothing and spoils nothing else.
func TestRulesOfAnotherForm(t *testing.T) {
	const good = `{"rule_id":"good","enabled":true,"conditions":[],"actions":["notify"]}`
	for _, bad := range []string{
		`{"rule_id":"bad","enabled":true,"conditions":[{"kind":"room_member_count","is":2}],"actions":["notify"]}`,
		`{"rule_id":"bad","enabled":true,"conditions":[{"kind":"event_match","key":"type","pattern":5}],"actions":["notify"]}`,
		`{"rule_id":"bad","enabled":true,"conditions":[{"kind":"event_match","key":1}],"actions":["notify"]}`,
		`{"rule_id":"bad","enabled":true,"conditions":[{"kind":"contains_display_name"},7],"actions":["notify"]}`,
		`{"rule_id":"bad","enabled":true,"conditions":{},"actions":["notify"]}`,
		`{"rule_id":7,"enabled":true}`, `7`,
	} {
		for _, content := range []string{
			`{"global":{"override":[` + bad + `,` + good + `]}}`,
			`{"global":{"override":` + bad + `,"underride":[` + good + `]}}`,
		} {
			r, err := Compile("@alice:home", json.RawMessage(content))
			if err == nil {
				t.Errorf("%s is not reported", bad)
			}
			if o := r.Eval(newEvent(`{"body":"alice"}`), User{DisplayName: func() string { return "alice" }}); o.RuleID != "good" {
				t.Errorf("%s: got %+v", content, o)
			}
		}
	}
}
