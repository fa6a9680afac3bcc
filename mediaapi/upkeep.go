package mediaapi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weft/internal/sqldb"
	"weft/internal/upkeep"
)

// The second look at a row's times is at the row as it is when it is locked: it may just have been uploaded, or used.
const (
	deleteExpiredSQL = `DELETE FROM media WHERE (origin, media_id) IN
		(SELECT origin, media_id FROM media WHERE expires_ts > 0 AND expires_ts < $1 ORDER BY expires_ts LIMIT $2)
		AND expires_ts > 0 AND expires_ts < $1`
	deleteUnusedSQL = `DELETE FROM media WHERE (origin, media_id) IN
		(SELECT origin, media_id FROM media WHERE uploader = '' AND used_ts < $1 ORDER BY used_ts LIMIT $2) AND used_ts < $1 RETURNING hash`
)

const (
	// unusedBatch is how many remote media are removed at a time.
	unusedBatch = 100
	// makingTime is far longer than a file takes from the disk to its row, an upload to come in, or the chunks of
	// one to be stored.
	makingTime = 24 * time.Hour
)

// upkeep lists what goes by itself: media that was announced and never uploaded, media of other
// servers that nobody looks at, bytes that no media names, and what broken uploads left behind.
func (s *Server) upkeep() []upkeep.Task {
	tasks := []upkeep.Task{
		{Kind: "pending_media", Every: time.Hour, Run: func(ctx context.Context) (int64, error) {
			return upkeep.Delete(ctx, s.DB, deleteExpiredSQL, s.Now().UnixMilli())
		}},
		{Kind: "broken_uploads", Every: makingTime, Local: true, Run: func(context.Context) (int64, error) {
			return s.spool.leftovers(s.Now().Add(-makingTime))
		}},
		{Kind: "unnamed_media", Every: makingTime, Run: func(ctx context.Context) (int64, error) {
			return s.blobs.sweep(ctx, s.Now().Add(-makingTime))
		}},
	}
	if s.RemoteLifetime > 0 {
		tasks = append(tasks, upkeep.Task{Kind: "remote_media", Every: 24 * time.Hour, Run: s.deleteUnused})
	}
	return tasks
}

// deleteUnused removes rows of remote media, and then the bytes that no row names any more: two
// media may have the same. What is left behind where it breaks off, a sweep finds.
func (s *Server) deleteUnused(ctx context.Context) (int64, error) {
	before := s.Now().Add(-s.RemoteLifetime).UnixMilli()
	return upkeep.Each(ctx, func() (int64, bool, error) {
		var hashes [][]byte
		err := s.DB.Update(ctx, func(tx *sqldb.Tx) (err error) {
			if hashes, err = queryHashes(ctx, tx, deleteUnusedSQL, before, unusedBatch); err != nil {
				return err
			}
			return s.blobs.unname(ctx, tx, hashes)
		})
		for _, h := range hashes {
			if err != nil {
				break
			}
			_, err = s.blobs.remove(ctx, h, s.Now().Add(-makingTime))
		}
		return int64(len(hashes)), len(hashes) == unusedBatch, err
	})
}

// queryHashes runs a statement that gives hashes, or IDs of blobs.
func queryHashes(ctx context.Context, q sqldb.Querier, text string, args ...any) (out [][]byte, err error) {
	rows, err := q.Query(ctx, text, args...)
	if err != nil {
		return nil, fmt.Errorf("mediaapi: listing hashes: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var h []byte
		if err := rows.Scan(&h); err != nil {
			return nil, fmt.Errorf("mediaapi: listing hashes: %w", err)
		}
		out = append(out, h)
	}
	return out, rows.Err()
}
