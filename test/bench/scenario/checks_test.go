package scenario

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"weft/test/bench/load"
)

func TestMessagesHaveTheirSize(t *testing.T) {
	for _, size := range []int{0, 50, 300, 1000} {
		m := message(12, 345, size)
		if !gjson.ValidBytes(m) || (size > 50 && len(m) != size) {
			t.Errorf("%d bytes: %d, %s", size, len(m), m)
		}
		sender, number, err := parseMessage(gjson.GetBytes(m, "body").Str)
		if sender != 12 || number != 345 || err != nil {
			t.Errorf("read back: %d %d %v", sender, number, err)
		}
	}
	if slices.Equal(message(1, 1, 300), message(1, 1, 300)) {
		t.Error("two messages are the same")
	}
	for _, body := range []string{"", "s1", "x1 2 3", "sx 2 3", "s1 x 3"} {
		if _, _, err := parseMessage(body); err == nil {
			t.Errorf("%q was taken for a message", body)
		}
	}
}

// The check of histories finds everything that could be wrong with one.
func TestCompareHistory(t *testing.T) {
	senders := []*load.User{{ID: "@a:x"}, {ID: "@b:x"}}
	sent := [][]sentMessage{{{0, 0, "$a0"}, {1, 1, "$elsewhere"}, {0, 2, "$a2"}}, {{0, 0, "$b0"}}}
	event := func(id string, sender, number int) load.Event {
		return load.Event{ID: id, Type: "m.room.message", Sender: senders[sender].ID, Body: fmt.Sprintf("s%d %d x", sender, number)}
	}
	a0, a2, b0 := event("$a0", 0, 0), event("$a2", 0, 2), event("$b0", 1, 0)
	other := load.Event{ID: "$m", Type: "m.room.member", Sender: "@a:x"}
	for _, c := range []struct {
		name    string
		history []load.Event // latest first
		want    string       // part of the error; "": none
	}{
		{"right", []load.Event{a2, b0, a0, other}, ""},
		{"senders are not ordered among each other", []load.Event{b0, a2, a0}, ""},
		{"one missing", []load.Event{b0, a0}, "1 of 2 messages of @a:x"},
		{"one twice", []load.Event{a2, b0, b0, a0}, "2 messages of @b:x, but 1 were sent"},
		{"out of order", []load.Event{a0, b0, a2}, "is number 2"},
		{"another ID", []load.Event{a2, event("$z", 1, 0), a0}, "($z), not 0 ($b0)"},
		{"another sender", []load.Event{a2, {ID: "$b0", Type: "m.room.message", Sender: "@a:x", Body: "s1 0 x"}, a0}, "is said to be from @a:x"},
		{"another's message", []load.Event{{ID: "$q", Type: "m.room.message", Sender: "@a:x", Body: "hello"}}, "no message of this driver"},
	} {
		err := compareHistory(senders, "!r", 0, sent, c.history)
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestCheckClaim(t *testing.T) {
	d := &device{User: &load.User{ID: "@a:x.y", Device: "DEV"}, oneTime: map[string][]byte{"k:1": []byte(`{"key":"1"}`), "k:2": []byte(`{"key":"2"}`)}}
	answer := func(keys string) gjson.Result {
		return gjson.Parse(`{"one_time_keys":{"@a:x.y":{"DEV":{` + keys + `}}}}`)
	}
	for _, c := range []struct {
		name    string
		answers []string
		want    string // part of the last answer's error
	}{
		{"each once", []string{`"k:1":{"key":"1"}`, `"k:2":{"key": "2"}`}, ""},
		{"none when all are gone", []string{`"k:1":{"key":"1"}`, `"k:2":{"key":"2"}`, ``}, ""},
		{"twice", []string{`"k:1":{"key":"1"}`, `"k:1":{"key":"1"}`}, "handed out twice"},
		{"another key", []string{`"k:1":{"key":"2"}`}, "not the key that was uploaded"},
		{"an unknown key", []string{`"k:3":{"key":"1"}`}, "not the key that was uploaded"},
		{"none while there are some", []string{`"k:1":{"key":"1"}`, ``}, "0 keys"},
		{"two at once", []string{`"k:1":{"key":"1"},"k:2":{"key":"2"}`}, ""},
	} {
		claimed := make(map[string]map[string]bool)
		var err error
		for _, a := range c.answers {
			err = checkClaim(answer(a), []*device{d}, claimed)
		}
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestCheckIdentities(t *testing.T) {
	d, err := newDevice(&load.User{ID: "@a:x", Device: "D"})
	if err != nil {
		t.Fatal(err)
	}
	answer := func(keys string) gjson.Result {
		return gjson.Parse(`{"device_keys":{"@a:x":{"D":` + keys + `}}}`)
	}
	good := string(d.identity)
	for _, c := range []struct {
		name, keys string
		fail       bool
	}{
		{"as uploaded", good, false},
		{"with a name added", `{"unsigned":{"device_display_name":"x"},` + good[1:], false},
		{"changed", strings.Replace(good, `"@a:x"`, `"@b:x"`, 1), true},
		{"empty", "{}", true},
	} {
		if err := checkIdentities(answer(c.keys), []*device{d}); (err != nil) != c.fail {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := checkIdentities(gjson.Parse(`{"device_keys":{}}`), []*device{d}); err == nil {
		t.Error("no keys at all are fine?")
	}
}

// Everybody's keys are asked for equally often, so that a run of claims empties every device and asks for none in vain.
func TestPeersTakeTurns(t *testing.T) {
	devices := make([]*device, 20)
	for i := range devices {
		devices[i] = &device{User: &load.User{ID: fmt.Sprint(i)}}
	}
	asked := make(map[string]int)
	for n := range uploadsPerUser {
		for i := range devices {
			for _, d := range peers(devices, i, n) {
				if d == devices[i] {
					t.Fatalf("%d asks itself", i)
				}
				asked[d.ID]++
			}
		}
	}
	for _, d := range devices {
		if asked[d.ID] != uploadsPerUser*peersPerRequest {
			t.Errorf("%s is asked %d times", d.ID, asked[d.ID])
		}
	}
	for i, senders := range expected(devices) {
		if len(senders) != peersPerRequest || slices.Contains(senders, i) {
			t.Errorf("%d gets messages of %v", i, senders)
		}
	}
}

func TestSelect(t *testing.T) {
	all, err := Select(nil)
	if err != nil || len(all) != len(Table())-2 {
		t.Fatalf("%d, %v", len(all), err)
	}
	if many, err := Select([]string{"remote-join-many"}); err != nil || len(many) != 1 {
		t.Errorf("%v %v", many, err)
	}
	two, err := Select([]string{"join", "send"})
	if err != nil || len(two) != 2 || two[0].Name != "join" || two[1].Name != "send" {
		t.Errorf("%v %v", two, err)
	}
	if _, err := Select([]string{"jump"}); err == nil || !strings.Contains(err.Error(), "fanout") {
		t.Errorf("an unknown name: %v", err)
	}
	seen := make(map[string]bool)
	for _, s := range Table() {
		if seen[s.Name] || s.Doc == "" || s.Run == nil || s.Federation != (s.Lacks != nil) {
			t.Errorf("row %q", s.Name)
		}
		seen[s.Name] = true
	}
}
