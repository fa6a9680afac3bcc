package clientapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	upsertProfileField = `INSERT INTO profiles (localpart, field, value) VALUES ($1, $2, $3)
	ON CONFLICT (localpart, field) DO UPDATE SET value = excluded.value`
	deleteProfileField = `DELETE FROM profiles WHERE localpart = $1 AND field = $2`
	selectProfile      = `SELECT field, value FROM profiles WHERE localpart = $1 ORDER BY field`
	upsertSearch       = `INSERT INTO user_search (localpart, words) VALUES ($1, $2)
	ON CONFLICT (localpart) DO UPDATE SET words = excluded.words`
	deleteSearch = `DELETE FROM user_search WHERE localpart = $1`
)

const (
	fieldDisplayName = "displayname"
	fieldAvatar      = "avatar_url"

	maxProfileKey = 255
	// maxProfile bounds a profile in bytes of JSON.
	//
	// spec: client-server §10.4 (Profiles): under 64 KiB
	maxProfile     = 64<<10 - 1
	maxDisplayName = 1024
	maxAvatarURL   = 1024
)

// GetProfile implements api.Accounts.
func (s *Server) GetProfile(ctx context.Context, user id.User) (map[string]json.RawMessage, error) {
	acc, err := s.GetAccount(ctx, user)
	if err != nil {
		return nil, err
	}
	if acc.Deactivated {
		return nil, merr.NotFound("%s is deactivated", user)
	}
	return readProfile(ctx, s.db, user.Localpart())
}

func readProfile(ctx context.Context, q sqldb.Querier, localpart string) (map[string]json.RawMessage, error) {
	rows, err := q.Query(ctx, selectProfile, localpart)
	if err != nil {
		return nil, fmt.Errorf("reading a profile: %w", err)
	}
	defer rows.Close()
	out := map[string]json.RawMessage{}
	for rows.Next() {
		var field, value string
		if err := rows.Scan(&field, &value); err != nil {
			return nil, fmt.Errorf("reading a profile: %w", err)
		}
		out[field] = json.RawMessage(value)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading a profile: %w", err)
	}
	return out, nil
}

// checkProfileKey holds a field's name to the grammar.
//
// spec: client-server §10.4 (PUT /profile/{userId}/{keyName}), appendices (Common Namespaced Identifier Grammar)
func checkProfileKey(key string) error {
	if len(key) > maxProfileKey {
		return merr.New(400, "M_KEY_TOO_LARGE", "a profile field's name has at most %d bytes", maxProfileKey)
	}
	if key == fieldDisplayName || key == fieldAvatar {
		return nil
	}
	if key == "" || key[0] < 'a' || key[0] > 'z' || !strings.Contains(key, ".") ||
		strings.Trim(key, "abcdefghijklmnopqrstuvwxyz0123456789_-.") != "" {
		return merr.InvalidParam("%q is no name of a profile field", key)
	}
	return nil
}

// GetUserProfile is GET /profile/{userId}.
func (s *Server) GetUserProfile(ctx context.Context, r *httpapi.Request) (any, error) {
	user, err := r.UserVar("userId")
	if err != nil {
		return nil, err
	}
	return s.anyProfile(ctx, user)
}

// GetProfileField is GET /profile/{userId}/{keyName}.
func (s *Server) GetProfileField(ctx context.Context, r *httpapi.Request) (any, error) {
	user, err := r.UserVar("userId")
	if err != nil {
		return nil, err
	}
	key := r.Vars["keyName"]
	if err := checkProfileKey(key); err != nil {
		return nil, err
	}
	profile, err := s.anyProfile(ctx, user)
	if err != nil {
		return nil, err
	}
	value, ok := profile[key]
	if !ok {
		return nil, merr.NotFound("%s has no %s", user, key)
	}
	return map[string]json.RawMessage{key: value}, nil
}

// anyProfile is the profile of a local or remote user.
func (s *Server) anyProfile(ctx context.Context, user id.User) (map[string]json.RawMessage, error) {
	if s.isLocal(user) {
		return s.GetProfile(ctx, user)
	}
	return s.remotes.get(ctx, user)
}

// profileTarget is the user whose profile a request changes: the caller, or for
// an administrator any local user.
func (s *Server) profileTarget(r *httpapi.Request) (id.User, string, error) {
	user, err := r.UserVar("userId")
	if err != nil {
		return "", "", err
	}
	if user != r.Session.User && (!r.Session.Admin || !s.isLocal(user)) {
		return "", "", merr.Forbidden("the profile is not the caller's")
	}
	return user, r.Vars["keyName"], checkProfileKey(r.Vars["keyName"])
}

// SetProfileField is PUT /profile/{userId}/{keyName}.
func (s *Server) SetProfileField(ctx context.Context, r *httpapi.Request) (any, error) {
	user, key, err := s.profileTarget(r)
	if err != nil {
		return nil, err
	}
	var body map[string]json.RawMessage
	if err := r.DecodeJSON(&body); err != nil {
		return nil, err
	}
	value, ok := body[key]
	if !ok {
		return nil, merr.MissingParam("%s is missing", key)
	}
	return nil, s.setProfileField(ctx, user, key, value)
}

// DeleteProfileField is DELETE /profile/{userId}/{keyName}.
func (s *Server) DeleteProfileField(ctx context.Context, r *httpapi.Request) (any, error) {
	user, key, err := s.profileTarget(r)
	if err != nil {
		return nil, err
	}
	return nil, s.setProfileField(ctx, user, key, nil)
}

// setProfileField changes a field (nil deletes it) and carries it into rooms.
func (s *Server) setProfileField(ctx context.Context, user id.User, key string, value json.RawMessage) error {
	if _, err := s.GetAccount(ctx, user); err != nil {
		return err
	}
	if value != nil {
		var err error
		if value, err = checkProfileValue(key, value); err != nil {
			return err
		}
	}
	if err := s.storeProfileField(ctx, user, key, value); err != nil {
		return err
	}
	if key == fieldDisplayName || key == fieldAvatar {
		s.spread.soon(ctx, user)
	}
	return nil
}

// checkProfileValue returns the value as it is stored, nil where it means that
// there is none: many clients clear a name by an empty one.
func checkProfileValue(key string, value json.RawMessage) (json.RawMessage, error) {
	limit := maxDisplayName
	switch key {
	case fieldAvatar:
		limit = maxAvatarURL
	case fieldDisplayName:
	default:
		var buf bytes.Buffer
		if err := json.Compact(&buf, value); err != nil {
			return nil, merr.BadJSON("the value of %s is not JSON", key)
		}
		return buf.Bytes(), nil
	}
	var text *string
	if err := json.Unmarshal(value, &text); err != nil {
		return nil, merr.BadJSON("%s is not a string", key)
	}
	if text == nil || *text == "" {
		return nil, nil
	}
	if err := checkText(key, *text, limit); err != nil {
		return nil, err
	}
	out, err := json.Marshal(*text)
	if err != nil {
		return nil, fmt.Errorf("writing a profile field: %w", err)
	}
	return out, nil
}

// storeProfileField stores a field, or deletes it where value is nil, with what
// follows from it: the words of the user directory, and a note that rooms are to
// learn of it.
func (s *Server) storeProfileField(ctx context.Context, user id.User, key string, value json.RawMessage) error {
	localpart := user.Localpart()
	return s.db.Update(ctx, func(tx *sqldb.Tx) error {
		var err error
		if value == nil {
			_, err = tx.Exec(ctx, deleteProfileField, localpart, key)
		} else {
			_, err = tx.Exec(ctx, upsertProfileField, localpart, key, string(value))
		}
		if err != nil {
			return fmt.Errorf("storing a profile field: %w", err)
		}
		profile, err := readProfile(ctx, tx, localpart)
		if err != nil {
			return err
		}
		size := 2
		for k, v := range profile {
			size += len(k) + len(v) + len(`"":,`)
		}
		if size > maxProfile {
			return merr.New(400, "M_PROFILE_TOO_LARGE", "a profile has at most %d bytes", maxProfile)
		}
		if key != fieldDisplayName && key != fieldAvatar {
			return nil
		}
		if err := s.storeSearchWords(ctx, tx, user, textField(profile, fieldDisplayName)); err != nil {
			return err
		}
		return noteSpread(ctx, tx, localpart, s.nowMS())
	})
}

func (s *Server) storeSearchWords(ctx context.Context, tx *sqldb.Tx, user id.User, name string) error {
	words := strings.ToLower(string(user) + " " + name)
	if _, err := tx.Exec(ctx, upsertSearch, user.Localpart(), words); err != nil {
		return fmt.Errorf("storing a user's search words: %w", err)
	}
	return nil
}

// textField is a profile field that is a string; "" where it is not there.
func textField(profile map[string]json.RawMessage, key string) string {
	var s string
	if err := json.Unmarshal(profile[key], &s); err != nil {
		return ""
	}
	return s
}

// memberContent is what a user's member event says of the user's profile, with
// further fields.
func (s *Server) memberContent(ctx context.Context, user id.User, extra map[string]json.RawMessage) (json.RawMessage, error) {
	content := map[string]json.RawMessage{}
	if s.isLocal(user) {
		profile, err := s.GetProfile(ctx, user)
		if err != nil && !errors.Is(err, merr.ErrNotFound) {
			return nil, err
		}
		for _, k := range []string{fieldDisplayName, fieldAvatar} {
			if v, ok := profile[k]; ok {
				content[k] = v
			}
		}
	}
	for k, v := range extra {
		content[k] = v
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("writing a member event's content: %w", err)
	}
	return raw, nil
}
