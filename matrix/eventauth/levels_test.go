package eventauth

import (
	"math"
	"testing"

	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/id"
)

// TestParseLevel holds the forms of a power level against the versions that accept
// them: 1 = up to version 5 (floats), 6 = up to version 9 (strings), 10 = later.
func TestParseLevel(t *testing.T) {
	for _, c := range []struct {
		text string
		want int64
		upTo int // the last version that accepts it
	}{
		{"50", 50, 12}, {"-1", -1, 12}, {"0", 0, 12},
		{`"100"`, 100, 9}, {`"000100"`, 100, 9}, {`"+100"`, 100, 9}, {`"-100"`, -100, 9},
		{`" 100 "`, 100, 9}, {`" 00100 "`, 100, 9}, {`" +100 "`, 100, 9}, {`" -100 "`, -100, 9}, {`"\t7\n"`, 7, 9},
		{`"99999999999999999999"`, math.MaxInt64, 9},
		{"50.57", 50, 5}, {"-50.57", -50, 5}, {"5.114698E4", 51146, 5}, {"1e2", 100, 5}, {"0.1", 0, 5},
		{"1e300", math.MaxInt64, 5}, {"-1e300", math.MinInt64, 5},
		{"1e309", 0, 0}, {"-1e309", 0, 0}, {`"50.5"`, 0, 0}, {`"1e2"`, 0, 0}, {`"+-1"`, 0, 0}, {`"- 1"`, 0, 0}, {`""`, 0, 0},
		{`" "`, 0, 0}, {`"abc"`, 0, 0}, {`"1_0"`, 0, 0}, {`"0x10"`, 0, 0}, {"null", 0, 0}, {"true", 0, 0}, {"[]", 0, 0}, {"{}", 0, 0},
		{`"NaN"`, 0, 0}, {`"Infinity"`, 0, 0}, {"NaN", 0, 0},
	} {
		eachVersion(t, func(t *testing.T, r *event.Rules) {
			n, ok := parseLevel([]byte(c.text), r)
			if want := versionNumber(r) <= c.upTo; ok != want {
				t.Fatalf("%s: accepted %v, want %v", c.text, ok, want)
			} else if ok && n != c.want {
				t.Fatalf("%s is %d, want %d", c.text, n, c.want)
			}
		})
	}
}

func versionNumber(r *event.Rules) int {
	for i, v := range event.Versions() {
		if v == r.Version {
			return i + 1
		}
	}
	return 0
}

// TestNotificationLevels: changes of notification levels have a rule from version
// 6 on.
func TestNotificationLevels(t *testing.T) {
	eachVersion(t, func(t *testing.T, r *event.Rules) {
		now := content{"notifications": content{"room": 60}}
		checks := versionNumber(r) >= 6
		for _, c := range []struct {
			next any
			step Step
		}{
			{content{"room": 60}, StepLevelsAllow},
			{content{"room": 10}, StepLevelsOldEntry},
			{nil, StepLevelsOldEntry},
			{content{"room": 60, "x": 51}, StepLevelsNewEntry},
			{content{"room": 60, "x": 50}, StepLevelsAllow},
		} {
			got := levels(bob, content{"notifications": c.next}, needs(now))(newWorld(t, r))
			if want := c.step == StepLevelsAllow || !checks; got.allowed != want {
				t.Errorf("notifications %v: allowed %v (%s)", c.next, got.allowed, got.reason)
			} else if !want && got.step != c.step {
				t.Errorf("notifications %v: rule %s", c.next, got.step.Number(r))
			}
		}
		bad := levels(bob, content{"notifications": content{"room": "x"}})(newWorld(t, r))
		if bad.allowed == checks {
			t.Errorf("a notification level that is no number: allowed %v", bad.allowed)
		}
	})
}

func TestPowerLevelsOf(t *testing.T) {
	eachVersion(t, func(t *testing.T, r *event.Rules) {
		w := newWorld(t, r)
		w.setCreate(content{"additional_creators": []any{dave}})
		none := PowerLevelsOf(w.create, nil)
		creator, additional := int64(100), int64(0)
		if r.CreatorsPrivileged {
			creator, additional = CreatorLevel, CreatorLevel
		}
		wantLevel(t, "creator without power levels", none.User(alice), creator)
		wantLevel(t, "additional creator", none.User(dave), additional)
		wantLevel(t, "others without power levels", none.User(bob), 0)
		for what, got := range map[string][2]int64{
			"ban": {none.Ban, 50}, "kick": {none.Kick, 50}, "redact": {none.Redact, 50}, "invite": {none.Invite, 0},
			"state": {none.Event("m.room.name", true), 50}, "message": {none.Event("m.room.message", false), 0},
			"notification": {none.Notification("room"), 50},
		} {
			wantLevel(t, what+" without power levels", got[0], got[1])
		}
		w.setLevels(content{"ban": 1, "kick": 2, "redact": 3, "invite": 4, "state_default": 5, "events_default": 6,
			"users_default": 7, "events": content{"m.room.name": 8}, "notifications": content{"room": 9}})
		p := PowerLevelsOf(w.create, w.state.Get(TypePowerLevels, ""))
		for what, got := range map[string][2]int64{
			"ban": {p.Ban, 1}, "kick": {p.Kick, 2}, "redact": {p.Redact, 3}, "invite": {p.Invite, 4},
			"state": {p.Event("x", true), 5}, "message": {p.Event("x", false), 6}, "users": {p.User(frank), 7},
			"listed event": {p.Event("m.room.name", false), 8}, "notification": {p.Notification("room"), 9},
			"listed user": {p.User(bob), 50}, "creator": {p.User(alice), creator},
		} {
			wantLevel(t, what, got[0], got[1])
		}
		if PowerLevelsOf(nil, nil).User("") != 0 {
			t.Error("nobody has power in no room")
		}
	})
}

func wantLevel(t *testing.T, what string, got, want int64) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %d, want %d", what, got, want)
	}
}

// TestCreators: who is a creator, by version.
func TestCreators(t *testing.T) {
	eachVersion(t, func(t *testing.T, r *event.Rules) {
		w := newWorld(t, r)
		got := Creators(w.createEvent(content{"additional_creators": []any{dave, alice}, "creator": bob}))
		want := []id.User{alice}
		switch n := versionNumber(r); {
		case n < 11:
			want = []id.User{bob}
		case n == 12:
			want = []id.User{alice, dave}
		}
		if len(got) != len(want) || got[0] != want[0] || got[len(got)-1] != want[len(want)-1] {
			t.Errorf("creators %v, want %v", got, want)
		}
	})
}

// FuzzLevels: whatever the content is, reading it does not fail otherwise than by
// a verdict, and what is read as good compares with itself as unchanged.
func FuzzLevels(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"users":{"@a:b":100},"ban":50}`, `{"ban":"50","events":{"x":1.5}}`, `{"users":[]}`,
		`{"notifications":{"room":"1"},"users":{"\u0000":-1}}`, `{"events":{"x":1e400}}`, `{"users_default":null}`,
	} {
		f.Add([]byte(seed), uint8(1))
		f.Add([]byte(seed), uint8(12))
	}
	f.Fuzz(func(t *testing.T, raw []byte, version uint8) {
		versions := event.Versions()
		r, err := event.Version(versions[int(version)%len(versions)])
		if err != nil {
			t.Fatal(err)
		}
		read := canonical.CanonicalLenient
		if r.StrictCanonicalJSON {
			read = canonical.Canonical
		}
		obj, err := read(raw)
		if err != nil || len(obj) == 0 || obj[0] != '{' {
			return
		}
		p := parseLevels(obj, r)
		if p.wrong.decided() {
			return
		}
		c := &change{level: math.MinInt64, sender: "@nobody:x", from: p, to: p}
		for _, part := range []func() verdict{c.singles, c.oldEntries, c.newEntries, c.oldUsers, c.newUsers} {
			if v := part(); v.decided() {
				t.Fatalf("no change is rejected: %s", v.reason)
			}
		}
	})
}
