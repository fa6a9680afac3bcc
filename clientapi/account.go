package clientapi

import (
	"context"
	"fmt"

	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
	roomapi "weft/roomserver/api"
)

// GetTokenOwner is GET /account/whoami.
func (s *Server) GetTokenOwner(_ context.Context, r *httpapi.Request) (any, error) {
	return struct {
		User   id.User   `json:"user_id"`
		Device id.Device `json:"device_id,omitempty"`
		Guest  bool      `json:"is_guest"`
	}{r.Session.User, r.Session.Device, r.Session.Guest}, nil
}

// ChangePassword is POST /account/password.
//
// spec: client-server §5.8.3 (Changing the password): it takes an access token
// here, since no other proof of identity exists on this server.
func (s *Server) ChangePassword(ctx context.Context, r *httpapi.Request) (any, error) {
	var req struct {
		NewPassword   string `json:"new_password"`
		LogoutDevices *bool  `json:"logout_devices"`
	}
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	if err := s.confirmUser(ctx, r); err != nil {
		return nil, err
	}
	logout := req.LogoutDevices == nil || *req.LogoutDevices
	return nil, s.setPassword(ctx, r.Session.User, req.NewPassword, logout, r.Session.Device)
}

// DeactivateAccount is POST /account/deactivate.
func (s *Server) DeactivateAccount(ctx context.Context, r *httpapi.Request) (any, error) {
	var req struct {
		Erase bool `json:"erase"`
	}
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	if err := s.confirmUser(ctx, r); err != nil {
		return nil, err
	}
	if err := s.Deactivate(ctx, r.Session.User, req.Erase); err != nil {
		return nil, err
	}
	// spec: no identifier was ever bound, so none is left bound
	return map[string]string{"id_server_unbind_result": "success"}, nil
}

const (
	deleteAccountData = `DELETE FROM account_data WHERE localpart = $1`
	deleteProfile     = `DELETE FROM profiles WHERE localpart = $1`
	deletePushers     = `DELETE FROM pushers WHERE localpart = $1`
)

// Deactivate ends an account for good: its sessions, keys and profile go at
// once, and it leaves its rooms, which goes on in the background also after a
// restart. Where erase is set, its account data goes too.
func (s *Server) Deactivate(ctx context.Context, user id.User, erase bool) error {
	if _, err := s.GetAccount(ctx, user); err != nil {
		return err
	}
	localpart := user.Localpart()
	err := s.db.Update(ctx, func(tx *sqldb.Tx) error {
		if _, err := tx.Exec(ctx, updateDeactived, erase, localpart); err != nil {
			return fmt.Errorf("deactivating an account: %w", err)
		}
		stmts := []string{deleteProfile, deletePushers, deleteShortTokensOfUser, deleteWalksOfUser, deleteSearch}
		if erase {
			stmts = append(stmts, deleteAccountData)
		}
		for _, stmt := range stmts {
			if _, err := tx.Exec(ctx, stmt, localpart); err != nil {
				return fmt.Errorf("deleting a deactivated user's data: %w", err)
			}
		}
		if err := noteSpread(ctx, tx, localpart, s.nowMS()); err != nil {
			return err
		}
		return s.endTokens(ctx, tx, deleteTokensOfUser, localpart)
	})
	if err != nil {
		return err
	}
	if err := s.removeAllDevices(ctx, user); err != nil {
		return err
	}
	if err := s.cfg.Sync.DeleteUserData(ctx, user); err != nil {
		return fmt.Errorf("deleting a deactivated user's sync data: %w", err)
	}
	s.spread.wake()
	return nil
}

// leaveRooms takes a deactivated user out of all rooms, and out of invites and
// knocks.
func (s *Server) leaveRooms(ctx context.Context, user id.User) error {
	rooms, err := s.cfg.Events.RoomsOf(ctx, user, eventstore.Join, eventstore.Invite, eventstore.Knock)
	if err != nil {
		return fmt.Errorf("listing a deactivated user's rooms: %w", err)
	}
	for _, m := range rooms {
		_, err := s.cfg.Rooms.SetMembership(ctx, roomapi.SetMembership{
			Room: m.RoomID, Sender: user, Target: user, Membership: "leave"})
		if err != nil && ctx.Err() != nil {
			return err
		}
		if err != nil {
			// A room that cannot be left (its server is gone) must not hold up
			// the others.
			s.log.WithError(err).WithField("room", m.RoomID).Warn("a deactivated user could not leave a room")
		}
	}
	return nil
}

// GetAccount3PIDs is GET /account/3pid: accounts have none here.
func (s *Server) GetAccount3PIDs(context.Context, *httpapi.Request) (any, error) {
	return map[string]any{"threepids": []any{}}, nil
}

// RefuseThreepid answers what would add a third-party identifier.
//
// spec: client-server §5.9 (Adding account administrative contact information)
func (s *Server) RefuseThreepid(context.Context, *httpapi.Request) (any, error) {
	return nil, merr.ThreepidDenied("this server keeps no third-party identifiers")
}

// RemoveThreepid answers what would remove a third-party identifier: there is
// none to remove.
func (s *Server) RemoveThreepid(_ context.Context, r *httpapi.Request) (any, error) {
	var req struct {
		Medium  string `json:"medium"`
		Address string `json:"address"`
	}
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	if req.Medium == "" || req.Address == "" {
		return nil, merr.MissingParam("medium and address are needed")
	}
	return map[string]string{"id_server_unbind_result": "success"}, nil
}
