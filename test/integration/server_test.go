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
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"weft/internal/sqldb/sqldbtest"
)

// binary is the server under test, built once.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "weft-integration-*")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if binary = os.Getenv("TEST_SERVER_BINARY"); binary != "" {
			return m.Run() // built already
		}
		binary = filepath.Join(dir, "weft")
		args := []string{"build", "-o", binary}
		if os.Getenv("RACE") != "" {
			args = append(args, "-race")
		}
		cmd := exec.Command("go", append(args, "./cmd/weft")...)
		cmd.Dir = filepath.Join("..", "..")
		cmd.Env = append(os.Environ(), "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building the server: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
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

// server is one homeserver process.
type server struct {
	t        *testing.T
	name     string // localhost:PORT, where its HTTPS is
	base     string // of plain HTTP
	args     []string
	cmd      *exec.Cmd
	exited   chan struct{} // closed when the process has ended
	result   error         // of the process, once exited is closed
	log      *logBuffer
	database string
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

// freePort finds a port that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, l.Close())
	return l.Addr().(*net.TCPAddr).Port
}

// databases are the kinds that every test runs on.
var databases = []string{"sqlite", "postgres"}

// newServer makes a server with an empty database; it is not started yet.
func newServer(t *testing.T, ca *authority, kind string) *server {
	t.Helper()
	plain, tls := freePort(t), freePort(t)
	s := &server{t: t, name: fmt.Sprintf("localhost:%d", tls), base: fmt.Sprintf("http://127.0.0.1:%d", plain), log: &logBuffer{}}
	data := t.TempDir()
	s.database = "sqlite:" + filepath.Join(data, "weft.db")
	if kind == "postgres" {
		s.database = sqldbtest.PostgresURL(t)
	}
	s.args = []string{"serve", "--server-name", s.name, "--data", data, "--database", s.database,
		"--listen", fmt.Sprintf("127.0.0.1:%d", plain),
		"--listen-tls", fmt.Sprintf("127.0.0.1:%d", tls), "--tls-cert", ca.path("tls.crt"), "--tls-key", ca.path("tls.key"),
		"--federation-ca", ca.path("ca.crt"), "--federation-allow-private-addresses",
		"--registration", "open", "--rate-limits=false", "--log-level", "info"}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			out := s.log.String()
			if len(out) > 20_000 {
				out = out[len(out)-20_000:]
			}
			t.Logf("log of %s:\n%s", s.name, out)
		}
	})
	return s
}

// start starts the process and waits until it answers.
func (s *server) start() {
	s.t.Helper()
	s.cmd = exec.Command(binary, s.args...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.Env = append(os.Environ(), "WEFT_VERIFY=1")
	must(s.t, s.cmd.Start())
	s.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		defer close(exited)
		s.result = cmd.Wait()
	}(s.cmd, s.exited)
	waitFor(s.t, 60*time.Second, s.name+" to answer", func() bool {
		select {
		case <-s.exited:
			s.t.Fatalf("%s ended: %v\n%s", s.name, s.result, s.log)
		default:
		}
		res, err := http.Get(s.base + "/_matrix/client/versions")
		if err != nil {
			return false
		}
		_, err = io.Copy(io.Discard, res.Body)
		return errors.Join(err, res.Body.Close()) == nil && res.StatusCode == http.StatusOK
	})
}

// stop ends the process as an administrator would; it must end well, its
// invariants checked (WEFT_VERIFY=1).
func (s *server) stop() {
	s.t.Helper()
	must(s.t, s.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-s.exited:
		if s.result != nil {
			s.t.Fatalf("%s ended with %v\n%s", s.name, s.result, s.log)
		}
	case <-time.After(60 * time.Second):
		s.t.Fatalf("%s did not stop", s.name)
	}
	s.cmd = nil
}

// kill ends the process as a power failure would.
func (s *server) kill() {
	if s.cmd == nil {
		return
	}
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Errorf("killing %s: %v", s.name, err)
	}
	<-s.exited
	s.cmd = nil
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

// pair starts two servers on databases of one kind and calls fn.
func pair(t *testing.T, fn func(t *testing.T, a, b *server)) {
	for _, kind := range databases {
		t.Run(kind, func(t *testing.T) {
			ca := newAuthority(t)
			ca.issue(t)
			a, b := newServer(t, ca, kind), newServer(t, ca, kind)
			a.start()
			b.start()
			fn(t, a, b)
		})
	}
}
