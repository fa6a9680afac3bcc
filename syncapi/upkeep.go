package syncapi

import (
	"context"
	"time"

	"weft/internal/upkeep"
)

// keepHighlights is for how long highlights are kept for GET /notifications.
const keepHighlights = 60 * 24 * time.Hour

// deleteOldSQL looks at the oldest rows alone, which are those of the lowest positions.
const deleteOldSQL = `DELETE FROM highlights WHERE (user_nid, pos) IN (SELECT user_nid, pos FROM
	(SELECT user_nid, pos, ts FROM highlights ORDER BY pos LIMIT $2) AS oldest WHERE ts < $1)`

// upkeep lists what goes by itself.
func (s *Server) upkeep() []upkeep.Task {
	return []upkeep.Task{{Kind: "highlights", Every: time.Hour, Run: func(ctx context.Context) (int64, error) {
		return upkeep.Delete(ctx, s.db, deleteOldSQL, s.now().Add(-keepHighlights).UnixMilli())
	}}}
}
