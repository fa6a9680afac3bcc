package discovery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"weft/matrix/id"
)

const (
	wellKnownPath = "/.well-known/matrix/server"

	maxRedirects     = 5
	maxWellKnownBody = 64 << 10

	// spec: server-server §3.1 step 3 recommends a day, at most two.
	defaultWellKnownLifetime = 24 * time.Hour
	maxWellKnownLifetime     = 48 * time.Hour
	// minWellKnownLifetime keeps a `no-store` answer from being asked for
	// anew with each request.
	//
	// spec?: cache headers are to be respected, but every federation request
	// needs the answer; a minute is short enough to obey an operator's change.
	minWellKnownLifetime = time.Minute
	// spec: errors for up to an hour, with exponential pauses.
	minErrorLifetime = 2 * time.Minute
	maxErrorLifetime = time.Hour
)

// wellKnownEntry is a cached answer; immutable.
type wellKnownEntry struct {
	// delegated is empty when there is no valid answer.
	delegated id.Server
	expires   time.Time
	// failures counts the failures in a row.
	failures int
}

// lookUpWellKnown answers from the cache or asks. The error is the context's.
func (r *Resolver) lookUpWellKnown(ctx context.Context, host string) (*wellKnownEntry, error) {
	if cached, ok := r.wellKnown.GetIfPresent(host); ok && r.opts.Now().Before(cached.expires) {
		return cached, nil
	}
	return share(ctx, &r.flights, "wk "+host, func(ctx context.Context) *wellKnownEntry {
		// Another lookup may have ended between the look into the cache and this one.
		cached, ok := r.wellKnown.GetIfPresent(host)
		if ok && r.opts.Now().Before(cached.expires) {
			return cached
		}
		delegated, header, err := r.fetchWellKnown(ctx, host)
		now := r.opts.Now()
		e := &wellKnownEntry{delegated: delegated}
		if err != nil {
			if r.opts.Log != nil {
				r.opts.Log.WithError(err).WithField("host", host).Debug("no .well-known delegation")
			}
			if ok {
				e.failures = cached.failures
			}
			e.failures++
			e.expires = now.Add(errorLifetime(e.failures))
		} else {
			e.expires = now.Add(cacheLifetime(header, now))
		}
		r.wellKnown.Set(host, e)
		return e
	})
}

// errorLifetime doubles with each failure in a row.
func errorLifetime(failures int) time.Duration {
	d := minErrorLifetime
	for i := 1; i < failures && d < maxErrorLifetime; i++ {
		d *= 2
	}
	return min(d, maxErrorLifetime)
}

// fetchWellKnown makes the request and follows redirects.
func (r *Resolver) fetchWellKnown(ctx context.Context, host string) (id.Server, http.Header, error) {
	u := &url.URL{Scheme: "https", Host: host, Path: wellKnownPath}
	for range maxRedirects + 1 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return "", nil, err
		}
		if r.opts.UserAgent != "" {
			req.Header.Set("User-Agent", r.opts.UserAgent)
		}
		resp, err := r.opts.HTTP.RoundTrip(req)
		if err != nil {
			return "", nil, err
		}
		switch resp.StatusCode {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
			http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
			if u, err = redirectTarget(resp); err != nil {
				return "", nil, err
			}
			continue
		}
		return readWellKnown(resp)
	}
	return "", nil, fmt.Errorf("more than %d redirects", maxRedirects)
}

// redirectTarget reads the Location of a response and closes it.
func redirectTarget(resp *http.Response) (*url.URL, error) {
	if err := resp.Body.Close(); err != nil {
		return nil, err
	}
	u, err := resp.Location()
	if err != nil {
		return nil, fmt.Errorf("redirect without a usable Location: %w", err)
	}
	if u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("redirect away from https")
	}
	u.User, u.Fragment = nil, ""
	return u, nil
}

func readWellKnown(resp *http.Response) (s id.Server, h http.Header, err error) {
	defer func() {
		if cerr := resp.Body.Close(); err == nil && cerr != nil {
			err = cerr
		}
	}()
	if resp.StatusCode != http.StatusOK {
		return "", nil, fmt.Errorf("the answer has status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxWellKnownBody+1))
	if err != nil {
		return "", nil, err
	}
	if len(body) > maxWellKnownBody {
		return "", nil, fmt.Errorf("the answer is longer than %d bytes", maxWellKnownBody)
	}
	s, err = ParseWellKnown(body)
	return s, resp.Header, err
}

// ParseWellKnown reads the body of a /.well-known/matrix/server response,
// whatever its Content-Type said.
//
// spec: server-server §3.1, GET /.well-known/matrix/server
func ParseWellKnown(body []byte) (id.Server, error) {
	// A map, not a struct: encoding/json would also take "M.SERVER" for a field.
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return "", fmt.Errorf("the answer is not a JSON object: %w", err)
	}
	raw, ok := fields["m.server"]
	if !ok || !bytes.HasPrefix(raw, []byte(`"`)) {
		return "", errors.New("the answer has no string m.server")
	}
	var name string
	if err := json.Unmarshal(raw, &name); err != nil {
		return "", fmt.Errorf("the answer's m.server is no string: %w", err)
	}
	s, err := id.ParseServer(name)
	if err != nil {
		return "", fmt.Errorf("the answer's m.server is no server name: %w", err)
	}
	return s, nil
}

// cacheLifetime says how long a valid answer may be used.
//
// spec: RFC 9111 §4.2 and §5.2.2, within the bounds of server-server §3.1
func cacheLifetime(h http.Header, now time.Time) time.Duration {
	bound := func(d time.Duration) time.Duration {
		return min(max(d, minWellKnownLifetime), maxWellKnownLifetime)
	}
	age := time.Duration(0)
	if s, err := strconv.ParseInt(strings.TrimSpace(h.Get("Age")), 10, 32); err == nil && s > 0 {
		age = time.Duration(s) * time.Second
	}
	maxAge := time.Duration(-1)
	for _, d := range strings.Split(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(d), "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "no-store", "no-cache":
			return bound(0)
		case "max-age":
			value = strings.Trim(strings.TrimSpace(value), `"`)
			s, err := strconv.ParseInt(value, 10, 64)
			switch {
			case err == nil && s >= 0, errors.Is(err, strconv.ErrRange) && !strings.HasPrefix(value, "-"):
				maxAge = time.Duration(min(s, int64(maxWellKnownLifetime/time.Second)+int64(age/time.Second))) * time.Second
			default:
				// spec: RFC 9111 §4.2.1, an invalid value counts as stale
				maxAge = 0
			}
		}
	}
	if maxAge >= 0 {
		return bound(maxAge - age)
	}
	if v := h.Get("Expires"); v != "" {
		at, err := http.ParseTime(v)
		if err != nil {
			return bound(0)
		}
		if date, err := http.ParseTime(h.Get("Date")); err == nil {
			now = date
		}
		return bound(at.Sub(now) - age)
	}
	return defaultWellKnownLifetime
}
