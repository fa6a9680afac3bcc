package fedclient

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"weft/internal/fedclient/guard"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const versionPath = "/_matrix/federation/v1/version"

func get(l *lab, server id.Server) error {
	_, err := l.client.Do(context.Background(), Request{Destination: server, Method: "GET", Path: versionPath})
	return err
}

// TestNamesOnTheWire checks, for each step of server discovery, over real TLS
// where the client dials, which certificate it wants, and the Host header.
func TestNamesOnTheWire(t *testing.T) {
	cases := []struct {
		name      string
		server    id.Server
		delegated string // by .well-known of a.example
		srv       string // target and port, of srvName
		srvName   string
		dial      string
		cert      string
		sni       string
		host      string
	}{
		{"1", "192.0.2.7", "", "", "", "192.0.2.7:8448", "192.0.2.7", "", "192.0.2.7"},
		{"1 with port", "192.0.2.7:99", "", "", "", "192.0.2.7:99", "192.0.2.7", "", "192.0.2.7:99"},
		{"1 IPv6", "[2001:db8::7]:99", "", "", "", "[2001:db8::7]:99", "2001:db8::7", "", "[2001:db8::7]:99"},
		{"2", "a.example:99", "b.example", "", "", "a.example:99", "a.example", "a.example", "a.example:99"},
		{"3.1", "a.example", "192.0.2.7:99", "", "", "192.0.2.7:99", "192.0.2.7", "", "192.0.2.7:99"},
		{"3.2", "a.example", "b.example:99", "", "", "b.example:99", "b.example", "b.example", "b.example:99"},
		{"3.3", "a.example", "b.example", "0 0 99 c.example.", "_matrix-fed._tcp.b.example.", "c.example:99", "b.example", "b.example", "b.example"},
		{"3.4", "a.example", "b.example", "0 0 99 c.example.", "_matrix._tcp.b.example.", "c.example:99", "b.example", "b.example", "b.example"},
		{"3.5", "a.example", "b.example", "", "", "b.example:8448", "b.example", "b.example", "b.example"},
		{"4", "a.example", "", "0 0 99 c.example.", "_matrix-fed._tcp.a.example.", "c.example:99", "a.example", "a.example", "a.example"},
		{"5", "a.example", "", "0 0 99 c.example.", "_matrix._tcp.a.example.", "c.example:99", "a.example", "a.example", "a.example"},
		{"6", "a.example", "", "", "", "a.example:8448", "a.example", "a.example", "a.example"},
	}
	for _, c := range cases {
		setup := func(t *testing.T, cert string) *lab {
			l := newLab(t, func(cfg *Config) { cfg.DNSServers = []string{dnsServer(t, c.srvName, c.srv)} })
			if c.delegated != "" {
				l.serve("a.example:443", func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path != "/.well-known/matrix/server" || r.Header.Get("Authorization") != "" {
						w.WriteHeader(404)
						return
					}
					fmt.Fprintf(w, `{"m.server":%q}`, c.delegated)
				}, "a.example")
			}
			l.serve(c.dial, reply(200, `{}`), cert)
			return l
		}
		t.Run(c.name, func(t *testing.T) {
			l := setup(t, c.cert)
			if err := get(l, c.server); err != nil {
				t.Fatal(err)
			}
			s := l.last()
			if s.host != c.host || s.sni != c.sni || s.uri != versionPath {
				t.Fatalf("the server saw %+v; want host %q, SNI %q", s, c.host, c.sni)
			}
			if s.proto != "HTTP/2.0" || s.userAgent != "Weft/1.2.3" {
				t.Fatalf("protocol %s, user agent %q", s.proto, s.userAgent)
			}
			// The signature is for the server's name, wherever it is.
			l.checkSigned("GET", c.server)
			// The connection is used again.
			before := len(l.dialled())
			if err := get(l, c.server); err != nil {
				t.Fatal(err)
			}
			if n := len(l.dialled()); n != before {
				t.Fatalf("dialled again: %v", l.dialled())
			}
		})
		t.Run(c.name+" with a wrong certificate", func(t *testing.T) {
			l := setup(t, "wrong.example")
			err := get(l, c.server)
			var ce *ConnError
			if !errors.As(err, &ce) || !errors.Is(err, merr.ErrConnectionFailed) {
				t.Fatalf("the request gave %v", err)
			}
			if strings.Contains(err.Error(), "refused") {
				t.Fatalf("it failed for another reason: %v", err)
			}
		})
	}
}

// dnsServer answers SRV questions for one name.
func dnsServer(t *testing.T, name string, data ...string) string {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	s := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		if q.Question[0].Name != name {
			m.Rcode = dns.RcodeNameError
		}
		for _, d := range data {
			if m.Rcode != dns.RcodeSuccess {
				break
			}
			rr, err := dns.NewRR(name + " 60 IN SRV " + d)
			if err != nil {
				t.Error(err)
				return
			}
			m.Answer = append(m.Answer, rr)
		}
		if err := w.WriteMsg(m); err != nil {
			t.Error(err)
		}
	})}
	go func() {
		if err := s.ActivateAndServe(); err != nil {
			t.Logf("DNS server: %v", err)
		}
	}()
	<-started
	t.Cleanup(func() { s.Shutdown() })
	return pc.LocalAddr().String()
}

func TestOtherEndpointsAreTried(t *testing.T) {
	l := newLab(t, func(cfg *Config) {
		cfg.DNSServers = []string{dnsServer(t, "_matrix-fed._tcp.a.example.",
			"1 0 99 down.example.", "2 0 99 wrong.example.", "3 0 99 up.example.", "4 0 99 never.example.")}
	})
	l.serve("wrong.example:99", reply(200, `{}`), "wrong.example")
	l.serve("up.example:99", reply(200, `{}`), "a.example")
	_, err := l.client.Do(context.Background(), Request{Destination: "a.example", Method: "PUT", Path: "/x", Body: map[string]int{"a": 1}})
	if err != nil {
		t.Fatal(err)
	}
	want := "a.example:443 down.example:99 wrong.example:99 up.example:99"
	if got := strings.Join(l.dialled(), " "); got != want {
		t.Fatalf("dialled %s; want %s", got, want)
	}
	if s := l.last(); s.body != `{"a":1}` {
		t.Fatalf("body %q", s.body)
	}
}

// A connection that was kept open and died meanwhile costs no request.
func TestKeptConnectionsMayDie(t *testing.T) {
	for _, method := range []string{"GET", "PUT", "POST"} {
		t.Run(method, func(t *testing.T) {
			l := newLab(t, nil)
			s := l.serve("peer.example:8448", func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "{}")
			}, "peer.example")
			for range 5 {
				r := Request{Destination: "peer.example", Method: method, Path: "/x", SkipCircuit: true}
				if method != "GET" {
					r.Body = map[string]int{"a": 1}
				}
				if _, err := l.client.Do(context.Background(), r); err != nil {
					t.Fatal(err)
				}
				s.CloseClientConnections()
			}
		})
	}
}

func TestSignedBody(t *testing.T) {
	l := newLab(t, nil)
	l.serve("peer.example:8448", reply(200, `{"ok":true}`), "peer.example")
	cases := []struct {
		name string
		body any
		want string
	}{
		{"none", nil, ""},
		{"value", map[string]any{"z": 1, "a": "<&>"}, `{"a":"<&>","z":1}`},
		{"bytes", []byte(`{ "b": [], "a": 1.5 }`), `{"a":1.5,"b":[]}`},
		{"raw message", json.RawMessage(`{"b":1,"a":2}`), `{"a":2,"b":1}`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := Request{Destination: "peer.example", Method: "PUT", Path: "/_matrix/x/%21room:peer.example/$ev%2Fent?a=b%20c&d=%40u", Body: c.body}
			resp, err := l.client.Do(context.Background(), r)
			if err != nil || string(resp.Body) != `{"ok":true}` {
				t.Fatalf("Do = %v, %v", resp, err)
			}
			if s := l.last(); s.body != c.want || s.uri != r.Path {
				t.Fatalf("the server saw %+v", s)
			}
			l.checkSigned("PUT", "peer.example")
		})
	}
	if _, err := l.client.Do(context.Background(), Request{Destination: "peer.example", Method: "GET", Path: "/x", Unsigned: true}); err != nil || l.last().auth != "" {
		t.Fatalf("an unsigned request: %v, %q", err, l.last().auth)
	}
	for _, bad := range []Request{
		{Destination: "peer.example", Method: "PUT", Path: "/x", Body: []byte(`{"a":`)},
		{Destination: "peer.example", Method: "PUT", Path: "/x", Body: func() {}},
		{Destination: "peer.example", Method: "GET", Path: "no/slash"},
		{Destination: "us.example", Method: "GET", Path: "/x"},
		{Destination: "not a name", Method: "GET", Path: "/x"},
	} {
		if _, err := l.client.Do(context.Background(), bad); err == nil {
			t.Errorf("%+v was sent", bad)
		}
	}
}

func TestRemoteErrors(t *testing.T) {
	cases := []struct {
		status   int
		body     string
		seenCode string // what one of our clients sees
		seenSt   int
		rawCode  string
	}{
		{403, `{"errcode":"M_FORBIDDEN","error":"banned"}`, "M_FORBIDDEN", 403, "M_FORBIDDEN"},
		{404, `{"errcode":"M_NOT_FOUND","error":"x"}`, "M_NOT_FOUND", 404, "M_NOT_FOUND"},
		{400, `{"errcode":"M_INCOMPATIBLE_ROOM_VERSION","error":"x","room_version":"11","other":1}`, "M_INCOMPATIBLE_ROOM_VERSION", 400, "M_INCOMPATIBLE_ROOM_VERSION"},
		{400, `{"errcode":"M_UNABLE_TO_GRANT_JOIN","error":"x"}`, "M_UNABLE_TO_GRANT_JOIN", 400, "M_UNABLE_TO_GRANT_JOIN"},
		// What would log our client out, or is about the two servers only.
		{401, `{"errcode":"M_UNKNOWN_TOKEN","error":"x"}`, "M_UNKNOWN", 502, "M_UNKNOWN_TOKEN"},
		{401, `{"errcode":"M_UNAUTHORIZED","error":"x"}`, "M_UNKNOWN", 502, "M_UNAUTHORIZED"},
		{403, `{"errcode":"M_UNKNOWN_TOKEN","error":"x"}`, "M_UNKNOWN", 502, "M_UNKNOWN_TOKEN"},
		{403, `{"errcode":"M_USER_DEACTIVATED","error":"x"}`, "M_UNKNOWN", 502, "M_USER_DEACTIVATED"},
		{429, `{"errcode":"M_LIMIT_EXCEEDED","error":"x"}`, "M_UNKNOWN", 502, "M_LIMIT_EXCEEDED"},
		{500, `{"errcode":"M_UNKNOWN","error":"x"}`, "M_UNKNOWN", 502, "M_UNKNOWN"},
		{404, `<html>not found</html>`, "M_UNKNOWN", 502, "M_UNKNOWN"},
		{302, `elsewhere`, "M_UNKNOWN", 502, "M_UNKNOWN"},
	}
	for _, c := range cases {
		t.Run(fmt.Sprint(c.status, " ", c.rawCode), func(t *testing.T) {
			l := newLab(t, nil)
			l.serve("peer.example:8448", reply(c.status, c.body), "peer.example")
			err := get(l, "peer.example")
			re, ok := AsRemote(err)
			if !ok || re.Status != c.status || re.Remote.Code != c.rawCode || re.Server != "peer.example" {
				t.Fatalf("the error is %#v", err)
			}
			e := merr.From(fmt.Errorf("joining: %w", err))
			if e.Code != c.seenCode || e.Status != c.seenSt {
				t.Fatalf("a client sees %d %s, want %d %s", e.Status, e.Code, c.seenSt, c.seenCode)
			}
			if c.rawCode == "M_INCOMPATIBLE_ROOM_VERSION" && (e.Extra["room_version"] != "11" || len(e.Extra) != 1) {
				t.Fatalf("further fields: %v", e.Extra)
			}
		})
	}
}

func TestResponsesAreBounded(t *testing.T) {
	big := strings.Repeat("x", 5000)
	handlers := map[string]http.HandlerFunc{
		"announced": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, big) },
		"streamed": func(w http.ResponseWriter, r *http.Request) {
			for range 50 {
				io.WriteString(w, big[:100])
				w.(http.Flusher).Flush()
			}
		},
		"compressed": func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Encoding") != "gzip" {
				w.WriteHeader(400)
				return
			}
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			io.WriteString(z, big)
			z.Close()
		},
	}
	for name, h := range handlers {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, nil)
			l.serve("peer.example:8448", h, "peer.example")
			do := func(limit int64) (*Response, error) {
				return l.client.Do(context.Background(), Request{Destination: "peer.example", Method: "GET", Path: "/x", MaxResponse: limit})
			}
			if resp, err := do(5000); err != nil || string(resp.Body) != big {
				t.Fatalf("a response of just the bound: %v", err)
			}
			_, err := do(4999)
			if !errors.Is(err, ErrResponseTooLarge) || merr.From(err).Status != 502 {
				t.Fatalf("a response over the bound gave %v", err)
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	l := newLab(t, nil)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	l.serve("peer.example:8448", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			io.WriteString(w, "{")
			w.(http.Flusher).Flush()
		}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}, "peer.example")
	for _, path := range []string{"/header", "/body"} {
		_, err := l.client.Do(context.Background(), Request{Destination: "peer.example", Method: "GET", Path: path, Timeout: 300 * time.Millisecond, SkipCircuit: true})
		var ce *ConnError
		if !errors.As(err, &ce) || merr.From(err).Status != 504 {
			t.Fatalf("%s: %v", path, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := l.client.Do(ctx, Request{Destination: "peer.example", Method: "GET", Path: "/x", SkipCircuit: true})
	var ce *ConnError
	if !errors.Is(err, context.Canceled) || errors.As(err, &ce) {
		t.Fatalf("a caller that gave up got %v", err)
	}
}

func TestCircuit(t *testing.T) {
	l := newLab(t, nil)
	tries := func() int {
		n := 0
		for _, d := range l.dialled() {
			if d == "peer.example:8448" {
				n++
			}
		}
		return n
	}
	expect := func(want int, fast bool) {
		t.Helper()
		var ce *ConnError
		if err := get(l, "peer.example"); !errors.As(err, &ce) || ce.FailedFast != fast || !errors.Is(err, merr.ErrConnectionFailed) {
			t.Fatalf("error %v, want failed fast=%v", err, fast)
		}
		if got := tries(); got != want {
			t.Fatalf("%d tries, want %d", got, want)
		}
	}
	expect(1, false)
	expect(2, false)
	expect(2, true)
	l.advance(circuitMin - time.Millisecond)
	expect(2, true)
	l.advance(time.Millisecond)
	expect(3, false) // the probe
	expect(3, true)
	l.advance(circuitMin)
	expect(3, true) // twice as long now
	l.advance(circuitMin)
	expect(4, false)

	// Who has a backoff of his own is not held back.
	_, err := l.client.Do(context.Background(), Request{Destination: "peer.example", Method: "GET", Path: "/x", SkipCircuit: true})
	var ce *ConnError
	if !errors.As(err, &ce) || ce.FailedFast || tries() != 5 {
		t.Fatalf("SkipCircuit: %v after %d tries", err, tries())
	}
	// The server is back and tells us so.
	l.serve("peer.example:8448", reply(200, `{}`), "peer.example")
	expectFast := get(l, "peer.example")
	if !errors.As(expectFast, &ce) || !ce.FailedFast {
		t.Fatalf("the circuit closed by itself: %v", expectFast)
	}
	l.client.MarkAlive("peer.example")
	if err := get(l, "peer.example"); err != nil {
		t.Fatal(err)
	}
	// Others are not affected by all of that, and one success forgets all failures.
	if err := l.client.circuits.allow("other.example"); err != nil {
		t.Fatal(err)
	}
	l.client.circuits.failed("peer.example")
	if err := l.client.circuits.allow("peer.example"); err != nil {
		t.Fatalf("one failure after a success opened the circuit: %v", err)
	}
}

func TestCircuitTableIsBounded(t *testing.T) {
	c, err := newCircuits(10, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		c.failed(id.Server(fmt.Sprintf("s%d.example", i)))
	}
	c.table.CleanUp()
	if n := c.table.EstimatedSize(); n > 10 {
		t.Fatalf("%d entries, want at most 10", n)
	}
}

func TestAProxysErrorCountsAsAFailure(t *testing.T) {
	l := newLab(t, nil)
	l.serve("peer.example:8448", reply(502, `<html>bad gateway</html>`), "peer.example")
	for range circuitThreshold {
		if _, ok := AsRemote(get(l, "peer.example")); !ok {
			t.Fatal("no RemoteError")
		}
	}
	var ce *ConnError
	if err := get(l, "peer.example"); !errors.As(err, &ce) || !ce.FailedFast {
		t.Fatalf("after %d bad gateways: %v", circuitThreshold, err)
	}
}

// TestAddressesAreChecked uses the real dialer on the loopback interface.
func TestAddressesAreChecked(t *testing.T) {
	serve := func(t *testing.T, change func(*Config)) (*lab, id.Server) {
		l := newLab(t, func(cfg *Config) { cfg.Dial = nil; change(cfg) })
		s := l.serve("", reply(200, `{}`), "127.0.0.1", "localhost")
		return l, id.Server(s.Listener.Addr().String())
	}
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	cases := []struct {
		name string
		opts guard.Options
		ok   bool
	}{
		{"by default", guard.Options{}, false},
		{"private allowed", guard.Options{AllowPrivate: true}, true},
		{"range allowed", guard.Options{Allow: loopback}, true},
		{"private allowed, range denied", guard.Options{AllowPrivate: true, Deny: loopback}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l, server := serve(t, func(cfg *Config) { cfg.Addresses = c.opts })
			err := get(l, server)
			if c.ok != (err == nil) || !c.ok && !errors.Is(err, guard.ErrDenied) {
				t.Fatalf("the request gave %v", err)
			}
			// By name the answer is the same: the check is on the address. (The
			// hosts file knows the name; IPv6 is refused as well.)
			_, port, _ := net.SplitHostPort(string(server))
			err = get(l, id.Server("localhost:"+port))
			if c.ok != (err == nil) || !c.ok && !errors.Is(err, guard.ErrDenied) {
				t.Fatalf("the request by name gave %v", err)
			}
		})
	}
}

func TestTrust(t *testing.T) {
	serve := func(l *lab, ca *authority) {
		l.ca = ca
		l.serve("peer.example:8448", reply(200, `{}`), "peer.example")
	}
	ca := newAuthority(t)
	l := newLab(t, nil)
	serve(l, ca)
	if err := get(l, "peer.example"); err == nil {
		t.Fatal("an unknown authority was trusted")
	}
	l = newLab(t, func(c *Config) { c.RootCAs = nil; c.CAFile = ca.file() })
	serve(l, ca)
	if err := get(l, "peer.example"); err != nil {
		t.Fatalf("the authority of the file was not trusted: %v", err)
	}
	l = newLab(t, func(c *Config) { c.InsecureSkipVerify = true })
	serve(l, ca)
	if err := get(l, "peer.example"); err != nil {
		t.Fatalf("certificates were checked: %v", err)
	}
}

func TestNewRefusesBadConfigurations(t *testing.T) {
	good := newLab(t, nil).client.cfg
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"server name":    func(c *Config) { c.ServerName = "not a name" },
		"no key":         func(c *Config) { c.PrivateKey = nil },
		"no key ID":      func(c *Config) { c.KeyID = "" },
		"no file":        func(c *Config) { c.CAFile = empty + "x" },
		"file of others": func(c *Config) { c.CAFile = empty },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
