package discovery

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/singleflight"

	"weft/matrix/id"
)

const (
	// DefaultPort is where a server is that says nothing else.
	DefaultPort = 8448

	// fixedLifetime is how long a result stays good that depends on no lookup.
	fixedLifetime = 24 * time.Hour
	// lookupTimeout bounds one .well-known or SRV lookup with all its retries.
	lookupTimeout = 20 * time.Second

	defaultCacheEntries = 8192
)

// Endpoint is one place where a server may be reached.
type Endpoint struct {
	// Host is the host name or IP address to connect to, without brackets.
	Host string
	// Port is the TCP port.
	Port int
	// TLSName is the host name or IP address that the certificate must be
	// valid for, without brackets. It is sent as SNI unless it is an IP address.
	TLSName string
	// HostHeader is the Host header of the requests.
	HostHeader string
}

// Addr gives host and port as a dialer wants them.
func (e Endpoint) Addr() string { return net.JoinHostPort(e.Host, strconv.Itoa(e.Port)) }

// Result says where a server is.
type Result struct {
	// Endpoints are to be tried in this order; there is at least one.
	Endpoints []Endpoint
	// Step is the number of the specification's step that gave the result,
	// such as "3.2".
	Step string
	// Expires is when the result should no longer be used.
	Expires time.Time
}

// Options configure a Resolver.
type Options struct {
	// HTTP fetches .well-known files. It must verify certificates, must refuse
	// denied addresses and must not follow redirects by itself; its
	// transport's timeouts hold for each request.
	HTTP http.RoundTripper
	// DNSServers are the "host:port" addresses of the DNS servers to ask for
	// SRV records; empty means those of /etc/resolv.conf.
	DNSServers []string
	// UserAgent is sent with .well-known requests.
	UserAgent string
	// CacheEntries bounds each of the two caches; 0 means 8192.
	CacheEntries int
	// Log gets debug lines about failed lookups.
	Log logrus.FieldLogger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Resolver finds servers. It is safe for concurrent use.
type Resolver struct {
	opts      Options
	dns       *dnsClient
	wellKnown *otter.Cache[string, *wellKnownEntry]
	srv       *otter.Cache[string, *srvEntry]
	flights   singleflight.Group
	intn      func(n int) int
}

// New makes a Resolver.
func New(o Options) (*Resolver, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.CacheEntries <= 0 {
		o.CacheEntries = defaultCacheEntries
	}
	if o.HTTP == nil {
		return nil, fmt.Errorf("discovery needs an HTTP transport")
	}
	r := &Resolver{opts: o, dns: newDNSClient(o.DNSServers), intn: rand.IntN}
	var err error
	if r.wellKnown, err = newCache[*wellKnownEntry](o.CacheEntries); err != nil {
		return nil, err
	}
	if r.srv, err = newCache[*srvEntry](o.CacheEntries); err != nil {
		return nil, err
	}
	return r, nil
}

func newCache[V any](entries int) (*otter.Cache[string, V], error) {
	c, err := otter.New(&otter.Options[string, V]{
		MaximumSize: entries,
		Executor:    func(fn func()) { fn() },
	})
	if err != nil {
		return nil, fmt.Errorf("making a discovery cache: %w", err)
	}
	return c, nil
}

// Resolve finds out where a server is. The error is about the server name or
// the context; a lookup that fails leads to the next step instead, as the
// specification says.
//
// The steps are those of server-server §3.1:
//
//  1. an IP literal
//  2. a name with a port
//  3. .well-known, whose delegated name goes through 3.1 to 3.5
//  4. SRV _matrix-fed._tcp
//  5. SRV _matrix._tcp
//  6. the name itself with port 8448
func (r *Resolver) Resolve(ctx context.Context, server id.Server) (*Result, error) {
	if _, err := id.ParseServer(string(server)); err != nil {
		return nil, fmt.Errorf("cannot resolve %q: %w", server, err)
	}
	host, port, isIP := hostPort(server)
	if res := r.fixed(server, host, port, isIP, "1", "2"); res != nil {
		return res, nil
	}
	wk, err := r.lookUpWellKnown(ctx, strings.ToLower(host))
	if err != nil {
		return nil, err
	}
	// spec: server-server §3.1 step 3
	if wk.delegated != "" {
		dhost, dport, dIP := hostPort(wk.delegated)
		res := r.fixed(wk.delegated, dhost, dport, dIP, "3.1", "3.2")
		if res == nil {
			res, err = r.bySRV(ctx, wk.delegated, dhost, [3]string{"3.3", "3.4", "3.5"})
			if err != nil {
				return nil, err
			}
		}
		return res.until(wk.expires), nil
	}
	res, err := r.bySRV(ctx, server, host, [3]string{"4", "5", "6"})
	if err != nil {
		return nil, err
	}
	return res.until(wk.expires), nil
}

// fixed handles the names that need no lookup: IP literals and names with a
// port. For other names it returns nil.
//
// spec: server-server §3.1 steps 1, 2, 3.1 and 3.2
func (r *Resolver) fixed(name id.Server, host string, port int, isIP bool, ipStep, portStep string) *Result {
	step := portStep
	switch {
	case isIP:
		step = ipStep
		if port == 0 {
			port = DefaultPort
		}
	case port == 0:
		return nil
	}
	return &Result{
		Endpoints: []Endpoint{{Host: host, Port: port, TLSName: host, HostHeader: string(name)}},
		Step:      step,
		Expires:   r.opts.Now().Add(fixedLifetime),
	}
}

// bySRV handles a name without a port. steps names the three possible outcomes.
//
// spec: server-server §3.1 steps 3.3 to 3.5 and 4 to 6. The certificate and the
// Host header are those of the name, not of the SRV record's target.
func (r *Resolver) bySRV(ctx context.Context, name id.Server, host string, steps [3]string) (*Result, error) {
	expires := r.opts.Now().Add(fixedLifetime)
	for i, service := range [2]string{"_matrix-fed._tcp.", "_matrix._tcp."} {
		e, err := r.lookUpSRV(ctx, service+strings.ToLower(strings.TrimSuffix(host, "."))+".")
		if err != nil {
			return nil, err
		}
		if e.expires.Before(expires) {
			expires = e.expires
		}
		if len(e.records) > 0 {
			res := &Result{Step: steps[i], Expires: expires}
			for _, rec := range orderSRV(e.records, r.intn) {
				res.Endpoints = append(res.Endpoints, Endpoint{
					Host: rec.target, Port: int(rec.port), TLSName: host, HostHeader: string(name),
				})
			}
			return res, nil
		}
		if e.unreachable {
			// No DNS server answered at all: asking for the other name would
			// only cost the same time again.
			break
		}
	}
	return &Result{
		Endpoints: []Endpoint{{Host: host, Port: DefaultPort, TLSName: host, HostHeader: string(name)}},
		Step:      steps[2], Expires: expires,
	}, nil
}

// until shortens the life of a result.
func (res *Result) until(t time.Time) *Result {
	if t.Before(res.Expires) {
		res.Expires = t
	}
	return res
}

// hostPort splits a server name; an IPv6 literal loses its brackets.
func hostPort(s id.Server) (host string, port int, isIP bool) {
	host, port, isIP = s.HostPort()
	if isIP {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	return host, port, isIP
}

// share runs a lookup once for all who ask for the same key at the same time.
// One caller that gives up does not fail the others: the lookup runs on a
// context of its own with its own bound.
func share[V any](ctx context.Context, g *singleflight.Group, key string, fn func(context.Context) V) (V, error) {
	ch := g.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookupTimeout)
		defer cancel()
		return fn(ctx), nil
	})
	select {
	case res := <-ch:
		return res.Val.(V), nil
	case <-ctx.Done():
		var zero V
		return zero, ctx.Err()
	}
}
