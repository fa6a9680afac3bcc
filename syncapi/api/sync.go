package api

import (
	"context"
	"encoding/json"

	"weft/matrix/id"
)

// Sync takes what other servers and components report for users to see.
type Sync interface {
	// ReceiveEDU takes m.typing, m.receipt and m.presence from another server.
	ReceiveEDU(ctx context.Context, origin id.Server, typ string, content json.RawMessage) error
	// GetPresence returns the presence of a local or known remote user.
	GetPresence(ctx context.Context, user id.User) (Presence, error)
	// DeleteUserData drops what is kept for a deactivated user.
	DeleteUserData(ctx context.Context, user id.User) error
}

// Presence is a user's presence.
//
// spec: client-server §11.6 (Presence)
type Presence struct {
	User            id.User `json:"user_id"`
	State           string  `json:"presence"` // "online", "unavailable", "offline"
	StatusMsg       string  `json:"status_msg,omitempty"`
	LastActiveAgo   int64   `json:"last_active_ago,omitempty"` // ms
	CurrentlyActive bool    `json:"currently_active,omitempty"`
}
