package clientapi

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"weft/clientapi/api"
	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	insertAccount = `INSERT INTO accounts
	(localpart, password_hash, appservice, admin, guest, deactivated, erased, locked, suspended, created_ts)
	VALUES ($1, $2, $3, $4, $5, 0, 0, 0, 0, $6)`
	selectAccount = `SELECT password_hash, appservice, admin, guest, deactivated, locked, suspended, created_ts
	FROM accounts WHERE localpart = $1`
	updatePassword  = `UPDATE accounts SET password_hash = $1 WHERE localpart = $2 AND deactivated = 0`
	updateDeactived = `UPDATE accounts SET password_hash = '', deactivated = 1, erased = CASE WHEN $1 = 1 THEN 1 ELSE erased END
	WHERE localpart = $2`
	updateSuspended = `UPDATE accounts SET suspended = $1 WHERE localpart = $2`
	updateLocked    = `UPDATE accounts SET locked = $1 WHERE localpart = $2`
)

// account is a row of accounts.
type account struct {
	localpart    string
	passwordHash string
	appservice   string
	admin        bool
	guest        bool
	deactivated  bool
	locked       bool
	suspended    bool
	created      int64
}

// getAccount reads an account; M_NOT_FOUND where there is none.
func getAccount(ctx context.Context, q sqldb.Querier, localpart string) (account, error) {
	a := account{localpart: localpart}
	err := q.QueryRow(ctx, selectAccount, localpart).Scan(&a.passwordHash, &a.appservice,
		&a.admin, &a.guest, &a.deactivated, &a.locked, &a.suspended, &a.created)
	if errors.Is(err, sql.ErrNoRows) {
		return a, merr.NotFound("there is no such user here")
	}
	if err != nil {
		return a, fmt.Errorf("reading an account: %w", err)
	}
	return a, nil
}

// GetAccount implements api.Accounts.
func (s *Server) GetAccount(ctx context.Context, user id.User) (api.Account, error) {
	if !s.isLocal(user) {
		return api.Account{}, merr.NotFound("%s is no user of this server", user)
	}
	a, err := getAccount(ctx, s.db, user.Localpart())
	if err != nil {
		return api.Account{}, err
	}
	return api.Account{User: user, Deactivated: a.deactivated, Guest: a.guest, Admin: a.admin,
		Locked: a.locked, Suspended: a.suspended, Created: a.created}, nil
}

// CreateAccount implements api.Accounts. M_USER_IN_USE where the user exists.
func (s *Server) CreateAccount(ctx context.Context, req api.CreateAccount) error {
	if !s.isLocal(req.User) {
		return merr.InvalidUsername("%s is not on this server", req.User)
	}
	hash := ""
	if req.Password != "" {
		var err error
		if hash, err = s.passwords.hash(ctx, req.Password); err != nil {
			return err
		}
	}
	return s.db.Update(ctx, func(tx *sqldb.Tx) error { return s.createAccount(ctx, tx, req, hash) })
}

func (s *Server) createAccount(ctx context.Context, tx *sqldb.Tx, req api.CreateAccount, hash string) error {
	localpart := req.User.Localpart()
	_, err := getAccount(ctx, tx, localpart)
	if err == nil {
		return merr.UserInUse("the user ID %s is taken", req.User)
	}
	if !errors.Is(err, merr.ErrNotFound) {
		return err
	}
	_, err = tx.Exec(ctx, insertAccount, localpart, hash, req.Appservice, req.Admin, req.Guest, s.nowMS())
	if sqldb.IsUniqueViolation(err) {
		return merr.UserInUse("the user ID %s is taken", req.User)
	}
	if err != nil {
		return fmt.Errorf("storing an account: %w", err)
	}
	if req.Guest {
		return nil
	}
	// A user without a display name is shown by the localpart.
	name, err := json.Marshal(localpart)
	if err != nil {
		return fmt.Errorf("writing a display name: %w", err)
	}
	_, err = tx.Exec(ctx, upsertProfileField, localpart, fieldDisplayName, string(name))
	if err != nil {
		return fmt.Errorf("storing a display name: %w", err)
	}
	return s.storeSearchWords(ctx, tx, req.User, localpart)
}

// SetPassword implements api.Accounts.
func (s *Server) SetPassword(ctx context.Context, user id.User, password string, logoutDevices bool) error {
	return s.setPassword(ctx, user, password, logoutDevices, "")
}

// setPassword keeps the device keep where the others are logged out.
func (s *Server) setPassword(ctx context.Context, user id.User, password string, logoutDevices bool, keep id.Device) error {
	if err := checkPassword(password); err != nil {
		return err
	}
	if !s.isLocal(user) {
		return merr.NotFound("%s is no user of this server", user)
	}
	hash, err := s.passwords.hash(ctx, password)
	if err != nil {
		return err
	}
	res, err := s.db.Exec(ctx, updatePassword, hash, user.Localpart())
	if err != nil {
		return fmt.Errorf("storing a password: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil {
		return fmt.Errorf("storing a password: %w", err)
	} else if n == 0 {
		return merr.NotFound("there is no active user %s", user)
	}
	if !logoutDevices {
		return nil
	}
	devices, err := listDevices(ctx, s.db, user.Localpart())
	if err != nil {
		return err
	}
	var others []id.Device
	for _, d := range devices {
		if d.ID != keep {
			others = append(others, d.ID)
		}
	}
	return s.removeDevices(ctx, user, others)
}

// checkPassword refuses passwords that cannot or should not be used.
func checkPassword(p string) error {
	switch {
	case p == "":
		return merr.MissingParam("a password is needed")
	case len(p) > maxPassword:
		return merr.InvalidParam("the password is longer than %d bytes", maxPassword)
	}
	return nil
}
