package keyserver

import (
	"context"
	"time"

	"weft/internal/upkeep"
)

// seenFor is how long the IDs of to-device transactions are kept.
const seenFor = 7 * 24 * time.Hour

const deleteSeenSQL = `DELETE FROM to_device_seen WHERE (sender, device_id, txn_id) IN
	(SELECT sender, device_id, txn_id FROM to_device_seen WHERE seen_ts < $1 ORDER BY seen_ts LIMIT $2)`

// upkeep lists what goes by itself.
func (s *Server) upkeep() []upkeep.Task {
	return []upkeep.Task{{Kind: "to_device_seen", Every: time.Hour, Run: func(ctx context.Context) (int64, error) {
		return upkeep.Delete(ctx, s.DB, deleteSeenSQL, s.Now().Add(-seenFor).UnixMilli())
	}}}
}
