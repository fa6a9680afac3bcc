package httpapi

import (
	"context"
	"net"
	"net/http"

	"weft/matrix/merr"
)

// forward hands a request on. Like others it counts as one that is worked on, or waits.
func (h *handler) forward(w http.ResponseWriter, r *http.Request, e *endpoint) {
	start := h.cfg.Now()
	status, err := 0, error(nil)
	if release, full := h.admit(e); full != nil {
		err = full
	} else {
		defer release()
		if IsForwarded(r.Context()) {
			// The processes do not agree on who runs what, for a moment.
			err = merr.New(http.StatusServiceUnavailable, "M_UNKNOWN", "no process can take this request just now; try again").
				With("retry_after_ms", int64(1000))
		}
	}
	if err != nil {
		if status, err = h.writeError(w, err); err != nil {
			h.cfg.Log.WithError(err).Debug("error response not written")
		}
		h.metrics.done(e, status, h.cfg.Now().Sub(start))
		return
	}
	for name := range w.Header() {
		w.Header().Del(name) // the other process says them
	}
	if r.Body != nil {
		r.Body = &movingBody{ReadCloser: r.Body, rc: http.NewResponseController(w), now: h.cfg.Now}
	}
	sw := &forwardedWriter{
		ResponseWriter: w, status: http.StatusOK,
		body: movingWriter{w: w, rc: http.NewResponseController(w), now: h.cfg.Now},
	}
	// It panics when the answer breaks off.
	defer func() { h.metrics.done(e, sw.status, h.cfg.Now().Sub(start)) }()
	address := clientAddress(r, h.cfg.TrustedProxies)
	e.Forward.ServeHTTP(sw, r.WithContext(context.WithValue(r.Context(), clientAddressKey{}, address)))
}

// forwardedWriter notes the status, and gives each write its own deadline as a stream of this process has it.
type forwardedWriter struct {
	http.ResponseWriter
	status int
	body   movingWriter
}

func (s *forwardedWriter) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

func (s *forwardedWriter) Write(p []byte) (int, error) { return s.body.Write(p) }

// Unwrap lets http.ResponseController reach the connection.
func (s *forwardedWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

type (
	clientAddressKey struct{}
	forwardedKey     struct{}
)

// ClientAddress gives the address of the client whose request is being forwarded.
func ClientAddress(ctx context.Context) string {
	s, _ := ctx.Value(clientAddressKey{}).(string)
	return s
}

// IsForwarded tells whether another process handed the request on to this one.
func IsForwarded(ctx context.Context) bool { return ctx.Value(forwardedKey{}) != nil }

// Forwarded makes a request that another process handed on what it was there: it comes from the client's address.
func Forwarded(r *http.Request, address string) *http.Request {
	r = r.WithContext(context.WithValue(r.Context(), forwardedKey{}, true))
	r.RemoteAddr = net.JoinHostPort(address, "0")
	return r
}
