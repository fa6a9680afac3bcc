package event

import (
	"errors"
	"slices"
	"testing"

	"weft/matrix/merr"
)

func TestVersions(t *testing.T) {
	want := []RoomVersion{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"}
	if got := Versions(); !slices.Equal(got, want) {
		t.Fatalf("versions %v", got)
	}
	for _, v := range want {
		if r := rulesOf(t, v); r.Version != v {
			t.Errorf("the rules of %s say %s", v, r.Version)
		}
	}
	for _, v := range []RoomVersion{"", "0", "13", "1.2", "org.example"} {
		if _, err := Version(v); !errors.Is(err, merr.ErrUnsupportedRoomVersion) {
			t.Errorf("version %q: %v", v, err)
		}
	}
	if _, err := Version(DefaultVersion); err != nil {
		t.Error(err)
	}
}

// TestRuleTable states for every rule the versions in which it holds, from the
// versions' pages rather than from the changes that rules.go is made of.
func TestRuleTable(t *testing.T) {
	tests := []struct {
		name     string
		rule     func(*Rules) bool
		from, to int // inclusive
	}{
		{"event ID in body", func(r *Rules) bool { return r.EventIDFormat == EventIDInBody }, 1, 2},
		{"event ID hash", func(r *Rules) bool { return r.EventIDFormat == EventIDHash }, 3, 3},
		{"event ID URL-safe hash", func(r *Rules) bool { return r.EventIDFormat == EventIDURLSafeHash }, 4, 12},
		{"pairs", func(r *Rules) bool { return r.EventFormat == FormatPairs }, 1, 2},
		{"plain IDs", func(r *Rules) bool { return r.EventFormat == FormatIDs }, 3, 12},
		{"state resolution 1", func(r *Rules) bool { return r.StateRes == StateResV1 }, 1, 1},
		{"state resolution 2", func(r *Rules) bool { return r.StateRes == StateResV2 }, 2, 11},
		{"state resolution 2.1", func(r *Rules) bool { return r.StateRes == StateResV21 }, 12, 12},
		{"strict JSON", func(r *Rules) bool { return r.StrictCanonicalJSON }, 6, 12},
		{"key validity", func(r *Rules) bool { return r.EnforceKeyValidity }, 5, 12},
		{"depth 2^63-1", func(r *Rules) bool { return r.MaxDepth == 1<<63-1 }, 1, 5},
		{"depth 2^53-1", func(r *Rules) bool { return r.MaxDepth == 1<<53-1 }, 6, 12},
		{"aliases rule", func(r *Rules) bool { return r.AuthorisesAliases }, 1, 5},
		{"redaction rule", func(r *Rules) bool { return r.AuthorisesRedactions }, 1, 2},
		{"notification levels", func(r *Rules) bool { return r.ChecksNotificationLevels }, 6, 12},
		{"knock", func(r *Rules) bool { return r.Knock }, 7, 12},
		{"restricted", func(r *Rules) bool { return r.RestrictedJoin }, 8, 12},
		{"knock_restricted", func(r *Rules) bool { return r.KnockRestricted }, 10, 12},
		{"integer levels", func(r *Rules) bool { return r.IntegerPowerLevels }, 10, 12},
		{"float levels", func(r *Rules) bool { return r.FloatPowerLevels }, 1, 5},
		{"creator in content", func(r *Rules) bool { return r.CreatorInContent }, 1, 10},
		{"wide fields kept", func(r *Rules) bool { return r.KeepsWideFields }, 1, 10},
		{"redacts in content", func(r *Rules) bool { return r.RedactsInContent }, 11, 12},
		{"room ID is hash", func(r *Rules) bool { return r.RoomIDIsCreateHash }, 12, 12},
		{"privileged creators", func(r *Rules) bool { return r.CreatorsPrivileged }, 12, 12},
	}
	for _, tc := range tests {
		for i, v := range Versions() {
			if got, want := tc.rule(rulesOf(t, v)), i+1 >= tc.from && i+1 <= tc.to; got != want {
				t.Errorf("%s in version %s: %v", tc.name, v, got)
			}
		}
	}
}

// A key that fieldOf does not know would make every unknown key survive.
func TestRedactionKnowsItsFields(t *testing.T) {
	for _, v := range Versions() {
		r := rulesOf(t, v)
		if r.redactionKeeps.has(fieldOther) {
			t.Errorf("version %s keeps unknown keys", v)
		}
		n := 0
		for f := range fieldCount {
			if r.redactionKeeps.has(f) {
				n++
			}
		}
		if n != len(r.Redaction.TopLevel) {
			t.Errorf("version %s keeps %d fields of %v", v, n, r.Redaction.TopLevel)
		}
	}
}
