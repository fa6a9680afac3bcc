package clientapi

import (
	"context"
	"time"

	"weft/internal/upkeep"
)

const (
	deleteExpiredShortTokens = `DELETE FROM short_tokens WHERE (kind, token_hash) IN
		(SELECT kind, token_hash FROM short_tokens WHERE expires_ts <= $1 ORDER BY expires_ts LIMIT $2)`
	deleteExpiredUIA = `DELETE FROM uia_sessions WHERE id IN
		(SELECT id FROM uia_sessions WHERE expires_ts <= $1 ORDER BY expires_ts LIMIT $2)`
	deleteExpiredWalks = `DELETE FROM space_walks WHERE token_hash IN
		(SELECT token_hash FROM space_walks WHERE expires_ts <= $1 ORDER BY expires_ts LIMIT $2)`
)

// upkeep lists what expires by itself.
func (s *Server) upkeep() []upkeep.Task {
	expired := func(kind, statement string) upkeep.Task {
		return upkeep.Task{Kind: kind, Every: 10 * time.Minute, Run: func(ctx context.Context) (int64, error) {
			return upkeep.Delete(ctx, s.db, statement, s.nowMS())
		}}
	}
	return []upkeep.Task{expired("short_tokens", deleteExpiredShortTokens), expired("uia_sessions", deleteExpiredUIA),
		expired("space_walks", deleteExpiredWalks)}
}
