package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

// requestLimit is how long a request may be repeated until a node takes it.
const requestLimit = 90 * time.Second

// client sends each request to another node, and to the next one when that does not answer or says that it cannot: what is sent is
// idempotent.
type client struct {
	t     testing.TB
	nodes []*node
	http  *http.Client

	requests, repeated atomic.Int64
	mu                 sync.Mutex
	worst              time.Duration // the longest time that a request took with all its repetitions, without the wait of /sync
	times              []time.Duration
}

func newClient(t testing.TB, nodes []*node) *client {
	tr := &http.Transport{MaxIdleConnsPerHost: 200, IdleConnTimeout: time.Minute}
	t.Cleanup(tr.CloseIdleConnections)
	return &client{t: t, nodes: nodes, http: &http.Client{Transport: tr}}
}

// answer is a status and a body.
type answer struct {
	status int
	body   gjson.Result
}

// once sends a request to one node.
func (c *client) once(ctx context.Context, n *node, method, path, token string, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, n.base+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close() //nolint:errcheck // it was read
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		return answer{}, err
	}
	return answer{res.StatusCode, gjson.ParseBytes(text)}, nil
}

// do sends a request until a node answers it with something final. quiet leaves it out of the times.
func (c *client) do(ctx context.Context, method, path, token string, body []byte, quiet bool) (answer, error) {
	began := time.Now()
	at := rand.IntN(len(c.nodes))
	c.requests.Add(1)
	var last error
	for try := 0; time.Since(began) < requestLimit && ctx.Err() == nil; try++ {
		if try > 0 {
			c.repeated.Add(1)
			select {
			case <-time.After(min(time.Duration(try)*20*time.Millisecond, 200*time.Millisecond)):
			case <-ctx.Done():
				return answer{}, ctx.Err()
			}
		}
		one, cancel := context.WithTimeout(ctx, 10*time.Second)
		a, err := c.once(one, c.nodes[(at+try)%len(c.nodes)], method, path, token, body)
		cancel()
		if err != nil {
			last = err
			continue
		}
		if a.status == 429 || a.status >= 500 {
			last = fmt.Errorf("%s %s: %d %s", method, path, a.status, a.body.Raw)
			continue
		}
		if !quiet {
			took := time.Since(began)
			c.mu.Lock()
			c.worst = max(c.worst, took)
			c.times = append(c.times, took)
			c.mu.Unlock()
		}
		return a, nil
	}
	if ctx.Err() != nil {
		return answer{}, ctx.Err()
	}
	return answer{}, fmt.Errorf("given up after %s: %w", requestLimit, last)
}

// ok is do for what must succeed.
func (c *client) ok(ctx context.Context, method, path, token, body string) (gjson.Result, error) {
	a, err := c.do(ctx, method, path, token, []byte(body), false)
	if err == nil && a.status != 200 {
		err = fmt.Errorf("%s %s: %d %s", method, path, a.status, a.body.Raw)
	}
	return a.body, err
}
