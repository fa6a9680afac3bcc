package keyserver

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/tidwall/gjson"

	"weft/internal/sqldb"
	"weft/keyserver/api"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	nextVersionSQL   = `SELECT COALESCE(MAX(version), 0) + 1 FROM backup_versions WHERE user_id = $1`
	insertVersionSQL = `INSERT INTO backup_versions (user_id, version, algorithm, auth_data, etag, deleted)
		VALUES ($1, (SELECT COALESCE(MAX(version), 0) + 1 FROM backup_versions WHERE user_id = $1), $2, $3, 0, 0)
		ON CONFLICT (user_id, version) DO NOTHING RETURNING version`
	newestVersionSQL = `SELECT COALESCE(MAX(version), 0) FROM backup_versions WHERE user_id = $1 AND deleted = 0`
	selectVersionSQL = `SELECT algorithm, auth_data, etag FROM backup_versions
		WHERE user_id = $1 AND version = $2 AND deleted = 0`
	updateVersionSQL = `UPDATE backup_versions SET auth_data = $3 WHERE user_id = $1 AND version = $2`
	lockVersionSQL   = `UPDATE backup_versions SET etag = etag WHERE user_id = $1 AND version = $2 AND deleted = 0 RETURNING version`
	deleteVersionSQL = `UPDATE backup_versions SET deleted = 1 WHERE user_id = $1 AND version = $2 AND deleted = 0`
	bumpETagSQL      = `UPDATE backup_versions SET etag = etag + 1 WHERE user_id = $1 AND version = $2`
	countKeysSQL     = `SELECT COUNT(*) FROM backup_keys WHERE user_id = $1 AND version = $2`
	// A session is replaced by a better copy: verified before not, then the lower first message index, then fewer forwards.
	//
	// spec: client-server, PUT /room_keys/keys/{roomId}/{sessionId}
	upsertKeySQL = `INSERT INTO backup_keys (user_id, version, room_id, session_id, verified, first_index, forwarded, data)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (user_id, version, room_id, session_id) DO UPDATE SET verified = excluded.verified,
			first_index = excluded.first_index, forwarded = excluded.forwarded, data = excluded.data
		WHERE (-excluded.verified, excluded.first_index, excluded.forwarded)
			< (-backup_keys.verified, backup_keys.first_index, backup_keys.forwarded)`
	// The empty string stands for "any".
	selectKeysSQL = `SELECT room_id, session_id, data FROM backup_keys
		WHERE user_id = $1 AND version = $2 AND ($3 = '' OR room_id = $3) AND ($4 = '' OR session_id = $4)`
	deleteKeysSQL = `DELETE FROM backup_keys
		WHERE user_id = $1 AND version = $2 AND ($3 = '' OR room_id = $3) AND ($4 = '' OR session_id = $4)`
)

func noBackup() error { return merr.NotFound("no such version of a key backup") }

// parseVersion reads a version string; another form than ours names no backup.
func parseVersion(version string) (int64, error) {
	v, err := strconv.ParseInt(version, 10, 64)
	if err != nil || v < 1 {
		return 0, noBackup()
	}
	return v, nil
}

// CreateVersion implements api.Backup.
//
// spec: client-server §10.11.4.1 (Server-side key backups)
func (s *Server) CreateVersion(ctx context.Context, user id.User, algorithm string, authData json.RawMessage) (string, error) {
	if algorithm == "" {
		return "", merr.MissingParam("algorithm is missing")
	}
	if !gjson.ParseBytes(authData).IsObject() {
		return "", merr.BadJSON("auth_data is not an object")
	}
	var version int64
	err := s.DB.Update(ctx, func(tx *sqldb.Tx) error {
		for {
			err := tx.QueryRow(ctx, insertVersionSQL, string(user), algorithm, []byte(authData)).Scan(&version)
			if errors.Is(err, sql.ErrNoRows) {
				continue // another node gave out this number between reading and writing
			}
			if err != nil {
				return fmt.Errorf("keyserver: creating backup: %w", err)
			}
			return nil
		}
	})
	return strconv.FormatInt(version, 10), err
}

func newestVersion(ctx context.Context, q sqldb.Querier, user id.User) (int64, error) {
	var v int64
	if err := q.QueryRow(ctx, newestVersionSQL, string(user)).Scan(&v); err != nil {
		return 0, fmt.Errorf("keyserver: reading backup version: %w", err)
	}
	return v, nil
}

// readVersion reads one existing version.
func readVersion(ctx context.Context, q sqldb.Querier, user id.User, version int64) (api.BackupVersion, error) {
	out := api.BackupVersion{Version: strconv.FormatInt(version, 10)}
	var etag int64
	var auth []byte
	err := q.QueryRow(ctx, selectVersionSQL, string(user), version).Scan(&out.Algorithm, &auth, &etag)
	if errors.Is(err, sql.ErrNoRows) {
		return out, noBackup()
	}
	if err != nil {
		return out, fmt.Errorf("keyserver: reading backup: %w", err)
	}
	if err := q.QueryRow(ctx, countKeysSQL, string(user), version).Scan(&out.Count); err != nil {
		return out, fmt.Errorf("keyserver: counting backup keys: %w", err)
	}
	out.AuthData, out.ETag = auth, strconv.FormatInt(etag, 10)
	return out, nil
}

// GetVersion implements api.Backup.
func (s *Server) GetVersion(ctx context.Context, user id.User, version string) (out api.BackupVersion, err error) {
	err = s.DB.View(ctx, func(tx *sqldb.Tx) error {
		var v int64
		if version == "" {
			v, err = newestVersion(ctx, tx, user)
		} else {
			v, err = parseVersion(version)
		}
		if err != nil {
			return err
		}
		out, err = readVersion(ctx, tx, user, v)
		return err
	})
	return out, err
}

// UpdateVersion implements api.Backup.
func (s *Server) UpdateVersion(ctx context.Context, user id.User, version, algorithm string, authData json.RawMessage) error {
	v, err := parseVersion(version)
	if err != nil {
		return err
	}
	if !gjson.ParseBytes(authData).IsObject() {
		return merr.BadJSON("auth_data is not an object")
	}
	return s.DB.Update(ctx, func(tx *sqldb.Tx) error {
		have, err := readVersion(ctx, tx, user, v)
		if err != nil {
			return err
		}
		if have.Algorithm != algorithm {
			return merr.InvalidParam("the backup's algorithm is %q and cannot be changed to %q", have.Algorithm, algorithm)
		}
		if _, err := tx.Exec(ctx, updateVersionSQL, string(user), v, []byte(authData)); err != nil {
			return fmt.Errorf("keyserver: updating backup: %w", err)
		}
		return nil
	})
}

// DeleteVersion implements api.Backup. Deleting what is deleted is fine.
func (s *Server) DeleteVersion(ctx context.Context, user id.User, version string) error {
	v, err := parseVersion(version)
	if err != nil {
		return err
	}
	return s.DB.Update(ctx, func(tx *sqldb.Tx) error {
		var next int64
		if err := tx.QueryRow(ctx, nextVersionSQL, string(user)).Scan(&next); err != nil {
			return fmt.Errorf("keyserver: deleting backup: %w", err)
		}
		if v >= next {
			return noBackup()
		}
		// Its keys are out of reach now, and go bit by bit: there may be very many (upkeep.go).
		if _, err := tx.Exec(ctx, deleteVersionSQL, string(user), v); err != nil {
			return fmt.Errorf("keyserver: deleting backup: %w", err)
		}
		return nil
	})
}

// backupRank is what decides which of two copies of a session is kept (upsertKeySQL).
type backupRank struct{ verified, firstIndex, forwarded int64 }

// parseBackupKey checks a KeyBackupData and finds its rank.
func parseBackupKey(raw json.RawMessage) (backupRank, error) {
	var r backupRank
	if len(raw) > maxBackupKeyBytes {
		return r, merr.TooLarge("a session is larger than %d bytes", maxBackupKeyBytes)
	}
	doc := gjson.ParseBytes(raw)
	first, fwd, ver := doc.Get("first_message_index"), doc.Get("forwarded_count"), doc.Get("is_verified")
	if first.Type != gjson.Number || fwd.Type != gjson.Number || !ver.IsBool() || !doc.Get("session_data").IsObject() {
		return r, merr.BadJSON("a session needs first_message_index, forwarded_count, is_verified and session_data")
	}
	r = backupRank{firstIndex: first.Int(), forwarded: fwd.Int()}
	if ver.Bool() {
		r.verified = 1
	}
	return r, nil
}

// lockVersion keeps others from writing to a version until the transaction ends: those who write the
// same sessions in another order would else wait for each other.
func lockVersion(ctx context.Context, tx *sqldb.Tx, user id.User, version int64) error {
	err := tx.QueryRow(ctx, lockVersionSQL, string(user), version).Scan(&version)
	if errors.Is(err, sql.ErrNoRows) {
		return noBackup()
	}
	if err != nil {
		return fmt.Errorf("keyserver: locking backup: %w", err)
	}
	return nil
}

// currentVersion checks that version is the newest one, the only one that may
// be written.
func currentVersion(ctx context.Context, tx *sqldb.Tx, user id.User, version string) (int64, error) {
	newest, err := newestVersion(ctx, tx, user)
	if err != nil {
		return 0, err
	}
	if newest == 0 {
		return 0, noBackup()
	}
	if v, err := parseVersion(version); err != nil || v != newest {
		return 0, merr.WrongRoomKeysVersion("version %q is not the current one", version).
			With("current_version", strconv.FormatInt(newest, 10))
	}
	return newest, nil
}

// PutKeys implements api.Backup.
func (s *Server) PutKeys(ctx context.Context, user id.User, version string, keys map[id.Room]map[string]json.RawMessage) (state api.BackupState, err error) {
	ranks := map[string]backupRank{}
	for room, sessions := range keys {
		for session, raw := range sessions {
			if ranks[string(room)+"\x00"+session], err = parseBackupKey(raw); err != nil {
				return state, err
			}
		}
	}
	err = s.DB.Update(ctx, func(tx *sqldb.Tx) error {
		v, err := currentVersion(ctx, tx, user, version)
		if err != nil {
			return err
		}
		if err := lockVersion(ctx, tx, user, v); err != nil {
			return err
		}
		changed := false
		for room, sessions := range keys {
			for session, raw := range sessions {
				wrote, err := putKey(ctx, tx, user, v, room, session, ranks[string(room)+"\x00"+session], raw)
				if err != nil {
					return err
				}
				changed = changed || wrote
			}
		}
		state, err = backupState(ctx, tx, user, v, changed)
		return err
	})
	return state, err
}

// putKey stores a session unless a better copy is there.
func putKey(ctx context.Context, tx *sqldb.Tx, user id.User, version int64, room id.Room, session string, rank backupRank, raw json.RawMessage) (bool, error) {
	res, err := tx.Exec(ctx, upsertKeySQL, string(user), version, string(room), session,
		rank.verified, rank.firstIndex, rank.forwarded, []byte(raw))
	if err != nil {
		return false, fmt.Errorf("keyserver: storing backup key: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return false, fmt.Errorf("keyserver: storing backup key: %w", err)
	}
	return n > 0, nil
}

// backupState counts the keys and gives the etag, a new one after a change.
func backupState(ctx context.Context, tx *sqldb.Tx, user id.User, version int64, changed bool) (api.BackupState, error) {
	if changed {
		if _, err := tx.Exec(ctx, bumpETagSQL, string(user), version); err != nil {
			return api.BackupState{}, fmt.Errorf("keyserver: changing backup etag: %w", err)
		}
	}
	v, err := readVersion(ctx, tx, user, version)
	return api.BackupState{Count: v.Count, ETag: v.ETag}, err
}

// GetKeys implements api.Backup.
func (s *Server) GetKeys(ctx context.Context, user id.User, version string, room id.Room, session string) (map[id.Room]map[string]json.RawMessage, error) {
	v, err := parseVersion(version)
	if err != nil {
		return nil, err
	}
	out := map[id.Room]map[string]json.RawMessage{}
	err = s.DB.View(ctx, func(tx *sqldb.Tx) error {
		if _, err := readVersion(ctx, tx, user, v); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, selectKeysSQL, string(user), v, string(room), session)
		if err != nil {
			return fmt.Errorf("keyserver: reading backup keys: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			var r id.Room
			var sess string
			var data []byte
			if err := rows.Scan(&r, &sess, &data); err != nil {
				return fmt.Errorf("keyserver: reading backup keys: %w", err)
			}
			if out[r] == nil {
				out[r] = map[string]json.RawMessage{}
			}
			out[r][sess] = data
		}
		return rows.Err()
	})
	return out, err
}

// DeleteKeys implements api.Backup.
func (s *Server) DeleteKeys(ctx context.Context, user id.User, version string, room id.Room, session string) (state api.BackupState, err error) {
	err = s.DB.Update(ctx, func(tx *sqldb.Tx) error {
		v, err := parseVersion(version)
		if err != nil {
			return err
		}
		if err := lockVersion(ctx, tx, user, v); err != nil {
			return err
		}
		res, err := tx.Exec(ctx, deleteKeysSQL, string(user), v, string(room), session)
		if err != nil {
			return fmt.Errorf("keyserver: deleting backup keys: %w", err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return fmt.Errorf("keyserver: deleting backup keys: %w", err)
		}
		state, err = backupState(ctx, tx, user, v, n > 0)
		return err
	})
	return state, err
}
