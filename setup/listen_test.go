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
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"weft/internal/httpapi"
)

func quiet() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}

// writeCertificate makes a self-signed certificate and writes it to files.
func writeCertificate(t *testing.T, files TLS, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		files.Certificate: {Type: "CERTIFICATE", Bytes: der}, files.Key: {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func tlsFiles(t *testing.T) TLS {
	dir := t.TempDir()
	return TLS{Certificate: filepath.Join(dir, "c.pem"), Key: filepath.Join(dir, "k.pem")}
}

func nameOf(t *testing.T, c *certificate) string {
	t.Helper()
	got, err := c.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(got.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf.Subject.CommonName
}

func TestCertificateIsReadAgain(t *testing.T) {
	files := tlsFiles(t)
	writeCertificate(t, files, "first")
	now := time.Unix(1000, 0)
	c, err := loadCertificate(files, quiet(), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	writeCertificate(t, files, "second-one")
	later := time.Now().Add(5 * time.Second)
	if err := os.Chtimes(files.Certificate, later, later); err != nil {
		t.Fatal(err)
	}
	if got := nameOf(t, c); got != "first" {
		t.Errorf("before the check: %s", got)
	}
	now = now.Add(certCheck)
	if got := nameOf(t, c); got != "second-one" {
		t.Errorf("after the check: %s", got)
	}
	// Half a renewal must not take the server down.
	if err := os.WriteFile(files.Key, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	now = now.Add(certCheck)
	if got := nameOf(t, c); got != "second-one" {
		t.Errorf("with a broken key: %s", got)
	}
	writeCertificate(t, files, "third-certificate")
	now = now.Add(certCheck)
	if got := nameOf(t, c); got != "third-certificate" {
		t.Errorf("after the repair: %s", got)
	}
	if _, err := loadCertificate(TLS{Certificate: "none", Key: "none"}, quiet(), time.Now); err == nil {
		t.Error("a missing certificate is no error at the start")
	}
}

func TestListeningAndStopping(t *testing.T) {
	files := tlsFiles(t)
	writeCertificate(t, files, "localhost")
	cert, err := loadCertificate(files, quiet(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	inside, leave := make(chan struct{}), make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(inside)
			<-leave
		}
		_, _ = io.WriteString(w, r.Proto)
	})
	ctx := context.Background()
	plain, err := open(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	secure, err := open(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(ctx, plain.Addr().String()); err == nil {
		t.Error("an address was bound twice")
	}
	s := newListening(quiet())
	s.serve(plain, nil, h)
	s.serve(secure, cert, h)

	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true,
	}}
	get := func(url string) (string, error) {
		res, err := client.Get(url)
		if err != nil {
			return "", err
		}
		body, err := io.ReadAll(res.Body)
		return string(body), errors.Join(err, res.Body.Close())
	}
	if got, err := get(baseURL(plain.Addr(), false)); err != nil || got != "HTTP/1.1" {
		t.Errorf("plain: %q %v", got, err)
	}
	if got, err := get(baseURL(secure.Addr(), true)); err != nil || got != "HTTP/2.0" {
		t.Errorf("TLS: %q %v", got, err)
	}

	type answer struct {
		body string
		err  error
	}
	slow := make(chan answer, 1)
	go func() {
		body, err := get(baseURL(plain.Addr(), false) + "/slow")
		slow <- answer{body, err}
	}()
	<-inside
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop(ctx, func() {}) }()
	close(leave)
	if got := <-slow; got.err != nil || got.body == "" {
		t.Errorf("a request under way was cut off: %+v", got)
	}
	if err := <-stopped; err != nil {
		t.Errorf("stop: %v", err)
	}
	if _, err := get(baseURL(plain.Addr(), false)); err == nil {
		t.Error("a stopped server answers")
	}
}

// Once the end has begun, an answer asks to leave its connection, in HTTP/1 and in HTTP/2.
func TestConnectionsAreLeft(t *testing.T) {
	files := tlsFiles(t)
	writeCertificate(t, files, "localhost")
	cert, err := loadCertificate(files, quiet(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	s := newListening(quiet())
	var urls []string
	for _, c := range []*certificate{nil, cert} {
		l, err := open(t.Context(), "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s.serve(l, c, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		urls = append(urls, baseURL(l.Addr(), c != nil))
	}
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true,
	}}
	reused := func(url string) (was bool) {
		t.Helper()
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { was = i.Reused }})
		req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return was
	}
	for _, url := range urls {
		if reused(url) || !reused(url) {
			t.Errorf("%s: connections are not kept", url)
		}
	}
	s.end()
	for _, url := range urls {
		if !reused(url) {
			t.Errorf("%s: the connection was closed before it was used", url)
		}
		// The client takes notice a moment later, which costs it nothing.
		for deadline := time.Now().Add(10 * time.Second); reused(url); {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the connection stays", url)
			}
		}
	}
	if err := s.stop(t.Context(), func() {}); err != nil {
		t.Error(err)
	}
}

func TestStopHasALimit(t *testing.T) {
	inside := make(chan struct{})
	l, err := open(context.Background(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newListening(quiet())
	s.serve(l, nil, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(inside)
		<-r.Context().Done()
	}))
	go func() {
		if res, err := http.Get(baseURL(l.Addr(), false)); err == nil {
			_ = res.Body.Close()
		}
	}()
	<-inside
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.stop(ctx, func() {}); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("got %v", err)
	}
}

func TestAdmin(t *testing.T) {
	reg := prometheus.NewRegistry()
	n := prometheus.NewCounter(prometheus.CounterOpts{Name: "weft_test_total", Help: "."})
	reg.MustRegister(n)
	n.Inc()
	var sick error
	h := adminHandler(reg, quiet(), func(context.Context) error { return sick })
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w
	}
	if w := get("/health"); w.Code != 200 || !strings.Contains(w.Body.String(), `"ok"`) {
		t.Errorf("health: %d %s", w.Code, w.Body)
	}
	if w := get("/metrics"); w.Code != 200 || !strings.Contains(w.Body.String(), "weft_test_total 1") {
		t.Errorf("metrics: %d %s", w.Code, w.Body)
	}
	if w := get("/debug/pprof/"); w.Code != 200 {
		t.Errorf("profiles: %d", w.Code)
	}
	sick = errors.New("the database is gone")
	if w := get("/health"); w.Code != 503 || !strings.Contains(w.Body.String(), "gone") {
		t.Errorf("sick: %d %s", w.Code, w.Body)
	}
	sick = errStopping
	if w := get("/health"); w.Code != 503 || !strings.Contains(w.Body.String(), `"stopping"`) {
		t.Errorf("stopping: %d %s", w.Code, w.Body)
	}
	if w := get("/health/live"); w.Code != 200 {
		t.Errorf("alive: %d %s", w.Code, w.Body)
	}
}

func TestLogFormats(t *testing.T) {
	var out strings.Builder
	l, err := NewLogger(Log{Level: "warning", Format: "json"}, &out)
	if err != nil {
		t.Fatal(err)
	}
	l.Info("quiet")
	h := httpapi.NewHandler(httpapi.Config{}, []httpapi.Route{{Method: "GET", Path: "/x", Handler: func(ctx context.Context, _ *httpapi.Request) (any, error) {
		l.WithContext(ctx).Warn("loud")
		return nil, nil
	}}})
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/x", nil))
	if got := out.String(); strings.Contains(got, "quiet") || !strings.Contains(got, `"msg":"loud"`) || !strings.Contains(got, `"request_id":"`) {
		t.Errorf("log: %s", got)
	}
	if _, err := NewLogger(Log{Level: "loud"}, &out); err == nil {
		t.Error("a wrong level was taken")
	}
}

func TestMemoryShares(t *testing.T) {
	c := Default()
	c.Memory = 1000 * mib
	if got := c.share(100, 0, 1<<40); got < 99*mib || got > 100*mib {
		t.Errorf("a tenth is %d", got)
	}
	if got := c.share(100, 200*mib, 1<<40); got != 200*mib {
		t.Errorf("the lower bound gives %d", got)
	}
	if got := c.share(100, 0, 5*mib); got != 5*mib {
		t.Errorf("the upper bound gives %d", got)
	}
	if got := (&Config{}).budget(); got <= 0 {
		t.Errorf("budget %d", got)
	}
}
