package roomserver

import (
	"context"
	"fmt"

	"weft/internal/eventstore"
	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// ForgetRoom implements api.Rooms. A room that the user never was in is M_NOT_FOUND;
// one the user is still in, or invited to, is M_UNKNOWN.
//
// spec: client-server §10.4.3 (POST /rooms/{roomId}/forget)
func (s *Server) ForgetRoom(ctx context.Context, user id.User, room id.Room) error {
	r, err := s.store.Room(ctx, room)
	if err != nil {
		return err
	}
	member, err := s.store.Member(ctx, r.NID, user)
	if err != nil {
		return err
	}
	if member.Membership == eventstore.None {
		return merr.NotFound("%s has never been in the room %s", user, room)
	}
	done := false
	err = s.db.Update(ctx, func(tx *sqldb.Tx) error {
		var err error
		done, err = s.writer.Forget(ctx, tx, r.NID, member.UserNID)
		return err
	})
	if err != nil {
		return fmt.Errorf("forgetting %s: %w", room, err)
	}
	if !done {
		return merr.Unknown("%s is in the room %s or invited to it", user, room)
	}
	return nil
}
