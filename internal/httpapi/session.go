package httpapi

import (
	"context"

	"weft/matrix/id"
)

// Authenticator finds the session of an access token.
type Authenticator interface {
	// Authenticate returns M_UNKNOWN_TOKEN (with soft_logout where the token
	// only expired), M_USER_LOCKED or M_USER_DEACTIVATED errors.
	Authenticate(ctx context.Context, req Credentials) (Session, error)
}

// Credentials carries an access token and what came with it.
type Credentials struct {
	Token string
	// AsUser and AsDevice are an application service's user_id and device_id
	// parameters.
	AsUser   id.User
	AsDevice id.Device
	// Address and Agent of the client, for "last seen".
	Address, Agent string
}

// Session is an authenticated client.
type Session struct {
	User   id.User
	Device id.Device // empty: an application service without a device
	// Appservice is the ID of the application service whose token it was.
	Appservice string
	Guest      bool
	Suspended  bool
	Admin      bool
	// Unlimited exempts from rate limits (application services that ask for it).
	Unlimited bool
	// TokenID names the access token, for transaction IDs and logout.
	TokenID int64
}
