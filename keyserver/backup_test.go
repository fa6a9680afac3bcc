package keyserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/tidwall/gjson"

	"weft/matrix/id"
	"weft/matrix/merr"
)

func session(first, forwarded int, verified bool) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"first_message_index":%d,"forwarded_count":%d,"is_verified":%v,"session_data":{"x":"y"}}`, first, forwarded, verified))
}

func TestBackupKeepsTheBetterSession(t *testing.T) {
	each(t, func(t *testing.T, s *Server, _ *world) {
		ctx := context.Background()
		v, err := s.CreateVersion(ctx, alice, "alg", json.RawMessage(`{}`))
		must(t, err)
		etag := ""
		for _, step := range []struct {
			name    string
			put     json.RawMessage
			changes bool
		}{
			{"the first", session(10, 5, false), true},
			{"a higher index", session(11, 0, false), false},
			{"the same", session(10, 5, false), false},
			{"fewer forwards", session(10, 4, false), true},
			{"a lower index", session(9, 9, false), true},
			{"verified", session(99, 9, true), true},
			{"unverified again", session(0, 0, false), false},
		} {
			state, err := s.PutKeys(ctx, alice, v, map[id.Room]map[string]json.RawMessage{"!r:here": {"s": step.put}})
			must(t, err)
			if (state.ETag != etag) != step.changes && etag != "" {
				t.Errorf("%s: etag %s after %s", step.name, state.ETag, etag)
			}
			if state.Count != 1 {
				t.Errorf("%s: count %d", step.name, state.Count)
			}
			etag = state.ETag
		}
		got, err := s.GetKeys(ctx, alice, v, "!r:here", "s")
		must(t, err)
		if gjson.GetBytes(got["!r:here"]["s"], "first_message_index").Int() != 99 {
			t.Errorf("kept %s", got["!r:here"]["s"])
		}
	})
}

func TestBackupVersions(t *testing.T) {
	each(t, func(t *testing.T, s *Server, _ *world) {
		ctx := context.Background()
		if _, err := s.GetVersion(ctx, alice, ""); !errors.Is(err, merr.ErrNotFound) {
			t.Errorf("no backup: %v", err)
		}
		v1, err := s.CreateVersion(ctx, alice, "alg", json.RawMessage(`{"a":1}`))
		must(t, err)
		v2, err := s.CreateVersion(ctx, alice, "alg", json.RawMessage(`{"a":2}`))
		must(t, err)
		_, err = s.PutKeys(ctx, alice, v1, map[id.Room]map[string]json.RawMessage{"!r:here": {"s": session(1, 1, true)}})
		var e *merr.Error
		if !errors.As(err, &e) || e.Code != "M_WRONG_ROOM_KEYS_VERSION" || e.Extra["current_version"] != v2 {
			t.Errorf("writing an old version: %v", err)
		}
		if err := s.UpdateVersion(ctx, alice, v2, "other", json.RawMessage(`{}`)); !errors.Is(err, merr.ErrInvalidParam) {
			t.Errorf("changing the algorithm: %v", err)
		}
		must(t, s.UpdateVersion(ctx, alice, v2, "alg", json.RawMessage(`{"a":3}`)))
		got, err := s.GetVersion(ctx, alice, "")
		must(t, err)
		if got.Version != v2 || string(got.AuthData) != `{"a":3}` {
			t.Errorf("newest: %+v", got)
		}
		must(t, s.DeleteVersion(ctx, alice, v2))
		must(t, s.DeleteVersion(ctx, alice, v2))
		if got, err = s.GetVersion(ctx, alice, ""); err != nil || got.Version != v1 {
			t.Errorf("after deletion: %+v, %v", got, err)
		}
		if err := s.DeleteVersion(ctx, alice, "77"); !errors.Is(err, merr.ErrNotFound) {
			t.Errorf("deleting what never was: %v", err)
		}
		v3, err := s.CreateVersion(ctx, alice, "alg", json.RawMessage(`{}`))
		must(t, err)
		if v3 == v2 {
			t.Error("a deleted version's number was used again")
		}
	})
}
