package syncapi

import (
	"context"
	"fmt"
	"time"

	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/upkeep"
)

// keepHighlights is for how long highlights are kept for GET /notifications.
const keepHighlights = 60 * 24 * time.Hour

// deleteOldSQL looks at the oldest rows alone, which are those of the lowest positions.
const deleteOldSQL = `DELETE FROM highlights WHERE (user_nid, pos) IN (SELECT user_nid, pos FROM
	(SELECT user_nid, pos, ts FROM highlights ORDER BY pos LIMIT $2) AS oldest WHERE ts < $1)`

// deleteReadSQL removes rows that count nothing, in the order of their key from a user on.
const deleteReadSQL = `DELETE FROM unread WHERE (user_nid, room_nid, thread) IN
	(SELECT user_nid, room_nid, thread FROM unread WHERE notify = 0 AND user_nid >= $1 ORDER BY user_nid, room_nid, thread LIMIT $2)
	AND notify = 0 RETURNING user_nid`

// upkeep lists what goes by itself.
func (s *Server) upkeep() []upkeep.Task {
	return []upkeep.Task{
		{Kind: "highlights", Every: time.Hour, Run: func(ctx context.Context) (int64, error) {
			return upkeep.Delete(ctx, s.db, deleteOldSQL, s.now().Add(-keepHighlights).UnixMilli())
		}},
		{Kind: "unread", Every: 24 * time.Hour, Run: s.deleteRead},
	}
}

// deleteRead removes the rows of the table unread that count nothing.
func (s *Server) deleteRead(ctx context.Context) (int64, error) {
	var from nid.StateKey
	return upkeep.Each(ctx, func() (n int64, more bool, err error) {
		err = s.db.Update(ctx, func(tx *sqldb.Tx) error {
			n = 0
			rows, err := tx.Query(ctx, deleteReadSQL, int64(from), upkeep.Batch)
			if err != nil {
				return fmt.Errorf("removing unread counts of nothing: %w", err)
			}
			defer rows.Close()
			for ; rows.Next(); n++ {
				var user nid.StateKey
				if err := rows.Scan(&user); err != nil {
					return fmt.Errorf("removing unread counts of nothing: %w", err)
				}
				from = max(from, user)
			}
			return rows.Err()
		})
		return n, n >= upkeep.Batch, err
	})
}
