package sqldb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Size returns the bytes the database takes on disk, free pages included, the write-ahead log not.
func (db *DB) Size(ctx context.Context) (int64, error) {
	query := `SELECT pg_database_size(current_database())`
	if db.dialect == SQLite {
		query = `SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()`
	}
	var n int64
	if err := db.QueryRow(ctx, query).Scan(&n); err != nil {
		return 0, fmt.Errorf("size of the database: %w", err)
	}
	return n, nil
}

const freePagesSQL = `SELECT freelist_count, page_size FROM pragma_freelist_count(), pragma_page_size()`

// freePages counts the pages of a SQLite file that hold nothing.
func (db *DB) freePages(ctx context.Context) (n, size int64, err error) {
	if err := db.QueryRow(ctx, freePagesSQL).Scan(&n, &size); err != nil {
		return 0, 0, fmt.Errorf("free pages of the database: %w", err)
	}
	return n, size, nil
}

// vacuumPages is how many pages Vacuum frees in one turn of the writer (1 MiB).
const vacuumPages = 256

// Vacuum gives free pages of a SQLite file back to the file system, down to keep bytes, in small steps between
// which other writes have their turn. Postgres does that by itself: nothing happens.
func (db *DB) Vacuum(ctx context.Context, keep int64) error {
	if db.dialect == Postgres {
		return nil
	}
	for {
		free, size, err := db.freePages(ctx)
		if err != nil {
			return err
		}
		n := min(vacuumPages, free-keep/size)
		if n <= 0 {
			return nil
		}
		err = db.Update(ctx, func(tx *Tx) error {
			// A row comes back for each page freed, and it must be fetched for the page to be freed.
			rows, err := tx.Query(ctx, fmt.Sprintf(`PRAGMA incremental_vacuum(%d)`, n))
			if err != nil {
				return err
			}
			for rows.Next() {
			}
			return errors.Join(rows.Err(), rows.Close())
		})
		if err != nil {
			return fmt.Errorf("vacuum: %w", err)
		}
		left, _, err := db.freePages(ctx)
		if err != nil || left >= free {
			return err // others free pages as fast as this does, or the file was made without auto_vacuum
		}
	}
}

// WALSize returns the bytes of SQLite's write-ahead log, 0 for Postgres.
func (db *DB) WALSize() (int64, error) {
	if db.dialect == Postgres {
		return 0, nil
	}
	info, err := os.Stat(db.path + "-wal")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("write-ahead log: %w", err)
	}
	return info.Size(), nil
}

// walWait is how long TruncateWAL, and every writer behind it, waits for readers.
const walWait = 250 * time.Millisecond

// TruncateWAL empties SQLite's write-ahead log when it is larger than limit. Ordinarily the log is begun anew when
// all of it was copied into the database and no reader looks at it; with readers that overlap all the time that
// moment may never come. This waits for it, shortly, with the writer held; a reader that takes longer
// is left for the next time.
func (db *DB) TruncateWAL(ctx context.Context, limit int64) error {
	size, err := db.WALSize()
	if err != nil || size <= limit {
		return err
	}
	conn, err := db.write.Conn(ctx)
	if err != nil {
		return fmt.Errorf("write-ahead log: %w", err)
	}
	var busy, pages, copied int64
	steps := func() error {
		ctx := context.WithoutCancel(ctx)
		if _, err := conn.ExecContext(ctx, fmt.Sprintf(`PRAGMA busy_timeout = %d`, walWait.Milliseconds())); err != nil {
			return err
		}
		err := conn.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &pages, &copied)
		_, err2 := conn.ExecContext(ctx, fmt.Sprintf(`PRAGMA busy_timeout = %d`, busyTimeout.Milliseconds()))
		return errors.Join(err, err2)
	}
	if err := errors.Join(steps(), conn.Close()); err != nil {
		return fmt.Errorf("emptying the write-ahead log: %w", err)
	}
	if busy != 0 {
		db.opts.Log.WithField("bytes", size).Debug("the write-ahead log is read, and grows for now")
	}
	return nil
}
