package load

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	c := NewClient(s.URL + "/")
	t.Cleanup(func() {
		c.Close()
		s.Close()
	})
	return c
}

func TestPause(t *testing.T) {
	for _, c := range []struct {
		header string
		ms     int64
		want   time.Duration
	}{
		{"", 0, minPause}, {"2", 0, 2 * time.Second}, {"0.5", 0, 500 * time.Millisecond}, {"2", 300, 300 * time.Millisecond},
		{"", 1, minPause}, {"900", 0, maxPause}, {"Wed, 21 Oct 2015 07:28:00 GMT", 0, minPause},
	} {
		if got := pause(c.header, c.ms); got != c.want {
			t.Errorf("%q, %d ms: %v, not %v", c.header, c.ms, got, c.want)
		}
	}
}

// A request that was shed is sent again, with its body, and counted.
func TestShedRequestsAreRepeated(t *testing.T) {
	var bodies []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		bodies = append(bodies, string(body))
		switch len(bodies) {
		case 1:
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1}`)
		default:
			_, _ = io.WriteString(w, `{"ok":7}`)
		}
	})
	a, err := c.Do(t.Context(), Request{Method: http.MethodPost, Path: "/x", Body: []byte(`{"a":1}`)})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Release()
	if a.Get("ok").Int() != 7 || c.Shed() != 2 || strings.Join(bodies, "") != strings.Repeat(`{"a":1}`, 3) {
		t.Errorf("%s after %d refusals, bodies %q", a.Body(), c.Shed(), bodies)
	}
}

func TestOtherAnswersAreErrors(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		if r.URL.Path == "/matrix" {
			_, _ = io.WriteString(w, `{"errcode":"M_FORBIDDEN","error":"no"}`)
		} else {
			_, _ = io.WriteString(w, "<html>")
		}
	})
	for path, want := range map[string]string{"/matrix?secret=1": "GET /matrix: 403 M_FORBIDDEN no", "/proxy": "GET /proxy: 403  <html>"} {
		_, err := c.Do(t.Context(), Request{Method: http.MethodGet, Path: path})
		var status *StatusError
		if !errors.As(err, &status) || status.Status != http.StatusForbidden || err.Error() != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestRegisterOpen(t *testing.T) {
	var steps []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		auth := gjson.GetBytes(body, "auth")
		steps = append(steps, auth.Get("type").Str+" "+auth.Get("session").Str)
		if !auth.Exists() {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"session":"S","flows":[{"stages":["m.login.dummy"]}]}`)
			return
		}
		_, _ = io.WriteString(w, `{"user_id":"@u:x","device_id":"D","access_token":"T"}`)
	})
	u, err := c.Register(t.Context(), "u", "")
	if err != nil || u.ID != "@u:x" || u.Device != "D" || u.Token != "T" {
		t.Errorf("%+v %v", u, err)
	}
	if strings.Join(steps, ",") != " ,m.login.dummy S" {
		t.Errorf("steps %q", steps)
	}
}

func TestRegisterWithSecret(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, `{"nonce":"N"}`)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mac := hmac.New(sha1.New, []byte("secret"))
		_, _ = io.WriteString(mac, "N\x00u\x00"+password+"\x00notadmin")
		if got := gjson.GetBytes(body, "mac").Str; got != hex.EncodeToString(mac.Sum(nil)) {
			t.Errorf("mac %s", got)
		}
		_, _ = io.WriteString(w, `{"user_id":"@u:x","access_token":"T"}`)
	})
	if u, err := c.Register(t.Context(), "u", "secret"); err != nil || u.ID != "@u:x" {
		t.Errorf("%+v %v", u, err)
	}
}

func TestHistoryFollowsPages(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("from") {
		case "":
			_, _ = io.WriteString(w, `{"chunk":[{"event_id":"$2","type":"m.room.message","sender":"@a:x","content":{"body":"b"}}],"end":"p 1"}`)
		case "p 1":
			_, _ = io.WriteString(w, `{"chunk":[{"event_id":"$1"}]}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	got, err := (&User{Client: c}).History(t.Context(), "!r:x")
	if err != nil || len(got) != 2 || got[0] != (Event{"$2", "m.room.message", "@a:x", "b"}) || got[1].ID != "$1" {
		t.Errorf("%+v %v", got, err)
	}
}

func TestPositionGoesOnUntilNothingIsNew(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		next := map[string]string{"": "1", "1": "2", "2": "2"}[r.URL.Query().Get("since")]
		_, _ = io.WriteString(w, `{"next_batch":"`+next+`"}`)
	})
	if got, err := (&User{Client: c}).Position(t.Context(), ""); err != nil || got != "2" {
		t.Errorf("%q %v", got, err)
	}
}
