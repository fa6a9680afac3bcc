package syncapi

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"weft/internal/httpapi"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	insertFilterSQL = `INSERT INTO sync_filters (user_id, filter_id, filter) VALUES ($1, $2, $3) ON CONFLICT (user_id, filter_id) DO NOTHING`
	readFilterSQL   = `SELECT filter FROM sync_filters WHERE user_id = $1 AND filter_id = $2`
	countFiltersSQL = `SELECT COUNT(*) FROM sync_filters WHERE user_id = $1`
	deleteFilterSQL = `DELETE FROM sync_filters WHERE user_id = $1`
)

// maxFilters bounds the filters of a user.
const maxFilters = 1000

// readFilter gives a stored filter, nil where there is none.
func (s *Server) readFilter(ctx context.Context, user id.User, filterID string) ([]byte, error) {
	var raw string
	err := s.db.QueryRow(ctx, readFilterSQL, string(user), filterID).Scan(&raw)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading a filter: %w", err)
	}
	return []byte(raw), nil
}

// DefineFilter is POST /user/{userId}/filter. The ID is a hash, so that clients that define
// the same filter at each start leave one behind.
func (s *Server) DefineFilter(ctx context.Context, r *httpapi.Request) (any, error) {
	if err := ownUser(r); err != nil {
		return nil, err
	}
	if len(r.Body) == 0 {
		return nil, merr.NotJSON("the body is empty")
	}
	if _, err := parseFilter(r.Body); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(r.Body)
	filterID := base64.RawURLEncoding.EncodeToString(sum[:12])
	user := string(r.Session.User)
	have, err := s.readFilter(ctx, r.Session.User, filterID)
	if err != nil {
		return nil, err
	}
	if have == nil {
		var n int64
		if err := s.db.QueryRow(ctx, countFiltersSQL, user).Scan(&n); err != nil {
			return nil, fmt.Errorf("counting filters: %w", err)
		}
		if n >= maxFilters {
			return nil, merr.ResourceLimitExceeded("you have %d filters already", n)
		}
		if _, err := s.db.Exec(ctx, insertFilterSQL, user, filterID, string(r.Body)); err != nil {
			return nil, fmt.Errorf("storing a filter: %w", err)
		}
	}
	return map[string]string{"filter_id": filterID}, nil
}

// GetFilter is GET /user/{userId}/filter/{filterId}.
func (s *Server) GetFilter(ctx context.Context, r *httpapi.Request) (any, error) {
	if err := ownUser(r); err != nil {
		return nil, err
	}
	raw, err := s.readFilter(ctx, r.Session.User, r.Vars["filterId"])
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return nil, merr.NotFound("there is no such filter")
	}
	return json.RawMessage(raw), nil
}
