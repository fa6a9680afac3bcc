package api

import (
	"context"
	"encoding/json"

	"weft/internal/httpapi"
	"weft/matrix/id"
)

// Accounts answers who a request comes from and what a local user's account
// holds.
type Accounts interface {
	// Authenticate finds the session of an access token. It returns
	// M_UNKNOWN_TOKEN (with soft_logout where it only expired), M_USER_LOCKED
	// or M_USER_DEACTIVATED errors.
	Authenticate(ctx context.Context, req Authenticate) (Session, error)
	// OpenIDUser tells whose an OpenID token is; M_UNKNOWN_TOKEN for none.
	OpenIDUser(ctx context.Context, token string) (id.User, error)
	// GetAccount tells about a local user; M_NOT_FOUND where there is none.
	GetAccount(ctx context.Context, user id.User) (Account, error)
	// GetProfile returns all profile fields of a local user; M_NOT_FOUND where
	// there is no such user.
	GetProfile(ctx context.Context, user id.User) (map[string]json.RawMessage, error)
	// ListDevices lists the devices of a local user.
	ListDevices(ctx context.Context, user id.User) ([]Device, error)
	// GetAccountData returns one piece of account data; room is empty for
	// global data; M_NOT_FOUND where there is none.
	GetAccountData(ctx context.Context, user id.User, room id.Room, typ string) (json.RawMessage, error)
	// SetAccountData stores one piece of account data and wakes the user's
	// sync. A nil content deletes it.
	SetAccountData(ctx context.Context, user id.User, room id.Room, typ string, content json.RawMessage) error
	// ListAccountData lists the pieces that changed after stream position from,
	// up to and including to.
	ListAccountData(ctx context.Context, user id.User, from, to int64) ([]AccountData, error)
	// ListRuleChanges lists the local users whose push rules or ignored users
	// changed after a position of the stream of account data. One who changed
	// both is named twice.
	ListRuleChanges(ctx context.Context, from int64) ([]id.User, error)
	// CreateAccount registers a local user.
	CreateAccount(ctx context.Context, req CreateAccount) error
	// SetPassword changes a local user's password.
	SetPassword(ctx context.Context, user id.User, password string, logoutDevices bool) error
}

// Authenticate carries an access token and what came with it.
type Authenticate = httpapi.Credentials

// Session is an authenticated client.
type Session = httpapi.Session

// Account is a local user's account.
type Account struct {
	User        id.User
	Deactivated bool
	Guest       bool
	Admin       bool
	Locked      bool
	Suspended   bool
	Created     int64 // ms
}

// Device is a session of a local user as others may see it.
type Device struct {
	ID          id.Device
	DisplayName string
	LastSeenTS  int64  // ms; 0: never
	LastSeenIP  string // shown to its owner only
}

// AccountData is one piece of account data; Room is empty for global data, a
// nil Content means that it was deleted.
type AccountData struct {
	Room    id.Room
	Type    string
	Content json.RawMessage
	Pos     int64
}

// CreateAccount registers a user.
type CreateAccount struct {
	User     id.User
	Password string // empty: cannot log in by password
	Admin    bool
	Guest    bool
	// Appservice owns the account, where not empty.
	Appservice string
}
