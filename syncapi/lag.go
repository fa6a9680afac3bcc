package syncapi

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"weft/internal/sqldb"
	"weft/internal/stream"
)

// lag is how many positions are left for this process to follow. It looks at what was noted without the lock, which is held while
// the follower works: just when there is a lag.
func (f *follower) lag() int64 {
	if f.theirs.Load() {
		return 0
	}
	return max(0, f.end.Load()-f.judged.Load())
}

// at notes up to where everything is judged. The lock is held.
func (f *follower) at(pos int64) {
	f.pos = pos
	f.judged.Store(pos)
}

// reaches notes that the event stream is at least at a position.
func (f *follower) reaches(pos int64) {
	for end := f.end.Load(); pos > end && !f.end.CompareAndSwap(end, pos); end = f.end.Load() {
	}
}

// ReadLag tells from the database how many positions the follower of the event stream is behind its end, in all processes of the server
// together, which may be one with which this process has nothing to do. It reads two rows. Of less than LazyPositions there may be
// none: the follower writes its place when it has something to store, and after so many positions.
func ReadLag(ctx context.Context, db *sqldb.DB) (positions int64, err error) {
	err = db.View(ctx, func(tx *sqldb.Tx) error {
		var pos int64
		if err := tx.QueryRow(ctx, readFollowerSQL, followEvents).Scan(&pos); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("followers: %w", err)
		}
		end, err := stream.Position(ctx, tx, stream.Events)
		positions = max(0, end-pos)
		return err
	})
	return positions, err
}

// LazyPositions is how far the place that a follower has written may be behind the one at which it is.
const LazyPositions = followLazy
