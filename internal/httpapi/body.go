package httpapi

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"time"

	"weft/matrix/merr"
)

const (
	// defaultMaxBody bounds a request body where its row says nothing.
	defaultMaxBody = 1 << 20
	// bodyTimeout bounds the reading of a bounded body, and the wait for the
	// next piece of an unbounded one.
	bodyTimeout = time.Minute
)

// readBody reads the request body, at most maxBytes of it.
func (h *handler) readBody(w http.ResponseWriter, r *http.Request, maxBytes int64) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil, nil
	}
	if maxBytes == 0 {
		maxBytes = defaultMaxBody
	}
	if r.ContentLength > maxBytes {
		w.Header().Set("Connection", "close")
		return nil, merr.TooLarge("the body is larger than %d bytes", maxBytes)
	}
	rc := http.NewResponseController(w)
	setReadDeadline(rc, h.cfg.Now().Add(bodyTimeout))
	buf := bytes.Buffer{}
	if r.ContentLength > 0 {
		// MinRead more, so that the end is found without growing.
		buf.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	_, err := buf.ReadFrom(http.MaxBytesReader(w, r.Body, maxBytes))
	// A deadline left behind would cancel the request's context.
	setReadDeadline(rc, time.Time{})
	if err == nil {
		return buf.Bytes(), nil
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, merr.TooLarge("the body is larger than %d bytes", maxBytes)
	}
	return nil, merr.Unknown("the body could not be read").WithStatus(http.StatusBadRequest)
}

// movingBody gives each read of an unbounded body its own deadline.
type movingBody struct {
	io.ReadCloser
	rc  *http.ResponseController
	now func() time.Time
	set time.Time
}

func (m *movingBody) Read(p []byte) (int, error) {
	if now := m.now(); now.Sub(m.set) > time.Second {
		m.set = now
		setReadDeadline(m.rc, now.Add(bodyTimeout))
	}
	n, err := m.ReadCloser.Read(p)
	if err != nil {
		setReadDeadline(m.rc, time.Time{})
	}
	return n, err
}

// setReadDeadline fails only where there is no network connection, and there
// it is not needed.
func setReadDeadline(rc *http.ResponseController, t time.Time) {
	_ = rc.SetReadDeadline(t)
}
