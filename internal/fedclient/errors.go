package fedclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"weft/matrix/id"
	"weft/matrix/merr"
)

// ErrResponseTooLarge is wrapped by the error of a response that went over its
// bound.
var ErrResponseTooLarge = errors.New("the remote server's response is too large")

// RemoteError is an answer of a remote server that is not a success.
type RemoteError struct {
	// Server is who answered, and Request what was asked ("GET /_matrix/…",
	// without the query).
	Server  id.Server
	Request string
	// Status is the HTTP status.
	Status int
	// Remote is the error as the remote server sent it, not filtered.
	Remote *merr.Error

	// location is the Location header of a redirect.
	location string
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("%s answered %s with %d %s: %s", e.Server, e.Request, e.Status, e.Remote.Code, e.Remote.Message)
}

// Unwrap gives the error that one of our own clients may see, so that
// merr.From and errors.Is find it.
//
// A refusal that is about the request itself (400, 403, 404, 409, 413 with a
// code) is passed through, because the specification asks for that in joins,
// invites and the like. Anything else tells about the relation between the two
// servers, not about the client's request: it becomes a 502. In particular no
// code that makes a client drop its session gets through.
func (e *RemoteError) Unwrap() error {
	switch e.Status {
	case 400, 403, 404, 409, 413:
		switch e.Remote.Code {
		case "M_UNKNOWN", "M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_UNAUTHORIZED",
			"M_USER_LOCKED", "M_USER_SUSPENDED", "M_USER_DEACTIVATED", "M_CONSENT_NOT_GIVEN":
		default:
			out := merr.New(e.Status, e.Remote.Code, "%s", e.Remote.Message)
			if v, ok := e.Remote.Extra["room_version"].(string); ok {
				out = out.With("room_version", v)
			}
			return out
		}
	}
	return merr.New(502, "M_UNKNOWN", "%s answered with status %d (%s)", e.Server, e.Status, e.Remote.Code)
}

// unsupported says whether the answer means that the server does not know the
// endpoint, so that an older one may be tried. "Unknown room" is something else.
//
// spec: server-server §2.2 (unsupported endpoints)
func (e *RemoteError) unsupported() bool {
	switch e.Status {
	case 404, 405:
		return e.Remote.Code == "M_UNRECOGNIZED" || e.Remote.Code == "M_UNKNOWN"
	case 400, 501:
		return e.Remote.Code == "M_UNRECOGNIZED"
	}
	return false
}

// AsRemote finds a RemoteError in err's chain.
func AsRemote(err error) (*RemoteError, bool) {
	var e *RemoteError
	ok := errors.As(err, &e)
	return e, ok
}

func isUnsupported(err error) bool {
	e, ok := AsRemote(err)
	return ok && e.unsupported()
}

// ConnError means that a server could not be reached, or did not answer in time
// or in full.
type ConnError struct {
	Server id.Server
	// Err is the cause.
	Err error
	// FailedFast is set when nothing was tried because the server failed
	// a moment ago.
	FailedFast bool
}

func (e *ConnError) Error() string { return fmt.Sprintf("no answer from %s: %v", e.Server, e.Err) }

// Unwrap gives the error that a client sees, and the cause.
func (e *ConnError) Unwrap() []error {
	seen := merr.ConnectionFailed("the server %s cannot be reached", e.Server)
	if isTimeout(e.Err) {
		seen = merr.ConnectionTimeout("the server %s did not answer in time", e.Server)
	}
	return []error{seen, e.Err}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.As(err, &ne) && ne.Timeout()
}

// badResponse is for a success whose body is not what it must be.
func badResponse(server id.Server, what string, cause error) error {
	return fmt.Errorf("%w: %w", merr.New(502, "M_UNKNOWN", "%s sent an invalid response to %s", server, what), cause)
}
