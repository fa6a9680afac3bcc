package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"weft/matrix/id"
	"weft/matrix/merr"
)

// maxJSONDepth bounds the nesting of a request body.
const maxJSONDepth = 128

// DecodeJSON reads the request body, which must be one JSON object, into v. An
// empty body counts as {}, which many clients send so. Errors are M_NOT_JSON
// and M_BAD_JSON; the latter names the field.
func (r *Request) DecodeJSON(v any) error {
	body := bytes.TrimLeft(r.Body, " \t\r\n")
	if len(body) == 0 {
		return nil
	}
	if !utf8.Valid(body) {
		return merr.NotJSON("the body is not valid UTF-8")
	}
	if depth(body) > maxJSONDepth {
		return merr.BadJSON("the body is nested deeper than %d levels", maxJSONDepth)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return decodeError(err, body)
	}
	if body[0] != '{' {
		return merr.BadJSON("the body must be a JSON object")
	}
	return nil
}

func decodeError(err error, body []byte) error {
	if !json.Valid(body) {
		return merr.NotJSON("the body is not JSON: %v", err)
	}
	if body[0] != '{' {
		return merr.BadJSON("the body must be a JSON object")
	}
	var typed *json.UnmarshalTypeError
	if errors.As(err, &typed) {
		if typed.Field == "" {
			return merr.BadJSON("the body must not be a JSON %s here", typed.Value)
		}
		return merr.BadJSON("field %s must not be a JSON %s", typed.Field, typed.Value)
	}
	// A field's own UnmarshalJSON refused it.
	var e *merr.Error
	if errors.As(err, &e) {
		return e
	}
	return merr.BadJSON("the body is of the wrong shape: %v", err)
}

// depth gives the deepest nesting of arrays and objects.
func depth(body []byte) int {
	deepest, now := 0, 0
	inString := false
	for i := 0; i < len(body); i++ {
		c := body[i]
		if inString {
			switch c {
			case '\\':
				i++
			case '"':
				inString = false
			}
			continue
		}
		switch c {
		case '"':
			inString = true
		case '{', '[':
			now++
			deepest = max(deepest, now)
		case '}', ']':
			now--
		}
	}
	return deepest
}

// Query gives the parsed query parameters.
func (r *Request) Query() url.Values {
	if r.query == nil {
		if r.HTTP == nil || r.HTTP.URL == nil {
			return url.Values{}
		}
		r.query = r.HTTP.URL.Query()
	}
	return r.query
}

// QueryInt reads an integer parameter; def where it is absent. A value that is
// no integer or below lowest is M_INVALID_PARAM; one above highest is taken as
// highest, as the specification wants it for limits.
func (r *Request) QueryInt(name string, def, lowest, highest int64) (int64, error) {
	s := r.Query().Get(name)
	if s == "" {
		return def, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, merr.InvalidParam("query parameter %s must be an integer", name)
	}
	if n < lowest {
		return 0, merr.InvalidParam("query parameter %s must be at least %d", name, lowest)
	}
	return min(n, highest), nil
}

// QueryBool reads a boolean parameter; def where it is absent.
func (r *Request) QueryBool(name string, def bool) (bool, error) {
	switch r.Query().Get(name) {
	case "":
		return def, nil
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, merr.InvalidParam("query parameter %s must be true or false", name)
}

// UserVar reads a path variable as a user ID.
func (r *Request) UserVar(name string) (id.User, error) {
	return parseVar(r, name, id.ParseUser)
}

// RoomVar reads a path variable as a room ID.
func (r *Request) RoomVar(name string) (id.Room, error) {
	return parseVar(r, name, id.ParseRoom)
}

// RoomAliasVar reads a path variable as a room alias.
func (r *Request) RoomAliasVar(name string) (id.RoomAlias, error) {
	return parseVar(r, name, id.ParseRoomAlias)
}

// EventVar reads a path variable as an event ID.
func (r *Request) EventVar(name string) (id.Event, error) {
	return parseVar(r, name, id.ParseEvent)
}

// ServerVar reads a path variable as a server name.
func (r *Request) ServerVar(name string) (id.Server, error) {
	return parseVar(r, name, id.ParseServer)
}

func parseVar[T any](r *Request, name string, parse func(string) (T, error)) (T, error) {
	v, err := parse(r.Vars[name])
	if err != nil {
		var none T
		return none, merr.InvalidParam("path variable %s: %v", name, strings.TrimPrefix(err.Error(), "M_INVALID_PARAM: "))
	}
	return v, nil
}
