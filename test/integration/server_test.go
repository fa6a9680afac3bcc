package integration

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weft/internal/freeport"
	"weft/internal/roundrobin"
	"weft/internal/sqldb/sqldbtest"
)

// The server under test, built once: binary with the race detector where RACE is set, plain without, for many processes
// at a time.
var binary, plain string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "weft-integration-*")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if binary = os.Getenv("TEST_SERVER_BINARY"); binary != "" {
			plain = binary // built already
			return m.Run()
		}
		plain = filepath.Join(dir, "weft")
		if err := build(plain, "CGO_ENABLED=0"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if binary = plain; os.Getenv("RACE") != "" {
			binary = filepath.Join(dir, "weft-race")
			if err := build(binary, "CGO_ENABLED=1", "-race"); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		return m.Run()
	}())
}

func build(path, env string, flags ...string) error {
	cmd := exec.Command("go", append(append([]string{"build", "-o", path}, flags...), "./cmd/weft")...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "GOFLAGS=", env)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the server: %w\n%s", err, out)
	}
	return nil
}

// authority is a certificate authority for one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	a := &authority{cert: cert, key: key, dir: t.TempDir()}
	a.write(t, "ca.crt", "CERTIFICATE", der)
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) write(t *testing.T, name, kind string, der []byte) {
	t.Helper()
	must(t, os.WriteFile(a.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

// issue writes a certificate for localhost.
func (a *authority) issue(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	must(t, err)
	a.write(t, "tls.crt", "CERTIFICATE", der)
	der, err = x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	a.write(t, "tls.key", "PRIVATE KEY", der)
}

// server is one homeserver: one process, or several behind a balancer.
type server struct {
	t         *testing.T
	name      string // localhost:PORT, where its HTTPS is
	base      string // of plain HTTP
	database  string
	processes []*process
	balancer  logBuffer // what went wrong there
}

// process is one process of a server.
type process struct {
	t      *testing.T
	name   string
	base   string // of plain HTTP
	binary string
	args   []string
	env    string
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended
	result error         // of the process, once exited is closed
	log    *logBuffer
}

// logBuffer keeps the end of a process's output.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.buf.Len() > 1<<20 {
		l.buf.Reset()
	}
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := freeport.Address()
	must(t, err)
	return address
}

// arrangement is how a server is put together: its database, and what further arguments each of its processes has.
type arrangement struct {
	name      string
	postgres  bool
	processes [][]string
}

// arrangements are all that a server can be run as. What the tests do not run does not exist.
var arrangements = []arrangement{
	{"sqlite", false, [][]string{nil}},
	{"postgres", true, [][]string{nil}},
	{"three equal nodes", true, [][]string{nil, nil, nil}},
	{"a process per component", true, [][]string{
		{"--components", "clientapi"}, {"--components", "syncapi"}, {"--components", "roomserver"},
		{"--components", "keyserver"}, {"--components", "federationapi"}, {"--components", "mediaapi"},
	}},
}

// newServer makes a server with an empty database; it is not started yet.
func newServer(t *testing.T, ca *authority, kind arrangement) *server {
	t.Helper()
	insecure, secure := freeAddress(t), freeAddress(t)
	s := &server{t: t, name: strings.Replace(secure, "127.0.0.1", "localhost", 1), base: "http://" + insecure}
	s.database = "sqlite:" + filepath.Join(t.TempDir(), "weft.db")
	if kind.postgres {
		s.database = sqldbtest.PostgresURL(t)
	}
	args := []string{"serve", "--server-name", s.name, "--database", s.database,
		"--federation-ca", ca.path("ca.crt"), "--federation-allow-private-addresses",
		"--registration", "open", "--rate-limits=false", "--log-level", "info"}
	for i, more := range kind.processes {
		p := &process{t: t, name: fmt.Sprintf("%s/%d", s.name, i), base: s.base, binary: binary, log: &logBuffer{}, env: "WEFT_VERIFY=1"}
		p.args = append(append(slices.Clone(args), "--data", t.TempDir()), more...)
		if len(kind.processes) == 1 {
			p.args = append(p.args, "--listen", insecure,
				"--listen-tls", secure, "--tls-cert", ca.path("tls.crt"), "--tls-key", ca.path("tls.key"))
		} else {
			address := freeAddress(t)
			p.args, p.base = append(p.args, "--listen", address), "http://"+address
			p.binary = plain
			p.env = "WEFT_VERIFY=" // it would check what others are writing
		}
		s.processes = append(s.processes, p)
		t.Cleanup(func() {
			p.kill()
			if t.Failed() {
				out := p.log.String()
				t.Logf("log of %s %q:\n%s", p.name, more, out[max(0, len(out)-20_000):])
			}
		})
	}
	if len(kind.processes) > 1 {
		s.balance(ca, insecure, secure)
	}
	return s
}

// balance sends each request to the next process, whichever it is for.
func (s *server) balance(ca *authority, insecure, secure string) {
	addresses := make([]string, len(s.processes))
	for i, p := range s.processes {
		addresses[i] = strings.TrimPrefix(p.base, "http://")
	}
	proxy := roundrobin.New(addresses, &s.balancer)
	front := &http.Server{Handler: proxy, ErrorLog: log.New(io.Discard, "", 0)}
	for _, address := range []string{insecure, secure} {
		l, err := net.Listen("tcp", address)
		must(s.t, err)
		go func() {
			if address == secure {
				_ = front.ServeTLS(l, ca.path("tls.crt"), ca.path("tls.key")) // until Close
				return
			}
			_ = front.Serve(l) // until Close
		}()
	}
	s.t.Cleanup(func() {
		must(s.t, front.Close())
		proxy.Close()
		if s.t.Failed() {
			s.t.Logf("log of the balancer of %s:\n%s", s.name, s.balancer.String())
		}
	})
}

// start starts all processes at once and waits until they answer.
func (s *server) start() {
	s.t.Helper()
	for _, p := range s.processes {
		p.launch()
	}
	for _, p := range s.processes {
		p.await()
	}
}

// stop ends all processes as an administrator would, at once.
func (s *server) stop() {
	s.t.Helper()
	for _, p := range s.processes {
		must(s.t, p.cmd.Process.Signal(syscall.SIGTERM))
	}
	for _, p := range s.processes {
		p.ended()
	}
}

func (s *server) kill() {
	for _, p := range s.processes {
		p.kill()
	}
}

func (p *process) launch() {
	p.t.Helper()
	p.cmd = exec.Command(p.binary, p.args...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.Env = append(os.Environ(), p.env)
	must(p.t, p.cmd.Start())
	p.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		defer close(exited)
		p.result = cmd.Wait()
	}(p.cmd, p.exited)
}

func (p *process) await() {
	p.t.Helper()
	waitFor(p.t, 60*time.Second, p.name+" to answer", func() bool {
		select {
		case <-p.exited:
			p.t.Fatalf("%s ended: %v\n%s", p.name, p.result, p.log)
		default:
		}
		res, err := http.Get(p.base + "/_matrix/client/versions")
		if err != nil {
			return false
		}
		_, err = io.Copy(io.Discard, res.Body)
		return errors.Join(err, res.Body.Close()) == nil && res.StatusCode == http.StatusOK
	})
}

// ended waits until the process, which was told to stop, has ended; it must end well, its invariants checked
// (WEFT_VERIFY=1).
func (p *process) ended() {
	p.t.Helper()
	select {
	case <-p.exited:
		if p.result != nil {
			p.t.Fatalf("%s ended with %v\n%s", p.name, p.result, p.log)
		}
	case <-time.After(60 * time.Second):
		p.t.Fatalf("%s did not stop", p.name)
	}
	p.cmd = nil
}

// kill ends the process as a power failure would.
func (p *process) kill() {
	if p.cmd == nil {
		return
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("killing %s: %v", p.name, err)
	}
	<-p.exited
	p.cmd = nil
}

// waitFor waits for a condition that other processes bring about.
func waitFor(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited %s for %s", limit, what)
		case <-tick.C:
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pair starts two servers of each arrangement and calls fn.
func pair(t *testing.T, kinds []arrangement, fn func(t *testing.T, a, b *server)) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			ca := newAuthority(t)
			ca.issue(t)
			a, b := newServer(t, ca, kind), newServer(t, ca, kind)
			a.start()
			b.start()
			fn(t, a, b)
		})
	}
}
