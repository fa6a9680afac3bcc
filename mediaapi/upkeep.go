package mediaapi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weft/internal/sqldb"
	"weft/internal/upkeep"
)

const (
	deleteExpiredSQL = `DELETE FROM media WHERE (origin, media_id) IN
		(SELECT origin, media_id FROM media WHERE expires_ts > 0 AND expires_ts < $1 ORDER BY expires_ts LIMIT $2)`
	deleteUnusedSQL = `DELETE FROM media WHERE (origin, media_id) IN
		(SELECT origin, media_id FROM media WHERE uploader = '' AND used_ts < $1 ORDER BY used_ts LIMIT $2) AND used_ts < $1 RETURNING hash`
	countHashSQL = `SELECT COUNT(*) FROM media WHERE hash = $1`
)

const (
	// unusedBatch is how many remote media are removed at a time.
	unusedBatch = 100
	// makingTime is far longer than a file takes from the disk to its row, or an upload to come in.
	makingTime = 24 * time.Hour
)

// upkeep lists what goes by itself: media that was announced and never uploaded, media of other
// servers that nobody looks at, and what broken uploads left behind.
func (s *Server) upkeep() []upkeep.Task {
	tasks := []upkeep.Task{
		{Kind: "pending_media", Every: time.Hour, Run: func(ctx context.Context) (int64, error) {
			return upkeep.Delete(ctx, s.DB, deleteExpiredSQL, s.Now().UnixMilli())
		}},
		{Kind: "broken_uploads", Every: makingTime, Run: func(context.Context) (int64, error) {
			return s.files.leftovers(s.Now().Add(-makingTime))
		}},
	}
	if s.RemoteLifetime > 0 {
		tasks = append(tasks, upkeep.Task{Kind: "remote_media", Every: 24 * time.Hour, Run: s.deleteUnused})
	}
	return tasks
}

// deleteUnused removes rows of remote media, and then the files that no row names any more: two
// media may be the same file.
func (s *Server) deleteUnused(ctx context.Context) (int64, error) {
	before := s.Now().Add(-s.RemoteLifetime).UnixMilli()
	return upkeep.Each(ctx, func() (int64, bool, error) {
		var hashes [][]byte
		err := s.DB.Update(ctx, func(tx *sqldb.Tx) (err error) {
			hashes, err = queryHashes(ctx, tx, deleteUnusedSQL, before, unusedBatch)
			return err
		})
		for _, h := range hashes {
			if err != nil {
				break
			}
			err = s.removeFile(ctx, h)
		}
		return int64(len(hashes)), len(hashes) == unusedBatch, err
	})
}

func (s *Server) removeFile(ctx context.Context, hash []byte) error {
	var n int
	if err := s.DB.QueryRow(ctx, countHashSQL, hash).Scan(&n); err != nil || n > 0 {
		return err
	}
	_, err := s.files.remove(hash, s.Now().Add(-makingTime))
	return err
}

func queryHashes(ctx context.Context, q sqldb.Querier, text string, args ...any) (out [][]byte, err error) {
	rows, err := q.Query(ctx, text, args...)
	if err != nil {
		return nil, fmt.Errorf("mediaapi: unused media: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var h []byte
		if err := rows.Scan(&h); err != nil {
			return nil, fmt.Errorf("mediaapi: unused media: %w", err)
		}
		out = append(out, h)
	}
	return out, rows.Err()
}
