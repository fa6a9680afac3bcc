package stream

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"weft/internal/sqldb"
)

// Most rows have a position and no time. To know how old they are it is noted from time to time how far each
// stream had come: that is a row for each stream and each quarter of a day, and nothing in the rows themselves.

const (
	insertTimeSQL = `INSERT INTO stream_times (name, ts, pos) SELECT name, CAST($1 AS BIGINT), pos FROM stream_positions WHERE TRUE
		ON CONFLICT (name, ts) DO NOTHING`
	lastTimeSQL    = `SELECT COALESCE(MAX(ts), 0) FROM stream_times`
	deleteTimesSQL = `DELETE FROM stream_times WHERE ts < $1`
	beforeSQL      = `SELECT pos FROM stream_times WHERE name = $1 AND ts <= $2 ORDER BY ts DESC LIMIT 1`
)

const (
	// NoteEvery is how often Note is to be called.
	NoteEvery = 6 * time.Hour
	// MaxAge is how far back Before can look.
	MaxAge = 200 * 24 * time.Hour
)

// Note notes where all streams are now, unless that was done a short time ago, and forgets what is too old.
func Note(ctx context.Context, db *sqldb.DB, now time.Time) error {
	return db.Update(ctx, func(tx *sqldb.Tx) error {
		var last int64
		if err := tx.QueryRow(ctx, lastTimeSQL).Scan(&last); err != nil {
			return fmt.Errorf("stream times: %w", err)
		}
		if last > now.Add(-NoteEvery/2).UnixMilli() {
			return nil
		}
		if _, err := tx.Exec(ctx, insertTimeSQL, now.UnixMilli()); err != nil {
			return fmt.Errorf("stream times: %w", err)
		}
		if _, err := tx.Exec(ctx, deleteTimesSQL, now.Add(-MaxAge).UnixMilli()); err != nil {
			return fmt.Errorf("stream times: %w", err)
		}
		return nil
	})
}

// Before gives a position whose rows, and all before it, were written before a time; 0 when none is known.
func Before(ctx context.Context, q sqldb.Querier, s Name, at time.Time) (int64, error) {
	var pos int64
	err := q.QueryRow(ctx, beforeSQL, string(s), at.UnixMilli()).Scan(&pos)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("stream %s: position at a time: %w", s, err)
	}
	return pos, nil
}
