package setup

import (
	"context"

	fedapi "weft/federationapi/api"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/syncapi"
	syncapiapi "weft/syncapi/api"
)

// Components that need each other are given these stand-ins; they are filled in
// while wiring, before anything runs.

type lateOutbound struct{ fedapi.Outbound }

type lateSync struct{ syncapiapi.Sync }

// syncWithoutPresence is the sync API of a server that keeps no presence:
// nobody's is known.
type syncWithoutPresence struct{ *syncapi.Server }

func (syncWithoutPresence) GetPresence(_ context.Context, user id.User) (syncapiapi.Presence, error) {
	return syncapiapi.Presence{}, merr.NotFound("the presence of %s is not known", user)
}
