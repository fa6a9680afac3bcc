package setup

import (
	"context"
	"errors"
	"testing"

	clientapiapi "weft/clientapi/api"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// someAccounts answers GetAccount only.
type someAccounts struct {
	clientapiapi.Accounts
	known map[id.User]clientapiapi.Account
	fails error
}

func (a someAccounts) GetAccount(_ context.Context, user id.User) (clientapiapi.Account, error) {
	if a.fails != nil {
		return clientapiapi.Account{}, a.fails
	}
	if got, ok := a.known[user]; ok {
		return got, nil
	}
	return clientapiapi.Account{}, merr.NotFound("there is no such user here")
}

// Who cannot log in cannot be invited; that the database failed says nothing of it.
func TestUserExists(t *testing.T) {
	known := map[id.User]clientapiapi.Account{"@alice:a": {}, "@gone:a": {Deactivated: true}}
	broken := errors.New("the database is away")
	for name, c := range map[string]struct {
		user  id.User
		fails error
		want  bool
	}{
		"known":       {user: "@alice:a", want: true},
		"unknown":     {user: "@bob:a"},
		"deactivated": {user: "@gone:a"},
		"failure":     {user: "@alice:a", fails: broken},
	} {
		l := &lateUsers{Accounts: someAccounts{known: known, fails: c.fails}}
		got, err := l.exists(context.Background(), c.user)
		if got != c.want || !errors.Is(err, c.fails) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}
