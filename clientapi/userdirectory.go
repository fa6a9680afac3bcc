package clientapi

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/internal/statetree"
	"weft/matrix/id"
	"weft/matrix/merr"

	"github.com/tidwall/gjson"
)

// searchUsers is continued for each word and by its order and limit.
const searchUsers = `SELECT localpart FROM user_search WHERE localpart > $1`

const (
	maxSearchTerm   = 255
	maxSearchWords  = 8
	maxDirectory    = 50
	searchBatch     = 200
	maxCandidates   = 2000  // local users looked at for one search
	maxSharers      = 20000 // remote users looked at for one search
	maxPublicChecks = 50    // rooms of a candidate looked at
)

type directoryUser struct {
	ID        id.User         `json:"user_id"`
	Name      json.RawMessage `json:"display_name,omitempty"`
	AvatarURL json.RawMessage `json:"avatar_url,omitempty"`
}

// SearchUserDirectory is POST /user_directory/search: among users who share a
// room with the caller or are in a public room of this server. Names are those
// of profiles, never those that a user has in one room only.
//
// spec: client-server §10.5 (Searching users)
func (s *Server) SearchUserDirectory(ctx context.Context, r *httpapi.Request) (any, error) {
	var req struct {
		Term  *string `json:"search_term"`
		Limit *int64  `json:"limit"`
	}
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	if req.Term == nil {
		return nil, merr.MissingParam("search_term is missing")
	}
	if err := checkText("search_term", *req.Term, maxSearchTerm); err != nil {
		return nil, err
	}
	limit := int64(10)
	if req.Limit != nil {
		limit = *req.Limit
	}
	if limit < 1 {
		return nil, merr.InvalidParam("limit is below 1")
	}
	limit = min(limit, maxDirectory)
	out := struct {
		Limited bool            `json:"limited"`
		Results []directoryUser `json:"results"`
	}{Results: []directoryUser{}}
	words := strings.Fields(strings.ToLower(*req.Term))
	if len(words) == 0 {
		return out, nil
	}
	words = words[:min(len(words), maxSearchWords)]
	found, err := s.searchLocalUsers(ctx, r.Session.User, words, int(limit)+1)
	if err != nil {
		return nil, err
	}
	if len(found) <= int(limit) {
		remote, err := s.searchRemoteUsers(ctx, r.Session.User, words, int(limit)+1-len(found))
		if err != nil {
			return nil, err
		}
		found = append(found, remote...)
	}
	if len(found) > int(limit) {
		found, out.Limited = found[:limit], true
	}
	out.Results = append(out.Results, found...)
	return out, nil
}

// escapeLike makes text match itself in LIKE … ESCAPE '\'.
func escapeLike(s string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(s)
}

func (s *Server) searchLocalUsers(ctx context.Context, asker id.User, words []string, limit int) ([]directoryUser, error) {
	query := searchUsers
	for i := range words {
		query += fmt.Sprintf(` AND words LIKE $%d ESCAPE '\'`, i+2)
	}
	query += fmt.Sprintf(` ORDER BY localpart LIMIT %d`, searchBatch)
	var out []directoryUser
	after := ""
	for seen := 0; seen < maxCandidates; {
		args := []any{after}
		for _, w := range words {
			args = append(args, "%"+escapeLike(w)+"%")
		}
		batch, err := s.searchBatch(ctx, query, args)
		if err != nil {
			return nil, err
		}
		for _, localpart := range batch {
			user := s.userID(localpart)
			after = localpart
			if user == asker {
				continue
			}
			ok, err := s.mayFind(ctx, asker, user)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			profile, err := readProfile(ctx, s.db, localpart)
			if err != nil {
				return nil, err
			}
			out = append(out, directoryUser{ID: user, Name: profile[fieldDisplayName], AvatarURL: profile[fieldAvatar]})
			if len(out) == limit {
				return out, nil
			}
		}
		seen += len(batch)
		if len(batch) < searchBatch {
			break
		}
	}
	return out, nil
}

func (s *Server) searchBatch(ctx context.Context, query string, args []any) ([]string, error) {
	rows, err := s.db.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("searching users: %w", err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var localpart string
		if err := rows.Scan(&localpart); err != nil {
			return nil, fmt.Errorf("searching users: %w", err)
		}
		out = append(out, localpart)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("searching users: %w", err)
	}
	return out, nil
}

// mayFind tells whether user shares a room with asker or is in a public room.
func (s *Server) mayFind(ctx context.Context, asker, user id.User) (bool, error) {
	shared, err := s.cfg.Events.SharedRooms(ctx, asker, user)
	if err != nil || len(shared) > 0 {
		return len(shared) > 0, err
	}
	rooms, err := s.cfg.Events.RoomsOf(ctx, user, eventstore.Join)
	if err != nil {
		return false, err
	}
	for _, m := range rooms[:min(len(rooms), maxPublicChecks)] {
		public, err := s.isPublicRoom(ctx, m.RoomID)
		if err != nil || public {
			return public, err
		}
	}
	return false, nil
}

// isPublicRoom tells whether anybody may join a room.
func (s *Server) isPublicRoom(ctx context.Context, room id.Room) (bool, error) {
	info, err := s.cfg.Events.Room(ctx, room)
	if err != nil {
		return false, err
	}
	rule, err := s.cfg.Events.CurrentState(info).Get(ctx, "m.room.join_rules", "")
	if err != nil || rule == nil {
		return false, err
	}
	return gjson.GetBytes(rule.Content(), "join_rule").String() == "public", nil
}

// searchRemoteUsers finds users of other servers by their IDs, and by the names
// of those whose profile was asked for lately.
func (s *Server) searchRemoteUsers(ctx context.Context, asker id.User, words []string, limit int) ([]directoryUser, error) {
	var out []directoryUser
	seen := 0
	err := s.cfg.Events.UsersSharingRoomsWith(ctx, asker, func(u id.User) error {
		if seen++; seen > maxSharers || len(out) == limit {
			return statetree.Stop
		}
		if s.isLocal(u) {
			return nil
		}
		profile := s.remotes.peek(u)
		text := strings.ToLower(string(u) + " " + textField(profile, fieldDisplayName))
		for _, w := range words {
			if !strings.Contains(text, w) {
				return nil
			}
		}
		out = append(out, directoryUser{ID: u, Name: profile[fieldDisplayName], AvatarURL: profile[fieldAvatar]})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("searching users of other servers: %w", err)
	}
	return out, nil
}
