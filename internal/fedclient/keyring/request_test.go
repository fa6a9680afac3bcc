package keyring

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"weft/internal/fedclient/xmatrix"
	"weft/matrix/id"
	"weft/matrix/merr"
)

func signed(t *testing.T, r *remote, method, uri string, dest id.Server, body string) string {
	t.Helper()
	h, err := xmatrix.Sign(method, uri, r.name, dest, []byte(body), r.key, r.priv)
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

func TestVerifyRequest(t *testing.T) {
	n := newNetwork(t, "a.example", "b.example")
	a, b := n.servers["a.example"], n.servers["b.example"]
	const uri, body = "/_matrix/federation/v1/send/1?x=%2F", `{"pdus":[], "n":1}`
	good := signed(t, a, "PUT", uri, "us.example", body)

	// A former key of a.example, which may verify events only.
	former := *a
	a.rotate(n.clock().Add(-time.Hour))

	good2 := signed(t, a, "PUT", uri, "us.example", body)
	us := newRemote(t, "us.example")
	rogue := newRemote(t, "a.example")
	rogue.next()
	rogue.priv = us.priv
	cases := []struct {
		name    string
		headers []string
		method  string
		uri     string
		body    string
		code    string // empty: accepted
	}{
		{"good", []string{good2}, "PUT", uri, body, ""},
		{"body spelt otherwise", []string{good2}, "PUT", uri, `{"n":1,"pdus":[]}`, ""},
		{"no destination", []string{signed(t, a, "PUT", uri, "", body)}, "PUT", uri, body, ""},
		{"no body", []string{signed(t, a, "GET", uri, "us.example", "")}, "GET", uri, "", ""},
		{"one of two signatures is good", []string{signed(t, rogue, "PUT", uri, "us.example", body), good2}, "PUT", uri, body, ""},
		{"besides another scheme", []string{"Bearer abc", good2}, "PUT", uri, body, ""},

		{"no header", nil, "PUT", uri, body, "M_UNAUTHORIZED"},
		{"other scheme only", []string{"Bearer abc"}, "PUT", uri, body, "M_UNAUTHORIZED"},
		{"not readable", []string{"X-Matrix nonsense"}, "PUT", uri, body, "M_UNAUTHORIZED"},
		{"other method", []string{good2}, "POST", uri, body, "M_UNAUTHORIZED"},
		{"other URI", []string{good2}, "PUT", strings.Replace(uri, "%2F", "/", 1), body, "M_UNAUTHORIZED"},
		{"other body", []string{good2}, "PUT", uri, `{"pdus":[],"n":2}`, "M_UNAUTHORIZED"},
		{"body left out", []string{good2}, "PUT", uri, "", "M_UNAUTHORIZED"},
		{"body is not JSON", []string{good2}, "PUT", uri, `{"pdus":`, "M_NOT_JSON"},
		{"meant for another server", []string{signed(t, a, "PUT", uri, "them.example", body)}, "PUT", uri, body, "M_UNAUTHORIZED"},
		{"signed for another server, destination taken out", []string{strings.Replace(signed(t, a, "PUT", uri, "them.example", body), `destination="them.example",`, "", 1)}, "PUT", uri, body, "M_UNAUTHORIZED"},
		{"old key", []string{good}, "PUT", uri, body, "M_UNAUTHORIZED"},
		{"unknown key", []string{signed(t, rogue, "PUT", uri, "us.example", body)}, "PUT", uri, body, "M_UNAUTHORIZED"},
		{"somebody else's signature", []string{strings.Replace(signed(t, b, "PUT", uri, "us.example", body), "b.example", "a.example", 1)}, "PUT", uri, body, "M_UNAUTHORIZED"},
		{"two origins", []string{good2, signed(t, b, "PUT", uri, "us.example", body)}, "PUT", uri, body, "M_UNAUTHORIZED"},
		{"from ourselves", []string{signed(t, us, "PUT", uri, "us.example", body)}, "PUT", uri, body, "M_UNAUTHORIZED"},
		{"server that cannot be reached", []string{signed(t, newRemote(t, "dead.example"), "PUT", uri, "us.example", body)}, "PUT", uri, body, "M_UNAUTHORIZED"},
		{"other algorithm", []string{strings.Replace(good2, "ed25519:", "rsa:", 1)}, "PUT", uri, body, "M_UNAUTHORIZED"},
		{"too many signatures", []string{good2, good2, good2, good2, good2, good2, good2, good2, good2}, "PUT", uri, body, "M_UNAUTHORIZED"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			k := n.ring(func(cfg *Config) { cfg.OwnKeys = map[id.KeyID]Key{us.key: {Public: us.public()}} })
			r := httptest.NewRequest(c.method, "https://us.example"+c.uri, nil)
			r.RequestURI = c.uri
			r.Header = http.Header{"Authorization": c.headers}
			origin, err := k.VerifyRequest(r, []byte(c.body), "us.example")
			if c.code == "" {
				if err != nil || origin != "a.example" {
					t.Fatalf("VerifyRequest = %q, %v", origin, err)
				}
				return
			}
			e := merr.From(err)
			if origin != "" || e.Code != c.code || c.code == "M_UNAUTHORIZED" && e.Status != 401 {
				t.Fatalf("VerifyRequest = %q, %v (%d %s); want %s", origin, err, e.Status, e.Code, c.code)
			}
		})
	}
	if former.key == a.key {
		t.Fatal("the key was not rotated")
	}
}

func TestVerifyRequestNeedsAKeyThatIsValidNow(t *testing.T) {
	n := newNetwork(t, "a.example")
	a := n.servers["a.example"]
	k := n.ring(nil)
	r := httptest.NewRequest("GET", "/x", nil)
	r.Header.Set("Authorization", signed(t, a, "GET", "/x", "us.example", ""))
	if _, err := k.VerifyRequest(r, nil, "us.example"); err != nil {
		t.Fatal(err)
	}
	n.advance(25 * time.Hour)
	n.down["a.example"] = true
	if _, err := k.VerifyRequest(r, nil, "us.example"); !errors.Is(err, merr.ErrUnauthorized) {
		t.Fatalf("a key that has run out gave %v", err)
	}
	n.down["a.example"] = false
	a.validUntil = n.clock().Add(time.Hour)
	n.advance(minPause)
	if _, err := k.VerifyRequest(r, nil, "us.example"); err != nil {
		t.Fatalf("after the server prolonged its key: %v", err)
	}
}

// A server that was away for long is not refused for the rest of a long pause, and whoever claims to be it makes
// us ask no more than once a minute.
func TestVerifyRequestAfterALongPause(t *testing.T) {
	n := newNetwork(t, "a.example")
	a := n.servers["a.example"]
	a.validUntil = n.clock().Add(30 * 24 * time.Hour)
	k := n.ring(nil)
	n.down["a.example"] = true
	now := func() int64 { return n.clock().UnixMilli() }
	for range 12 {
		wantKey(t, k, a, a.key, now(), false)
		n.advance(maxPause)
	}
	wantKey(t, k, a, a.key, now(), false)
	asked := n.asked("a.example")
	r := httptest.NewRequest("GET", "/x", nil)
	r.Header.Set("Authorization", signed(t, a, "GET", "/x", "us.example", ""))
	verify := func() error {
		_, err := k.VerifyRequest(r, nil, "us.example")
		return err
	}
	for range 3 {
		n.advance(requestPause - time.Millisecond)
		for range 3 {
			if err := verify(); !errors.Is(err, merr.ErrUnauthorized) {
				t.Fatalf("got %v", err)
			}
		}
		if got := n.asked("a.example"); got != asked {
			t.Fatalf("asked %d times more", got-asked)
		}
		n.advance(time.Millisecond)
		for range 3 {
			if err := verify(); !errors.Is(err, merr.ErrUnauthorized) {
				t.Fatalf("got %v", err)
			}
		}
		if asked++; n.asked("a.example") != asked {
			t.Fatalf("asked %d times, want %d", n.asked("a.example"), asked)
		}
	}
	n.down["a.example"] = false
	n.advance(requestPause)
	wantKey(t, k, a, a.key, now(), false) // its events wait on
	if err := verify(); err != nil {
		t.Fatalf("a server that is back: %v", err)
	}
	wantKey(t, k, a, a.key, now(), true)
}

func TestVerifyRequestTellsItsOwnFailuresApart(t *testing.T) {
	n := newNetwork(t, "a.example")
	store := &memStore{m: map[id.Server]*ServerKeys{}, fail: errors.New("disk on fire")}
	k := n.ring(func(c *Config) { c.Store = store })
	r := httptest.NewRequest("GET", "/x", nil)
	r.Header.Set("Authorization", signed(t, n.servers["a.example"], "GET", "/x", "us.example", ""))
	if _, err := k.VerifyRequest(r, nil, "us.example"); err == nil || merr.From(err).Status != 500 {
		t.Fatalf("a broken store gave %v", err)
	}
}
