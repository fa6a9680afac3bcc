package upkeep

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weft/internal/sqldb"
)

const (
	// Batch is how many rows one transaction of upkeep removes at most.
	Batch = 500
	// Pause is the rest that upkeep takes after each full batch.
	Pause = 20 * time.Millisecond
)

// Delete runs a DELETE statement whose last placeholder bounds the rows of one run, again
// and again until it finds less than that. Each run is a transaction of its own.
//
//	DELETE FROM t WHERE id IN (SELECT id FROM t WHERE ts < $1 ORDER BY ts LIMIT $2)
func Delete(ctx context.Context, db *sqldb.DB, statement string, args ...any) (removed int64, err error) {
	args = append(args[:len(args):len(args)], int64(Batch))
	return Each(ctx, func() (n int64, more bool, err error) {
		res, err := db.Exec(ctx, statement, args...)
		if err != nil {
			return 0, false, err
		}
		n, err = res.RowsAffected()
		return n, n >= Batch, err
	})
}

// Each calls step, which removes a batch, as long as it says that there is more, and adds up
// what it removed.
func Each(ctx context.Context, step func() (n int64, more bool, err error)) (removed int64, err error) {
	for {
		n, more, err := step()
		removed += n
		if err != nil {
			return removed, fmt.Errorf("removing a batch: %w", err)
		}
		if !more {
			return removed, nil
		}
		if err := Rest(ctx); err != nil {
			return removed, err
		}
	}
}

// Rest is the pause between two batches.
func Rest(ctx context.Context) error {
	t := time.NewTimer(Pause)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return errors.Join(ctx.Err(), context.Cause(ctx))
	}
}
