package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// How the balancer watches nodes, as one would set it in HAProxy: inter 250ms, timeout check 1s, fall 2, rise 1.
const (
	checkEvery   = 250 * time.Millisecond
	checkTimeout = time.Second
	checksToFall = 2
)

// balancer is a load balancer in front of nodes. It gives each request to the next node that /health says is well, to the one after
// when a connection is refused, and answers 502 when one breaks. What is under way to a node that says that it is not well may
// end; to one that does not answer it is closed.
type balancer struct {
	nodes []*backend
	http  *http.Client
	turn  atomic.Uint64
	front *node // what a client sees
	// broken counts requests that a node did not answer, refused those that it did not take.
	broken, refused atomic.Int64
}

// backend is a node as the balancer sees it.
type backend struct {
	*node
	mu       sync.Mutex
	failures int
	up       bool
	sessions context.Context // ends when the node does not answer any more
	end      context.CancelFunc
}

// newBalancer makes a balancer that runs until the test ends; it has taken in all nodes that are well.
func newBalancer(t testing.TB, nodes []*node) *balancer {
	t.Helper()
	tr := &http.Transport{MaxIdleConnsPerHost: 200, IdleConnTimeout: time.Minute}
	b := &balancer{http: &http.Client{Transport: tr}}
	ctx, cancel := context.WithCancel(context.Background())
	var watchers sync.WaitGroup
	for _, n := range nodes {
		at := &backend{node: n, failures: checksToFall}
		b.nodes = append(b.nodes, at)
		watchers.Go(func() { at.watch(ctx) })
	}
	front := httptest.NewServer(b)
	b.front = &node{t: t, name: "balancer", base: front.URL}
	t.Cleanup(func() {
		cancel()
		watchers.Wait()
		for _, at := range b.nodes {
			if at.end != nil {
				at.end()
			}
		}
		front.Close()
		tr.CloseIdleConnections()
	})
	for _, at := range b.nodes {
		b.awaitUp(t, at.node)
	}
	return b
}

// awaitUp waits until a node is in.
func (b *balancer) awaitUp(t testing.TB, n *node) {
	t.Helper()
	until(t, time.Minute, n.name+" to be taken in", func() bool {
		for _, at := range b.nodes {
			if at.node == n {
				return at.session() != nil
			}
		}
		return false
	})
}

func (at *backend) watch(ctx context.Context) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	// Not over connections that are kept: a new one shows whether the node takes any.
	probe := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: checkTimeout}
	for {
		at.note(at.check(ctx, probe))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

var errUnwell = errors.New("the node says that it is not well")

func (at *backend) check(ctx context.Context, probe *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.admin+"/health", nil)
	if err != nil {
		return err
	}
	res, err := probe.Do(req)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		err = errUnwell
	}
	return errors.Join(err, res.Body.Close())
}

// note takes in the outcome of a check.
func (at *backend) note(err error) {
	at.mu.Lock()
	defer at.mu.Unlock()
	if err == nil {
		if at.failures = 0; !at.up {
			if at.up = true; at.end != nil {
				at.end()
			}
			at.sessions, at.end = context.WithCancel(context.Background())
		}
		return
	}
	if at.failures++; at.failures < checksToFall {
		return
	}
	at.up = false
	if at.end != nil && !errors.Is(err, errUnwell) {
		at.end()
	}
}

// session gives the context of requests to a node; nil where it is out.
func (at *backend) session() context.Context {
	at.mu.Lock()
	defer at.mu.Unlock()
	if !at.up {
		return nil
	}
	return at.sessions
}

func (b *balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	turn := int(b.turn.Add(1))
	for i := range b.nodes {
		at := b.nodes[(turn+i)%len(b.nodes)]
		session := at.session()
		if session == nil {
			continue
		}
		err := b.forward(session, w, r, at, body)
		var op *net.OpError
		switch {
		case err == nil:
			return
		case errors.As(err, &op) && op.Op == "dial": // nothing was sent
			b.refused.Add(1)
			continue
		case r.Context().Err() == nil:
			b.broken.Add(1)
			http.Error(w, fmt.Sprintf("%s: %v", at.name, err), http.StatusBadGateway)
		}
		return
	}
	http.Error(w, "no node is well", http.StatusServiceUnavailable)
}

// forward gives a request to a node and its answer to the client. On an error nothing was answered.
func (b *balancer) forward(session context.Context, w http.ResponseWriter, r *http.Request, at *backend, body []byte) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(session, cancel)()
	// A reader that can be read once: the client of the standard library shall not repeat what was sent.
	req, err := http.NewRequestWithContext(ctx, r.Method, at.base+r.URL.RequestURI(), io.NopCloser(bytes.NewReader(body)))
	if err != nil {
		return err
	}
	req.ContentLength = int64(len(body))
	req.Header.Set("Authorization", r.Header.Get("Authorization"))
	res, err := b.http.Do(req)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return err
	}
	w.Header().Set("Content-Type", res.Header.Get("Content-Type"))
	w.WriteHeader(res.StatusCode)
	_, _ = w.Write(text) // a client that is gone
	return nil
}
