package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
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

	loud time.Duration // requests that take longer are logged; 0: none

	requests, repeated atomic.Int64
	mu                 sync.Mutex
	worst              time.Duration // the longest time that a request took with all its repetitions, without the wait of /sync
	what               string        // which it was, and what it met
	under              map[int64]time.Time
	met                []string                 // errors of single tries, the last few
	took               []time.Duration          // by each request since the figures began
	mine               map[string]time.Duration // the longest of each client, by its token
}

func newClient(t testing.TB, nodes []*node) *client {
	tr := &http.Transport{MaxIdleConnsPerHost: 200, IdleConnTimeout: time.Minute}
	t.Cleanup(tr.CloseIdleConnections)
	return &client{t: t, nodes: nodes, http: &http.Client{Transport: tr}, under: map[int64]time.Time{}, mine: map[string]time.Duration{}}
}

// begin notes a request that is under way.
func (c *client) begin() (number int64) {
	number = c.requests.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.under[number] = time.Now()
	return number
}

// end notes how long a request took, beyond the time that it was to sleep.
func (c *client) end(number int64, token string, wait time.Duration, what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	took := max(0, time.Since(c.under[number])-wait)
	if took > c.worst {
		c.worst, c.what = took, what
	}
	if c.loud > 0 && took > c.loud {
		c.t.Logf("%s for %s", short(took), what)
	}
	delete(c.under, number)
	c.mine[token] = max(c.mine[token], took)
	if wait == 0 { // how long the others sleep says nothing
		c.took = append(c.took, took)
	}
}

// figures tells what requests took since the last call.
func (c *client) figures() (took []time.Duration, longest map[string]time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	took, longest = c.took, c.mine
	c.took, c.mine = nil, map[string]time.Duration{}
	return took, longest
}

func (c *client) meet(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.met = append(c.met, err.Error())
	c.met = c.met[max(0, len(c.met)-20):]
}

// during makes weather, and tells the longest time that a request took which was under way in it, with all its repetitions,
// how many were repeated, and what they met.
func (c *client) during(weather func()) (worst time.Duration, repeated int64, met []string) {
	c.t.Helper()
	c.mu.Lock()
	c.worst, c.what, c.met = 0, "", nil
	c.mu.Unlock()
	before := c.repeated.Load()
	weather()
	over := time.Now()
	until(c.t, requestLimit, "the requests of the weather to end", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, began := range c.under {
			if began.Before(over) {
				return false
			}
		}
		return true
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.what != "" {
		c.t.Logf("longest: %s", c.what)
	}
	return c.worst, c.repeated.Load() - before, slices.Clone(c.met)
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

// do sends a request until a node answers it with something final. It may sleep there for as long as wait.
func (c *client) do(ctx context.Context, method, path, token string, body []byte, wait time.Duration) (answer, error) {
	number, began := c.begin(), time.Now()
	var last error
	defer func() {
		what, _, _ := strings.Cut(path, "?")
		c.end(number, token, wait, fmt.Sprintf("%s %s, which met %v", method, what, last))
	}()
	at := rand.IntN(len(c.nodes))
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
		if err == nil && a.status != 429 && a.status < 500 {
			return a, nil
		}
		if last = err; err == nil {
			last = fmt.Errorf("%s %s: %d %s", method, path, a.status, a.body.Raw)
		}
		c.meet(last)
	}
	if ctx.Err() != nil {
		return answer{}, ctx.Err()
	}
	return answer{}, fmt.Errorf("given up after %s: %w", requestLimit, last)
}

// ok is do for what must succeed.
func (c *client) ok(ctx context.Context, method, path, token, body string) (gjson.Result, error) {
	a, err := c.do(ctx, method, path, token, []byte(body), 0)
	if err == nil && a.status != 200 {
		err = fmt.Errorf("%s %s: %d %s", method, path, a.status, a.body.Raw)
	}
	return a.body, err
}
