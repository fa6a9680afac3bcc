package event

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const v12Room id.Room = "!Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ"

// builder gives a message in a room of the version.
func builder(r *Rules) *Builder {
	b := &Builder{
		Rules: r, RoomID: "!room:domain", Sender: "@alice:domain", Type: "m.room.message",
		Content: []byte(`{"body":"hello","msgtype":"m.text"}`), Depth: 12, OriginServerTS: 1700000000000,
		PrevEvents: []id.Event{"$prev1:domain", "$prev2:domain"}, AuthEvents: []id.Event{"$auth1:domain"},
	}
	if r.EventFormat == FormatIDs {
		b.PrevEvents = []id.Event{"$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg", "$Aqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"}
		b.AuthEvents = []id.Event{"$Bqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"}
	}
	if r.RoomIDIsCreateHash {
		b.RoomID = v12Room
	}
	return b
}

func mustBuild(t testing.TB, b *Builder) *Event {
	t.Helper()
	e, err := b.Build(vectorServer, vectorKeyID, vectorKey(t))
	if err != nil {
		t.Fatalf("version %s: %v", b.Rules.Version, err)
	}
	return e
}

func ptr(s string) *string { return &s }

// edit changes top-level members of a PDU; nil deletes. The content hash is made
// anew, so that only the format is in question.
func edit(t testing.TB, raw []byte, changes map[string]any) []byte {
	t.Helper()
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		t.Fatal(err)
	}
	for k, v := range changes {
		if v == nil {
			delete(fields, k)
			continue
		}
		if text, ok := v.(json.RawMessage); ok {
			fields[k] = text
			continue
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		fields[k] = text
	}
	out, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	out, err = canonical.CanonicalLenient(out)
	if err != nil {
		t.Fatal(err)
	}
	if _, own := changes["hashes"]; !own {
		out = rehash(out)
	}
	return out
}

func rehash(whole []byte) []byte {
	var l layout
	l.index(whole)
	hash := l.contentHash(newHasher(), whole)
	return canonical.Set(whole, "hashes", []byte(`{"sha256":"`+canonical.EncodeBase64(hash[:])+`"}`))
}

func raw(s string) json.RawMessage { return json.RawMessage(s) }

func repeat(n int, one string) json.RawMessage {
	return raw("[" + strings.TrimSuffix(strings.Repeat(one+",", n), ",") + "]")
}

func TestParseWhatBuildMade(t *testing.T) {
	for _, v := range Versions() {
		r := rulesOf(t, v)
		b := builder(r)
		built := mustBuild(t, b)
		if !canonical.IsCanonical(built.JSON()) {
			t.Errorf("version %s: not canonical: %s", v, built.JSON())
		}
		parsed, err := Parse(built.JSON(), r)
		if err != nil {
			t.Fatalf("version %s: %v\n%s", v, err, built.JSON())
		}
		stored, err := ParseStored(bytes.Clone(built.JSON()), built.ID, r)
		if err != nil {
			t.Fatal(err)
		}
		for name, e := range map[string]*Event{"built": built, "parsed": parsed, "stored": stored} {
			same := e.ID == built.ID && e.RoomID == b.RoomID && e.Sender == b.Sender && e.Type == b.Type && !e.IsState && e.StateKeyPtr() == nil &&
				e.Depth == b.Depth && e.OriginServerTS == b.OriginServerTS && slices.Equal(e.PrevEvents, b.PrevEvents) &&
				slices.Equal(e.AuthEvents, b.AuthEvents) && e.Rules == r && !e.Redacted() && e.Redacts == "" && e.HasRoomID() &&
				bytes.Equal(e.JSON(), built.JSON()) && string(e.Content()) == `{"body":"hello","msgtype":"m.text"}`
			if !same {
				t.Errorf("version %s: the %s event differs: %+v", v, name, e)
			}
			if err := e.VerifySignatures(vectorKeys(t)); err != nil {
				t.Errorf("version %s, %s: %v", v, name, err)
			}
		}
		hash := built.ReferenceHash()
		switch v {
		case "1", "2":
			if built.ID.Server() != vectorServer || !bytes.Contains(built.JSON(), []byte(`"event_id":"`+string(built.ID)+`"`)) {
				t.Errorf("version %s: ID %s", v, built.ID)
			}
			if !bytes.Contains(built.JSON(), []byte(`"auth_events":[["$auth1:domain",{}]]`)) {
				t.Errorf("version %s: auth events in %s", v, built.JSON())
			}
		case "3":
			if string(built.ID) != "$"+canonical.EncodeBase64(hash[:]) {
				t.Errorf("version 3: ID %s", built.ID)
			}
		default:
			if want := strings.NewReplacer("+", "-", "/", "_").Replace(canonical.EncodeBase64(hash[:])); string(built.ID) != "$"+want {
				t.Errorf("version %s: ID %s", v, built.ID)
			}
		}
	}
}

// TestReferenceHashByDefinition makes the hashes once more from the text of the
// spec, with encoding/json and whole documents.
func TestHashesByDefinition(t *testing.T) {
	for _, v := range Versions() {
		r := rulesOf(t, v)
		b := builder(r)
		b.Type, b.StateKey = "m.room.member", ptr("@alice:domain")
		b.Content = []byte(`{"membership":"join","displayname":"A \"quoted\" \u0001 name 日本"}`)
		e := mustBuild(t, b)

		hash := func(doc []byte, drop ...string) [32]byte {
			var fields map[string]json.RawMessage
			if err := json.Unmarshal(doc, &fields); err != nil {
				t.Fatal(err)
			}
			for _, k := range drop {
				delete(fields, k)
			}
			out, err := canonical.Marshal(fields)
			if err != nil {
				t.Fatal(err)
			}
			return sha256.Sum256(out)
		}
		content := hash(e.JSON(), "unsigned", "signatures", "hashes")
		if !bytes.Contains(e.JSON(), []byte(`"hashes":{"sha256":"`+canonical.EncodeBase64(content[:])+`"}`)) {
			t.Errorf("version %s: content hash of %s is not %s", v, e.JSON(), canonical.EncodeBase64(content[:]))
		}
		redacted, err := RedactJSON(e.JSON(), r)
		if err != nil {
			t.Fatal(err)
		}
		if e.ReferenceHash() != hash(redacted, "unsigned", "signatures") {
			t.Errorf("version %s: reference hash", v)
		}
	}
}

func TestWrongContentHashRedacts(t *testing.T) {
	for _, v := range Versions() {
		r := rulesOf(t, v)
		built := mustBuild(t, builder(r))
		changed := bytes.Replace(built.JSON(), []byte("hello"), []byte("HELLO"), 1)
		e, err := Parse(changed, r)
		if err != nil {
			t.Fatalf("version %s: %v", v, err)
		}
		if !e.Redacted() || string(e.Content()) != "{}" || e.ID != built.ID {
			t.Errorf("version %s: %s, redacted %v, ID %s", v, e.JSON(), e.Redacted(), e.ID)
		}
		if err := e.VerifySignatures(vectorKeys(t)); err != nil {
			t.Errorf("version %s: %v", v, err)
		}
		own, err := built.Redact()
		if err != nil || own.ID != built.ID || !bytes.Equal(own.JSON(), e.JSON()) || !own.Redacted() {
			t.Errorf("version %s: Redact gives %s, %v", v, own.JSON(), err)
		}
		// A redacted copy from elsewhere parses too, as redacted.
		copied, err := Parse(own.JSON(), r)
		if err != nil || !copied.Redacted() || copied.ID != built.ID {
			t.Errorf("version %s: %+v, %v", v, copied, err)
		}
	}
}

func TestWhatIsStripped(t *testing.T) {
	for _, v := range Versions() {
		r := rulesOf(t, v)
		built := mustBuild(t, builder(r))
		sent := built.JSON()
		for key, value := range map[string]string{"unsigned": `{"age":12,"x":[1]}`, "age_ts": "1", "outlier": "true", "destinations": "[]"} {
			sent = canonical.Set(sent, key, []byte(value))
		}
		if r.EventIDFormat != EventIDInBody {
			sent = canonical.Set(sent, "event_id", []byte(`"$liar"`))
		}
		e, err := Parse(sent, r)
		if err != nil || !bytes.Equal(e.JSON(), built.JSON()) || e.ID != built.ID || e.Redacted() {
			t.Fatalf("version %s: %+v, %v", v, e, err)
		}
		if string(e.Unsigned()) != `{"age":12,"x":[1]}` {
			t.Errorf("version %s: unsigned %s", v, e.Unsigned())
		}
		// Nothing of the caller's buffer is kept.
		for i := range sent {
			sent[i] = 'x'
		}
		if !bytes.Equal(e.JSON(), built.JSON()) || string(e.Unsigned()) != `{"age":12,"x":[1]}` {
			t.Errorf("version %s: the event shares the caller's memory", v)
		}
	}
}

func TestFormatErrors(t *testing.T) {
	long := strings.Repeat("a", 256)
	wide := strings.Repeat("日", 86) // 258 bytes, 86 characters
	all := [2]int{1, 12}
	tests := []struct {
		name     string
		change   map[string]any
		versions [2]int
		want     *merr.Error
	}{
		{"no type", map[string]any{"type": nil}, all, merr.ErrBadJSON},
		{"type is a number", map[string]any{"type": 1}, all, merr.ErrBadJSON},
		{"long type", map[string]any{"type": long}, all, merr.ErrTooLarge},
		{"wide type", map[string]any{"type": wide}, [2]int{11, 12}, merr.ErrTooLarge},
		{"long wide type", map[string]any{"type": strings.Repeat("日", 256)}, all, merr.ErrTooLarge},
		{"no sender", map[string]any{"sender": nil}, all, merr.ErrBadJSON},
		{"sender is no user ID", map[string]any{"sender": "alice"}, all, merr.ErrBadJSON},
		{"sender without server", map[string]any{"sender": "@alice"}, all, merr.ErrBadJSON},
		{"sender is null", map[string]any{"sender": raw("null")}, all, merr.ErrBadJSON},
		{"long sender", map[string]any{"sender": "@" + long + ":a"}, all, merr.ErrTooLarge},
		{"state_key is a number", map[string]any{"state_key": 1}, all, merr.ErrBadJSON},
		{"state_key is null", map[string]any{"state_key": raw("null")}, all, merr.ErrBadJSON},
		{"long state_key", map[string]any{"state_key": long}, all, merr.ErrTooLarge},
		{"wide state_key", map[string]any{"state_key": wide}, [2]int{11, 12}, merr.ErrTooLarge},
		{"long wide state_key", map[string]any{"state_key": strings.Repeat("日", 256)}, all, merr.ErrTooLarge},
		{"wide type, long state_key", map[string]any{"type": wide, "state_key": long}, all, merr.ErrTooLarge},
		{"no room_id", map[string]any{"room_id": nil}, all, merr.ErrBadJSON},
		{"room_id is a list", map[string]any{"room_id": []int{}}, all, merr.ErrBadJSON},
		{"room_id is no room ID", map[string]any{"room_id": "#a:b"}, all, merr.ErrBadJSON},
		{"long room_id", map[string]any{"room_id": "!" + long + ":a"}, all, merr.ErrTooLarge},
		{"room_id without domain", map[string]any{"room_id": string(v12Room)}, [2]int{1, 11}, merr.ErrBadJSON},
		{"room_id with domain", map[string]any{"room_id": "!room:domain"}, [2]int{12, 12}, merr.ErrBadJSON},
		{"room_id is no hash", map[string]any{"room_id": "!room"}, [2]int{12, 12}, merr.ErrBadJSON},
		{"create without room_id", map[string]any{"room_id": nil, "type": "m.room.create", "state_key": ""}, [2]int{1, 11}, merr.ErrBadJSON},
		{"no content", map[string]any{"content": nil}, all, merr.ErrBadJSON},
		{"content is a list", map[string]any{"content": []int{}}, all, merr.ErrBadJSON},
		{"content is a text", map[string]any{"content": "x"}, all, merr.ErrBadJSON},
		{"no depth", map[string]any{"depth": nil}, all, merr.ErrBadJSON},
		{"negative depth", map[string]any{"depth": -1}, all, merr.ErrBadJSON},
		{"depth is a text", map[string]any{"depth": "1"}, all, merr.ErrBadJSON},
		{"depth is a fraction", map[string]any{"depth": 1.5}, all, merr.ErrBadJSON},
		{"depth is written as a float", map[string]any{"depth": raw("1.0")}, [2]int{6, 12}, merr.ErrBadJSON},
		{"depth above 2^53", map[string]any{"depth": raw("9007199254740992")}, [2]int{6, 12}, merr.ErrBadJSON},
		{"depth above 2^63", map[string]any{"depth": raw("9223372036854775808")}, all, merr.ErrBadJSON},
		{"no time", map[string]any{"origin_server_ts": nil}, all, merr.ErrBadJSON},
		{"time is a text", map[string]any{"origin_server_ts": "1"}, all, merr.ErrBadJSON},
		{"no hashes", map[string]any{"hashes": nil}, all, merr.ErrBadJSON},
		{"hashes is a text", map[string]any{"hashes": "x"}, all, merr.ErrBadJSON},
		{"no sha256", map[string]any{"hashes": raw("{}")}, all, merr.ErrBadJSON},
		{"sha256 is a number", map[string]any{"hashes": raw(`{"sha256":1}`)}, all, merr.ErrBadJSON},
		{"sha256 is no base64", map[string]any{"hashes": raw(`{"sha256":"*"}`)}, all, merr.ErrBadJSON},
		{"no signatures", map[string]any{"signatures": nil}, all, merr.ErrBadJSON},
		{"signatures is a list", map[string]any{"signatures": []int{}}, all, merr.ErrBadJSON},
		{"a server's signatures are a text", map[string]any{"signatures": raw(`{"a":"x"}`)}, all, merr.ErrBadJSON},
		{"a signature is a number", map[string]any{"signatures": raw(`{"a":{"ed25519:1":1}}`)}, all, merr.ErrBadJSON},
		{"no prev_events", map[string]any{"prev_events": nil}, all, merr.ErrBadJSON},
		{"prev_events is an object", map[string]any{"prev_events": raw("{}")}, all, merr.ErrBadJSON},
		{"prev_events hold numbers", map[string]any{"prev_events": raw("[1]")}, all, merr.ErrBadJSON},
		{"no auth_events", map[string]any{"auth_events": nil}, all, merr.ErrBadJSON},
		{"auth_events is null", map[string]any{"auth_events": raw("null")}, all, merr.ErrBadJSON},
		{"21 prev_events", map[string]any{"prev_events": repeat(21, `["$a:b",{}]`)}, [2]int{1, 2}, merr.ErrBadJSON},
		{"11 auth_events", map[string]any{"auth_events": repeat(11, `["$a:b",{}]`)}, [2]int{1, 2}, merr.ErrBadJSON},
		{"21 prev_events", map[string]any{"prev_events": repeat(21, `"$a"`)}, [2]int{3, 12}, merr.ErrBadJSON},
		{"11 auth_events", map[string]any{"auth_events": repeat(11, `"$a"`)}, [2]int{3, 12}, merr.ErrBadJSON},
		{"plain IDs", map[string]any{"prev_events": raw(`["$a:b"]`)}, [2]int{1, 2}, merr.ErrBadJSON},
		{"half a pair", map[string]any{"prev_events": raw(`[["$a:b"]]`)}, [2]int{1, 2}, merr.ErrBadJSON},
		{"three in a pair", map[string]any{"prev_events": raw(`[["$a:b",{},{}]]`)}, [2]int{1, 2}, merr.ErrBadJSON},
		{"a pair without object", map[string]any{"auth_events": raw(`[["$a:b","x"]]`)}, [2]int{1, 2}, merr.ErrBadJSON},
		{"a pair without ID", map[string]any{"auth_events": raw(`[[1,{}]]`)}, [2]int{1, 2}, merr.ErrBadJSON},
		{"pairs", map[string]any{"prev_events": raw(`[["$a",{}]]`)}, [2]int{3, 12}, merr.ErrBadJSON},
		{"no sigil", map[string]any{"prev_events": raw(`["a"]`)}, [2]int{3, 12}, merr.ErrBadJSON},
		{"empty ID", map[string]any{"auth_events": raw(`["$"]`)}, [2]int{3, 12}, merr.ErrBadJSON},
		{"long ID", map[string]any{"auth_events": raw(`["$` + long + `"]`)}, [2]int{3, 12}, merr.ErrBadJSON},
		{"no event_id", map[string]any{"event_id": nil}, [2]int{1, 2}, merr.ErrBadJSON},
		{"event_id is a number", map[string]any{"event_id": 1}, [2]int{1, 2}, merr.ErrBadJSON},
		{"event_id without domain", map[string]any{"event_id": "$a"}, [2]int{1, 2}, merr.ErrBadJSON},
		{"event_id with a bad domain", map[string]any{"event_id": "$a:b c"}, [2]int{1, 2}, merr.ErrBadJSON},
		{"long event_id", map[string]any{"event_id": "$" + long + ":a"}, [2]int{1, 2}, merr.ErrTooLarge},
		{"redacts is a number", map[string]any{"redacts": 1}, [2]int{1, 10}, merr.ErrBadJSON},
		{"a float in content", map[string]any{"content": raw(`{"a":1.5}`)}, [2]int{6, 12}, merr.ErrBadJSON},
		{"a big number in content", map[string]any{"content": raw(`{"a":9007199254740992}`)}, [2]int{6, 12}, merr.ErrBadJSON},
		{"too large", map[string]any{"content": map[string]string{"body": strings.Repeat("x", MaxSize)}}, all, merr.ErrTooLarge},
		{"much too large", map[string]any{"content": map[string]string{"body": strings.Repeat("x", maxRaw)}}, all, merr.ErrTooLarge},
	}
	for i, v := range Versions() {
		r := rulesOf(t, v)
		good := mustBuild(t, builder(r)).JSON()
		for _, tc := range tests {
			if i+1 < tc.versions[0] || i+1 > tc.versions[1] {
				continue
			}
			if _, err := Parse(edit(t, good, tc.change), r); !errors.Is(err, tc.want) {
				t.Errorf("version %s, %s: %v, want %s", v, tc.name, err, tc.want.Code)
			}
		}
		for _, bad := range []string{"", "[]", "1", "{", `{"a":1}`, `{}`, `null`} {
			if e, err := Parse([]byte(bad), r); err == nil {
				t.Errorf("version %s: %q gives %+v", v, bad, e)
			}
			if e, err := ParseStored([]byte(bad), "$x", r); err == nil {
				t.Errorf("version %s: stored %q gives %+v", v, bad, e)
			}
		}
	}
}

func TestRepeatedKeys(t *testing.T) {
	for _, v := range Versions() {
		r := rulesOf(t, v)
		good := mustBuild(t, builder(r)).JSON()
		twice := append([]byte(`{"type":"x",`), good[1:]...)
		e, err := Parse(twice, r)
		if r.StrictCanonicalJSON && !errors.Is(err, merr.ErrBadJSON) {
			t.Errorf("version %s: %v", v, err)
		}
		if !r.StrictCanonicalJSON && (err != nil || e.Type != "m.room.message") {
			t.Errorf("version %s: the last of two keys must count: %v", v, err)
		}
	}
}

func TestWhatIsAccepted(t *testing.T) {
	edge := strings.Repeat("a", 255)
	all := [2]int{1, 12}
	tests := []struct {
		name     string
		change   map[string]any
		versions [2]int
	}{
		{"empty type", map[string]any{"type": ""}, all},
		{"type of 255 bytes", map[string]any{"type": edge}, all},
		{"state_key of 255 bytes", map[string]any{"state_key": edge}, all},
		{"state_key of 255 bytes that are escaped", map[string]any{"state_key": strings.Repeat("\x01\n\"", 85)}, all},
		{"historical sender", map[string]any{"sender": "@A b☃:domain"}, all},
		{"empty localpart", map[string]any{"sender": "@:domain"}, all},
		{"20 and 10 parents", map[string]any{"prev_events": repeat(20, `"$a"`), "auth_events": repeat(10, `"$a"`)}, [2]int{3, 12}},
		{"20 and 10 parents", map[string]any{"prev_events": repeat(20, `["$a:b",{}]`), "auth_events": repeat(10, `["$a:b",{}]`)}, [2]int{1, 2}},
		{"no parents", map[string]any{"prev_events": raw("[]"), "auth_events": raw("[]")}, all},
		{"IDs with escapes and domains", map[string]any{"prev_events": raw(`["$a\"b","$c:d"]`)}, [2]int{3, 12}},
		{"depth 0", map[string]any{"depth": 0}, all},
		{"depth 2^53-1", map[string]any{"depth": raw("9007199254740991")}, all},
		{"depth 2^63-1", map[string]any{"depth": raw("9223372036854775807")}, [2]int{1, 5}},
		{"depth as a float", map[string]any{"depth": raw("1.2e1")}, [2]int{1, 5}},
		{"time before 1970", map[string]any{"origin_server_ts": -5}, all},
		{"a float in content", map[string]any{"content": raw(`{"a":1.50,"b":1e999,"c":123456789012345678901234567890}`)}, [2]int{1, 5}},
		{"unknown members", map[string]any{"zzz": raw(`{"a":[1]}`), "aaa": 1}, all},
		{"redacts of any type", map[string]any{"redacts": 1}, [2]int{11, 12}},
		{"create without room_id", map[string]any{"room_id": nil, "type": "m.room.create", "state_key": ""}, [2]int{12, 12}},
		{"create with room_id", map[string]any{"type": "m.room.create", "state_key": ""}, all},
		{"many members", manyMembers(), all},
	}
	for i, v := range Versions() {
		r := rulesOf(t, v)
		good := mustBuild(t, builder(r)).JSON()
		for _, tc := range tests {
			if i+1 < tc.versions[0] || i+1 > tc.versions[1] {
				continue
			}
			text := edit(t, good, tc.change)
			e, err := Parse(text, r)
			if err != nil {
				t.Errorf("version %s, %s: %v", v, tc.name, err)
				continue
			}
			if e.Redacted() || !bytes.Equal(e.JSON(), text) {
				t.Errorf("version %s, %s: redacted %v, %s", v, tc.name, e.Redacted(), e.JSON())
			}
			if k, ok := tc.change["state_key"].(string); ok && (!e.IsState || e.StateKey != k || *e.StateKeyPtr() != k) {
				t.Errorf("version %s, %s: state key %q", v, tc.name, e.StateKey)
			}
		}
	}
}

func manyMembers() map[string]any {
	m := make(map[string]any)
	for i := range 60 {
		m[fmt.Sprintf("x%d", i)] = i
	}
	return m
}

// The whole is measured in canonical form without unsigned: spaces and unsigned
// do not count.
func TestSizeLimitIsExact(t *testing.T) {
	r := rulesOf(t, "11")
	b := builder(r)
	b.Content = []byte(`{"body":""}`)
	fixed := len(mustBuild(t, b).JSON())
	b.Content = []byte(`{"body":"` + strings.Repeat("x", MaxSize-fixed) + `"}`)
	e := mustBuild(t, b)
	if len(e.JSON()) != MaxSize {
		t.Fatalf("%d bytes", len(e.JSON()))
	}
	padded := canonical.Set(e.JSON(), "unsigned", []byte(`{"x":"`+strings.Repeat("y", 1000)+`"}`))
	padded = append(bytes.Repeat([]byte(" "), 1000), padded...)
	if _, err := Parse(padded, r); err != nil {
		t.Error(err)
	}
	if _, err := e.Sign("other", "ed25519:2", vectorKey(t)); !errors.Is(err, merr.ErrTooLarge) {
		t.Errorf("a signature beyond the limit: %v", err)
	}
	b.Content = []byte(`{"body":"` + strings.Repeat("x", MaxSize-fixed+1) + `"}`)
	if _, err := b.Build(vectorServer, vectorKeyID, vectorKey(t)); !errors.Is(err, merr.ErrTooLarge) {
		t.Errorf("one byte too many: %v", err)
	}
}

// Fields of more than 255 bytes, but not of more characters, occur in old rooms: such an
// event is read, but nobody makes one.
func TestWideFields(t *testing.T) {
	wide := strings.Repeat("日", 86) // 258 bytes
	for _, v := range Versions() {
		r := rulesOf(t, v)
		good := mustBuild(t, builder(r)).JSON()
		for _, field := range []string{"type", "state_key"} {
			e, err := Parse(edit(t, good, map[string]any{field: wide}), r)
			if !r.KeepsWideFields {
				continue // TestFormatErrors
			}
			if err != nil {
				t.Fatalf("version %s, wide %s: %v", v, field, err)
			}
			if err := e.CheckFieldSize(); !errors.Is(err, merr.ErrTooLarge) {
				t.Errorf("version %s, wide %s: %v", v, field, err)
			}
		}
		b := builder(r)
		b.Type = wide
		if _, err := b.Build(vectorServer, vectorKeyID, vectorKey(t)); !errors.Is(err, merr.ErrTooLarge) {
			t.Errorf("version %s: an event with a wide type was made: %v", v, err)
		}
		e, err := Parse(good, r)
		if err != nil || e.CheckFieldSize() != nil {
			t.Errorf("version %s: %v, %v", v, err, e.CheckFieldSize())
		}
	}
}

// spec: rooms/v12 ("the room ID is the event ID of the event with sigil ! instead of $")
func TestRoomIDOfVersion12(t *testing.T) {
	r := rulesOf(t, "12")
	b := &Builder{Rules: r, RoomID: "!ignored:domain", Sender: "@alice:domain", Type: "m.room.create", StateKey: ptr(""), Content: []byte(`{"room_version":"12"}`), Depth: 1}
	create := mustBuild(t, b)
	if create.HasRoomID() || string(create.RoomID[1:]) != string(create.ID[1:]) || create.RoomID[0] != '!' {
		t.Fatalf("room %s of create %s", create.RoomID, create.ID)
	}
	parsed, err := Parse(create.JSON(), r)
	if err != nil || parsed.RoomID != create.RoomID {
		t.Errorf("%+v, %v", parsed, err)
	}
	stored, err := ParseStored(bytes.Clone(create.JSON()), create.ID, r)
	if err != nil || stored.RoomID != create.RoomID {
		t.Errorf("%+v, %v", stored, err)
	}
	m := builder(r)
	m.RoomID = create.RoomID
	if e := mustBuild(t, m); e.RoomID != create.RoomID {
		t.Errorf("room %s", e.RoomID)
	}
	lying, err := Parse(edit(t, create.JSON(), map[string]any{"room_id": string(v12Room)}), r)
	if err != nil || !lying.HasRoomID() || lying.RoomID == v12Room {
		t.Errorf("a create event with a room_id: %+v, %v", lying, err)
	}
}

func TestRedacts(t *testing.T) {
	const target id.Event = "$Cqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"
	for _, v := range Versions() {
		r := rulesOf(t, v)
		b := builder(r)
		b.Type, b.Redacts, b.Content = "m.room.redaction", target, []byte(`{"reason":"why"}`)
		e := mustBuild(t, b)
		if e.Redacts != target {
			t.Errorf("version %s: redacts %q", v, e.Redacts)
		}
		inContent := bytes.Contains(e.Content(), []byte(target))
		if inContent != r.RedactsInContent || bytes.Count(e.JSON(), []byte(target)) != 1 {
			t.Errorf("version %s: %s", v, e.JSON())
		}
		red, err := e.Redact()
		if err != nil || (red.Redacts == target) != r.RedactsInContent {
			t.Errorf("version %s: a redacted redaction redacts %q, %v", v, red.Redacts, err)
		}
	}
}

func TestMembership(t *testing.T) {
	r := rulesOf(t, "10")
	for content, want := range map[string]string{
		`{"membership":"join"}`: "join", `{"membership":"leave"}`: "leave", `{"membership":"invite"}`: "invite",
		`{"membership":"ban"}`: "ban", `{"membership":"knock"}`: "knock", `{"membership":"x\n"}`: "x\n", `{"membership":1}`: "", `{}`: "",
	} {
		b := builder(r)
		b.Type, b.StateKey, b.Content = "m.room.member", ptr("@bob:domain"), []byte(content)
		e := mustBuild(t, b)
		if e.Membership() != want || e.StateKey != "@bob:domain" || !e.IsState {
			t.Errorf("%s: %q, %q", content, e.Membership(), e.StateKey)
		}
		b.Type = "m.room.other"
		if m := mustBuild(t, b).Membership(); m != "" {
			t.Errorf("membership %q of another type", m)
		}
	}
}

func TestUsualTypesAreRead(t *testing.T) {
	r := rulesOf(t, "10")
	for _, typ := range []string{"m.room.message", "m.room.encrypted", "m.room.member", "m.reaction", "m.room.redaction", "m.room.create",
		"m.room.power_levels", "m.room.join_rules", "m.room.history_visibility", "m.room.topic", "x\"\\\n", ""} {
		b := builder(r)
		b.Type = typ
		if e := mustBuild(t, b); e.Type != typ {
			t.Errorf("%q became %q", typ, e.Type)
		}
	}
}

func FuzzParseEvent(f *testing.F) {
	for _, v := range Versions() {
		f.Add(uint8(len(v)), mustBuild(f, builder(rulesOf(f, v))).JSON())
	}
	f.Add(uint8(2), []byte(sample("m.room.member", `{"membership":"join"}`)))
	keys := vectorKeys(f)
	f.Fuzz(func(t *testing.T, version uint8, text []byte) {
		all := Versions()
		r := rulesOf(t, all[int(version)%len(all)])
		before := bytes.Clone(text)
		e, err := Parse(text, r)
		if !bytes.Equal(before, text) {
			t.Fatal("the input was written to")
		}
		if err != nil {
			ParseStored(text, "$x", r)
			return
		}
		if len(e.JSON()) > MaxSize || len(e.PrevEvents) > MaxPrevEvents || len(e.AuthEvents) > MaxAuthEvents || e.Depth < 0 {
			t.Fatalf("limits: %+v", e)
		}
		again, err := Parse(e.JSON(), r)
		if err != nil || !bytes.Equal(again.JSON(), e.JSON()) || again.ID != e.ID {
			t.Fatalf("%s gives %s, %v", e.JSON(), again.JSON(), err)
		}
		stored, err := ParseStored(bytes.Clone(e.JSON()), e.ID, r)
		if err != nil || stored.RoomID != e.RoomID || stored.StateKey != e.StateKey || stored.Redacts != e.Redacts {
			t.Fatalf("stored %+v, %v", stored, err)
		}
		red, err := e.Redact()
		if err != nil || red.ReferenceHash() != e.ReferenceHash() {
			t.Fatalf("redaction changes the reference hash of %s: %v", e.JSON(), err)
		}
		if _, err := canonical.CanonicalLenient(red.JSON()); err != nil {
			t.Fatalf("redacted: %s", red.JSON())
		}
		e.RequiredSigners()
		if e.VerifySignatures(keys) == nil && len(e.RequiredSigners()) > 0 && len(e.SignatureKeys(e.RequiredSigners()[0])) == 0 {
			t.Fatal("verified without a signature")
		}
	})
}
