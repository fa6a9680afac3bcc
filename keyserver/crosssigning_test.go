package keyserver

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"testing"

	"github.com/tidwall/gjson"

	"weft/keyserver/api"
	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// identity is a set of cross-signing keys.
type identity struct {
	user                 id.User
	master, self, userKp ed25519.PrivateKey
}

func newIdentity(user id.User, seed byte) identity {
	key := func(b byte) ed25519.PrivateKey {
		raw := make([]byte, ed25519.SeedSize)
		raw[0], raw[1] = seed, b
		return ed25519.NewKeyFromSeed(raw)
	}
	return identity{user, key(1), key(2), key(3)}
}

func pub(k ed25519.PrivateKey) string {
	return base64.RawStdEncoding.EncodeToString(k.Public().(ed25519.PublicKey))
}

func (i identity) upload(t *testing.T) api.UploadCrossSigning {
	t.Helper()
	key := func(usage string, k ed25519.PrivateKey) json.RawMessage {
		raw, err := canonical.Marshal(map[string]any{"user_id": i.user, "usage": []string{usage}, "keys": map[string]string{"ed25519:" + pub(k): pub(k)}})
		must(t, err)
		if usage == usageMaster {
			return raw
		}
		raw, err = canonical.SignJSON(raw, string(i.user), id.KeyID("ed25519:"+pub(i.master)), i.master)
		must(t, err)
		return raw
	}
	return api.UploadCrossSigning{User: i.user, Master: key(usageMaster, i.master), SelfSigning: key(usageSelfSigning, i.self), UserSigning: key(usageUserSigning, i.userKp)}
}

func TestCrossSigning(t *testing.T) {
	each(t, func(t *testing.T, s *Server, w *world) {
		ctx := context.Background()
		w.shared[alice] = true
		a := newIdentity(alice, 1)
		req := a.upload(t)
		exists, _, err := s.HasCrossSigning(ctx, req)
		must(t, err)
		if exists {
			t.Error("keys exist before the first upload")
		}
		must(t, s.UploadCrossSigning(ctx, req))
		exists, same, err := s.HasCrossSigning(ctx, req)
		must(t, err)
		if !exists || !same {
			t.Errorf("after the upload: exists %v, same %v", exists, same)
		}
		if _, same, err = s.HasCrossSigning(ctx, newIdentity(alice, 9).upload(t)); err != nil || same {
			t.Errorf("other keys count as the same: %v", err)
		}
		last := w.sent[len(w.sent)-1]
		if last.Type != eduSigningKey || gjson.GetBytes(last.Content, "user_signing_key").Exists() {
			t.Errorf("announced %s %s", last.Type, last.Content)
		}
		got, err := s.QueryKeys(ctx, api.QueryKeys{User: bob, Devices: map[id.User][]id.Device{alice: nil}})
		must(t, err)
		if got.MasterKeys[alice] == nil || got.SelfSigningKeys[alice] == nil || got.UserSigningKeys[alice] != nil {
			t.Errorf("bob sees %+v", got)
		}
		got, err = s.QueryKeys(ctx, api.QueryKeys{User: alice, Devices: map[id.User][]id.Device{alice: nil}})
		must(t, err)
		if got.UserSigningKeys[alice] == nil {
			t.Error("alice does not see her user-signing key")
		}
	})
}

func TestCrossSigningUploadsThatAreRefused(t *testing.T) {
	each(t, func(t *testing.T, s *Server, _ *world) {
		ctx := context.Background()
		good, other := newIdentity(alice, 1).upload(t), newIdentity(alice, 2).upload(t)
		cases := map[string]struct {
			req  api.UploadCrossSigning
			code string
		}{
			"no master":     {api.UploadCrossSigning{User: alice, SelfSigning: good.SelfSigning}, "M_MISSING_PARAM"},
			"wrong master":  {api.UploadCrossSigning{User: alice, Master: good.Master, SelfSigning: other.SelfSigning}, "M_INVALID_SIGNATURE"},
			"wrong user":    {api.UploadCrossSigning{User: bob, Master: good.Master}, "M_INVALID_PARAM"},
			"wrong usage":   {api.UploadCrossSigning{User: alice, Master: good.SelfSigning}, "M_INVALID_PARAM"},
			"not an object": {api.UploadCrossSigning{User: alice, Master: json.RawMessage(`"x"`)}, "M_BAD_JSON"},
		}
		for name, c := range cases {
			var e *merr.Error
			if err := s.UploadCrossSigning(ctx, c.req); !errors.As(err, &e) || e.Code != c.code {
				t.Errorf("%s: %v, want %s", name, err, c.code)
			}
		}
	})
}

func TestSignaturesAreSeenByThoseWhoMay(t *testing.T) {
	each(t, func(t *testing.T, s *Server, _ *world) {
		ctx := context.Background()
		a, b := newIdentity(alice, 1), newIdentity(bob, 2)
		must(t, s.UploadCrossSigning(ctx, a.upload(t)))
		must(t, s.UploadCrossSigning(ctx, b.upload(t)))
		upload(t, s, alice, "A1", nil)
		sign := func(raw []byte, who identity, k ed25519.PrivateKey) json.RawMessage {
			out, err := canonical.SignJSON(raw, string(who.user), id.KeyID("ed25519:"+pub(k)), k)
			must(t, err)
			return out
		}
		up := func(who id.User, target id.User, key string, obj json.RawMessage) string {
			body, err := json.Marshal(map[id.User]map[string]json.RawMessage{target: {key: obj}})
			must(t, err)
			failures, err := s.UploadSignatures(ctx, who, body)
			must(t, err)
			return gjson.GetBytes(failures, "*.*.errcode").String()
		}
		// Alice signs her device; bob and alice see it.
		if code := up(alice, alice, "A1", sign(deviceKeys(alice, "A1"), a, a.self)); code != "" {
			t.Fatalf("own device: %s", code)
		}
		// Bob signs alice's master key; only bob sees it.
		if code := up(bob, alice, pub(a.master), sign(a.upload(t).Master, b, b.userKp)); code != "" {
			t.Fatalf("other's master key: %s", code)
		}
		// What is refused.
		if code := up(bob, alice, "A1", sign(deviceKeys(alice, "A1"), b, b.userKp)); code != "M_NOT_FOUND" {
			t.Errorf("another's device: %s", code)
		}
		if code := up(alice, alice, "A1", sign(deviceKeys(alice, "A1"), a, a.userKp)); code != "M_INVALID_SIGNATURE" {
			t.Errorf("by the wrong key: %s", code)
		}
		if code := up(alice, alice, "A1", sign(deviceKeys(alice, "A2"), a, a.self)); code != "M_INVALID_PARAM" {
			t.Errorf("another object: %s", code)
		}
		for viewer, want := range map[id.User]bool{bob: true, alice: false, carol: false} {
			got, err := s.QueryKeys(ctx, api.QueryKeys{User: viewer, Devices: map[id.User][]id.Device{alice: nil}})
			must(t, err)
			if !gjson.GetBytes(got.DeviceKeys[alice]["A1"], "signatures."+gjson.Escape(string(alice))+"."+gjson.Escape("ed25519:"+pub(a.self))).Exists() {
				t.Errorf("%s does not see the self-signing signature: %s", viewer, got.DeviceKeys[alice]["A1"])
			}
			if has := gjson.GetBytes(got.MasterKeys[alice], "signatures."+gjson.Escape(string(bob))).Exists(); has != want {
				t.Errorf("%s sees bob's signature: %v", viewer, has)
			}
		}
	})
}
