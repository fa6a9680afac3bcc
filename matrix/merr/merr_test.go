package merr

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
)

func TestIsComparesCodesThroughWrapping(t *testing.T) {
	err := fmt.Errorf("joining: %w", Forbidden("you are banned from %s", "!r:a"))
	if !errors.Is(err, ErrForbidden) {
		t.Errorf("%v is not ErrForbidden", err)
	}
	if errors.Is(err, ErrNotFound) {
		t.Errorf("%v is ErrNotFound", err)
	}
}

func TestRoundTripOverTheWire(t *testing.T) {
	sent := LimitExceeded("slow down").With("retry_after_ms", 500.0)
	body, err := json.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	got := Decode(sent.Status, body)
	if !errors.Is(got, ErrLimitExceeded) || got.Message != "slow down" || got.Extra["retry_after_ms"] != 500.0 {
		t.Errorf("got %+v from %s", got, body)
	}
}

func TestDecodeOfSomethingElse(t *testing.T) {
	for _, body := range []string{"", "<html>", "[]", `{"error":"x"}`, `{"errcode":3}`} {
		if got := Decode(502, []byte(body)); got.Code != "M_UNKNOWN" || got.Status != 502 {
			t.Errorf("Decode(%q) = %+v", body, got)
		}
	}
}

func TestFromHidesInternalErrors(t *testing.T) {
	got := From(errors.New("pq: password authentication failed"))
	if got.Status != http.StatusInternalServerError || got.Message != "internal server error" {
		t.Errorf("got %+v", got)
	}
}

func TestWithDoesNotChangeTheSentinel(t *testing.T) {
	_ = ErrUnknownToken.With("soft_logout", true).WithStatus(403)
	if ErrUnknownToken.Extra != nil || ErrUnknownToken.Status != 401 {
		t.Errorf("the sentinel changed: %+v", ErrUnknownToken)
	}
}
