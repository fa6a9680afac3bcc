package load

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// v3 is the prefix of most endpoints.
const v3 = "/_matrix/client/v3"

// NewRoom says what a room is to be.
type NewRoom struct {
	Preset    string   `json:"preset,omitempty"` // private_chat, public_chat
	Version   string   `json:"room_version,omitempty"`
	Name      string   `json:"name,omitempty"`
	Invite    []string `json:"invite,omitempty"`
	Encrypted bool     `json:"-"`
}

// CreateRoom makes a room and returns its ID.
func (u *User) CreateRoom(ctx context.Context, r NewRoom) (string, error) {
	type state struct {
		Type    string            `json:"type"`
		Key     string            `json:"state_key"`
		Content map[string]string `json:"content"`
	}
	req := struct {
		NewRoom
		State []state `json:"initial_state,omitempty"`
	}{NewRoom: r}
	if r.Encrypted {
		req.State = []state{{Type: "m.room.encryption", Content: map[string]string{"algorithm": "m.megolm.v1.aes-sha2"}}}
	}
	body, err := json.Marshal(req)
	if err != nil {
		return "", err
	}
	a, err := u.Call(ctx, http.MethodPost, v3+"/createRoom", body)
	if err != nil {
		return "", err
	}
	defer a.Release()
	room := a.Get("room_id").String()
	if room == "" {
		return "", fmt.Errorf("createRoom: no room_id in %s", a.Body())
	}
	return room, nil
}

// Join joins a room of the user's server.
func (u *User) Join(ctx context.Context, room string) error { return u.join(ctx, room, "") }

// JoinVia joins a room by way of another server.
func (u *User) JoinVia(ctx context.Context, room, server string) error {
	// Servers of specification v1.12 and later want via, those before it server_name.
	server = url.QueryEscape(server)
	return u.join(ctx, room, "?via="+server+"&server_name="+server)
}

func (u *User) join(ctx context.Context, room, query string) error {
	a, err := u.Call(ctx, http.MethodPost, v3+"/join/"+escape(room)+query, []byte("{}"))
	if err != nil {
		return err
	}
	defer a.Release()
	if got := a.Get("room_id").String(); got != room {
		return fmt.Errorf("join of %s: the answer names %q", room, got)
	}
	return nil
}

// Leave leaves a room.
func (u *User) Leave(ctx context.Context, room string) error {
	a, err := u.Call(ctx, http.MethodPost, v3+"/rooms/"+escape(room)+"/leave", []byte("{}"))
	if err != nil {
		return err
	}
	a.Release()
	return nil
}

// Joined lists the joined members of a room.
func (u *User) Joined(ctx context.Context, room string) (map[string]bool, error) {
	a, err := u.Call(ctx, http.MethodGet, v3+"/rooms/"+escape(room)+"/joined_members", nil)
	if err != nil {
		return nil, err
	}
	defer a.Release()
	out := make(map[string]bool)
	for user := range a.Get("joined").Map() {
		out[user] = true
	}
	return out, nil
}

// Send sends a message and returns its event ID.
func (u *User) Send(ctx context.Context, room string, content []byte) (string, error) {
	path := v3 + "/rooms/" + escape(room) + "/send/m.room.message/" + u.transaction()
	a, err := u.Call(ctx, http.MethodPut, path, content)
	if err != nil {
		return "", err
	}
	defer a.Release()
	event := a.Get("event_id").String()
	if event == "" {
		return "", fmt.Errorf("send: no event_id in %s", a.Body())
	}
	return event, nil
}

// transaction makes a transaction ID that this session has not used.
func (u *User) transaction() string { return strconv.FormatInt(u.txn.Add(1), 10) }
