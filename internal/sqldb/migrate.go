package sqldb

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"github.com/pressly/goose/v3"
)

var componentName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,40}$`)

// Migrate brings the schema of a component to the newest version in fsys: files named NNNNN_what.sql, at the
// top or in a folder "migrations", each with "-- +goose Up" and no way down. The version is kept in the table
// goose_<component>. Nodes that start together wait for each other. A database that a newer program
// has migrated is used where the newer migrations say that this one can (the package's text), and refused else.
func (db *DB) Migrate(ctx context.Context, component string, fsys fs.FS) error {
	if !componentName.MatchString(component) {
		return fmt.Errorf("migrate: %q is no name for a component", component)
	}
	if info, err := fs.Stat(fsys, "migrations"); err == nil && info.IsDir() {
		if fsys, err = fs.Sub(fsys, "migrations"); err != nil {
			return fmt.Errorf("migrate %s: %w", component, err)
		}
	}
	unlock, err := db.lockMigrations(ctx)
	if err != nil {
		return fmt.Errorf("migrate %s: lock: %w", component, connectionError(err))
	}
	defer unlock()

	gooseDialect := goose.DialectPostgres
	if db.dialect == SQLite {
		gooseDialect = goose.DialectSQLite3
	}
	p, err := goose.NewProvider(gooseDialect, db.write, migrationFS{FS: fsys, dialect: db.dialect},
		goose.WithTableName("goose_"+component),
		goose.WithDisableGlobalRegistry(true),
		goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("migrate %s: %w", component, err)
	}
	current, err := p.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("migrate %s: %w", component, connectionError(err))
	}
	var target int64 // not as GetVersions has it: that is the last by name
	for _, source := range p.ListSources() {
		target = max(target, source.Version)
	}
	db.mu.Lock()
	db.known[component] = target
	db.mu.Unlock()
	if current > target {
		oldest, err := db.needOf(ctx, component)
		if err != nil {
			return fmt.Errorf("migrate %s: %w", component, connectionError(err))
		}
		if oldest = cmp.Or(oldest, current); oldest > target {
			return fmt.Errorf("migrate %s: %w", component, tooOld(component, oldest, target))
		}
		db.opts.Log.WithField("component", component).WithField("version", current).WithField("known", target).
			Info("a newer program has changed the database's schema; this one can use it")
		return nil
	}
	lower, err := db.raise(ctx, component, fsys, p.ListSources(), current)
	if err != nil {
		return fmt.Errorf("migrate %s from version %d: %w", component, current, connectionError(err))
	}
	done, err := p.Up(ctx)
	if err != nil {
		reached, vErr := p.GetDBVersion(ctx)
		if vErr == nil {
			vErr = lower(reached)
		}
		err = errors.Join(err, vErr)
		return fmt.Errorf("migrate %s from version %d: %w", component, current, connectionError(err))
	}
	if len(done) > 0 {
		db.opts.Log.WithField("component", component).WithField("from", current).WithField("to", target).
			Info("database schema migrated")
	}
	return nil
}

const (
	createLockSQL = `CREATE TABLE IF NOT EXISTS migration_lock (name TEXT PRIMARY KEY)`
	insertLockSQL = `INSERT INTO migration_lock (name) VALUES ($1) ON CONFLICT DO NOTHING`
	takeLockSQL   = `SELECT name FROM migration_lock WHERE name = $1 FOR UPDATE`
	lockRow       = "migration"
	// The transaction with the lock waits as long as another migrates, and is idle while this process does.
	patienceSQL = `SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0`
)

// lockMigrations keeps other nodes from migrating until the function it returns is called: a transaction that
// holds a row lock and ends with the connection, so a node that dies leaves nothing behind. SQLite has one
// process and one writing connection; there is nothing to lock.
func (db *DB) lockMigrations(ctx context.Context) (unlock func(), err error) {
	if db.dialect == SQLite {
		_, err := db.Exec(ctx, createNeedsSQL)
		return func() {}, err
	}
	for attempt := 1; ; attempt++ {
		// Postgres does not guard CREATE … IF NOT EXISTS against itself: one of two that meet can fail.
		if _, err = db.Exec(ctx, createLockSQL); err == nil {
			_, err = db.Exec(ctx, createNeedsSQL)
		}
		met := IsUniqueViolation(err) || pgCode(err) == pgDuplicateTable || pgCode(err) == pgDuplicateObject
		if err == nil || attempt == maxAttempts || !met {
			break
		}
		if err := db.backoff(ctx, attempt, err); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	if _, err := db.Exec(ctx, insertLockSQL, lockRow); err != nil {
		return nil, err
	}
	s, err := db.begin(ctx, false)
	if err != nil {
		return nil, err
	}
	tx := s.newTx(db)
	if _, err := tx.Exec(ctx, patienceSQL); err != nil {
		s.end()
		return nil, err
	}
	var name string
	if err := tx.QueryRow(ctx, takeLockSQL, lockRow).Scan(&name); err != nil {
		s.end()
		return nil, err
	}
	return s.end, nil
}

// migrationFS gives out migrations in the words of a dialect.
type migrationFS struct {
	fs.FS
	dialect Dialect
}

func (m migrationFS) Open(name string) (fs.File, error) {
	f, err := m.FS.Open(name)
	if err != nil || !strings.HasSuffix(name, ".sql") {
		return f, err
	}
	text, err := fs.ReadFile(m.FS, name)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &migrationFile{File: f, Reader: bytes.NewReader([]byte(m.dialect.migrationText(string(text))))}, nil
}

type migrationFile struct {
	fs.File
	*bytes.Reader
}

func (f *migrationFile) Read(p []byte) (int, error) { return f.Reader.Read(p) }
