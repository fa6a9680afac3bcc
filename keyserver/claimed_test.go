package keyserver

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"weft/internal/sqldb"
	"weft/keyserver/api"
	"weft/matrix/id"
)

// oneTimes are one-time keys of a client, named by numbers.
func oneTimes(from, to int) map[string]json.RawMessage {
	keys := map[string]json.RawMessage{}
	for i := from; i <= to; i++ {
		keys[fmt.Sprintf("signed_curve25519:K%04d", i)] = json.RawMessage(fmt.Sprintf(`{"key":"k%d"}`, i))
	}
	return keys
}

// uploadOneTime uploads one-time keys alone and checks how many the server then has.
func uploadOneTime(t *testing.T, s *Server, user id.User, dev id.Device, keys map[string]json.RawMessage, want int) {
	t.Helper()
	counts, err := s.UploadKeys(context.Background(), api.UploadKeys{User: user, Device: dev, OneTimeKeys: keys})
	must(t, err)
	if got := counts["signed_curve25519"]; got != want {
		t.Errorf("%d one-time keys after the upload, want %d", got, want)
	}
}

// claimed claims a key and gives it with its name; nothing where there is none.
func claimed(t *testing.T, s *Server, user id.User, dev id.Device) string {
	t.Helper()
	got, err := s.ClaimKeys(context.Background(), api.ClaimKeys{Keys: map[id.User]map[id.Device]string{user: {dev: "signed_curve25519"}}})
	must(t, err)
	for name, key := range got.OneTimeKeys[user][dev] {
		return name + " " + string(key)
	}
	return ""
}

// A client whose upload was not answered uploads the same again, also when somebody has claimed some of it.
func TestARepeatedUploadBringsNoClaimedKeyBack(t *testing.T) {
	each(t, func(t *testing.T, s *Server, _ *world) {
		keys := oneTimes(1, 3)
		uploadOneTime(t, s, alice, "A1", keys, 3)
		var seen []string
		for left := 2; left >= 0; left-- {
			seen = append(seen, claimed(t, s, alice, "A1"))
			uploadOneTime(t, s, alice, "A1", keys, left)
		}
		if want := []string{`signed_curve25519:K0001 {"key":"k1"}`, `signed_curve25519:K0002 {"key":"k2"}`,
			`signed_curve25519:K0003 {"key":"k3"}`}; !slices.Equal(seen, want) {
			t.Errorf("handed out: %q", seen)
		}
		if again := claimed(t, s, alice, "A1"); again != "" {
			t.Errorf("handed out a second time: %s", again)
		}
		// The name alone is not what was claimed, and others' devices have nothing to do with it.
		uploadOneTime(t, s, alice, "A1", map[string]json.RawMessage{"signed_curve25519:K0001": json.RawMessage(`{"key":"new"}`)}, 1)
		uploadOneTime(t, s, alice, "A1", keys, 1)
		uploadOneTime(t, s, alice, "A2", keys, 3)
		uploadOneTime(t, s, bob, "A1", keys, 3)
		if got := claimed(t, s, alice, "A1"); got != `signed_curve25519:K0001 {"key":"new"}` {
			t.Errorf("another key under the name of a claimed one: %q", got)
		}
		uploadOneTime(t, s, alice, "A1", keys, 0)
	})
}

// As many keys as a device may keep can be uploaded again.
func TestARepeatedUploadDoesNotCountTwice(t *testing.T) {
	each(t, func(t *testing.T, s *Server, _ *world) {
		most := oneTimes(1, maxOneTimeKeys)
		for range 2 {
			uploadOneTime(t, s, alice, "A1", most, maxOneTimeKeys)
		}
		if _, err := s.UploadKeys(context.Background(), api.UploadKeys{User: alice, Device: "A1", OneTimeKeys: oneTimes(0, 0)}); err == nil {
			t.Error("one more was taken")
		}
		claimed(t, s, alice, "A1")
		uploadOneTime(t, s, alice, "A1", oneTimes(0, 0), maxOneTimeKeys)
	})
}

// The claim is not committed when the upload comes: the upload waits for it and then finds the name free.
func TestNodes_AKeyThatIsBeingClaimedIsNotBroughtBack(t *testing.T) {
	nodes(t, func(t *testing.T, a, b *Server, _ *world) {
		ctx := context.Background()
		keys := oneTimes(1, 3)
		uploadOneTime(t, a, alice, "A1", keys, 3)
		allFine(t, whileHeld(t, a.DB, func(tx *sqldb.Tx) error {
			keyID, _, err := a.claimOneTime(ctx, tx, alice, "A1", "signed_curve25519")
			if keyID != "K0001" {
				t.Errorf("claimed %q", keyID)
			}
			return err
		}, func() error {
			counts, err := b.UploadKeys(ctx, api.UploadKeys{User: alice, Device: "A1", OneTimeKeys: keys})
			if counts["signed_curve25519"] != 2 {
				t.Errorf("counts %v", counts)
			}
			return err
		}))
	})
}

func TestClaimedKeysAreForgotten(t *testing.T) {
	each(t, func(t *testing.T, s *Server, _ *world) {
		start := time.Now()
		for _, dev := range []id.Device{"A1", "A2"} {
			uploadOneTime(t, s, alice, dev, oneTimes(1, 2), 2)
			claimed(t, s, alice, dev)
		}
		must(t, s.DeleteDevices(context.Background(), alice, []id.Device{"A2"}))
		if n := count(t, s, "key_claimed"); n != 1 {
			t.Errorf("%d are remembered after a device was logged out, want that of the other", n)
		}
		s.Now = func() time.Time { return start.Add(claimedFor / 2) }
		claimed(t, s, alice, "A1")
		if got := keep(t, s, start.Add(claimedFor-time.Hour)); got["key_claimed"] != 0 {
			t.Errorf("too early: %v", got)
		}
		uploadOneTime(t, s, alice, "A1", oneTimes(1, 2), 0)
		if got := keep(t, s, start.Add(claimedFor+2*time.Hour)); got["key_claimed"] != 1 || count(t, s, "key_claimed") != 1 {
			t.Errorf("after %v: %v", claimedFor, got)
		}
		uploadOneTime(t, s, alice, "A1", oneTimes(1, 2), 1)
	})
}

func TestAtMostSoManyClaimedKeysAreRemembered(t *testing.T) {
	each(t, func(t *testing.T, s *Server, _ *world) {
		ctx, start := context.Background(), time.Now()
		uploadOneTime(t, s, alice, "A1", oneTimes(1, 1), 1)
		claimed(t, s, alice, "A1")
		s.Now = func() time.Time { return start.Add(2 * time.Hour) }
		must(t, s.DB.Update(ctx, func(tx *sqldb.Tx) error {
			for i := 2; i <= maxClaimed+1; i++ {
				if err := s.noteClaimed(ctx, tx, alice, "A1", oneTimeKey{"x", fmt.Sprint(i), []byte(`{}`)}); err != nil {
					return err
				}
			}
			return s.noteClaimed(ctx, tx, bob, "A1", oneTimeKey{"x", "1", []byte(`{}`)})
		}))
		if got := keep(t, s, start.Add(3*time.Hour)); got["key_claimed"] != 1 || count(t, s, "key_claimed") != maxClaimed+1 {
			t.Errorf("%v were forgotten, want one of the device", got)
		}
		uploadOneTime(t, s, alice, "A1", oneTimes(1, 1), 1) // it was the oldest
	})
}
