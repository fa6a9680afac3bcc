package load

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
)

// Sync asks for what is new since a token, or for everything where it is empty, and waits at most timeout milliseconds. The
// user is not marked online by it. The caller releases the answer.
func (u *User) Sync(ctx context.Context, since string, timeout int) (*Answer, error) {
	path := v3 + "/sync?set_presence=offline&timeout=" + strconv.Itoa(timeout)
	if since != "" {
		path += "&since=" + url.QueryEscape(since)
	}
	return u.Call(ctx, http.MethodGet, path, nil)
}

// errNoBatch is a sync answer without a token.
var errNoBatch = errors.New("sync: no next_batch")

// NextBatch reads the token that goes on from a sync's answer.
func NextBatch(a *Answer) (string, error) {
	next := a.Get("next_batch").String()
	if next == "" {
		return "", errNoBatch
	}
	return next, nil
}

// Position syncs until nothing is new and returns the token of that point.
func (u *User) Position(ctx context.Context, since string) (string, error) {
	for {
		a, err := u.Sync(ctx, since, 0)
		if err != nil {
			return "", err
		}
		next, err := NextBatch(a)
		a.Release()
		if err != nil {
			return "", err
		}
		if next == since {
			return next, nil
		}
		since = next
	}
}
