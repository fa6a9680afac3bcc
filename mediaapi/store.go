package mediaapi

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	insertMediaSQL = `INSERT INTO media (origin, media_id, hash, size, content_type, file_name, uploader, created_ts, used_ts, expires_ts)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9) ON CONFLICT (origin, media_id) DO NOTHING`
	selectMediaSQL = `SELECT hash, size, content_type, file_name, uploader, expires_ts, used_ts FROM media
		WHERE origin = $1 AND media_id = $2`
	touchMediaSQL = `UPDATE media SET used_ts = $3 WHERE origin = $1 AND media_id = $2`
	fillMediaSQL  = `UPDATE media SET hash = $3, size = $4, content_type = $5, file_name = $6, expires_ts = 0
		WHERE origin = $1 AND media_id = $2 AND uploader = $7 AND hash IS NULL AND expires_ts >= $8`
	countPendingSQL = `SELECT COUNT(*) FROM media WHERE uploader = $1 AND expires_ts > $2`
)

// media is a row; hash is nil while the upload has not come.
type media struct {
	origin      id.Server
	mediaID     string
	hash        []byte
	size        int64
	contentType string
	fileName    string
	uploader    id.User
	expires     int64 // ms
	used        int64 // ms
}

// get reads a row; nil where there is none, or where its time to be uploaded
// has passed.
func (s *Server) get(ctx context.Context, q sqldb.Querier, origin id.Server, mediaID string) (*media, error) {
	m := media{origin: origin, mediaID: mediaID}
	err := q.QueryRow(ctx, selectMediaSQL, string(origin), mediaID).
		Scan(&m.hash, &m.size, &m.contentType, &m.fileName, &m.uploader, &m.expires, &m.used)
	if errors.Is(err, sql.ErrNoRows) || (err == nil && m.expires > 0 && m.expires < s.Now().UnixMilli()) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("mediaapi: reading media: %w", err)
	}
	return &m, nil
}

// getRemote reads a row of another server's media, and notes that it is used; nil where there is
// none.
func (s *Server) getRemote(ctx context.Context, origin id.Server, mediaID string) (*media, error) {
	m, err := s.get(ctx, s.DB, origin, mediaID)
	now := s.Now().UnixMilli()
	if err != nil || m == nil || m.used > now-usedPrecision.Milliseconds() {
		return m, err
	}
	res, err := s.DB.Exec(ctx, touchMediaSQL, string(origin), mediaID, now)
	if err != nil {
		return nil, fmt.Errorf("mediaapi: noting that media is used: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return nil, err // it was removed just now
	}
	return m, nil
}

func (s *Server) insert(ctx context.Context, q sqldb.Querier, m media) error {
	var hash any
	if m.hash != nil {
		hash = m.hash
	}
	_, err := q.Exec(ctx, insertMediaSQL, string(m.origin), m.mediaID, hash, m.size, m.contentType, m.fileName,
		string(m.uploader), s.Now().UnixMilli(), m.expires)
	if err != nil {
		return fmt.Errorf("mediaapi: storing media: %w", err)
	}
	return nil
}

// create makes room for an upload that comes later.
func (s *Server) create(ctx context.Context, m media) error {
	return s.DB.Update(ctx, func(tx *sqldb.Tx) error {
		var pending int
		if err := tx.QueryRow(ctx, countPendingSQL, string(m.uploader), s.Now().UnixMilli()).Scan(&pending); err != nil {
			return fmt.Errorf("mediaapi: counting uploads: %w", err)
		}
		if pending >= maxPending {
			return merr.LimitExceeded("you have %d media to upload already", pending)
		}
		return s.insert(ctx, tx, m)
	})
}

// checkPending tells whether a user may upload to a created media ID now.
func (s *Server) checkPending(ctx context.Context, q sqldb.Querier, by id.User, mediaID string) error {
	m, err := s.get(ctx, q, s.ServerName, mediaID)
	switch {
	case err != nil:
		return err
	case m == nil:
		return merr.NotFound("there is no media %s to upload, or its time has passed", mediaID)
	case m.uploader != by:
		return merr.Forbidden("media %s was created by somebody else", mediaID)
	case m.hash != nil:
		return merr.CannotOverwriteMedia("media %s was uploaded already", mediaID)
	}
	return nil
}

// fill completes created media. Of several uploads that meet, the one whose update finds the row empty is the
// upload.
func (s *Server) fill(ctx context.Context, tx *sqldb.Tx, m media) error {
	ok, err := touches(tx.Exec(ctx, fillMediaSQL, string(m.origin), m.mediaID, m.hash, m.size, m.contentType, m.fileName,
		string(m.uploader), s.Now().UnixMilli()))
	if err != nil {
		return fmt.Errorf("mediaapi: completing media: %w", err)
	}
	if !ok {
		if err := s.checkPending(ctx, tx, m.uploader, m.mediaID); err != nil {
			return err
		}
		return fmt.Errorf("mediaapi: media %s waits for an upload and takes none", m.mediaID)
	}
	tx.OnCommit(func() { s.Bus.Publish(topicArrived, []byte(m.mediaID)) })
	return nil
}
