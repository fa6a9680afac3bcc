package setup

import (
	"context"
	"errors"

	clientapiapi "weft/clientapi/api"
	fedapi "weft/federationapi/api"
	"weft/matrix/id"
	"weft/matrix/merr"
	syncapiapi "weft/syncapi/api"
)

// Components that need each other are given these stand-ins; they are filled in
// while wiring, before anything runs.

type lateOutbound struct{ fedapi.Outbound }

type lateSync struct{ syncapiapi.Sync }

type lateUsers struct{ clientapiapi.Accounts }

// exists tells whether there is such a user here, one that can still log in.
func (l *lateUsers) exists(ctx context.Context, user id.User) (bool, error) {
	a, err := l.GetAccount(ctx, user)
	if errors.Is(err, merr.ErrNotFound) {
		return false, nil
	}
	return err == nil && !a.Deactivated, err
}
