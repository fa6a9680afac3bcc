package load

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"

	"github.com/tidwall/gjson"
)

// password is every user's; the hash of it is what registration costs a server.
const password = "bench-wonderland-7"

// User is a session of a user.
type User struct {
	*Client
	ID, Device, Token string
	// txn numbers this session's requests with a transaction ID.
	txn atomic.Int64
}

// Register makes a user, by the shared secret if there is one, by open registration otherwise.
func (c *Client) Register(ctx context.Context, name, secret string) (*User, error) {
	register := c.registerOpen
	if secret != "" {
		register = func(ctx context.Context, name string) (*Answer, error) { return c.registerSecret(ctx, name, secret) }
	}
	a, err := register(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("register %s: %w", name, err)
	}
	defer a.Release()
	u := &User{Client: c, ID: a.Get("user_id").String(), Device: a.Get("device_id").String(), Token: a.Get("access_token").String()}
	if u.ID == "" || u.Token == "" {
		return nil, fmt.Errorf("register %s: no user_id or access_token in %s", name, a.Body())
	}
	return u, nil
}

// registerOpen registers as anybody may: the first answer names the session, the second request fulfils m.login.dummy.
//
// spec: client-server §5.7 (User-Interactive Authentication API)
func (c *Client) registerOpen(ctx context.Context, name string) (*Answer, error) {
	type auth struct {
		Type    string `json:"type"`
		Session string `json:"session,omitempty"`
	}
	body := struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Auth     *auth  `json:"auth,omitempty"`
	}{Username: name, Password: password}
	first, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	r := Request{Method: http.MethodPost, Path: "/_matrix/client/v3/register", Body: first}
	a, _, err := c.once(ctx, r)
	if err != nil {
		return nil, err
	}
	defer a.Release()
	if a.Status == http.StatusUnauthorized {
		body.Auth = &auth{Type: "m.login.dummy", Session: a.Get("session").String()}
		if r.Body, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	return c.Do(ctx, r)
}

// registerSecret registers with the secret that the server's operator shares with trusted programs: a nonce, and an HMAC
// over the account.
func (c *Client) registerSecret(ctx context.Context, name, secret string) (*Answer, error) {
	const path = "/_synapse/admin/v1/register"
	a, err := c.Do(ctx, Request{Method: http.MethodGet, Path: path})
	if err != nil {
		return nil, err
	}
	nonce := a.Get("nonce").String()
	a.Release()
	if nonce == "" {
		return nil, errors.New("the server gave no nonce")
	}
	mac := hmac.New(sha1.New, []byte(secret))
	_, _ = fmt.Fprintf(mac, "%s\x00%s\x00%s\x00notadmin", nonce, name, password) // a hash takes everything
	body, err := json.Marshal(map[string]any{
		"nonce": nonce, "username": name, "password": password, "admin": false, "mac": hex.EncodeToString(mac.Sum(nil)),
	})
	if err != nil {
		return nil, err
	}
	return c.Do(ctx, Request{Method: http.MethodPost, Path: path, Body: body})
}

// Call sends a request of this user.
func (u *User) Call(ctx context.Context, method, path string, body []byte) (*Answer, error) {
	return u.Do(ctx, Request{Method: method, Path: path, Token: u.Token, Body: body})
}

// Stream sends a GET of this user and leaves the answer, whatever its status, to be read by the caller, who closes it.
func (u *User) Stream(ctx context.Context, path string) (int, io.ReadCloser, error) {
	res, err := u.send(ctx, Request{Method: http.MethodGet, Path: path, Token: u.Token})
	if err != nil {
		return 0, nil, err
	}
	return res.StatusCode, res.Body, nil
}

// Read sends a request of this user and copies the answer, for where time does not matter.
func (u *User) Read(ctx context.Context, method, path string, body []byte) (gjson.Result, error) {
	a, err := u.Call(ctx, method, path, body)
	if err != nil {
		return gjson.Result{}, err
	}
	defer a.Release()
	return gjson.Parse(string(a.Body())), nil
}

// escape makes a part of a path out of an identifier.
func escape(s string) string { return url.PathEscape(s) }
