package syncapi

import (
	"context"
	"database/sql"
	"fmt"

	"weft/internal/sqldb"
	"weft/internal/stream"
)

// lag is how many positions are left for this process to follow. It takes no lock: that is held while the follower works, just when
// there is a lag.
func (f *follower) lag() int64 {
	end := f.end.Load()
	at := end
	for share := range shareSet(f.mine.Load()).each {
		at = min(at, f.at.reached(share))
	}
	return end - at
}

// reaches notes that the event stream is at least at a position.
func (f *follower) reaches(pos int64) {
	for end := f.end.Load(); pos > end && !f.end.CompareAndSwap(end, pos); end = f.end.Load() {
	}
}

// ReadLag tells from the database how many positions the follower of the event stream is behind its end, in all processes of the server
// together, which may be one with which this process has nothing to do. Of less than LazyPositions there may be
// none: the follower writes its place when it has something to store, and after so many positions.
func ReadLag(ctx context.Context, db *sqldb.DB) (positions int64, err error) {
	err = db.View(ctx, func(tx *sqldb.Tx) error {
		var pos sql.NullInt64
		if err := tx.QueryRow(ctx, lowestCursorSQL, followEvents).Scan(&pos); err != nil {
			return fmt.Errorf("followers: %w", err)
		}
		end, err := stream.Position(ctx, tx, stream.Events)
		positions = max(0, end-pos.Int64)
		return err
	})
	return positions, err
}

// LazyPositions is how far the place that a follower has written may be behind the one at which it is.
const LazyPositions = followLazy
