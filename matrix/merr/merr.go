package merr

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Error is a standard error response.
//
// spec: client-server §2.1 (standard error response), server-server §1 (the same shape)
type Error struct {
	// Status is the HTTP status code.
	Status int
	// Code is the errcode, such as "M_FORBIDDEN".
	Code string
	// Message is the human-readable `error` field.
	Message string
	// Extra holds further top-level fields of the response, such as
	// `retry_after_ms` or `soft_logout`. It may be nil.
	Extra map[string]any
}

// Error implements error.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Is makes errors.Is compare by errcode, so that an error which crossed a
// process still matches the sentinel it began as.
func (e *Error) Is(target error) bool {
	var t *Error
	if !errors.As(target, &t) {
		return false
	}
	return t.Code == e.Code
}

// MarshalJSON gives the response body.
func (e *Error) MarshalJSON() ([]byte, error) {
	body := make(map[string]any, len(e.Extra)+2)
	for k, v := range e.Extra {
		body[k] = v
	}
	body["errcode"] = e.Code
	body["error"] = e.Message
	return json.Marshal(body)
}

// With returns a copy of the error that carries one more top-level field.
func (e *Error) With(key string, value any) *Error {
	c := *e
	c.Extra = make(map[string]any, len(e.Extra)+1)
	for k, v := range e.Extra {
		c.Extra[k] = v
	}
	c.Extra[key] = value
	return &c
}

// WithStatus returns a copy of the error with another HTTP status, for the
// endpoints whose specification pairs the same errcode with another status.
func (e *Error) WithStatus(status int) *Error {
	c := *e
	c.Status = status
	return &c
}

// New makes an error from its parts.
func New(status int, code, format string, args ...any) *Error {
	return &Error{Status: status, Code: code, Message: fmt.Sprintf(format, args...)}
}

// Decode reads an error response that a remote server sent. A body that is no
// standard error becomes M_UNKNOWN with the status it came with.
func Decode(status int, body []byte) *Error {
	var fields map[string]any
	if err := json.Unmarshal(body, &fields); err == nil {
		code, ok := fields["errcode"].(string)
		if ok && code != "" {
			msg, _ := fields["error"].(string)
			delete(fields, "errcode")
			delete(fields, "error")
			if len(fields) == 0 {
				fields = nil
			}
			return &Error{Status: status, Code: code, Message: msg, Extra: fields}
		}
	}
	return &Error{Status: status, Code: "M_UNKNOWN", Message: fmt.Sprintf("the remote server answered with status %d", status)}
}

// From finds the Error in err's chain. An error that holds none is an internal
// failure: it becomes M_UNKNOWN with status 500 and a message that tells the
// client nothing of the inside.
func From(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Status: 500, Code: "M_UNKNOWN", Message: "internal server error"}
}
