package mediaapi

import (
	"context"
	"time"

	"weft/internal/upkeep"
)

const deleteExpiredSQL = `DELETE FROM media WHERE (origin, media_id) IN
	(SELECT origin, media_id FROM media WHERE expires_ts > 0 AND expires_ts < $1 ORDER BY expires_ts LIMIT $2)`

// upkeep lists what goes by itself: media that was announced and never uploaded.
func (s *Server) upkeep() []upkeep.Task {
	return []upkeep.Task{{Kind: "pending_media", Every: time.Hour, Run: func(ctx context.Context) (int64, error) {
		return upkeep.Delete(ctx, s.DB, deleteExpiredSQL, s.Now().UnixMilli())
	}}}
}
