package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Two processes: the first does not run the component and hands its requests on to the second.
func TestForward(t *testing.T) {
	var seen *Request
	rows := func(forward http.Handler) []Route {
		r := Route{Method: "POST", Path: "/_matrix/client/v3/thing/{name}", MaxBody: 10, Forward: forward}
		if forward == nil {
			r.Handler = func(_ context.Context, r *Request) (any, error) {
				seen = r
				return map[string]string{"name": r.Vars["name"]}, nil
			}
		}
		return []Route{r}
	}
	cfg := Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	serving := NewHandler(cfg, rows(nil))
	second := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serving.ServeHTTP(w, Forwarded(r, r.Header.Get("Client")))
	}))
	defer second.Close()
	to, err := url.Parse(second.URL)
	if err != nil {
		t.Fatal(err)
	}
	forward := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.Out.URL.Scheme, p.Out.URL.Host = to.Scheme, to.Host
		p.Out.Header.Set("Client", ClientAddress(p.In.Context()))
	}}
	handing := NewHandler(cfg, rows(forward))
	first := httptest.NewServer(handing)
	defer first.Close()
	send := func(base, body string) (int, http.Header, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "POST", base+"/_matrix/client/v3/thing/a%2Fb?q=1", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Forwarded-For", "203.0.113.7")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, res.Header, string(text)
	}
	status, header, text := send(first.URL, "12345")
	if status != 200 || text != `{"name":"a/b"}` || string(seen.Body) != "12345" || seen.HTTP.URL.RawQuery != "q=1" {
		t.Errorf("%d %s, body %q, query %q", status, text, seen.Body, seen.HTTP.URL.RawQuery)
	}
	if got := header.Values("Access-Control-Allow-Origin"); len(got) != 1 {
		t.Errorf("CORS header %q", got)
	}
	if got := clientAddress(seen.HTTP, cfg.TrustedProxies); got != "203.0.113.7" {
		t.Errorf("the client's address is %s", got)
	}
	if status, _, text := send(first.URL, "more than ten bytes"); status != 413 || !strings.Contains(text, "M_TOO_LARGE") {
		t.Errorf("too large: %d %s", status, text)
	}
	// A request goes on once only, whatever the processes believe of each other.
	again := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handing.ServeHTTP(w, Forwarded(r, "192.0.2.1")) }))
	defer again.Close()
	if status, header, _ := send(again.URL, "1"); status != 503 || header.Get("Retry-After") != "1" {
		t.Errorf("a request that was handed on: %d, retry after %q", status, header.Get("Retry-After"))
	}
}

// A client that does not take its answer loses it, as one of this process does.
func TestForwardToOneWhoDoesNotRead(t *testing.T) {
	forward := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := io.WriteString(w, "an answer"); err != nil {
			t.Errorf("into the buffer: %v", err)
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			panic(http.ErrAbortHandler) // as a ReverseProxy does
		}
	})
	var slow atomic.Int64
	registry := prometheus.NewRegistry()
	h := NewHandler(Config{Now: func() time.Time { return time.Now().Add(-time.Duration(slow.Load())) }, Metrics: registry},
		[]Route{{Method: "GET", Path: "/_matrix/client/v3/thing", Forward: forward}})
	s := httptest.NewServer(h)
	defer s.Close()
	get := func() (string, error) {
		res, err := http.Get(s.URL + "/_matrix/client/v3/thing")
		if err != nil {
			return "", err
		}
		text, err := io.ReadAll(res.Body)
		return string(text), errors.Join(err, res.Body.Close())
	}
	if text, err := get(); err != nil || text != "an answer" {
		t.Errorf("%q, %v", text, err)
	}
	slow.Store(int64(2 * writeTimeout)) // so that the deadline has passed
	if text, err := get(); err == nil {
		t.Errorf("%q arrived after its deadline", text)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := 0.0
	for _, fam := range families {
		if fam.GetName() == "weft_http_requests_total" {
			counted = fam.GetMetric()[0].GetCounter().GetValue()
		}
	}
	if counted < 2 {
		t.Errorf("%v requests of 2 were counted", counted)
	}
}
