package load

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/gjson"
)

const (
	// maxBody bounds an answer; an initial sync of thousands of rooms is the largest.
	maxBody = 512 << 20
	// maxAttempts bounds how often one request is repeated because the server shed it.
	maxAttempts = 200
	// minPause and maxPause bound the wait that a server may ask for.
	minPause, maxPause = 20 * time.Millisecond, 30 * time.Second
)

// Client is a connection pool to one homeserver. It is safe for concurrent use.
type Client struct {
	base string
	http *http.Client
	shed atomic.Int64
	// buffers holds the memory of released answers.
	buffers sync.Pool
}

// NewClient makes a client for the server at base, such as "http://127.0.0.1:8008". Certificates are not checked: what is
// measured stands on a test network.
func NewClient(base string) *Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: time.Minute}
	t := &http.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		MaxIdleConns: 8192, MaxIdleConnsPerHost: 8192, IdleConnTimeout: 10 * time.Minute,
		DisableCompression: true, WriteBufferSize: 8 << 10, ReadBufferSize: 16 << 10,
	}
	return &Client{base: strings.TrimSuffix(base, "/"), http: &http.Client{Transport: t}}
}

// Close closes the connections that nobody uses.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Shed tells how many requests the server refused with 429 or 503 so far.
func (c *Client) Shed() int64 { return c.shed.Load() }

// Request is one call of the API.
type Request struct {
	Method string
	// Path is escaped already and includes the query.
	Path string
	// Token is the access token; empty: none is sent.
	Token string
	// Type is the body's type; empty: application/json.
	Type string
	Body []byte
}

// Answer is what a server answered. Its body is valid until Release.
type Answer struct {
	Status int
	Type   string
	buf    *bytes.Buffer
	pool   *sync.Pool
}

// Body gives the body's bytes.
func (a *Answer) Body() []byte { return a.buf.Bytes() }

// Get reads one value of the body.
func (a *Answer) Get(path string) gjson.Result { return gjson.GetBytes(a.buf.Bytes(), path) }

// Parsed copies the body and reads it, so that values outlive the answer.
func (a *Answer) Parsed() gjson.Result { return gjson.ParseBytes(a.buf.Bytes()) }

// Release gives the body's memory back. Nothing of the answer may be used afterwards.
func (a *Answer) Release() {
	if a.buf == nil {
		return
	}
	if a.buf.Cap() <= 4<<20 {
		a.pool.Put(a.buf)
	}
	a.buf = nil
}

// StatusError is an answer other than 200.
type StatusError struct {
	Method, Path string
	Status       int
	Code, Text   string // errcode and error, or the start of the body
}

func (e *StatusError) Error() string {
	path, _, _ := strings.Cut(e.Path, "?")
	return fmt.Sprintf("%s %s: %d %s %s", e.Method, path, e.Status, e.Code, e.Text)
}

// Do sends r until the server takes it, and returns the answer if it is a 200. A 429 or 503 is repeated after the time that
// the server asks for, because it says that nothing was done.
func (c *Client) Do(ctx context.Context, r Request) (*Answer, error) {
	for attempt := 1; ; attempt++ {
		a, header, err := c.once(ctx, r)
		if err != nil {
			return nil, err
		}
		if a.Status == http.StatusOK {
			return a, nil
		}
		failed := &StatusError{Method: r.Method, Path: r.Path, Status: a.Status, Code: a.Get("errcode").String(), Text: a.Get("error").String()}
		if failed.Code == "" {
			failed.Text = string(a.Body()[:min(len(a.Body()), 200)])
		}
		shed := a.Status == http.StatusTooManyRequests || a.Status == http.StatusServiceUnavailable
		wait := pause(header.Get("Retry-After"), a.Get("retry_after_ms").Int())
		a.Release()
		if !shed {
			return nil, failed
		}
		c.shed.Add(1)
		if attempt == maxAttempts {
			return nil, fmt.Errorf("refused %d times: %w", attempt, failed)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), failed)
		}
	}
}

// pause reads how long the server wants us to wait: Retry-After counts seconds, the older field of the body milliseconds.
func pause(header string, ms int64) time.Duration {
	d := time.Duration(ms) * time.Millisecond
	if s, err := strconv.ParseFloat(header, 64); err == nil && d == 0 {
		d = time.Duration(s * float64(time.Second))
	}
	return min(max(d, minPause), maxPause)
}

func (c *Client) once(ctx context.Context, r Request) (*Answer, http.Header, error) {
	res, err := c.send(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	a := &Answer{Status: res.StatusCode, Type: res.Header.Get("Content-Type"), buf: c.buffer(), pool: &c.buffers}
	if _, err := a.buf.ReadFrom(io.LimitReader(res.Body, maxBody)); err != nil {
		a.Release()
		return nil, nil, fmt.Errorf("%s %s: %w", r.Method, r.Path, err)
	}
	return a, res.Header, nil
}

// send sends a request. The caller closes the answer's body.
func (c *Client) send(ctx context.Context, r Request) (*http.Response, error) {
	var body io.Reader
	if r.Body != nil {
		body = bytes.NewReader(r.Body)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, c.base+r.Path, body)
	if err != nil {
		return nil, err
	}
	if r.Token != "" {
		req.Header["Authorization"] = []string{"Bearer " + r.Token}
	}
	if r.Body != nil {
		kind := r.Type
		if kind == "" {
			kind = "application/json"
		}
		req.Header["Content-Type"] = []string{kind}
	}
	return c.http.Do(req)
}

func (c *Client) buffer() *bytes.Buffer {
	if b, ok := c.buffers.Get().(*bytes.Buffer); ok {
		b.Reset()
		return b
	}
	return bytes.NewBuffer(make([]byte, 0, 8<<10))
}
