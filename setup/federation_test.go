package setup

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/internal/sqldb/sqldbtest"
)

// network leads server names to the test's own listeners.
type network struct {
	mu    sync.Mutex
	addrs map[string]string // host → HOST:PORT
}

func (n *network) set(host, address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addrs[host] = address
}

func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	to, ok := n.addrs[host]
	n.mu.Unlock()
	if !ok || port != "8448" {
		return nil, fmt.Errorf("nobody is at %s", address)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", to)
}

// issue writes a certificate for host, signed by the authority in ca.
func issue(t *testing.T, ca TLS, host string) TLS {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(ca.Certificate, ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	parent, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, parent, &key.PublicKey, pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := tlsFiles(t)
	for file, block := range map[string]*pem.Block{
		files.Certificate: {Type: "CERTIFICATE", Bytes: der}, files.Key: {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// awaitMessage follows a user's /sync until a message with the body appears.
// The request sleeps in the server, so nothing is polled.
func awaitMessage(t *testing.T, base, token, room, body string) {
	t.Helper()
	since := ""
	for range 50 {
		status, got := call(t, "GET", base+"/_matrix/client/v3/sync?timeout=10000&since="+url.QueryEscape(since), token, "")
		if status != 200 {
			t.Fatalf("sync: %d %v", status, got)
		}
		since, _ = got["next_batch"].(string)
		events := dig(got, "rooms", "join", room, "timeline", "events")
		list, _ := events.([]any)
		for _, e := range list {
			if dig(e, "content", "body") == body {
				return
			}
		}
	}
	t.Fatalf("%q never came", body)
}

func dig(v any, path ...string) any {
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}

// Two servers federate over TLS, wired as the command wires them.
func TestTwoServersFederate(t *testing.T) {
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		ca := tlsFiles(t)
		writeCertificate(t, ca, "test authority")
		nw := &network{addrs: make(map[string]string)}
		start := func(name string) *Server {
			c := testConfig(t, name)
			c.Database = newURL()
			c.Listeners = append(c.Listeners, Listener{Address: "127.0.0.1:0", TLS: issue(t, ca, name)})
			c.Federation.CAFile = ca.Certificate
			s, _ := bootWith(t, c, RunOptions{Log: quiet().Logger, Verify: true, Dial: nw.dial})
			nw.set(name, strings.TrimPrefix(s.URLs()[1], "https://"))
			return s
		}
		a, b := start("a.test"), start("b.test")
		alice, bob := register(t, a.URLs()[0], "alice"), register(t, b.URLs()[0], "bob")

		status, got := call(t, "POST", a.URLs()[0]+"/_matrix/client/v3/createRoom", alice,
			`{"preset":"public_chat","room_alias_name":"lobby","name":"Lobby"}`)
		if status != http.StatusOK {
			t.Fatalf("createRoom: %d %v", status, got)
		}
		room := got["room_id"].(string)
		status, got = call(t, "POST", b.URLs()[0]+"/_matrix/client/v3/join/"+url.PathEscape("#lobby:a.test"), bob, `{}`)
		if status != http.StatusOK || got["room_id"] != room {
			t.Fatalf("join: %d %v", status, got)
		}
		for i, from := range []struct{ base, token, peerBase, peer string }{
			{a.URLs()[0], alice, b.URLs()[0], bob}, {b.URLs()[0], bob, a.URLs()[0], alice},
		} {
			body := fmt.Sprintf("message %d", i)
			status, got := call(t, "PUT", from.base+"/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/t", from.token,
				`{"msgtype":"m.text","body":"`+body+`"}`)
			if status != http.StatusOK {
				t.Fatalf("send: %d %v", status, got)
			}
			awaitMessage(t, from.peerBase, from.peer, room, body)
		}
	})
}
