package clientapi

import (
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
	roomapi "weft/roomserver/api"
)

// upgradeRequest is the body of POST /rooms/{roomId}/upgrade.
type upgradeRequest struct {
	NewVersion         event.RoomVersion `json:"new_version"`
	AdditionalCreators []id.User         `json:"additional_creators"`
}

// request checks the body.
//
// spec: client-server §10.16 (Room upgrades)
func (q upgradeRequest) request(room id.Room, user id.User) (roomapi.UpgradeRoom, error) {
	req := roomapi.UpgradeRoom{Room: room, User: user, NewVersion: q.NewVersion, AdditionalCreators: q.AdditionalCreators}
	if q.NewVersion == "" {
		return req, merr.MissingParam("new_version is missing")
	}
	if _, err := event.Version(q.NewVersion); err != nil {
		return req, merr.UnsupportedRoomVersion("room version %q is not supported", string(q.NewVersion))
	}
	if len(q.AdditionalCreators) > maxInvites {
		return req, merr.InvalidParam("there are more than %d additional_creators", maxInvites)
	}
	for _, u := range q.AdditionalCreators {
		if _, err := id.ParseUser(string(u)); err != nil {
			return req, merr.InvalidParam("additional_creators: %q is no user ID", string(u))
		}
	}
	return req, nil
}
