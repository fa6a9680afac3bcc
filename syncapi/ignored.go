package syncapi

import (
	"context"
	"encoding/json"
	"errors"

	"weft/matrix/id"
	"weft/matrix/merr"
)

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
