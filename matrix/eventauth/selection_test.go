package eventauth

import (
	"slices"
	"testing"

	"weft/matrix/event"
)

func TestNeededKeys(t *testing.T) {
	eachVersion(t, func(t *testing.T, r *event.Rules) {
		w := newWorld(t, r)
		var create []Key
		if versionNumber(r) < 12 {
			create = []Key{{TypeCreate, ""}}
		}
		base := func(sender string, more ...Key) []Key {
			return append(append(slices.Clone(create), Key{TypePowerLevels, ""}, Key{TypeMember, sender}), more...)
		}
		rules := Key{TypeJoinRules, ""}
		via := func(user string) *event.Event {
			return w.memberWith(dave, dave, content{"membership": join, "join_authorised_via_users_server": user})
		}
		restrictedKeys := base(dave, rules)
		if versionNumber(r) >= 8 {
			restrictedKeys = append(restrictedKeys, Key{TypeMember, frank})
		}
		for _, c := range []struct {
			what string
			e    *event.Event
			want []Key
		}{
			{"create", w.create, nil},
			{"message", w.message("m.room.message", bob, content{}), base(bob)},
			{"join", w.member(dave, dave, join), base(dave, rules)},
			{"knock", w.member(dave, dave, knock), base(dave, rules)},
			{"invite", w.member(bob, dave, invite), base(bob, Key{TypeMember, dave}, rules)},
			{"kick", w.member(bob, carol, leave), base(bob, Key{TypeMember, carol})},
			{"ban", w.member(bob, carol, ban), base(bob, Key{TypeMember, carol})},
			{"leave", w.member(carol, carol, leave), base(carol)},
			{"restricted join", via(frank), restrictedKeys},
			{"authorised by oneself", via(dave), base(dave, rules)},
			{"third-party invite", w.thirdParty(alice, false, nil), base(alice, Key{TypeMember, dave}, rules, Key{TypeThirdPartyInvite, "token"})},
			{"member without state key", w.message(TypeMember, bob, content{"membership": join}), base(bob)},
		} {
			if got := NeededKeys(c.e); !slices.Equal(got, c.want) {
				t.Errorf("%s: %v, want %v", c.what, got, c.want)
			}
		}
	})
}

// TestMayRedact: who may redact what, once the redaction has passed the rules.
func TestMayRedact(t *testing.T) {
	eachVersion(t, func(t *testing.T, r *event.Rules) {
		w := newWorld(t, r)
		target := w.message("m.room.message", frank, content{"body": "x"})
		redact := func(sender string, e *event.Event) *event.Event {
			if r.RedactsInContent {
				return w.message(TypeRedaction, sender, content{"redacts": string(e.ID)})
			}
			return w.message(TypeRedaction, sender, content{}, content{"redacts": string(e.ID)})
		}
		decidedByRule11 := versionNumber(r) < 3
		for _, c := range []struct {
			sender string
			want   bool
		}{{bob, true}, {carol, decidedByRule11}, {frank, true}, {"@other:f.example", true}} {
			if got := MayRedact(redact(c.sender, target), target, w.state); got != c.want {
				t.Errorf("%s may redact: %v, want %v", c.sender, got, c.want)
			}
		}
		if MayRedact(redact(bob, w.message("m.room.message", frank, content{})), target, w.state) {
			t.Error("a redaction of another event applies")
		}
		elsewhere := w.message("m.room.message", frank, content{}, content{"room_id": "!elsewhere:a.example"})
		if MayRedact(redact(bob, elsewhere), elsewhere, w.state) {
			t.Error("a redaction applies in another room")
		}
	})
}

// TestThirdPartyBound: an invite with absurdly many signatures is given up.
func TestThirdPartyBound(t *testing.T) {
	r, err := event.Version("11")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, r)
	w.thirdParty(alice, false, nil)
	keys := thirdPartyKeys(w.state.Get(TypeThirdPartyInvite, "token"))
	if len(keys) != 1 {
		t.Fatalf("%d keys", len(keys))
	}
	for len(keys) <= maxThirdPartyChecks {
		keys = append(keys, keys[0])
	}
	signed := []byte(`{"signatures":{"x":{"ed25519:1":"` + string(make64()) + `"}},"token":"t"}`)
	if signedByAny(signed, keys) {
		t.Fatal("a signature of zeros is right")
	}
}

func make64() []byte {
	b := make([]byte, 86)
	for i := range b {
		b[i] = 'A'
	}
	return b
}

// TestCheckAgrees: the function and a Checker that has seen other rooms agree.
func TestCheckAgrees(t *testing.T) {
	shared := NewChecker()
	eachVersion(t, func(t *testing.T, r *event.Rules) {
		for range 2 {
			w := newWorld(t, r)
			for _, sender := range []string{alice, bob, carol, dave} {
				e := w.event("m.room.topic", sender, "", content{})
				if one, two := Check(e, w.state), shared.Check(e, w.state); (one == nil) != (two == nil) {
					t.Errorf("%s: %v, %v", sender, one, two)
				}
			}
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	r, err := event.Version(event.DefaultVersion)
	if err != nil {
		b.Fatal(err)
	}
	w := newWorld(b, r)
	message := w.message("m.room.message", bob, content{"body": "x"})
	joining := w.member(carol, carol, join)
	powers := w.event(TypePowerLevels, alice, "", w.levels(content{"kick": 40}))
	for name, e := range map[string]*event.Event{"message": message, "join": joining, "power_levels": powers} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := w.checker.Check(e, w.state); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/cold", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := Check(e, w.state); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
