package setup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sirupsen/logrus"

	"weft/clientapi/api"
	"weft/matrix/id"
)

// CreateUser makes an account directly in the database, whether a server runs
// or not. Name is a localpart or a whole user ID.
func CreateUser(ctx context.Context, c *Config, name, password string, admin bool) (id.User, error) {
	return withAccounts(ctx, c, name, func(a api.Accounts, user id.User) error {
		return a.CreateAccount(ctx, api.CreateAccount{User: user, Password: password, Admin: admin})
	})
}

// SetPassword sets an account's password. A server that runs may honour tokens of devices that are
// logged out by it for two minutes more, on PostgreSQL for two seconds.
func SetPassword(ctx context.Context, c *Config, name, password string, logoutDevices bool) (id.User, error) {
	return withAccounts(ctx, c, name, func(a api.Accounts, user id.User) error {
		return a.SetPassword(ctx, user, password, logoutDevices)
	})
}

// withAccounts opens a server without running it.
func withAccounts(ctx context.Context, c *Config, name string, fn func(api.Accounts, id.User) error) (user id.User, err error) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	s, err := build(ctx, *c, RunOptions{Log: log}, false)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if strings.HasPrefix(name, "@") {
		if user, err = id.ParseUser(name); err == nil && user.Server() != id.Server(s.cfg.ServerName) {
			err = fmt.Errorf("%s is no user of %s", name, s.cfg.ServerName)
		}
	} else {
		user, err = id.NewUser(name, id.Server(s.cfg.ServerName))
	}
	if err != nil {
		return "", err
	}
	if err := fn(s.parts.accounts, user); err != nil {
		return "", err
	}
	return user, nil
}
