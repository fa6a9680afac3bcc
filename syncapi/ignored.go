package syncapi

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"weft/internal/cache"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	// ignoredBytes bounds the memory of cached lists of ignored users, ignoredTTL the time that one is kept.
	ignoredBytes = 4 << 20
	ignoredTTL   = 10 * time.Minute
)

// ignoredAt is a list of ignored users, as it was at a position of the stream of account data.
type ignoredAt struct {
	pos   int64
	users map[id.User]bool
}

func newIgnoredCache(now func() time.Time) (*cache.Cache[id.User, ignoredAt], error) {
	return cache.New(ignoredBytes, ignoredTTL, now, func(_ id.User, i ignoredAt) int { return 100 * len(i.users) })
}

// ignoredUsersAt is ignoredUsers at a position of the stream of account data, or later. As long as nobody's account
// data changes, the list need not be read again.
func (s *Server) ignoredUsersAt(ctx context.Context, user id.User, pos int64) (map[id.User]bool, error) {
	if i, ok := s.ignored.Get(user); ok && i.pos == pos {
		return i.users, nil
	}
	put := s.ignored.Begin(user)
	users, err := s.ignoredUsers(ctx, user)
	if err == nil {
		put(user, ignoredAt{pos, users})
	}
	return users, err
}

// ignoredUsers gives the users whom a user does not want to hear of, nil for nobody.
//
// spec: client-server §11.21 (Ignoring users)
func (s *Server) ignoredUsers(ctx context.Context, user id.User) (map[id.User]bool, error) {
	raw, err := s.cfg.Accounts.GetAccountData(ctx, user, "", "m.ignored_user_list")
	if errors.Is(err, merr.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var content struct {
		Users map[id.User]json.RawMessage `json:"ignored_users"`
	}
	if json.Unmarshal(raw, &content) != nil {
		return nil, nil // the client wrote something else there
	}
	out := make(map[id.User]bool, len(content.Users))
	for u := range content.Users {
		if u != user {
			out[u] = true
		}
	}
	return out, nil
}
