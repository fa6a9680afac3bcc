package discovery

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// fakeDNS is a DNS server on the loopback interface.
type fakeDNS struct {
	t    testing.TB
	addr string

	mu      sync.Mutex
	records map[string][]dns.RR // by name and type
	rcodes  map[string]int      // by name
	// truncate makes answers over UDP empty and truncated.
	truncate bool
	soa      dns.RR
	asked    map[string]int // by network, name and type
}

func newFakeDNS(t testing.TB) *fakeDNS {
	f := &fakeDNS{t: t, records: map[string][]dns.RR{}, rcodes: map[string]int{}, asked: map[string]int{}}
	var pc net.PacketConn
	var ln net.Listener
	// The same port must be free for both.
	for range 20 {
		var err error
		if pc, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if ln, err = net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			break
		}
		pc.Close()
	}
	if ln == nil {
		t.Fatal("no port is free for UDP and TCP")
	}
	f.addr = pc.LocalAddr().String()
	for _, s := range []*dns.Server{
		{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) { f.answer("udp", w, m) })},
		{Listener: ln, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) { f.answer("tcp", w, m) })},
	} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() {
			if err := s.ActivateAndServe(); err != nil && !errors.Is(err, net.ErrClosed) {
				t.Logf("fake DNS: %v", err)
			}
		}()
		<-started
		t.Cleanup(func() { s.Shutdown() })
	}
	return f
}

// add takes a record in the text form of zone files.
func (f *fakeDNS) add(records ...string) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			f.t.Fatal(err)
		}
		h := rr.Header()
		key := dns.CanonicalName(h.Name) + " " + dns.TypeToString[h.Rrtype]
		f.records[key] = append(f.records[key], rr)
	}
}

func (f *fakeDNS) answer(network string, w dns.ResponseWriter, q *dns.Msg) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(q)
	name := dns.CanonicalName(q.Question[0].Name)
	typ := dns.TypeToString[q.Question[0].Qtype]
	f.asked[network+" "+name+" "+typ]++
	f.asked[name+" "+typ]++
	if code, ok := f.rcodes[name]; ok {
		m.Rcode = code
	} else {
		exists := false
		for range 20 {
			rrs := f.records[name+" "+typ]
			m.Answer = append(m.Answer, rrs...)
			alias := f.records[name+" CNAME"]
			exists = exists || len(rrs)+len(alias) > 0
			if len(rrs) > 0 || len(alias) == 0 {
				break
			}
			m.Answer = append(m.Answer, alias...)
			name = dns.CanonicalName(alias[0].(*dns.CNAME).Target)
		}
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
		if f.soa != nil {
			m.Ns = append(m.Ns, f.soa)
		}
	}
	if f.truncate && network == "udp" {
		m.Answer, m.Truncated = nil, true
	}
	if err := w.WriteMsg(m); err != nil {
		f.t.Logf("fake DNS: %v", err)
	}
}

func (f *fakeDNS) count(key string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[key]
}

// page is an answer of the fake web.
type page struct {
	status int
	header http.Header
	body   string
	err    error
}

// web is the http.RoundTripper for .well-known requests: pages by URL.
type web struct {
	mu    sync.Mutex
	pages map[string]page
	asked map[string]int
}

func newWeb() *web { return &web{pages: map[string]page{}, asked: map[string]int{}} }

func (w *web) set(url string, p page) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pages[url] = p
}

func (w *web) count(url string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[url]
}

func (w *web) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	u := r.URL.String()
	w.asked[u]++
	p, ok := w.pages[u]
	if !ok {
		return nil, errors.New("connection refused")
	}
	if p.err != nil {
		return nil, p.err
	}
	if p.header == nil {
		p.header = http.Header{}
	}
	return &http.Response{
		StatusCode: p.status, Header: p.header, Request: r, Body: io.NopCloser(strings.NewReader(p.body)),
	}, nil
}

// clock is a settable time.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// world is a resolver with all that is around it.
type world struct {
	*Resolver
	dns   *fakeDNS
	web   *web
	clock *clock
}

func newWorld(t testing.TB) *world {
	w := &world{dns: newFakeDNS(t), web: newWeb(), clock: &clock{t: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}}
	var err error
	w.Resolver, err = New(Options{HTTP: w.web, DNSServers: []string{w.dns.addr}, Now: w.clock.now, UserAgent: "Weft/test"})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func wellKnownURL(host string) string { return "https://" + host + wellKnownPath }
