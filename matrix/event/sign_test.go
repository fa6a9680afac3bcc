package event

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
)

func TestRequiredSigners(t *testing.T) {
	const (
		join   = `{"membership":"join"}`
		via    = `{"join_authorised_via_users_server":"@x:resident","membership":"join"}`
		own    = `{"join_authorised_via_users_server":"@x:domain","membership":"join"}`
		invite = `{"membership":"invite"}`
		third  = `{"membership":"invite","third_party_invite":{"signed":{}}}`
	)
	tests := []struct {
		content, origin string
		from, to        int
		want            []id.Server
	}{
		{join, "domain", 1, 12, []id.Server{"domain"}},
		{join, "other", 1, 2, []id.Server{"domain", "other"}},
		{join, "other", 3, 12, []id.Server{"domain"}},
		{via, "domain", 1, 7, []id.Server{"domain"}},
		{via, "domain", 8, 12, []id.Server{"domain", "resident"}},
		{own, "domain", 8, 12, []id.Server{"domain"}},
		{invite, "domain", 1, 12, []id.Server{"domain"}},
		{third, "other", 1, 2, []id.Server{"other"}},
		{third, "other", 3, 12, []id.Server{}},
	}
	for _, tc := range tests {
		for i, v := range Versions() {
			if i+1 < tc.from || i+1 > tc.to {
				continue
			}
			b := builder(rulesOf(t, v))
			b.Type, b.StateKey, b.Content = "m.room.member", ptr("@alice:domain"), []byte(tc.content)
			e, err := b.Build(id.Server(tc.origin), vectorKeyID, vectorKey(t))
			if err != nil {
				t.Fatal(err)
			}
			if got := e.RequiredSigners(); !slices.Equal(got, tc.want) {
				t.Errorf("version %s, %s from %s: %v, want %v", v, tc.content, tc.origin, got, tc.want)
			}
		}
	}
}

// An invite that pretends to be a third party's must not escape its sender's
// signature by a content that nobody vouches for.
func TestForgedThirdPartyInviteNeedsSignature(t *testing.T) {
	r := rulesOf(t, "10")
	b := builder(r)
	b.Type, b.StateKey, b.Content = "m.room.member", ptr("@bob:other"), []byte(`{"membership":"invite"}`)
	e, err := b.Build("attacker", vectorKeyID, vectorKey(t))
	if err != nil {
		t.Fatal(err)
	}
	forged := canonical.Set(e.JSON(), "content", []byte(`{"membership":"invite","third_party_invite":{"signed":{}}}`))
	got, err := Parse(forged, r)
	if err != nil || !got.Redacted() {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := got.VerifySignatures(vectorKeys(t)); !errors.Is(err, merr.ErrInvalidSignature) {
		t.Errorf("verified: %v", err)
	}
}

func TestVerifySignatures(t *testing.T) {
	priv := vectorKey(t)
	pub := priv.Public().(ed25519.PublicKey)
	_, otherPriv, err := ed25519.GenerateKey(bytes.NewReader(make([]byte, 64)))
	if err != nil {
		t.Fatal(err)
	}
	known := func(keys ...id.KeyID) KeyFunc {
		return func(s id.Server, k id.KeyID, _ int64) (ed25519.PublicKey, bool) {
			return pub, slices.Contains(keys, k) && s == vectorServer
		}
	}
	for _, v := range Versions() {
		e := mustBuild(t, builder(rulesOf(t, v)))
		twice, err := e.Sign(vectorServer, "ed25519:2", priv)
		if err != nil {
			t.Fatal(err)
		}
		wrong, err := e.Sign(vectorServer, "ed25519:2", otherPriv)
		if err != nil {
			t.Fatal(err)
		}
		if twice.ID != e.ID || !slices.Equal(twice.SignatureKeys(vectorServer), []id.KeyID{"ed25519:1", "ed25519:2"}) {
			t.Errorf("version %s: %s, %v", v, twice.ID, twice.SignatureKeys(vectorServer))
		}
		elsewhere, err := e.Sign("elsewhere", "ed25519:1", otherPriv)
		if err != nil {
			t.Fatal(err)
		}
		tests := []struct {
			name string
			e    *Event
			keys KeyFunc
			ok   bool
		}{
			{"one", e, known("ed25519:1"), true},
			{"two", twice, known("ed25519:1", "ed25519:2"), true},
			{"two, the first unknown", twice, known("ed25519:2"), true},
			{"two, the second wrong", wrong, known("ed25519:1", "ed25519:2"), false},
			{"two, the wrong one unknown", wrong, known("ed25519:1"), true},
			{"unknown", e, known("ed25519:9"), false},
			{"another server's does not count", elsewhere, known("ed25519:1"), true},
		}
		for _, tc := range tests {
			if err := tc.e.VerifySignatures(tc.keys); tc.ok && err != nil || !tc.ok && !errors.Is(err, merr.ErrInvalidSignature) {
				t.Errorf("version %s, %s: %v", v, tc.name, err)
			}
		}
		if err := wrong.VerifySignature(vectorServer, "ed25519:2", otherPriv.Public().(ed25519.PublicKey)); err != nil {
			t.Errorf("version %s: %v", v, err)
		}
		if err := wrong.VerifySignature(vectorServer, "ed25519:3", pub); !errors.Is(err, merr.ErrInvalidSignature) {
			t.Errorf("version %s: %v", v, err)
		}
	}
}

func TestWhatASignatureCovers(t *testing.T) {
	for _, v := range Versions() {
		r := rulesOf(t, v)
		b := builder(r)
		b.Type, b.StateKey, b.Content = "m.room.member", ptr("@alice:domain"), []byte(`{"displayname":"A","membership":"join"}`)
		e := mustBuild(t, b)
		for change, ok := range map[[2]string]bool{
			{`"displayname":"A"`, `"displayname":"B"`}:     true, // redacted away
			{`"membership":"join"`, `"membership":"ban"`}:  false,
			{`"depth":12`, `"depth":13`}:                   false,
			{`@alice:domain","sig`, `@alicf:domain","sig`}: false,
			{`"state_key":"@alice`, `"state_key":"@bob`}:   false,
		} {
			changed := bytes.Replace(e.JSON(), []byte(change[0]), []byte(change[1]), 1)
			if bytes.Equal(changed, e.JSON()) {
				t.Fatalf("%s is not in %s", change[0], e.JSON())
			}
			p, err := Parse(changed, r)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.VerifySignatures(vectorKeys(t)); (err == nil) != ok {
				t.Errorf("version %s, %v: %v", v, change, err)
			}
		}
	}
}

// spec: rooms/v5 (Signing key validity period)
func TestKeyValidityIsAskedFor(t *testing.T) {
	for i, v := range Versions() {
		for _, ts := range []int64{1700000000000, 0, -5} {
			b := builder(rulesOf(t, v))
			b.OriginServerTS = ts
			e := mustBuild(t, b)
			asked := int64(-1)
			keys := vectorKeys(t)
			if err := e.VerifySignatures(func(s id.Server, k id.KeyID, at int64) (ed25519.PublicKey, bool) {
				asked = at
				return keys(s, k, at)
			}); err != nil {
				t.Fatal(err)
			}
			want := int64(0)
			if i+1 >= 5 {
				want = max(ts, 1)
			}
			if asked != want {
				t.Errorf("version %s, event of %d: validity at %d, want %d", v, ts, asked, want)
			}
		}
	}
}

func TestProto(t *testing.T) {
	for _, v := range Versions() {
		r := rulesOf(t, v)
		b := builder(r)
		b.Type, b.StateKey, b.Content = "m.room.member", ptr("@alice:domain"), []byte(`{ "membership": "join" }`)
		if r.EventFormat == FormatPairs {
			b.ParentHashes = map[id.Event][sha256.Size]byte{"$prev2:domain": sha256.Sum256([]byte("x"))}
		}
		proto, err := b.Proto()
		if err != nil {
			t.Fatal(err)
		}
		for _, no := range []string{"hashes", "signatures", "event_id", "unsigned"} {
			if canonical.Get(proto, no) != nil {
				t.Errorf("version %s: the template holds %s: %s", v, no, proto)
			}
		}
		back, err := ParseProto(proto, r)
		if err != nil {
			t.Fatalf("version %s: %v", v, err)
		}
		one, two := mustBuild(t, b), mustBuild(t, back)
		if one.ID != two.ID || !bytes.Equal(one.JSON(), two.JSON()) {
			t.Errorf("version %s:\n%s\n%s", v, one.JSON(), two.JSON())
		}
		hash := sha256.Sum256([]byte("x"))
		if r.EventFormat == FormatPairs && !bytes.Contains(two.JSON(), []byte(`["$prev2:domain",{"sha256":"`+canonical.EncodeBase64(hash[:])+`"}]`)) {
			t.Errorf("version %s: the parent's hash was lost: %s", v, two.JSON())
		}
		// Some servers leave the time to who signs the event.
		back, err = ParseProto(bytes.Replace(proto, []byte(`"origin_server_ts":`), []byte(`"ignored":`), 1), r)
		if err != nil {
			t.Fatalf("version %s: without a time: %v", v, err)
		}
		back.OriginServerTS = b.OriginServerTS
		if three := mustBuild(t, back); three.ID != one.ID && r.EventIDFormat != EventIDInBody {
			t.Errorf("version %s: without a time it became\n%s", v, three.JSON())
		}
		for _, bad := range []string{`{}`, `[]`, ``, `{"type":1}`, `{"type":"m.room.member"}`} {
			if _, err := ParseProto([]byte(bad), r); err == nil {
				t.Errorf("version %s: %q was read", v, bad)
			}
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, v := range Versions() {
		r := rulesOf(t, v)
		for name, change := range map[string]func(*Builder){
			"no content":        func(b *Builder) { b.Content = nil },
			"content no JSON":   func(b *Builder) { b.Content = []byte("{") },
			"content no object": func(b *Builder) { b.Content = []byte("[]") },
			"no sender":         func(b *Builder) { b.Sender = "" },
			"bad sender":        func(b *Builder) { b.Sender = "@a" },
			"bad room":          func(b *Builder) { b.RoomID = "!" },
			"bad parent":        func(b *Builder) { b.PrevEvents = []id.Event{"x"} },
			"too many":          func(b *Builder) { b.AuthEvents = make([]id.Event, 11) },
			"negative depth":    func(b *Builder) { b.Depth = -1 },
			"bad unsigned":      func(b *Builder) { b.Unsigned = []byte("{") },
			"float":             func(b *Builder) { b.Content = []byte(`{"a":1.5}`) },
		} {
			b := builder(r)
			change(b)
			e, err := b.Build(vectorServer, vectorKeyID, vectorKey(t))
			if ok := name == "float" && !r.StrictCanonicalJSON; (err == nil) != ok {
				t.Errorf("version %s, %s: %+v, %v", v, name, e, err)
			}
		}
		b := builder(r)
		b.Depth = 1<<63 - 1
		b.Unsigned = []byte(`{"b":1, "a":2}`)
		e := mustBuild(t, b)
		if e.Depth != r.MaxDepth || string(e.Unsigned()) != `{"a":2,"b":1}` {
			t.Errorf("version %s: depth %d, unsigned %s", v, e.Depth, e.Unsigned())
		}
	}
}

func TestRoundTripsHold(t *testing.T) {
	priv := vectorKey(t)
	keys := vectorKeys(t)
	types := []string{"m.room.message", "m.room.member", "m.room.power_levels", "m.room.create", "m.room.redaction", "x"}
	rapid.Check(t, func(rt *rapid.T) {
		all := Versions()
		r := rulesOf(t, all[rapid.IntRange(0, len(all)-1).Draw(rt, "version")])
		b := builder(r)
		b.Type = rapid.SampledFrom(types).Draw(rt, "type")
		if rapid.Bool().Draw(rt, "state") {
			b.StateKey = ptr(rapid.StringN(0, 20, 255).Draw(rt, "state key"))
		}
		content, err := canonical.Marshal(rapid.MapOf(
			rapid.SampledFrom([]string{"membership", "creator", "ban", "users", "redacts", "third_party_invite", "body", "\n"}),
			rapid.SampledFrom([]any{"join", 1, nil, map[string]any{"signed": 1, "x": 2}, []string{"a"}, "日\"\\\x01"}),
		).Draw(rt, "content"))
		if err != nil {
			rt.Fatal(err)
		}
		b.Content = content
		b.Depth = rapid.Int64Range(0, 1<<53-1).Draw(rt, "depth")
		e, err := b.Build(vectorServer, vectorKeyID, priv)
		if err != nil {
			rt.Fatal(err)
		}
		parsed, err := Parse(e.JSON(), r)
		if err != nil || parsed.Redacted() || parsed.ID != e.ID || parsed.RoomID != e.RoomID {
			rt.Fatalf("%s: %v", e.JSON(), err)
		}
		if err := parsed.VerifySignatures(keys); err != nil {
			rt.Fatal(err)
		}
		red, err := parsed.Redact()
		if err != nil || red.ReferenceHash() != e.ReferenceHash() || red.ID != e.ID {
			rt.Fatalf("%s: %v", red.JSON(), err)
		}
		if !canonical.IsCanonical(red.JSON()) {
			rt.Fatalf("not canonical: %s", red.JSON())
		}
		cut, err := Parse(red.JSON(), r)
		if err != nil || cut.ID != e.ID || !bytes.Equal(cut.JSON(), red.JSON()) {
			rt.Fatalf("%s: %v", red.JSON(), err)
		}
	})
}
