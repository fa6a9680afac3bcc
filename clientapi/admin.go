package clientapi

import (
	"context"
	"fmt"

	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const selectConnections = `SELECT device_id, last_seen_ts, last_seen_ip, last_seen_agent FROM devices WHERE localpart = $1 ORDER BY device_id`

// GetWhoIs is GET /admin/whois/{userId}: for the user and for administrators.
func (s *Server) GetWhoIs(ctx context.Context, r *httpapi.Request) (any, error) {
	user, err := r.UserVar("userId")
	if err != nil {
		return nil, err
	}
	if user != r.Session.User && !r.Session.Admin {
		return nil, merr.Forbidden("only administrators may look at others")
	}
	if _, err := s.GetAccount(ctx, user); err != nil {
		return nil, err
	}
	if err := s.flushLastSeen(ctx); err != nil {
		return nil, err
	}
	type connection struct {
		IP       string `json:"ip,omitempty"`
		LastSeen int64  `json:"last_seen,omitempty"`
		Agent    string `json:"user_agent,omitempty"`
	}
	type session struct {
		Connections []connection `json:"connections"`
	}
	type device struct {
		Sessions []session `json:"sessions"`
	}
	rows, err := s.db.Query(ctx, selectConnections, user.Localpart())
	if err != nil {
		return nil, fmt.Errorf("listing a user's connections: %w", err)
	}
	defer rows.Close()
	devices := map[string]device{}
	for rows.Next() {
		var d string
		var c connection
		if err := rows.Scan(&d, &c.LastSeen, &c.IP, &c.Agent); err != nil {
			return nil, fmt.Errorf("reading a user's connection: %w", err)
		}
		devices[d] = device{Sessions: []session{{Connections: []connection{c}}}}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("listing a user's connections: %w", err)
	}
	return map[string]any{"user_id": user, "devices": devices}, nil
}

// adminTarget is the user that an administrator looks at or changes.
//
// spec: client-server §10.23 (Server administration)
func (s *Server) adminTarget(ctx context.Context, r *httpapi.Request) (id.User, account, error) {
	user, err := r.UserVar("userId")
	if err != nil {
		return "", account{}, err
	}
	if !r.Session.Admin {
		return "", account{}, merr.Forbidden("only administrators may do this")
	}
	if !s.isLocal(user) {
		return "", account{}, merr.InvalidParam("%s is no user of this server", user)
	}
	acc, err := getAccount(ctx, s.db, user.Localpart())
	if err == nil && acc.deactivated {
		err = merr.NotFound("%s is deactivated", user)
	}
	return user, acc, err
}

// GetSuspended is GET /v1/admin/suspend/{userId}.
func (s *Server) GetSuspended(ctx context.Context, r *httpapi.Request) (any, error) {
	_, acc, err := s.adminTarget(ctx, r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"suspended": acc.suspended}, nil
}

// GetLocked is GET /v1/admin/lock/{userId}.
func (s *Server) GetLocked(ctx context.Context, r *httpapi.Request) (any, error) {
	_, acc, err := s.adminTarget(ctx, r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"locked": acc.locked}, nil
}

// SetSuspended is PUT /v1/admin/suspend/{userId}.
func (s *Server) SetSuspended(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.setModeration(ctx, r, "suspended", updateSuspended)
}

// SetLocked is PUT /v1/admin/lock/{userId}.
func (s *Server) SetLocked(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.setModeration(ctx, r, "locked", updateLocked)
}

func (s *Server) setModeration(ctx context.Context, r *httpapi.Request, field, stmt string) (any, error) {
	user, acc, err := s.adminTarget(ctx, r)
	if err != nil {
		return nil, err
	}
	if acc.admin {
		return nil, merr.Forbidden("administrators cannot be %s", field)
	}
	var q map[string]any
	if err := r.DecodeJSON(&q); err != nil {
		return nil, err
	}
	value, ok := q[field].(bool)
	if !ok {
		return nil, merr.BadJSON("%s is not a boolean", field)
	}
	err = s.db.Update(ctx, func(tx *sqldb.Tx) error {
		if _, err := tx.Exec(ctx, stmt, value, user.Localpart()); err != nil {
			return fmt.Errorf("changing an account: %w", err)
		}
		// The sessions go on, but what the caches say of them is out of date.
		hashes, err := queryHashes(ctx, tx, selectTokensOfUser, user.Localpart())
		if err != nil {
			return err
		}
		return s.forgetSessions(ctx, tx, hashes)
	})
	if err != nil {
		return nil, err
	}
	return map[string]bool{field: value}, nil
}
