package httpapi

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"

	"weft/matrix/id"
)

// Auth says who may call an endpoint.
type Auth int

// The kinds of authentication.
const (
	AuthNone         Auth = iota // anybody
	AuthUser                     // an access token; Request.Session is set
	AuthUserOptional             // an access token where one is sent
	AuthServer                   // a signed federation request; Request.Origin and Request.Body are set
)

// Limit names the rate limit that a row falls under.
type Limit int

// The classes of rate limits. Each has its own bucket per user, or per address
// where there is no user.
const (
	LimitNone     Limit = iota
	LimitDefault        // the spec's "Rate-limited: Yes"
	LimitMessage        // sending events
	LimitLogin          // guessing passwords
	LimitRegister       // making accounts
	LimitJoin           // joins, room creation, invites: heavy for others too
	LimitMedia          // uploads and remote media
)

// Route is one endpoint.
type Route struct {
	Method string
	// Path in gorilla/mux form, such as
	// "/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}". Variables
	// are matched against the escaped path and handed over unescaped.
	Path  string
	Auth  Auth
	Limit Limit
	// Guest says that guest accounts may call it.
	Guest bool
	// MaxBody bounds the request body in bytes; 0: 1 MiB. -1: no body is read,
	// the handler reads Request.HTTP.Body itself (uploads).
	MaxBody int64
	// Waits marks long polls: they are counted apart from requests that
	// compute, so that a thousand sleeping clients are no overload. Their
	// handlers watch Request.Stopping.
	Waits   bool
	Handler Handler
	// Forward serves the row instead of Handler: it hands the whole request on to another process, which
	// identifies the caller and limits the body.
	Forward http.Handler
}

// Handler carries out a request. What it returns is written as JSON with status
// 200; nil is {}. An error is written as a standard error response.
type Handler func(ctx context.Context, r *Request) (any, error)

// Request is what a handler gets.
type Request struct {
	HTTP    *http.Request
	Vars    map[string]string // unescaped path variables
	Body    []byte            // read and bounded; empty where MaxBody is -1
	Session Session           // AuthUser
	Origin  id.Server         // AuthServer
	ID      string            // request ID, also in the log
	// Stopping is closed when the server stops: who sleeps answers then as if the
	// time were up. May be nil.
	Stopping <-chan struct{}

	query url.Values
}

// Response overrides what is written; a handler returns it as its value.
type Response struct {
	Status int // 0: 200
	Header http.Header
	// JSON is marshalled; used where Raw and Stream are nil.
	JSON any
	// Raw is written as it is (Content-Type application/json unless Header says
	// otherwise).
	Raw json.RawMessage
	// Stream writes a body of any length, after Header was sent. An error
	// after the first byte aborts the connection, so that the other side does
	// not take half an answer for a whole one.
	Stream func(w io.Writer) error
}
