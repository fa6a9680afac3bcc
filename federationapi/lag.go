package federationapi

import (
	"context"
	"fmt"

	"weft/internal/sqldb"
	"weft/internal/stream"
)

const (
	slowestSQL = `SELECT COUNT(*), COALESCE(MIN(pos), 0) FROM fed_cursor`
	lateSQL    = `SELECT COUNT(*), COALESCE(SUM(CASE WHEN failures > 0 THEN 1 ELSE 0 END), 0)
		FROM (SELECT failures FROM fed_destinations LIMIT $1) AS part`
	storedEDUsSQL = `SELECT COUNT(*) FROM (SELECT seq FROM fed_edus LIMIT $1) AS part`
)

// Lag is how far sending to other servers is behind, in all processes of the server together.
type Lag struct {
	// Positions is how far the slowest cursor is behind the end of the event stream. Servers that are behind are not counted: a
	// cursor goes past what is noted for them.
	Positions int64 `json:"positions"`
	// Behind are servers that failed or fell behind and are caught up from disk, Failing those of them that failed the last time.
	Behind  int64 `json:"behind_destinations"`
	Failing int64 `json:"failing_destinations"`
	// EDUs are those that wait until their server has taken them.
	EDUs int64 `json:"waiting_edus"`
}

// ReadLag reads the lag from the database, which may be that of a server with which this process has nothing to do. No more than most
// rows of a table are counted, so most means most or more. It reads the 16 cursors, one position, and 2 × most rows at the worst.
func ReadLag(ctx context.Context, db *sqldb.DB, most int) (l Lag, err error) {
	err = db.View(ctx, func(tx *sqldb.Tx) error {
		var cursors, slowest int64
		if err := tx.QueryRow(ctx, slowestSQL).Scan(&cursors, &slowest); err != nil {
			return fmt.Errorf("federationapi: reading the cursors: %w", err)
		}
		end, err := stream.Position(ctx, tx, stream.Events)
		if err != nil {
			return err
		}
		if cursors < Shards { // nobody has taken one of them yet
			slowest = 0
		}
		l.Positions = max(0, end-slowest)
		if err := tx.QueryRow(ctx, lateSQL, most).Scan(&l.Behind, &l.Failing); err != nil {
			return fmt.Errorf("federationapi: counting destinations: %w", err)
		}
		if err := tx.QueryRow(ctx, storedEDUsSQL, most).Scan(&l.EDUs); err != nil {
			return fmt.Errorf("federationapi: counting EDUs: %w", err)
		}
		return nil
	})
	return l, err
}
