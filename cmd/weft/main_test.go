package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/internal/freeport"
	"weft/setup"
)

// run runs the command line and gives what it writes.
func run(t *testing.T, stdin string, args ...string) (stdout string, err error) {
	t.Helper()
	cmd := rootCommand()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestVersion(t *testing.T) {
	out, err := run(t, "", "version")
	if err != nil || !strings.HasPrefix(out, "weft ") {
		t.Errorf("%q %v", out, err)
	}
}

func TestConfigCommands(t *testing.T) {
	out, err := run(t, "", "config", "print", "--server-name", "example.org", "--listen", ":1", "--listen", ":2", "--rate-limits=false", "--federation-insecure")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "weft.yaml")
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := setup.Load(setup.Sources{File: file})
	if err != nil {
		t.Fatalf("what print writes is not read back: %v", err)
	}
	if c.ServerName != "example.org" || len(c.Listeners) != 2 || c.RateLimits.Enabled || c.Federation.VerifyTLS {
		t.Errorf("flags were lost: %+v", c)
	}
	if out, err := run(t, "", "config", "check", "--config", file, "--data", t.TempDir()); err != nil || !strings.Contains(out, "valid") {
		t.Errorf("check: %q %v", out, err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"config", "check"}, "server_name"},
		{[]string{"config", "check", "--server-name", "x", "--federation-ca", "does-not-exist"}, "does-not-exist"},
		{[]string{"config", "check", "--server-name", "x", "--listen-tls", ":1", "--tls-cert", "no-cert", "--tls-key", "no-key"}, "no-cert"},
		{[]string{"serve", "--server-name", "x", "--no-such-flag"}, "no-such-flag"},
		{[]string{"serve", "extra"}, "extra"},
		{[]string{"serve"}, "server_name"},
		{[]string{"frobnicate"}, "frobnicate"},
	} {
		if _, err := run(t, "", c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want an error about %q", c.args, err, c.want)
		}
	}
	if out, err := run(t, "", "config", "print"); err != nil || !strings.Contains(out, "server_name:") {
		t.Errorf("print without a server name: %v", err)
	}
}

func TestKeysGenerate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "signing.key")
	out, err := run(t, "", "keys", "generate", "--out", file)
	if err != nil || !strings.HasPrefix(out, "ed25519:") {
		t.Fatalf("%q %v", out, err)
	}
	data, err := os.ReadFile(file)
	if err != nil || !strings.HasPrefix(string(data), "ed25519 ") {
		t.Errorf("%q %v", data, err)
	}
	if _, err := run(t, "", "keys", "generate", "--out", file); err == nil {
		t.Error("a key was replaced")
	}
	if out, err := run(t, "", "keys", "generate", "--out", "-"); err != nil || !strings.HasPrefix(out, "ed25519 ") {
		t.Errorf("%q %v", out, err)
	}
}

func TestHealthURL(t *testing.T) {
	c := setup.Default()
	for _, x := range []struct {
		edit func()
		want string
	}{
		{func() {}, "http://127.0.0.1:8008/_matrix/client/versions"},
		{func() { c.Listeners[0].Address = ":1" }, "http://127.0.0.1:1/_matrix/client/versions"},
		{func() { c.Listeners[0].Address = "[::]:1" }, "http://127.0.0.1:1/_matrix/client/versions"},
		{func() { c.Listeners[0].TLS.Certificate = "c" }, "https://127.0.0.1:1/_matrix/client/versions"},
		{func() { c.AdminListen = "0.0.0.0:9" }, "http://127.0.0.1:9/health"},
		{func() { c.AdminListen = "10.0.0.1:9" }, "http://10.0.0.1:9/health"},
	} {
		x.edit()
		if got := healthURL(c); got != x.want {
			t.Errorf("got %s, want %s", got, x.want)
		}
	}
}

func TestHealthcheck(t *testing.T) {
	status := http.StatusOK
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	if _, err := run(t, "", "healthcheck", "--url", srv.URL); err != nil {
		t.Errorf("a server that is well: %v", err)
	}
	status = http.StatusServiceUnavailable
	if _, err := run(t, "", "healthcheck", "--url", srv.URL); err == nil {
		t.Error("a sick server passed")
	}
	srv.Close()
	if _, err := run(t, "", "healthcheck", "--url", srv.URL); err == nil {
		t.Error("a dead server passed")
	}
}

func TestPasswordFromStandardInput(t *testing.T) {
	cmd := rootCommand()
	cmd.SetIn(strings.NewReader("s3cret word\r\nmore"))
	if got, err := askPassword(cmd, ""); err != nil || got != "s3cret word" {
		t.Errorf("%q %v", got, err)
	}
	if got, err := askPassword(cmd, "given"); err != nil || got != "given" {
		t.Errorf("%q %v", got, err)
	}
	cmd.SetIn(strings.NewReader(""))
	if _, err := askPassword(cmd, ""); err == nil {
		t.Error("an empty password was taken")
	}
}

// authority makes a certificate authority in the files that Complement gives.
func authority(t *testing.T, dir string) (*x509.CertPool, setup.TLS) {
	t.Helper()
	files := setup.TLS{Certificate: filepath.Join(dir, "ca.crt"), Key: filepath.Join(dir, "ca.key")}
	writeAuthority(t, files)
	data, err := os.ReadFile(files.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		t.Fatal("no authority")
	}
	return pool, files
}

func TestIssuedCertificate(t *testing.T) {
	pool, ca := authority(t, t.TempDir())
	dir := t.TempDir()
	into := setup.TLS{Certificate: filepath.Join(dir, "c"), Key: filepath.Join(dir, "k")}
	for name, host := range map[string]string{"hs1": "hs1", "hs1:8448": "hs1", "127.0.0.1": "127.0.0.1", "[::1]:8448": "::1"} {
		if err := issueCertificate(name, ca, into, time.Now()); err != nil {
			t.Fatal(err)
		}
		pair, err := tls.LoadX509KeyPair(into.Certificate, into.Key)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: host}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := issueCertificate("x", setup.TLS{Certificate: "none", Key: "none"}, into, time.Now()); err == nil {
		t.Error("no authority is no error")
	}
}

// The server of deploy/conformance.Dockerfile: started, used, stopped, and
// started again on the same data.
func TestConformanceServer(t *testing.T) {
	base := t.TempDir()
	pool, _ := authority(t, base)
	t.Setenv("SERVER_NAME", "hs1")
	t.Setenv("WEFT_LOG_LEVEL", "info")
	plain, secure := freeAddress(t), freeAddress(t)
	args := []string{"conformance", "--ca", base, "--appservices", filepath.Join(base, "none"),
		"--data", filepath.Join(base, "data"), "--listen", plain, "--listen-tls", secure}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "hs1"}}}
	body := `{"auth":{"type":"m.login.dummy"},"username":"alice","password":"wonderland-7"}`
	for round, want := range []int{200, 400} { // the second time the name is taken: data survived
		ctx, stop := context.WithCancel(t.Context())
		cmd := rootCommand()
		cmd.SetArgs(args)
		log := &lineSignal{words: "Weft is listening", seen: make(chan struct{})}
		cmd.SetErr(log)
		done := make(chan error, 1)
		go func() { done <- cmd.ExecuteContext(ctx) }()
		select {
		case <-log.seen:
		case err := <-done:
			t.Fatalf("the server ended: %v", err)
		}
		if _, err := run(t, "", "healthcheck", "--url", "http://"+plain+"/_matrix/client/versions"); err != nil {
			t.Error(err)
		}
		res, err := client.Post("https://"+secure+"/_matrix/client/v3/register", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
			t.Fatal(err)
		}
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != want || (round == 0 && got["user_id"] != "@alice:hs1") || (round == 1 && got["errcode"] != "M_USER_IN_USE") {
			t.Errorf("round %d: %d %v", round, res.StatusCode, got)
		}
		client.CloseIdleConnections()
		stop()
		if err := <-done; err != nil {
			t.Errorf("round %d stopped with %v", round, err)
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := freeport.Address()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// lineSignal is a log that tells when a line with given words was written.
type lineSignal struct {
	words string
	seen  chan struct{}
	once  sync.Once
}

func (l *lineSignal) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(l.words)) {
		l.once.Do(func() { close(l.seen) })
	}
	return len(p), nil
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
