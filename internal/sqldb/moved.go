package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// movedMark is the user_version of a SQLite file whose data are elsewhere now. Nothing else uses that number.
const movedMark = 0x57454654

// errMoved says so.
var errMoved = errors.New("its data were moved to another database: start the server with that one. " +
	"To use this file again, with what it held then: sqlite3 FILE 'PRAGMA user_version = 0'")

// checkMoved refuses a file whose data are elsewhere.
func (db *DB) checkMoved(ctx context.Context) error {
	var mark int64
	if err := db.write.QueryRowContext(ctx, "PRAGMA user_version").Scan(&mark); err != nil {
		return err
	}
	if mark == movedMark {
		return errMoved
	}
	return nil
}

// MarkMoved makes a SQLite file one that cannot be opened any more, because its data are elsewhere.
func (db *DB) MarkMoved(ctx context.Context) error {
	if db.dialect != SQLite {
		return errors.New("sqldb: only a SQLite file can be marked")
	}
	_, err := db.write.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", movedMark))
	return err
}

// CheckUnused tells, by an error, that another process has a SQLite file open. Only one that nobody has open can
// leave the mode in which readers and a writer share it; it enters that again when it is opened.
func CheckUnused(ctx context.Context, database string) (err error) {
	path, ok := strings.CutPrefix(database, string(SQLite)+":")
	if !ok {
		return errors.New("sqldb: no SQLite database: " + database)
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	pool, err := sqlitePool(path, 1, url.Values{"_busy_timeout": {"1000"}, "mode": {"rw"}}, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	var mode string
	err = pool.QueryRowContext(ctx, "PRAGMA journal_mode = DELETE").Scan(&mode)
	if err == nil && mode != "delete" || sqliteCode(err) == sqliteBusy {
		return fmt.Errorf("database %s is in use: stop the server first", path)
	}
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("open SQLite database %s: %w", path, err)
	}
	return nil
}
