package fedclient

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"weft/internal/fedclient/xmatrix"
	"weft/matrix/id"
)

// authority is a certificate authority for tests.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t}
	a.cert, a.key = a.make(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	return a
}

func (a *authority) make(tmpl, parent *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl.SerialNumber = big.NewInt(time.Now().UnixNano())
	tmpl.Subject = pkix.Name{CommonName: "test"}
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	signer := a.key
	if parent == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// issue makes a certificate for host names and IP addresses.
func (a *authority) issue(names ...string) tls.Certificate {
	tmpl := &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	cert, key := a.make(tmpl, a.cert)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a *authority) file() string {
	f := filepath.Join(a.t.TempDir(), "ca.pem")
	if err := os.WriteFile(f, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return f
}

// seen is what a test server saw of a request.
type seen struct {
	host, sni, uri, proto, auth, userAgent string
	body                                   string
}

// lab is a small internet: TLS servers under names and ports of their own, and
// a client that can reach nothing else.
type lab struct {
	t      testing.TB
	ca     *authority
	client *Client
	pub    ed25519.PublicKey

	mu     sync.Mutex
	routes map[string]string // "host:port" to the real address
	dials  []string
	seen   []seen
	clock  time.Time
}

func newLab(t testing.TB, change func(*Config)) *lab {
	l := &lab{t: t, ca: newAuthority(t), routes: map[string]string{}, clock: time.UnixMilli(1_700_000_000_000)}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l.pub = pub
	cfg := Config{
		ServerName: "us.example", KeyID: "ed25519:1", PrivateKey: priv, Version: "1.2.3",
		RootCAs: l.ca.pool(), Dial: l.dial, Now: l.now,
		// Nobody listens there: SRV lookups fail at once.
		DNSServers: []string{"127.0.0.1:1"},
	}
	if change != nil {
		change(&cfg)
	}
	if l.client, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.client.Close)
	return l
}

func (l *lab) now() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clock
}

func (l *lab) advance(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clock = l.clock.Add(d)
}

func (l *lab) dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.mu.Lock()
	l.dials = append(l.dials, address)
	to, ok := l.routes[address]
	l.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("connection to %s refused", address)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, to)
}

func (l *lab) dialled() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.dials...)
}

func (l *lab) last() seen {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.seen) == 0 {
		l.t.Fatal("no server saw a request")
	}
	return l.seen[len(l.seen)-1]
}

// serve starts a server that is reached as address and has a certificate for
// the names.
func (l *lab) serve(address string, handler http.HandlerFunc, names ...string) *httptest.Server {
	l.t.Helper()
	cert := l.ca.issue(names...)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			l.t.Error(err)
		}
		l.mu.Lock()
		l.seen = append(l.seen, seen{
			host: r.Host, sni: r.TLS.ServerName, uri: r.RequestURI, proto: r.Proto,
			auth: r.Header.Get("Authorization"), userAgent: r.UserAgent(), body: string(body),
		})
		l.mu.Unlock()
		r.Body = io.NopCloser(bytes.NewReader(body))
		handler(w, r)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	l.t.Cleanup(s.Close)
	l.mu.Lock()
	l.routes[address] = s.Listener.Addr().String()
	l.mu.Unlock()
	return s
}

// peer starts the server "peer.example" with handlers by "METHOD /path" as the
// request line spells them.
func (l *lab) peer(routes map[string]http.HandlerFunc) {
	l.serve("peer.example:8448", func(w http.ResponseWriter, r *http.Request) {
		h, ok := routes[r.Method+" "+r.RequestURI]
		if !ok {
			reply(404, `{"errcode":"M_UNRECOGNIZED","error":"no such endpoint"}`)(w, r)
			return
		}
		h(w, r)
	}, "peer.example")
}

// checkSigned verifies the signature of the last request.
func (l *lab) checkSigned(method string, dest id.Server) {
	l.t.Helper()
	s := l.last()
	h, err := xmatrix.Parse(s.auth)
	if err != nil {
		l.t.Fatalf("Authorization %q: %v", s.auth, err)
	}
	if h.Origin != "us.example" || h.Destination != dest || h.Key != "ed25519:1" {
		l.t.Fatalf("header %+v", h)
	}
	msg, err := xmatrix.Signable(method, s.uri, h.Origin, h.Destination, []byte(s.body))
	if err != nil {
		l.t.Fatal(err)
	}
	if err := h.Verify(msg, l.pub); err != nil {
		l.t.Fatalf("%s %s with body %q: %v", method, s.uri, s.body, err)
	}
}

func reply(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}
