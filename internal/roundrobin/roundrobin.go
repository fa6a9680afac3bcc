// Package roundrobin is a load balancer without rules, for tests and conformance suites: it gives each request to the next
// process, whichever it is for.
package roundrobin

import (
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"sync/atomic"
)

// Balancer hands each request on to the next process, and to another one where that cannot be reached.
type Balancer struct {
	proxy     httputil.ReverseProxy
	transport http.Transport
	addresses []string
	next      atomic.Uint64
}

// New balances between processes at addresses, host:port of plain HTTP. What breaks on the way is written to trouble.
func New(addresses []string, trouble io.Writer) *Balancer {
	b := &Balancer{addresses: addresses, transport: http.Transport{MaxIdleConnsPerHost: 64}}
	b.proxy = httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.Host, r.Out.URL.RawQuery = "http", r.In.Host, r.In.URL.RawQuery
			r.SetXForwarded()
		},
		Transport: roundTripper{b}, FlushInterval: -1, ErrorLog: log.New(trouble, "", log.LstdFlags|log.Lmicroseconds),
	}
	return b
}

func (b *Balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) { b.proxy.ServeHTTP(w, r) }

// Close closes the connections that wait for requests.
func (b *Balancer) Close() { b.transport.CloseIdleConnections() }

type roundTripper struct{ b *Balancer }

func (t roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	b := t.b
	var body io.ReadCloser = http.NoBody
	if r.Body != nil && r.Body != http.NoBody {
		body = &requestBody{from: r.Body}
	}
	for try := 1; ; try++ {
		out := r.Clone(r.Context())
		out.URL.Host = b.addresses[b.next.Add(1)%uint64(len(b.addresses))]
		out.Body = body
		res, err := b.transport.RoundTrip(out)
		var op *net.OpError
		if err == nil || try == len(b.addresses) || !errors.As(err, &op) || op.Op != "dial" {
			return res, err
		}
	}
}

// requestBody is the body of a client's request. A connection that fails does not close it. Its end is known once it was read:
// the transport looks for more after the last byte, perhaps when the answer is already there and on its way to the client; then
// the server has closed the body, which is an error, for which the transport would cut the answer off.
type requestBody struct {
	from  io.Reader
	ended bool
}

func (b *requestBody) Read(p []byte) (int, error) {
	if b.ended {
		return 0, io.EOF
	}
	n, err := b.from.Read(p)
	b.ended = errors.Is(err, io.EOF)
	return n, err
}

func (b *requestBody) Close() error { return nil }
