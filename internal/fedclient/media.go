package fedclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"weft/matrix/id"
)

const (
	mediaTimeout = 10 * time.Minute
	// mediaOverhead is what the multipart wrapping may add to the media's bytes.
	mediaOverhead     = 128 << 10
	maxMediaMetadata  = 64 << 10
	maxMediaRedirects = 5
)

// Media is a file from another server. Reading more than the allowed bytes gives
// an error that wraps ErrResponseTooLarge. Body must be closed.
type Media struct {
	ContentType        string
	ContentDisposition string
	// Length is the announced length, -1 when unknown.
	Length int64
	Body   io.ReadCloser
}

// MediaRequest says which media is wanted.
type MediaRequest struct {
	Server  id.Server
	MediaID string
	// MaxBytes bounds the media; it must be set.
	MaxBytes int64
	// WaitMS is how long the server should wait for an upload that is not
	// finished; 0 means its default.
	WaitMS int64
}

// ThumbnailRequest says which thumbnail is wanted.
type ThumbnailRequest struct {
	MediaRequest
	Width, Height int
	// Method is "crop" or "scale", or empty.
	Method string
	// Animated asks for an animated thumbnail, or for one that is not; nil
	// leaves it to the server.
	Animated *bool
}

// DownloadMedia fetches a file from the server that owns it. A server that does
// not know the authenticated endpoint is asked by the old one.
//
// spec: server-server §22, GET /_matrix/federation/v1/media/download/{mediaId}
func (c *Client) DownloadMedia(ctx context.Context, m MediaRequest) (*Media, error) {
	q := url.Values{}
	if m.WaitMS > 0 {
		q.Set("timeout_ms", strconv.FormatInt(m.WaitMS, 10))
	}
	return c.media(ctx, m, path(federationV1+"/media/download", q, m.MediaID), "/_matrix/media/v3/download", q)
}

// GetThumbnail fetches a thumbnail from the server that owns the media.
//
// spec: server-server §22, GET /_matrix/federation/v1/media/thumbnail/{mediaId}
func (c *Client) GetThumbnail(ctx context.Context, t ThumbnailRequest) (*Media, error) {
	q := url.Values{"width": {strconv.Itoa(t.Width)}, "height": {strconv.Itoa(t.Height)}}
	if t.Method != "" {
		q.Set("method", t.Method)
	}
	if t.Animated != nil {
		q.Set("animated", strconv.FormatBool(*t.Animated))
	}
	if t.WaitMS > 0 {
		q.Set("timeout_ms", strconv.FormatInt(t.WaitMS, 10))
	}
	return c.media(ctx, t.MediaRequest, path(federationV1+"/media/thumbnail", q, t.MediaID), "/_matrix/media/v3/thumbnail", q)
}

func (c *Client) media(ctx context.Context, m MediaRequest, newPath, oldPrefix string, q url.Values) (*Media, error) {
	if m.MaxBytes <= 0 {
		return nil, errors.New("fedclient: media needs a bound")
	}
	timeout := mediaTimeout + time.Duration(m.WaitMS)*time.Millisecond
	r := Request{
		Destination: m.Server, Method: http.MethodGet, Path: newPath,
		Timeout: timeout, MaxResponse: m.MaxBytes + mediaOverhead,
	}
	s, err := c.Stream(ctx, r)
	if isUnsupported(err) {
		// spec: client-server §10.8.2 (the endpoints without authentication are for servers from before v1.11)
		q.Set("allow_remote", "false")
		q.Set("allow_redirect", "true")
		r.Path = path(oldPrefix, q, string(m.Server), m.MediaID)
		r.Unsigned = true
		return c.oldMedia(ctx, m, r)
	}
	if err != nil {
		return nil, err
	}
	media, err := c.readMultipart(ctx, m, &r, s)
	if err != nil {
		return nil, errors.Join(err, s.Body.Close())
	}
	return media, nil
}

// oldMedia asks the endpoint without authentication, which may redirect.
func (c *Client) oldMedia(ctx context.Context, m MediaRequest, r Request) (*Media, error) {
	s, err := c.Stream(ctx, r)
	if e, ok := AsRemote(err); ok && e.location != "" {
		return c.redirected(ctx, m, e.location)
	}
	if err != nil {
		return nil, err
	}
	return newMedia(s.Header, s.Length, &boundedBody{rc: s.Body, left: m.MaxBytes, limit: m.MaxBytes, server: m.Server}), nil
}

func newMedia(h interface{ Get(string) string }, length int64, body io.ReadCloser) *Media {
	return &Media{
		ContentType: h.Get("Content-Type"), ContentDisposition: h.Get("Content-Disposition"),
		Length: length, Body: body,
	}
}

// readMultipart takes the two parts of a response: metadata, and the media or
// where it is.
func (c *Client) readMultipart(ctx context.Context, m MediaRequest, r *Request, s *Stream) (*Media, error) {
	typ, params, err := mime.ParseMediaType(s.Header.Get("Content-Type"))
	if err != nil || typ != "multipart/mixed" || params["boundary"] == "" {
		return nil, badResponse(m.Server, r.name(), fmt.Errorf("the content type is %q, not multipart/mixed", s.Header.Get("Content-Type")))
	}
	mr := multipart.NewReader(s.Body, params["boundary"])
	meta, err := mr.NextPart()
	if err != nil {
		return nil, c.partError(ctx, r, err)
	}
	raw, err := io.ReadAll(io.LimitReader(meta, maxMediaMetadata+1))
	if err != nil {
		return nil, c.partError(ctx, r, err)
	}
	if len(raw) > maxMediaMetadata || !json.Valid(raw) || !isObject(raw) {
		return nil, badResponse(m.Server, r.name(), errors.New("the first part is not a small JSON object"))
	}
	part, err := mr.NextRawPart()
	if err != nil {
		return nil, c.partError(ctx, r, err)
	}
	if loc := part.Header.Get("Location"); loc != "" {
		if err := s.Body.Close(); err != nil && c.cfg.Log != nil {
			c.cfg.Log.WithError(err).Debug("closing a media response that redirects")
		}
		return c.redirected(ctx, m, loc)
	}
	body := &partBody{Reader: part, Closer: s.Body}
	return newMedia(part.Header, -1, &boundedBody{rc: body, left: m.MaxBytes, limit: m.MaxBytes, server: m.Server}), nil
}

func (c *Client) partError(ctx context.Context, r *Request, err error) error {
	switch {
	case errors.Is(err, ErrResponseTooLarge):
		return err
	case ctx.Err() != nil, isTimeout(err):
		return c.connError(ctx, r, err)
	}
	return badResponse(r.Destination, r.name(), err)
}

// partBody reads a part and closes the response.
type partBody struct {
	io.Reader
	io.Closer
}

// redirected fetches media from an ordinary URL, without authentication. Every
// address on the way is checked by the dialer's policy.
func (c *Client) redirected(ctx context.Context, m MediaRequest, location string) (*Media, error) {
	u, err := url.Parse(location)
	if err != nil {
		return nil, badResponse(m.Server, "media redirect", err)
	}
	ctx, cancel := context.WithTimeout(ctx, mediaTimeout)
	resp, err := c.getWeb(ctx, u)
	if err != nil {
		cancel()
		if ctx.Err() != nil || isTimeout(err) {
			return nil, &ConnError{Server: m.Server, Err: err}
		}
		return nil, badResponse(m.Server, "media redirect", err)
	}
	if resp.ContentLength > m.MaxBytes {
		cancel()
		return nil, errors.Join(tooLarge(m.Server, m.MaxBytes), resp.Body.Close())
	}
	return newMedia(resp.Header, resp.ContentLength, &boundedBody{
		rc: resp.Body, left: m.MaxBytes, limit: m.MaxBytes, server: m.Server, cancel: cancel,
	}), nil
}

// getWeb follows redirects to a 200 over https.
func (c *Client) getWeb(ctx context.Context, u *url.URL) (*http.Response, error) {
	for range maxMediaRedirects + 1 {
		if u.Scheme != "https" || u.Host == "" {
			return nil, errors.New("the address is not an https URL")
		}
		u.User, u.Fragment = nil, ""
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("User-Agent", c.userAgent)
		resp, err := c.web.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusOK {
			return resp, nil
		}
		if err := resp.Body.Close(); err != nil {
			return nil, err
		}
		if resp.StatusCode < 300 || resp.StatusCode > 399 {
			return nil, fmt.Errorf("the answer has status %d", resp.StatusCode)
		}
		if u, err = resp.Location(); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("more than %d redirects", maxMediaRedirects)
}
