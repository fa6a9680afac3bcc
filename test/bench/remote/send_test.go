package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/matrix/id"
)

func tlsOf(a *Authority) *tls.Config {
	return &tls.Config{RootCAs: a.Pool(), MinVersion: tls.VersionTLS12}
}

func verify(t *testing.T, a *Authority, cert tls.Certificate, host string) {
	t.Helper()
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: a.Pool()}); err != nil {
		t.Error(err)
	}
}

// target is a server under test whose answers a test makes up.
func target(t *testing.T, s *Server, name id.Server, handler http.HandlerFunc) {
	t.Helper()
	cert, err := s.Authority().Issue(string(name))
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewUnstartedServer(handler)
	h.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	h.StartTLS()
	t.Cleanup(h.Close)
	s.Route(name, strings.TrimPrefix(h.URL, "https://"))
}

func TestSendInTransactions(t *testing.T) {
	s := serve(t, Options{})
	r := newRoom(t, s, RoomOptions{Members: 5})
	f, err := r.Linear(120)
	if err != nil {
		t.Fatal(err)
	}
	var sizes []int
	var paths []string
	target(t, s, "target.test", func(w http.ResponseWriter, r *http.Request) {
		var txn struct {
			Origin id.Server
			PDUs   []json.RawMessage
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(body, &txn) != nil || txn.Origin != s.Name() || r.Method != "PUT" {
			t.Errorf("%s %s %v", r.Method, body, err)
		}
		if !strings.HasPrefix(r.Header.Get("Authorization"), "X-Matrix origin=") {
			t.Error("the transaction is not signed")
		}
		paths = append(paths, r.URL.Path)
		if len(paths) == 2 { // once overloaded
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = w.Write([]byte(`{"errcode":"M_LIMIT_EXCEEDED","error":"slowly","retry_after_ms":1}`))
			return
		}
		sizes = append(sizes, len(txn.PDUs))
		_, _ = w.Write([]byte(`{"pdus":{}}`))
	})
	sent, err := s.Send(t.Context(), "target.test", f.Events)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(sizes, []int{50, 50, 20}) || len(sent.Latencies) != 3 || sent.Shed != 1 || sent.Took <= 0 {
		t.Errorf("%v %+v", sizes, sent)
	}
	if len(paths) != 4 || paths[1] != paths[2] || paths[0] == paths[1] || paths[2] == paths[3] {
		t.Errorf("what was sent again must have the same transaction ID: %v", paths)
	}
}

func TestSendFails(t *testing.T) {
	s := serve(t, Options{})
	r := newRoom(t, s, RoomOptions{Members: 5})
	f, err := r.Linear(2)
	if err != nil {
		t.Fatal(err)
	}
	target(t, s, "refusing.test", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"pdus":{%q:{},%q:{"error":"not wanted"}}}`, f.Events[0].ID, f.Last())
	})
	if _, err := s.Send(t.Context(), "refusing.test", f.Events); err == nil || !strings.Contains(err.Error(), "not wanted") || !strings.Contains(err.Error(), string(f.Last())) {
		t.Errorf("%v", err)
	}
	target(t, s, "broken.test", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	if _, err := s.Send(t.Context(), "broken.test", f.Events); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	target(t, s, "busy.test", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	if _, err := s.Send(ctx, "busy.test", f.Events); err == nil || ctx.Err() == nil {
		t.Errorf("%v", err)
	}
	if _, err := s.Send(t.Context(), "nowhere.test", f.Events); err == nil {
		t.Error("nobody is there")
	}
}

// answers is a made-up client's view of a room.
type answers struct {
	state    []string // JSON of the state's events
	messages []id.Event
	pending  int // how often an event is not there yet
	asked    []string
}

func (a *answers) get(_ context.Context, path string) (int, io.ReadCloser, error) {
	a.asked = append(a.asked, path)
	body := func(s string) io.ReadCloser { return io.NopCloser(strings.NewReader(s)) }
	u, err := url.Parse(path)
	switch {
	case err != nil:
		return 0, nil, err
	case strings.HasSuffix(u.Path, "/state"):
		return 200, body("[" + strings.Join(a.state, ",") + "]"), nil
	case strings.Contains(u.Path, "/event/"):
		if a.pending--; a.pending >= 0 {
			return 404, body(`{"errcode":"M_NOT_FOUND","error":"not yet"}`), nil
		}
		return 200, body(`{}`), nil
	}
	// Pages of seven, of what is newest first.
	from := 0
	_, _ = fmt.Sscan(u.Query().Get("from"), &from)
	to := min(from+7, len(a.messages))
	var chunk []string
	for _, m := range a.messages[from:to] {
		chunk = append(chunk, fmt.Sprintf(`{"event_id":%q}`, m))
	}
	end := ""
	if to < len(a.messages) {
		end = fmt.Sprintf(`,"end":"%d"`, to)
	}
	return 200, body(`{"chunk":[` + strings.Join(chunk, ",") + `]` + end + `}`), nil
}

func viewOf(t *testing.T, r *Room) *answers {
	t.Helper()
	a := &answers{}
	state, err := r.State()
	if err != nil {
		t.Fatal(err)
	}
	for k, e := range state {
		a.state = append(a.state, fmt.Sprintf(`{"type":%q,"state_key":%q,"event_id":%q,"content":{}}`, k.Type, k.StateKey, e))
	}
	for _, e := range slices.Backward(r.list()) {
		a.messages = append(a.messages, e.id)
	}
	return a
}

// The checks find what is wrong; a check that passes everything is worth nothing.
func TestChecksFindWhatIsWrong(t *testing.T) {
	s, p := newPeers(t, Options{})
	r := newRoom(t, s, RoomOptions{Members: 8})
	p.join(s, r)
	f, err := r.Branchy(40, 3, 4)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	right := viewOf(t, r)
	right.pending = 2
	if err := r.AwaitEvent(ctx, right.get, f.Last()); err != nil || len(right.asked) != 3 {
		t.Errorf("%v %v", err, right.asked)
	}
	if err := r.CheckState(ctx, right.get); err != nil {
		t.Error(err)
	}
	right.asked = nil
	if err := r.CheckMessages(ctx, right.get, f); err != nil {
		t.Error(err)
	}
	if pages := len(right.asked); pages != 6 { // 40 events and the join, in sevens
		t.Errorf("%d pages were read", pages)
	}
	other := f.Messages[len(f.Messages)/2]
	for name, c := range map[string]struct {
		spoil func(*answers)
		check func(*answers) error
	}{
		"a state event is missing": {func(a *answers) { a.state = a.state[1:] }, func(a *answers) error { return r.CheckState(ctx, a.get) }},
		"one too many": {func(a *answers) { a.state = append(a.state, `{"type":"m.x","state_key":"","event_id":"$x"}`) },
			func(a *answers) error { return r.CheckState(ctx, a.get) }},
		"another event": {func(a *answers) {
			a.state[0] = strings.Replace(a.state[0], `"event_id":"$`, `"event_id":"$x`, 1)
		}, func(a *answers) error { return r.CheckState(ctx, a.get) }},
		"no state event": {func(a *answers) { a.state = append(a.state, `{"type":"m.x","event_id":"$x"}`) },
			func(a *answers) error { return r.CheckState(ctx, a.get) }},
		"cut short": {func(a *answers) { a.state = append(a.state, `{"type":`) }, func(a *answers) error { return r.CheckState(ctx, a.get) }},
		"a message is missing": {func(a *answers) {
			a.messages = slices.DeleteFunc(a.messages, func(e id.Event) bool { return e == other })
		}, func(a *answers) error { return r.CheckMessages(ctx, a.get, f) }},
		"a message is there twice": {func(a *answers) { a.messages = append([]id.Event{other}, a.messages...) },
			func(a *answers) error { return r.CheckMessages(ctx, a.get, f) }},
		"a history without end": {func(a *answers) { a.messages = slices.Repeat([]id.Event{"$y"}, 100_000) },
			func(a *answers) error { return r.CheckMessages(ctx, a.get, f) }},
		"refused": {func(*answers) {}, func(*answers) error {
			return r.CheckState(ctx, func(context.Context, string) (int, io.ReadCloser, error) {
				return 403, io.NopCloser(strings.NewReader(`{"errcode":"M_FORBIDDEN"}`)), nil
			})
		}},
	} {
		a := viewOf(t, r)
		c.spoil(a)
		if err := c.check(a); err == nil {
			t.Errorf("%s: not found", name)
		}
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	never := viewOf(t, r)
	never.pending = 1 << 30
	if err := r.AwaitEvent(short, never.get, f.Last()); err == nil {
		t.Error("an event that never comes was seen")
	}
}

// The state at a server under test is compared by IDs.
func TestCheckResident(t *testing.T) {
	s, p := newPeers(t, Options{})
	r := newRoom(t, s, RoomOptions{Members: 8})
	j := p.join(s, r)
	spoil := ""
	target(t, s, "target.test", func(w http.ResponseWriter, _ *http.Request) {
		var list []string
		for _, e := range j.state {
			list = append(list, fmt.Sprintf("%q", e))
		}
		if spoil == "more" {
			list = append(list, `"$more"`)
		}
		if spoil == "less" {
			list = list[1:]
		}
		_, _ = w.Write([]byte(`{"pdu_ids":[` + strings.Join(list, ",") + `],"auth_chain_ids":[]}`))
	})
	if err := r.CheckResident(t.Context(), "target.test", j.event.ID); err != nil {
		t.Error(err)
	}
	for _, spoil = range []string{"more", "less"} {
		if err := r.CheckResident(t.Context(), "target.test", j.event.ID); err == nil {
			t.Errorf("%s: not found", spoil)
		}
	}
}
