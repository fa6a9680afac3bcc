package discovery

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"weft/matrix/id"
)

// TestSteps goes through server-server §3.1 by its numbers.
func TestSteps(t *testing.T) {
	delegate := func(to string) page {
		return page{status: 200, body: `{"m.server": "` + to + `"}`}
	}
	cases := []struct {
		name    string
		server  id.Server
		page    *page
		records []string
		rcodes  map[string]int
		step    string
		want    []Endpoint
	}{
		{"IPv4 literal", "192.0.2.1", nil, nil, nil, "1", []Endpoint{{"192.0.2.1", 8448, "192.0.2.1", "192.0.2.1"}}},
		{"IPv4 literal with port", "192.0.2.1:8080", nil, nil, nil, "1", []Endpoint{{"192.0.2.1", 8080, "192.0.2.1", "192.0.2.1:8080"}}},
		{"IPv6 literal", "[2001:db8::1]", nil, nil, nil, "1", []Endpoint{{"2001:db8::1", 8448, "2001:db8::1", "[2001:db8::1]"}}},
		{"IPv6 literal with port", "[2001:db8::1]:8080", nil, nil, nil, "1", []Endpoint{{"2001:db8::1", 8080, "2001:db8::1", "[2001:db8::1]:8080"}}},
		{"name with port", "a.example:8443", &page{status: 200, body: `{"m.server":"not.used"}`}, []string{"_matrix-fed._tcp.a.example. 60 IN SRV 0 0 1 not.used."}, nil,
			"2", []Endpoint{{"a.example", 8443, "a.example", "a.example:8443"}}},

		{"delegated to an IPv4 literal", "a.example", ptr(delegate("192.0.2.1")), nil, nil, "3.1", []Endpoint{{"192.0.2.1", 8448, "192.0.2.1", "192.0.2.1"}}},
		{"delegated to an IPv6 literal with port", "a.example", ptr(delegate("[2001:db8::1]:443")), nil, nil, "3.1", []Endpoint{{"2001:db8::1", 443, "2001:db8::1", "[2001:db8::1]:443"}}},
		{"delegated to a name with port", "a.example", ptr(delegate("b.example:443")), []string{"_matrix-fed._tcp.b.example. 60 IN SRV 0 0 1 not.used."}, nil,
			"3.2", []Endpoint{{"b.example", 443, "b.example", "b.example:443"}}},
		{"delegated to a name with SRV", "a.example", ptr(delegate("b.example")), []string{"_matrix-fed._tcp.b.example. 60 IN SRV 0 0 1234 host.c.example.", "_matrix._tcp.b.example. 60 IN SRV 0 0 1 not.used."}, nil,
			"3.3", []Endpoint{{"host.c.example", 1234, "b.example", "b.example"}}},
		{"delegated to a name with old SRV", "a.example", ptr(delegate("b.example")), []string{"_matrix._tcp.b.example. 60 IN SRV 0 0 1234 host.c.example."}, nil,
			"3.4", []Endpoint{{"host.c.example", 1234, "b.example", "b.example"}}},
		{"delegated to a name without SRV", "a.example", ptr(delegate("b.example")), []string{"_matrix-fed._tcp.a.example. 60 IN SRV 0 0 1 not.used."}, nil,
			"3.5", []Endpoint{{"b.example", 8448, "b.example", "b.example"}}},
		{"the delegated name's own well-known is not asked", "a.example", ptr(delegate("a.example")), nil, nil, "3.5", []Endpoint{{"a.example", 8448, "a.example", "a.example"}}},
		{"content type does not matter", "a.example", &page{status: 200, header: http.Header{"Content-Type": {"text/html"}}, body: ` {"m.server":"b.example:1","x":[]}`}, nil, nil,
			"3.2", []Endpoint{{"b.example", 1, "b.example", "b.example:1"}}},

		{"SRV", "a.example", nil, []string{"_matrix-fed._tcp.a.example. 60 IN SRV 0 0 1234 host.c.example.", "_matrix._tcp.a.example. 60 IN SRV 0 0 1 not.used."}, nil,
			"4", []Endpoint{{"host.c.example", 1234, "a.example", "a.example"}}},
		{"old SRV", "a.example", nil, []string{"_matrix._tcp.a.example. 60 IN SRV 0 0 1234 host.c.example."}, nil,
			"5", []Endpoint{{"host.c.example", 1234, "a.example", "a.example"}}},
		{"nothing", "a.example", nil, nil, nil, "6", []Endpoint{{"a.example", 8448, "a.example", "a.example"}}},
		{"DNS server fails", "a.example", nil, nil, map[string]int{"_matrix-fed._tcp.a.example.": dns.RcodeServerFailure, "_matrix._tcp.a.example.": dns.RcodeServerFailure},
			"6", []Endpoint{{"a.example", 8448, "a.example", "a.example"}}},
		{"DNS server fails for the first name only", "a.example", nil, []string{"_matrix._tcp.a.example. 60 IN SRV 0 0 1234 host.c.example."}, map[string]int{"_matrix-fed._tcp.a.example.": dns.RcodeServerFailure},
			"5", []Endpoint{{"host.c.example", 1234, "a.example", "a.example"}}},
		{"SRV says there is no service", "a.example", nil, []string{"_matrix-fed._tcp.a.example. 60 IN SRV 0 0 0 ."}, nil, "6", []Endpoint{{"a.example", 8448, "a.example", "a.example"}}},
		{"SRV by priority", "a.example", nil, []string{"_matrix-fed._tcp.a.example. 60 IN SRV 20 0 2 second.", "_matrix-fed._tcp.a.example. 60 IN SRV 10 0 1 first.", "_matrix-fed._tcp.a.example. 60 IN SRV 30 0 3 third."}, nil,
			"4", []Endpoint{{"first", 1, "a.example", "a.example"}, {"second", 2, "a.example", "a.example"}, {"third", 3, "a.example", "a.example"}}},
		{"the SRV name is an alias", "a.example", nil, []string{"_matrix-fed._tcp.a.example. 60 IN CNAME srv.hoster.example.", "srv.hoster.example. 60 IN SRV 0 0 1234 host.c.example."}, nil,
			"4", []Endpoint{{"host.c.example", 1234, "a.example", "a.example"}}},
		{"name in capitals", "A.Example", nil, []string{"_matrix-fed._tcp.a.example. 60 IN SRV 0 0 1234 Host.C.Example."}, nil,
			"4", []Endpoint{{"host.c.example", 1234, "A.Example", "A.Example"}}},

		{"well-known 404", "a.example", &page{status: 404, body: `{"m.server":"b.example:1"}`}, nil, nil, "6", []Endpoint{{"a.example", 8448, "a.example", "a.example"}}},
		{"well-known is not JSON", "a.example", &page{status: 200, body: `<html>`}, nil, nil, "6", []Endpoint{{"a.example", 8448, "a.example", "a.example"}}},
		{"well-known without m.server", "a.example", &page{status: 200, body: `{"M.SERVER":"b.example:1"}`}, nil, nil, "6", []Endpoint{{"a.example", 8448, "a.example", "a.example"}}},
		{"well-known with a number", "a.example", &page{status: 200, body: `{"m.server":1}`}, nil, nil, "6", []Endpoint{{"a.example", 8448, "a.example", "a.example"}}},
		{"well-known with no server name", "a.example", &page{status: 200, body: `{"m.server":"https://b.example/"}`}, nil, nil, "6", []Endpoint{{"a.example", 8448, "a.example", "a.example"}}},
		{"well-known with an empty name", "a.example", &page{status: 200, body: `{"m.server":""}`}, nil, nil, "6", []Endpoint{{"a.example", 8448, "a.example", "a.example"}}},
		{"well-known too long", "a.example", &page{status: 200, body: `{"m.server":"b.example:1","x":"` + strings.Repeat("x", maxWellKnownBody) + `"}`}, nil, nil, "6", []Endpoint{{"a.example", 8448, "a.example", "a.example"}}},
		{"well-known fails, SRV helps", "a.example", &page{status: 500}, []string{"_matrix-fed._tcp.a.example. 60 IN SRV 0 0 1234 host.c.example."}, nil,
			"4", []Endpoint{{"host.c.example", 1234, "a.example", "a.example"}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.dns.add(c.records...)
			w.dns.mu.Lock()
			maps.Copy(w.dns.rcodes, c.rcodes)
			w.dns.mu.Unlock()
			if c.page != nil {
				w.web.set(wellKnownURL("a.example"), *c.page)
			}
			res, err := w.Resolve(context.Background(), c.server)
			if err != nil {
				t.Fatal(err)
			}
			if res.Step != c.step || !reflect.DeepEqual(res.Endpoints, c.want) {
				t.Fatalf("step %s: %+v; want step %s: %+v", res.Step, res.Endpoints, c.step, c.want)
			}
			if !res.Expires.After(w.clock.now()) {
				t.Fatalf("the result has expired already: %s", res.Expires)
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

func TestResolveRefusesWhatIsNoServerName(t *testing.T) {
	w := newWorld(t)
	for _, s := range []id.Server{"", "a b", "a/b", "@user:a", "a:b"} {
		if res, err := w.Resolve(context.Background(), s); err == nil {
			t.Errorf("%q resolved to %+v", s, res)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := w.Resolve(ctx, "slow.example"); err != context.Canceled {
		t.Errorf("a caller that gave up got %v", err)
	}
}

func TestRedirects(t *testing.T) {
	to := func(url string) page { return page{status: 302, header: http.Header{"Location": {url}}} }
	good := page{status: 200, body: `{"m.server":"b.example:1"}`}
	cases := []struct {
		name  string
		pages map[string]page
		step  string
	}{
		{"followed", map[string]page{wellKnownURL("a.example"): to("https://www.a.example/x"), "https://www.a.example/x": good}, "3.2"},
		{"relative", map[string]page{wellKnownURL("a.example"): to("/x"), "https://a.example/x": good}, "3.2"},
		{"permanent", map[string]page{wellKnownURL("a.example"): {status: 308, header: http.Header{"Location": {"/x"}}}, "https://a.example/x": good}, "3.2"},
		{"loop", map[string]page{wellKnownURL("a.example"): to(wellKnownURL("a.example"))}, "6"},
		{"to http", map[string]page{wellKnownURL("a.example"): to("http://a.example/x"), "http://a.example/x": good}, "6"},
		{"without Location", map[string]page{wellKnownURL("a.example"): {status: 302}}, "6"},
		{"as often as allowed", chain(maxRedirects, good), "3.2"},
		{"once too often", chain(maxRedirects+1, good), "6"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			for u, p := range c.pages {
				w.web.set(u, p)
			}
			res, err := w.Resolve(context.Background(), "a.example")
			if err != nil || res.Step != c.step {
				t.Fatalf("Resolve = %+v, %v; want step %s", res, err, c.step)
			}
			for u := range c.pages {
				if n := w.web.count(u); n > maxRedirects+1 {
					t.Fatalf("%s was asked for %d times", u, n)
				}
			}
		})
	}
}

func chain(n int, last page) map[string]page {
	out := map[string]page{}
	u := wellKnownURL("a.example")
	for i := range n {
		next := fmt.Sprintf("https://a.example/%d", i)
		out[u] = page{status: 301, header: http.Header{"Location": {next}}}
		u = next
	}
	out[u] = last
	return out
}

func TestWellKnownCaching(t *testing.T) {
	cases := []struct {
		name   string
		header http.Header
		want   time.Duration
	}{
		{"nothing said", nil, 24 * time.Hour},
		{"max-age", http.Header{"Cache-Control": {"public, max-age=3600"}}, time.Hour},
		{"quoted, in capitals, second header", http.Header{"Cache-Control": {"public", `MAX-AGE="7200"`}}, 2 * time.Hour},
		{"age", http.Header{"Cache-Control": {"max-age=3600"}, "Age": {"600"}}, 50 * time.Minute},
		{"too long", http.Header{"Cache-Control": {"max-age=31536000"}}, 48 * time.Hour},
		{"far too long", http.Header{"Cache-Control": {"max-age=99999999999999999999999"}}, 48 * time.Hour},
		{"invalid", http.Header{"Cache-Control": {"max-age=soon"}}, minWellKnownLifetime},
		{"negative", http.Header{"Cache-Control": {"max-age=-5"}}, minWellKnownLifetime},
		{"no-store", http.Header{"Cache-Control": {"no-store, max-age=3600"}}, minWellKnownLifetime},
		{"Expires", http.Header{"Expires": {"Thu, 01 Jan 2026 06:00:00 GMT"}}, 6 * time.Hour},
		{"Expires against Date", http.Header{"Expires": {"Thu, 01 Jan 2026 06:00:00 GMT"}, "Date": {"Thu, 01 Jan 2026 05:00:00 GMT"}}, time.Hour},
		{"Expires in the past", http.Header{"Expires": {"0"}}, minWellKnownLifetime},
		{"max-age beats Expires", http.Header{"Cache-Control": {"max-age=60"}, "Expires": {"Thu, 01 Jan 2026 06:00:00 GMT"}}, time.Minute},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			u := wellKnownURL("a.example")
			w.web.set(u, page{status: 200, header: c.header, body: `{"m.server":"b.example:1"}`})
			for range 3 {
				res, err := w.Resolve(context.Background(), "a.example")
				if err != nil || res.Step != "3.2" {
					t.Fatalf("Resolve = %+v, %v", res, err)
				}
				if got, most := res.Expires.Sub(w.clock.now()), min(c.want, fixedLifetime); got != most {
					t.Fatalf("the result lives %s, want %s", got, most)
				}
			}
			w.clock.advance(c.want - time.Second)
			if _, err := w.Resolve(context.Background(), "a.example"); err != nil {
				t.Fatal(err)
			}
			if n := w.web.count(u); n != 1 {
				t.Fatalf("asked %d times within %s", n, c.want)
			}
			w.clock.advance(time.Second)
			if _, err := w.Resolve(context.Background(), "a.example"); err != nil {
				t.Fatal(err)
			}
			if n := w.web.count(u); n != 2 {
				t.Fatalf("asked %d times after %s, want twice", n, c.want)
			}
		})
	}
}

func TestWellKnownErrorsAreCachedWithGrowingPauses(t *testing.T) {
	w := newWorld(t)
	u := wellKnownURL("a.example")
	ctx := context.Background()
	for i, pause := range []time.Duration{2, 4, 8, 16, 32, 60, 60} {
		pause *= time.Minute
		if _, err := w.Resolve(ctx, "a.example"); err != nil {
			t.Fatal(err)
		}
		w.clock.advance(pause - time.Second)
		if _, err := w.Resolve(ctx, "a.example"); err != nil {
			t.Fatal(err)
		}
		if n := w.web.count(u); n != i+1 {
			t.Fatalf("asked %d times in round %d", n, i+1)
		}
		w.clock.advance(time.Second)
	}
	// One success, and the pauses begin again.
	w.web.set(u, page{status: 200, header: http.Header{"Cache-Control": {"max-age=60"}}, body: `{"m.server":"b.example:1"}`})
	if res, err := w.Resolve(ctx, "a.example"); err != nil || res.Step != "3.2" {
		t.Fatalf("Resolve = %+v, %v", res, err)
	}
	w.clock.advance(time.Minute)
	w.web.set(u, page{status: 500})
	res, err := w.Resolve(ctx, "a.example")
	if err != nil || res.Step != "6" {
		t.Fatalf("Resolve = %+v, %v", res, err)
	}
	w.clock.advance(minErrorLifetime)
	before := w.web.count(u)
	if _, err := w.Resolve(ctx, "a.example"); err != nil {
		t.Fatal(err)
	}
	if w.web.count(u) != before+1 {
		t.Fatal("the pause after the first failure in a row is not the first one")
	}
}

func TestOneLookupForAll(t *testing.T) {
	w := newWorld(t)
	w.dns.add("_matrix-fed._tcp.a.example. 60 IN SRV 0 0 1234 host.c.example.")
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			if res, err := w.Resolve(context.Background(), "a.example"); err != nil || res.Step != "4" {
				t.Errorf("Resolve = %+v, %v", res, err)
			}
		})
	}
	wg.Wait()
	if n := w.dns.count("_matrix-fed._tcp.a.example. SRV"); n != 1 {
		t.Fatalf("%d DNS questions, want 1", n)
	}
	if n := w.web.count(wellKnownURL("a.example")); n != 1 {
		t.Fatalf("%d .well-known requests, want 1", n)
	}
}

func TestCachesAreBounded(t *testing.T) {
	w := newWorld(t)
	r, err := New(Options{HTTP: w.web, DNSServers: []string{w.dns.addr}, Now: w.clock.now, CacheEntries: 20})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if _, err := r.Resolve(context.Background(), id.Server(fmt.Sprintf("s%d.example", i))); err != nil {
			t.Fatal(err)
		}
	}
	r.wellKnown.CleanUp()
	r.srv.CleanUp()
	if a, b := r.wellKnown.EstimatedSize(), r.srv.EstimatedSize(); a > 20 || b > 20 {
		t.Fatalf("the caches hold %d and %d entries, want at most 20", a, b)
	}
}

func FuzzWellKnown(f *testing.F) {
	for _, s := range []string{`{"m.server":"a.example:443"}`, `{"m.server":1}`, `{}`, `[`, `{"m.server":"[::1]:8"}`, `{"m.server":"\u0000"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := ParseWellKnown(body)
		if err != nil {
			if s != "" {
				t.Fatalf("%q with an error", s)
			}
			return
		}
		if again, err := id.ParseServer(string(s)); err != nil || again != s {
			t.Fatalf("%q is no server name: %v", s, err)
		}
		if host, port, _ := hostPort(s); host == "" || port < 0 || port > 65535 {
			t.Fatalf("%q has host %q and port %d", s, host, port)
		}
	})
}
