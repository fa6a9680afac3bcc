package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"
)

// user is a logged-in user without encryption, who speaks plain HTTP.
type user struct {
	*server
	id, token string
}

// statusError is an answer that is no success.
type statusError struct {
	status int
	body   string
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.body) }

// call makes a request of the client–server API and decodes the answer.
func (u *user) call(ctx context.Context, method, path string, body, out any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, u.base+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	if u.token != "" {
		req.Header.Set("Authorization", "Bearer "+u.token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	answer, err := io.ReadAll(res.Body)
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return &statusError{res.StatusCode, string(answer)}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

// register makes a user.
func register(t *testing.T, s *server, name string) *user {
	t.Helper()
	u := &user{server: s}
	var res struct {
		UserID string `json:"user_id"`
		Token  string `json:"access_token"`
	}
	must(t, u.call(t.Context(), "POST", "/_matrix/client/v3/register", map[string]any{
		"username": name, "password": "correct horse", "auth": map[string]string{"type": "m.login.dummy"},
	}, &res))
	u.id, u.token = res.UserID, res.Token
	return u
}

// createRoom makes a public room.
func (u *user) createRoom(t *testing.T) string {
	t.Helper()
	var res struct {
		RoomID string `json:"room_id"`
	}
	must(t, u.call(t.Context(), "POST", "/_matrix/client/v3/createRoom", map[string]string{"preset": "public_chat"}, &res))
	return res.RoomID
}

// join joins a room through a server.
func (u *user) join(t *testing.T, room string, via *server) {
	t.Helper()
	must(t, u.call(t.Context(), "POST", "/_matrix/client/v3/join/"+url.PathEscape(room)+"?via="+url.QueryEscape(via.name), struct{}{}, nil))
}

// send sends a text under a transaction ID.
func (u *user) send(ctx context.Context, room, txn, text string) (string, error) {
	var res struct {
		EventID string `json:"event_id"`
	}
	err := u.call(ctx, "PUT", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/"+txn,
		map[string]string{"msgtype": "m.text", "body": text}, &res)
	return res.EventID, err
}

// message is a text in a room's history.
type message struct {
	EventID string `json:"event_id"`
	Sender  string `json:"sender"`
	Type    string `json:"type"`
	Content struct {
		Body string `json:"body"`
	} `json:"content"`
}

// history reads all messages of a room, oldest first.
func (u *user) history(ctx context.Context, room string) ([]message, error) {
	var out []message
	from := ""
	for {
		var page struct {
			Chunk []message `json:"chunk"`
			End   string    `json:"end"`
		}
		path := "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/messages?dir=f&limit=500"
		if from != "" {
			path += "&from=" + url.QueryEscape(from)
		}
		if err := u.call(ctx, "GET", path, struct{}{}, &page); err != nil {
			return nil, err
		}
		for _, m := range page.Chunk {
			if m.Type == "m.room.message" {
				out = append(out, m)
			}
		}
		if page.End == "" || len(page.Chunk) == 0 {
			return out, nil
		}
		from = page.End
	}
}
