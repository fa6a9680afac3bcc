package server

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	_ "github.com/lib/pq"  // the driver "postgres"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// sqliteHeader begins every SQLite database.
const sqliteHeader = "SQLite format 3\x00"

// SQLiteBytes measures SQLite databases: one file, or all in a folder. What lies in a write-ahead log is brought into the
// database first, so that only what stays counts.
func SQLiteBytes(ctx context.Context, path string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(path, func(file string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && file != path {
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		is, err := isSQLite(file)
		if err != nil || !is {
			return err
		}
		n, err := sqliteBytes(ctx, file)
		sum += n
		return err
	})
	return sum, err
}

func isSQLite(file string) (is bool, err error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // a journal, which comes and goes
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	head := make([]byte, len(sqliteHeader))
	if _, err := io.ReadFull(f, head); err != nil {
		return false, nil // too short
	}
	return bytes.Equal(head, []byte(sqliteHeader)), nil
}

func sqliteBytes(ctx context.Context, file string) (n int64, err error) {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: file}).EscapedPath(), RawQuery: "_pragma=busy_timeout(10000)"}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	var busy, log, done, pages, size int64
	if err := db.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &log, &done); err != nil {
		return 0, fmt.Errorf("%s: checkpoint: %w", file, err)
	}
	if err := db.QueryRowContext(ctx, `SELECT page_count, page_size FROM pragma_page_count, pragma_page_size`).Scan(&pages, &size); err != nil {
		return 0, fmt.Errorf("%s: size: %w", file, err)
	}
	return pages * size, nil
}

// PostgresBytes measures a PostgreSQL database.
func PostgresBytes(ctx context.Context, address string) (n int64, err error) {
	if !strings.HasPrefix(address, "postgres") {
		return 0, fmt.Errorf("%q is no address of PostgreSQL", address)
	}
	db, err := sql.Open("postgres", address)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.QueryRowContext(ctx, `SELECT pg_database_size(current_database())`).Scan(&n)
	return n, err
}
