package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"weft/internal/sqldb/sqldbtest"
	"weft/matrix/id"
	"weft/setup"
)

// weft is a real server in this process, on which one user is registered.
type weft struct {
	t      *testing.T
	name   id.Server
	base   string
	user   id.User
	token  string
	http   *http.Client
	errors *bytes.Buffer
}

// startWeft boots a server that trusts the synthetic server's authority, and leads
// the latter to it.
func startWeft(t *testing.T, s *Server, database string) *weft {
	t.Helper()
	w := &weft{t: t, name: "weft.test", http: &http.Client{}, errors: &bytes.Buffer{}}
	authority, err := OpenAuthority(strings.TrimSuffix(s.Authority().File, authorityCertificate))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key, err := authority.WriteCertificate(dir, "weft", string(w.name))
	if err != nil {
		t.Fatal(err)
	}
	c := setup.Default()
	c.ServerName, c.DataDir, c.Database = string(w.name), dir, database
	c.Listeners = []setup.Listener{{Address: "127.0.0.1:0"}, {Address: "127.0.0.1:0", TLS: setup.TLS{Certificate: cert, Key: key}}}
	c.Registration.Mode, c.RateLimits.Enabled = "open", false
	c.Federation.CAFile, c.Federation.AllowPrivateAddresses = s.Authority().File, true
	c.Memory = 256 << 20
	log := logrus.New()
	log.SetOutput(w.errors)
	log.SetLevel(logrus.WarnLevel)
	ctx, cancel := context.WithCancel(context.Background())
	server, err := setup.Run(ctx, c, setup.RunOptions{Log: log, Version: "test", Verify: true})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.http.CloseIdleConnections()
		cancel()
		if err := server.Wait(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(w.errors)
		}
	})
	s.Route(w.name, strings.TrimPrefix(server.URLs()[1], "https://"))
	w.base = server.URLs()[0]
	var account struct {
		Token string  `json:"access_token"`
		User  id.User `json:"user_id"`
	}
	w.call("POST", "/_matrix/client/v3/register", `{"auth":{"type":"m.login.dummy"},"username":"alice","password":"wonderland-7"}`, &account)
	w.token, w.user = account.Token, account.User
	return w
}

func (w *weft) do(ctx context.Context, method, path, body string) (int, io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, w.base+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if w.token != "" {
		req.Header.Set("Authorization", "Bearer "+w.token)
	}
	res, err := w.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	return res.StatusCode, res.Body, nil
}

// get is the Get of the checks.
func (w *weft) get(ctx context.Context, path string) (int, io.ReadCloser, error) {
	return w.do(ctx, "GET", path, "")
}

func (w *weft) call(method, path, body string, out any) {
	w.t.Helper()
	status, res, err := w.do(w.t.Context(), method, path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	raw, err := io.ReadAll(res)
	if err != nil {
		w.t.Fatal(err)
	}
	_ = res.Close()
	if status != http.StatusOK {
		w.t.Fatalf("%s %s: %d %s", method, path, status, raw)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		w.t.Fatal(err)
	}
}

func (w *weft) join(s *Server, r *Room) Join {
	w.t.Helper()
	var got struct {
		Room id.Room `json:"room_id"`
	}
	w.call("POST", "/_matrix/client/v3/join/"+url.PathEscape(string(r.ID))+"?server_name="+url.QueryEscape(string(s.Name())), `{}`, &got)
	if got.Room != r.ID {
		w.t.Fatalf("joined %s, not %s", got.Room, r.ID)
	}
	j, err := r.AwaitJoin(w.t.Context(), w.user)
	if err != nil {
		w.t.Fatal(err)
	}
	return j
}

// inflow sends an inflow and checks what becomes of it.
func (w *weft) inflow(s *Server, r *Room, f *Inflow, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	sent, err := s.Send(ctx, w.name, f.Events)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(sent.Latencies) != (len(f.Events)+49)/50 || sent.Took <= 0 || sent.Shed != 0 {
		w.t.Errorf("%+v", sent)
	}
	if err := r.AwaitEvent(ctx, w.get, f.Last()); err != nil {
		w.t.Fatal(err)
	}
	if err := r.CheckState(ctx, w.get); err != nil {
		w.t.Error(err)
	}
	if err := r.CheckMessages(ctx, w.get, f); err != nil {
		w.t.Error(err)
	}
}

func openAuthority(t *testing.T) *Authority {
	t.Helper()
	a, err := OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestWeftJoinsAndReceives(t *testing.T) {
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		s := serve(t, Options{Servers: 4, Authority: openAuthority(t)})
		w := startWeft(t, s, newURL())
		for _, v := range versions {
			t.Run(string(v), func(t *testing.T) {
				w.t = t
				r := newRoom(t, s, RoomOptions{Version: v, Members: 50})
				j := w.join(s, r)
				if j.User != w.user || j.Asked.After(j.Sent) || j.Sent.After(j.Answered) || j.Bytes < 50*500 {
					t.Errorf("%+v", j)
				}
				if got := r.Joins(); len(got) != 1 || got[0].Event != j.Event {
					t.Errorf("%+v", got)
				}
				if err := r.CheckState(t.Context(), w.get); err != nil {
					t.Error(err)
				}
				if err := r.CheckResident(t.Context(), w.name, j.Event); err != nil {
					t.Error(err)
				}
				linear, err := r.Linear(200)
				w.inflow(s, r, linear, err)
				branchy, err := r.Branchy(200, 5, 6)
				w.inflow(s, r, branchy, err)
				if err := r.CheckMessages(t.Context(), w.get, linear); err != nil {
					t.Error(err)
				}
				// What the server's own user sends goes to all the names, and is part of the room.
				var sent struct {
					ID id.Event `json:"event_id"`
				}
				w.call("PUT", r.path("/send/m.room.message/1", nil), `{"msgtype":"m.text","body":"hello"}`, &sent)
				if _, err := r.Received(t.Context(), sent.ID); err != nil {
					t.Error(err)
				}
				if e, err := r.event(sent.ID); err != nil || e.Sender != w.user || fmt.Sprint(e.PrevEvents) != fmt.Sprint([]id.Event{branchy.Last()}) {
					t.Errorf("%+v %v", e, err)
				}
			})
		}
		if got := s.Problems(); len(got) != 0 {
			t.Errorf("problems: %v", got)
		}
		if got := s.Traffic(); got["make_join"].Requests != 3 || got["send_join"].Requests != 3 || got["send_join"].Bytes < 3*50*500 {
			t.Errorf("%+v", got)
		}
	})
}
