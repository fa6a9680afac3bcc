package sqldb

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

const (
	maxAttempts = 10
	// lockAttempts is for a transaction that waited for a lock as long as it may (lock_timeout): 15 s in all. By the second time
	// a frozen process has lost it to its own timeout; the rest is for a disk that stalls under those who commit.
	// A group waits twice, then runs its writes one by one: the others shall not wait with the one that is held up.
	lockAttempts      = 5
	lockGroupAttempts = 2
	minBackoff        = time.Millisecond
	maxBackoff        = 200 * time.Millisecond
)

// updateAlone runs fn in a transaction of its own.
func (db *DB) updateAlone(ctx context.Context, fn func(tx *Tx) error) error {
	for attempt := 1; ; attempt++ {
		err := db.tryAlone(ctx, fn)
		if err == nil {
			db.stats.updates.Add(1)
			return nil
		}
		if !isRetryable(err) || attempt >= attempts(err, maxAttempts, lockAttempts) {
			return connectionError(err)
		}
		if err := db.backoff(ctx, attempt, err); err != nil {
			return connectionError(err)
		}
	}
}

func (db *DB) tryAlone(ctx context.Context, fn func(tx *Tx) error) error {
	s, err := db.begin(ctx, false)
	if err != nil {
		return err
	}
	defer s.end()
	tx := s.newTx(db)
	if err := tx.run(fn); err != nil {
		return err
	}
	if err := s.check(db); err != nil {
		return err
	}
	if err := db.Stale(ctx); err != nil {
		return err
	}
	if err := s.commit(); err != nil {
		return commitError(db.dialect, err)
	}
	db.stats.commits.Add(1)
	tx.runHooks()
	return nil
}

func (db *DB) isClosed() bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.closed
}

// backoff waits before the next attempt: twice as long each time, with jitter, so that those who
// collided do not collide again. When ctx ends first it returns why, with the cause of the retry.
func (db *DB) backoff(ctx context.Context, attempt int, cause error) error {
	db.stats.retries.Add(1)
	db.opts.Log.WithError(cause).WithField("attempt", attempt).Debug("transaction runs again")
	d := min(minBackoff<<min(attempt, 16), maxBackoff)
	t := time.NewTimer(d/2 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return errors.Join(ctx.Err(), cause)
	}
}
