package fedclient

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/miekg/dns"

	"weft/internal/fedclient/guard"
	"weft/internal/fedclient/keyring"
	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// keyObject is the client's own key object.
func keyObject(t *testing.T, c *Client, pub []byte) []byte {
	t.Helper()
	raw, err := canonical.Marshal(map[string]any{
		"server_name": c.cfg.ServerName, "valid_until_ts": c.cfg.Now().UnixMilli() + 3_600_000,
		"verify_keys": map[string]any{string(c.cfg.KeyID): map[string]any{"key": base64.RawStdEncoding.EncodeToString(pub)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	raw, err = canonical.SignJSON(raw, string(c.cfg.ServerName), c.cfg.KeyID, c.cfg.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Two servers: one sends, the other fetches the sender's key and verifies.
func TestRequestFromServerToServer(t *testing.T) {
	here, there := newLab(t, nil), newLab(t, func(c *Config) { c.ServerName = "peer.example" })
	there.ca = here.ca
	there.serve("us.example:8448", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/_matrix/key/v2/server" {
			w.WriteHeader(404)
			return
		}
		if _, err := w.Write(keyObject(t, here.client, here.pub)); err != nil {
			t.Error(err)
		}
	}, "us.example")
	// The other server's client trusts the same authority.
	var err error
	cfg := there.client.cfg
	cfg.RootCAs = here.ca.pool()
	if there.client, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ring, err := keyring.New(keyring.Config{ServerName: "peer.example", Fetcher: there.client, Now: there.now})
	if err != nil {
		t.Fatal(err)
	}
	var origin id.Server
	var verifyErr error
	here.serve("peer.example:8448", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if origin, verifyErr = ring.VerifyRequest(r, body, "peer.example"); verifyErr != nil {
			e := merr.From(verifyErr)
			w.WriteHeader(e.Status)
			return
		}
		if _, err := io.WriteString(w, `{"pdus":{}}`); err != nil {
			t.Error(err)
		}
	}, "peer.example")
	ctx := context.Background()
	if _, err := here.client.SendTransaction(ctx, "peer.example", Transaction{ID: "a/b c"}); err != nil || origin != "us.example" {
		t.Fatalf("sent: %v; verified as %q: %v", err, origin, verifyErr)
	}
	if _, err := here.client.MakeJoin(ctx, "peer.example", "!röm:peer.example", "@ü~'()*:us.example", nil); verifyErr != nil {
		t.Fatalf("an odd path was not verified: %v (%v)", verifyErr, err)
	}
	_, err = here.client.Do(ctx, Request{Destination: "peer.example", Method: "GET", Path: "/x", Unsigned: true})
	if re, ok := AsRemote(err); !ok || re.Status != 401 || !errors.Is(verifyErr, merr.ErrUnauthorized) {
		t.Fatalf("an unsigned request: %v, %v", err, verifyErr)
	}
}

// The real dialer asks the configured DNS servers, and checks what they say.
func TestConfiguredDNSServersFindAddresses(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	srv := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		if q.Question[0].Name == "a.example." && q.Question[0].Qtype == dns.TypeA {
			for _, s := range []string{"a.example. 60 IN CNAME b.example.", "b.example. 60 IN A 127.0.0.1"} {
				rr, err := dns.NewRR(s)
				if err != nil {
					t.Error(err)
				}
				m.Answer = append(m.Answer, rr)
			}
		}
		if err := w.WriteMsg(m); err != nil {
			t.Error(err)
		}
	})}
	go func() {
		if err := srv.ActivateAndServe(); err != nil {
			t.Logf("DNS server: %v", err)
		}
	}()
	<-started
	t.Cleanup(func() { srv.Shutdown() })
	for _, private := range []bool{true, false} {
		l := newLab(t, func(c *Config) {
			c.Dial, c.DNSServers = nil, []string{pc.LocalAddr().String()}
			c.Addresses.AllowPrivate = private
		})
		s := l.serve("", reply(200, `{}`), "a.example")
		_, port, err := net.SplitHostPort(s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		err = get(l, id.Server("a.example:"+port))
		if private && err != nil || !private && !errors.Is(err, guard.ErrDenied) {
			t.Fatalf("private addresses allowed: %v; the request gave %v", private, err)
		}
	}
}
