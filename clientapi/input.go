package clientapi

import (
	"context"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"weft/internal/httpapi"
	"weft/matrix/canonical"
	"weft/matrix/merr"
)

// checkText refuses text that cannot be stored: too long (in bytes), not UTF-8,
// or with a NUL in it.
func checkText(field, s string, maxBytes int) error {
	switch {
	case len(s) > maxBytes:
		return merr.InvalidParam("%s is longer than %d bytes", field, maxBytes)
	case !utf8.ValidString(s):
		return merr.InvalidParam("%s is not valid UTF-8", field)
	case strings.ContainsRune(s, 0):
		return merr.InvalidParam("%s holds a NUL character", field)
	}
	return nil
}

// cleanText makes text from outside fit to be stored, for what is only shown.
func cleanText(s string, maxBytes int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
	if len(s) <= maxBytes {
		return s
	}
	for maxBytes > 0 && !utf8.RuneStart(s[maxBytes]) {
		maxBytes--
	}
	return s[:maxBytes]
}

// maxParam bounds a path or query parameter in bytes.
const maxParam = 2048

// cleanParams stands before a handler and refuses parameters that no handler
// could use.
func cleanParams(next httpapi.Handler) httpapi.Handler {
	return func(ctx context.Context, r *httpapi.Request) (any, error) {
		for name, v := range r.Vars {
			if err := checkText(name, v, maxParam); err != nil {
				return nil, err
			}
		}
		for name, vs := range r.Query() {
			for _, v := range vs {
				if err := checkText(name, v, maxParam); err != nil {
					return nil, err
				}
			}
		}
		return next(ctx, r)
	}
}

// notSuspended stands before what a suspended account may not do.
//
// spec: client-server §5.11 (Account suspension)
func notSuspended(next httpapi.Handler) httpapi.Handler {
	return func(ctx context.Context, r *httpapi.Request) (any, error) {
		if r.Session.Suspended {
			return nil, merr.UserSuspended("the account is suspended")
		}
		return next(ctx, r)
	}
}

// ownUser reads the userId path variable, which must be the caller.
func ownUser(r *httpapi.Request) error {
	u, err := r.UserVar("userId")
	if err != nil {
		return err
	}
	if u != r.Session.User {
		return merr.Forbidden("%s is not the caller", u)
	}
	return nil
}

// object checks that body is a JSON object and returns it as it stands.
func object(body []byte) (json.RawMessage, error) {
	if len(body) == 0 {
		return json.RawMessage("{}"), nil
	}
	var fields map[string]json.RawMessage
	if !json.Valid(body) {
		return nil, merr.NotJSON("the body is not JSON")
	}
	if err := json.Unmarshal(body, &fields); err != nil || fields == nil {
		return nil, merr.BadJSON("the body is not a JSON object")
	}
	return json.RawMessage(body), nil
}

// maxEventContent is more than any event may hold; larger content is refused
// before it is worked on.
//
// spec: client-server §8.3 (Size limits)
const maxEventContent = 65_536

// eventContent checks that body can be the content of an event: an object that
// has a canonical form.
//
// spec: appendices §3.1 (Canonical JSON): integers in range, no floats.
// spec?: room versions before 6 allow other numbers in events that arrive; an
// event that is made here is held to the stricter form in every version.
func eventContent(body []byte) (json.RawMessage, error) {
	raw, err := object(body)
	if err != nil {
		return nil, err
	}
	if len(raw) > maxEventContent {
		return nil, merr.TooLarge("the event is larger than %d bytes", maxEventContent)
	}
	c, err := canonical.Canonical(raw)
	if err != nil {
		return nil, merr.BadJSON("the content has no canonical form: %v", err)
	}
	return c, nil
}
