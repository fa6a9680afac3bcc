package fedclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"

	"weft/internal/fedclient/discovery"
	"weft/internal/fedclient/xmatrix"
	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	// DefaultMaxResponse bounds a response that does not say otherwise, in bytes.
	DefaultMaxResponse = 16 << 20
	// maxErrorBody bounds what is read of an error response.
	maxErrorBody = 64 << 10
	// maxEndpoints bounds how many endpoints of one server are tried.
	maxEndpoints = 8
)

// Request is one request to another server.
type Request struct {
	// Destination is the server's name.
	Destination id.Server
	// Method is the HTTP method.
	Method string
	// Path is the escaped path with the query, as it goes on the wire:
	// "/_matrix/federation/v1/event/$abc".
	Path string
	// Body is nil for none, bytes (also json.RawMessage) of JSON, or a value
	// to be marshalled.
	Body any
	// MaxResponse bounds the decoded response body in bytes; 0 means
	// DefaultMaxResponse.
	MaxResponse int64
	// Timeout bounds the whole exchange; 0 means the client's default.
	Timeout time.Duration
	// Unsigned leaves the Authorization header out.
	Unsigned bool
	// SkipCircuit tries even if the server failed a moment ago. For callers
	// that have their own backoff.
	SkipCircuit bool

	// once is set for requests that must not be repeated when a connection that
	// was kept open turns out to be dead.
	once bool
}

// name is the request for error messages: without the query, which may hold
// tokens.
func (r *Request) name() string {
	path, _, _ := strings.Cut(r.Path, "?")
	return r.Method + " " + path
}

// Response is a whole successful response.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// Stream is a successful response whose body is still to be read. Reading more
// than the request's MaxResponse gives an error that wraps ErrResponseTooLarge.
// The body must be closed.
type Stream struct {
	Status int
	Header http.Header
	Body   io.ReadCloser
	// Length is the announced length of the body, -1 when unknown.
	Length int64
}

// Do sends a request and reads the whole response. A status that is not 2xx
// gives a *RemoteError, a server that cannot be reached a *ConnError.
func (c *Client) Do(ctx context.Context, r Request) (*Response, error) {
	s, err := c.Stream(ctx, r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(s.Body)
	if cerr := s.Body.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, c.readError(ctx, &r, err)
	}
	return &Response{Status: s.Status, Header: s.Header, Body: body}, nil
}

// DoJSON sends a request and decodes the response into out, unless out is nil.
func (c *Client) DoJSON(ctx context.Context, r Request, out any) error {
	resp, err := c.Do(ctx, r)
	if err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(resp.Body, out); err != nil {
		return badResponse(r.Destination, r.name(), err)
	}
	return nil
}

// Stream sends a request and returns when the response's header is there.
// Errors are as of Do.
func (c *Client) Stream(ctx context.Context, r Request) (*Stream, error) {
	if r.Destination == c.cfg.ServerName {
		return nil, fmt.Errorf("fedclient: refusing to send a request to ourselves (%s)", r.name())
	}
	if !r.SkipCircuit {
		if err := c.circuits.allow(r.Destination); err != nil {
			return nil, &ConnError{Server: r.Destination, Err: err, FailedFast: true}
		}
	}
	body, err := encodeBody(r.Body)
	if err != nil {
		return nil, fmt.Errorf("fedclient: encoding the body of %s: %w", r.name(), err)
	}
	header, err := c.header(&r, body)
	if err != nil {
		return nil, fmt.Errorf("fedclient: signing %s: %w", r.name(), err)
	}
	timeout := r.Timeout
	if timeout <= 0 {
		timeout = c.cfg.Timeout
	}
	rctx, cancel := context.WithTimeout(ctx, timeout)
	resp, err := c.roundTrip(rctx, &r, header, body)
	if err != nil {
		cancel()
		return nil, c.connError(ctx, &r, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer cancel()
		return nil, c.remoteError(&r, resp)
	}
	c.circuits.alive(r.Destination)
	limit := r.MaxResponse
	if limit <= 0 {
		limit = DefaultMaxResponse
	}
	if resp.ContentLength > limit {
		defer cancel()
		return nil, errors.Join(tooLarge(r.Destination, limit), resp.Body.Close())
	}
	return &Stream{
		Status: resp.StatusCode, Header: resp.Header, Length: resp.ContentLength,
		Body: &boundedBody{rc: resp.Body, left: limit, limit: limit, server: r.Destination, cancel: cancel},
	}, nil
}

// encodeBody gives the body's bytes in canonical form, which is what is signed.
func encodeBody(body any) ([]byte, error) {
	var raw []byte
	switch b := body.(type) {
	case nil:
		return nil, nil
	case []byte:
		raw = b
	case json.RawMessage:
		raw = b
	default:
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(b); err != nil {
			return nil, err
		}
		raw = buf.Bytes()
	}
	return canonical.CanonicalLenient(raw)
}

func (c *Client) header(r *Request, body []byte) (http.Header, error) {
	h := http.Header{"User-Agent": {c.userAgent}}
	if body != nil {
		h.Set("Content-Type", "application/json")
	}
	if r.Unsigned {
		return h, nil
	}
	x, err := xmatrix.Sign(r.Method, r.Path, c.cfg.ServerName, r.Destination, body, c.cfg.KeyID, c.cfg.PrivateKey)
	if err != nil {
		return nil, err
	}
	h.Set("Authorization", x.String())
	return h, nil
}

// roundTrip resolves the destination and tries its endpoints until one takes
// the connection.
func (c *Client) roundTrip(ctx context.Context, r *Request, h http.Header, body []byte) (*http.Response, error) {
	res, err := c.resolver.Resolve(ctx, r.Destination)
	if err != nil {
		return nil, err
	}
	var failures []error
	for i, e := range res.Endpoints {
		if i == maxEndpoints {
			break
		}
		resp, err := c.sendKept(ctx, r, e, h, body)
		if err == nil {
			return resp, nil
		}
		failures = append(failures, err)
		var dial *dialError
		if !errors.As(err, &dial) || ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("%w (found by step %s of server discovery)", errors.Join(failures...), res.Step)
}

// sendKept sends again when a connection that was kept open turned out to be
// dead, as after a restart of the other server. All requests may be repeated
// (transactions and events have IDs) but those marked once.
func (c *Client) sendKept(ctx context.Context, r *Request, e discovery.Endpoint, h http.Header, body []byte) (resp *http.Response, err error) {
	for range maxIdlePerEndpoint + 1 {
		reused := false
		tctx := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused },
		})
		resp, err = c.send(tctx, r, e, h, body)
		if err == nil || !reused || r.once || ctx.Err() != nil {
			break
		}
	}
	return resp, err
}

func (c *Client) send(ctx context.Context, r *Request, e discovery.Endpoint, h http.Header, body []byte) (*http.Response, error) {
	u, err := endpointURL(e, r.Path)
	if err != nil {
		return nil, err
	}
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, u.String(), reader)
	if err != nil {
		return nil, err
	}
	if got := req.URL.RequestURI(); got != r.Path {
		return nil, fmt.Errorf("fedclient: %q would be sent as %q, which is not what is signed", r.Path, got)
	}
	req.Header = h.Clone()
	req.Host = e.HostHeader
	return c.transport.RoundTrip(req)
}

// connError turns a failure into a ConnError and counts it, unless the caller
// gave up by itself.
func (c *Client) connError(ctx context.Context, r *Request, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("%s to %s: %w", r.name(), r.Destination, ctx.Err())
	}
	c.circuits.failed(r.Destination)
	return &ConnError{Server: r.Destination, Err: err}
}

// readError is for a failure in the middle of a body.
func (c *Client) readError(ctx context.Context, r *Request, err error) error {
	if errors.Is(err, ErrResponseTooLarge) {
		return err
	}
	return c.connError(ctx, r, fmt.Errorf("reading the response to %s: %w", r.name(), err))
}

func (c *Client) remoteError(r *Request, resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	if err != nil && c.cfg.Log != nil {
		c.cfg.Log.WithError(err).WithField("server", r.Destination).Debug("error response cut short")
	}
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		// A proxy in front of a dead server; but a Matrix error is from a live one.
		if merr.Decode(resp.StatusCode, body).Code == "M_UNKNOWN" {
			c.circuits.failed(r.Destination)
		}
	default:
		c.circuits.alive(r.Destination)
	}
	e := &RemoteError{
		Server: r.Destination, Request: r.name(), Status: resp.StatusCode,
		Remote: merr.Decode(resp.StatusCode, body),
	}
	switch resp.StatusCode {
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect, http.StatusFound:
		// Redirects are followed for old media only, by the caller.
		e.location = resp.Header.Get("Location")
	}
	return e
}

func tooLarge(server id.Server, limit int64) error {
	return fmt.Errorf("%w: %w: more than %d bytes", merr.New(502, "M_TOO_LARGE", "the response of %s is too large", server), ErrResponseTooLarge, limit)
}

// boundedBody fails, rather than ends, when the body goes over its bound.
type boundedBody struct {
	rc          io.ReadCloser
	left, limit int64
	server      id.Server
	cancel      context.CancelFunc
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.rc.Read(p)
	if int64(n) > b.left {
		n, b.left = int(b.left), 0
		return n, tooLarge(b.server, b.limit)
	}
	b.left -= int64(n)
	return n, err
}

func (b *boundedBody) Close() error {
	err := b.rc.Close()
	if b.cancel != nil {
		b.cancel()
	}
	return err
}
