package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"weft/matrix/merr"
)

// writeTimeout bounds how long one write to a client may take; a stream may
// last longer as long as it moves.
const writeTimeout = time.Minute

// writeResult writes what a handler returned. It returns the status, and an
// error where the answer could not be written.
func (h *handler) writeResult(w http.ResponseWriter, head bool, result any) (int, error) {
	res, ok := result.(*Response)
	if !ok {
		if r, isValue := result.(Response); isValue {
			res = &r
		} else {
			res = &Response{JSON: result}
		}
	}
	status := res.Status
	if status == 0 {
		status = http.StatusOK
	}
	for k, vs := range res.Header {
		w.Header()[http.CanonicalHeaderKey(k)] = vs
	}
	switch {
	case res.Stream != nil:
		return status, h.writeStream(w, head, status, res)
	case res.Raw != nil:
		return status, h.writeBytes(w, status, res.Raw)
	case res.JSON == nil:
		return status, h.writeBytes(w, status, []byte("{}"))
	}
	body, err := marshal(res.JSON)
	if err != nil {
		return 0, fmt.Errorf("marshal response: %w", err)
	}
	return status, h.writeBytes(w, status, body)
}

func (h *handler) writeStream(w http.ResponseWriter, head bool, status int, res *Response) error {
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(status)
	if head {
		return nil
	}
	if err := res.Stream(&movingWriter{w: w, rc: http.NewResponseController(w), now: h.cfg.Now}); err != nil {
		return &abortError{err}
	}
	return nil
}

func (h *handler) writeBytes(w http.ResponseWriter, status int, body []byte) error {
	hd := w.Header()
	if hd["Content-Type"] == nil {
		hd["Content-Type"] = jsonType
	}
	hd["Content-Length"] = []string{strconv.Itoa(len(body))}
	setWriteDeadline(http.NewResponseController(w), h.cfg.Now())
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		return &abortError{err}
	}
	return nil
}

// jsonType is shared by all answers and never changed.
var jsonType = []string{"application/json"}

// marshal encodes without escaping <, > and &, which would make events longer
// than they are.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// writeError writes a standard error response; nothing else does.
//
// spec: client-server §2.1 (Standard error response)
func (h *handler) writeError(w http.ResponseWriter, err error) (int, error) {
	e := merr.From(err)
	if ms, ok := e.Extra["retry_after_ms"].(int64); ok {
		// spec: client-server §2.4: the header is the newer form; both are sent.
		w.Header().Set("Retry-After", strconv.FormatInt(int64(math.Ceil(float64(ms)/1000)), 10))
	}
	w.Header().Del("Content-Type")
	body, mErr := marshal(e)
	if mErr != nil {
		return 0, fmt.Errorf("marshal error response: %w", mErr)
	}
	return e.Status, h.writeBytes(w, e.Status, body)
}

// unavailableError is an error that passes: the client may ask again.
type unavailableError struct {
	answer *merr.Error
	cause  error
}

func (e *unavailableError) Error() string   { return e.cause.Error() }
func (e *unavailableError) Unwrap() []error { return []error{e.answer, e.cause} }

// unavailable makes errors of what is not available just now answers that say so.
func (h *handler) unavailable(err error) error {
	var said *merr.Error
	if h.cfg.Unavailable == nil || errors.As(err, &said) || !h.cfg.Unavailable(err) {
		return err
	}
	return &unavailableError{cause: err, answer: merr.New(http.StatusServiceUnavailable, "M_UNKNOWN", "the server cannot reach its data just now; try again").
		With("retry_after_ms", int64(1000))}
}

// abortError says that the answer was begun and cannot be finished.
type abortError struct{ err error }

func (e *abortError) Error() string { return "response aborted: " + e.err.Error() }
func (e *abortError) Unwrap() error { return e.err }

// movingWriter gives each write its own deadline.
type movingWriter struct {
	w   io.Writer
	rc  *http.ResponseController
	now func() time.Time
	set time.Time
}

func (m *movingWriter) Write(p []byte) (int, error) {
	if now := m.now(); now.Sub(m.set) > time.Second {
		m.set = now
		setWriteDeadline(m.rc, now)
	}
	return m.w.Write(p)
}

// Flush sends what is buffered; a streaming handler may want it.
func (m *movingWriter) Flush() error { return m.rc.Flush() }

// setWriteDeadline fails only where the writer is no network connection, and
// there it is not needed.
func setWriteDeadline(rc *http.ResponseController, now time.Time) {
	_ = rc.SetWriteDeadline(now.Add(writeTimeout))
}

// browserPath tells the paths that web clients of any origin may call.
//
// spec: client-server §2.3 (Web browser clients); /.well-known likewise (§3.1).
func browserPath(path string) bool {
	return strings.HasPrefix(path, "/_matrix/client/") || strings.HasPrefix(path, "/_matrix/media/") ||
		strings.HasPrefix(path, "/.well-known/")
}

func setCORS(h http.Header) {
	h["Access-Control-Allow-Origin"] = corsOrigin
	h["Access-Control-Allow-Methods"] = corsMethods
	h["Access-Control-Allow-Headers"] = corsHeaders
}

// The CORS headers' values, shared by all answers and never changed.
var (
	corsOrigin  = []string{"*"}
	corsMethods = []string{"GET, POST, PUT, DELETE, OPTIONS"}
	corsHeaders = []string{"X-Requested-With, Content-Type, Authorization"}
)
