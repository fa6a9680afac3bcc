package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/lib/pq"
	"modernc.org/sqlite"
)

// This file is all that differs between the databases, apart from error codes (errors.go).

const (
	busyTimeout    = 5 * time.Second // another process in the same file: a backup, a shell
	connectTimeout = 4 * time.Second // to one host of Postgres, when the URL names none
	walPages       = 4000            // 16 MiB: a checkpoint every so many pages written
	walBytesKept   = 64 << 20        // a log that grew beyond is cut when it is emptied
)

func openSQLite(ctx context.Context, path string, o Options) (*DB, error) {
	db := &DB{dialect: SQLite, opts: o, times: newTimes(), groups: map[string]*Group{}, known: map[string]int64{}}
	if path == "" {
		return nil, errors.New("database URL sqlite: names no file")
	}
	if path == ":memory:" {
		dir, err := os.MkdirTemp("", "weft-sqlite-")
		if err != nil {
			return nil, fmt.Errorf("temporary database: %w", err)
		}
		path = filepath.Join(dir, "weft.db")
		db.cleanup = func() error { return os.RemoveAll(dir) }
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("path of the database: %w", err)
	}
	db.path = path
	db.write, err = sqlitePool(path, 1, sqliteWriterPragmas(o), db.times)
	if err == nil {
		db.read, err = sqlitePool(path, o.MaxConns, sqliteReaderPragmas(o), db.times)
	}
	if err == nil {
		err = db.write.PingContext(ctx) // creates the file, before a reader looks for it
	}
	if err == nil {
		err = db.read.PingContext(ctx)
	}
	if err == nil {
		err = db.checkMoved(ctx)
	}
	if err != nil {
		errs := []error{fmt.Errorf("open SQLite database %s: %w", path, err)}
		for _, pool := range []*sql.DB{db.read, db.write} {
			if pool != nil {
				errs = append(errs, pool.Close())
			}
		}
		if db.cleanup != nil {
			errs = append(errs, db.cleanup())
		}
		return nil, errors.Join(errs...)
	}
	db.writer = newGroup(db, "", true)
	return db, nil
}

func sqlitePool(path string, conns int, params url.Values, t *times) (*sql.DB, error) {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // C:/… becomes file:///C:/…
	}
	dsn := (&url.URL{Scheme: "file", Path: path, RawQuery: params.Encode()}).String()
	inner, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	pool := sql.OpenDB(&connector{Connector: inner, dialect: SQLite, times: t})
	pool.SetMaxOpenConns(conns)
	pool.SetMaxIdleConns(conns) // an idle connection holds warm pages and prepared statements
	return pool, nil
}

func sqliteCommonPragmas(cacheBytes int64) url.Values {
	return url.Values{
		"_busy_timeout": {fmt.Sprint(busyTimeout.Milliseconds())},
		"_dqs":          {"0"}, // "x" is a name, never a string
		"_pragma": {
			fmt.Sprintf("cache_size(%d)", -max(cacheBytes>>10, 64)), // negative: KiB
			"mmap_size(0)",       // a mapped file counts as our memory, and an I/O error there kills the process
			"temp_store(MEMORY)", // a container may have no /tmp
			"foreign_keys(0)",
			"case_sensitive_like(1)", // as Postgres; also lets LIKE 'abc%' use an index
		},
	}
}

func sqliteWriterPragmas(o Options) url.Values {
	v := sqliteCommonPragmas(o.CacheBytes / 2)
	v.Set("_auto_vacuum", "2") // incremental; takes effect in a new file only
	v["_pragma"] = append(v["_pragma"],
		"journal_mode(WAL)",
		"synchronous(FULL)", // the log is synced at each commit: acknowledged means durable
		fmt.Sprintf("wal_autocheckpoint(%d)", walPages),
		fmt.Sprintf("journal_size_limit(%d)", walBytesKept),
	)
	return v
}

func sqliteReaderPragmas(o Options) url.Values {
	v := sqliteCommonPragmas(o.CacheBytes / 2 / int64(o.MaxConns))
	v.Set("_query_only", "1")
	return v
}

// timeoutsParam is the parameter of a database URL that keeps sessionSettings from being sent.
const timeoutsParam = "timeouts"

// sessionSettings are set for each connection unless the URL has them, so that a process that is frozen or cut off
// while it holds locks does not stop the others for longer.
func sessionSettings() map[string]string {
	return map[string]string{
		// Our transactions wait for nothing but the database, so a pause this long is that of a process that cannot run, and
		// that the others count out by then as well. One that comes back has lost nothing: its transaction runs again.
		"idle_in_transaction_session_timeout": "4s",
		// Shorter, and tried again: of the transactions of a frozen process that queue for one lock none is left when the one
		// that has it is ended. Each of them would get it next, and be idle for as long again.
		"lock_timeout": "3s",
		// The longest statement is the count of state nodes before a sweep, some seconds for 10 million; the largest
		// transactions, as for a join of 100,000 members, are many short ones.
		"statement_timeout": "5min",
		// The server's side of a connection whose other end is gone: 25 s, instead of 2 hours.
		"tcp_keepalives_idle":     "10",
		"tcp_keepalives_interval": "5",
		"tcp_keepalives_count":    "3",
		"tcp_user_timeout":        "25s",
	}
}

// postgresConfig reads a URL. The settings are sent for each connection, unless the URL has them.
func postgresConfig(dsn string, settings map[string]string) (pq.Config, error) {
	cfg, err := pq.NewConfig(dsn)
	if err != nil {
		return cfg, fmt.Errorf("database URL: %w", err)
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	if cfg.ApplicationName == "" {
		cfg.ApplicationName = "weft"
	}
	if len(cfg.Multi) > 0 && cfg.TargetSessionAttrs == "" {
		cfg.TargetSessionAttrs = pq.TargetSessionAttrsReadWrite
	}
	runtime := maps.Clone(cfg.Runtime)
	if runtime == nil {
		runtime = map[string]string{}
	}
	cfg.Runtime = runtime
	if v, ok := runtime[timeoutsParam]; ok {
		if v != "off" {
			return cfg, fmt.Errorf("database URL: %s must be off or absent, not %q", timeoutsParam, v)
		}
		delete(runtime, timeoutsParam)
		return cfg, nil
	}
	options := strings.ReplaceAll(cfg.Options, "-", "_") // --lock-timeout is lock_timeout
	for name, value := range settings {
		if _, ok := runtime[name]; !ok && !strings.Contains(options, name) {
			runtime[name] = value
		}
	}
	return cfg, nil
}

func openPostgres(ctx context.Context, dsn string, o Options) (*DB, error) {
	cfg, err := postgresConfig(dsn, sessionSettings())
	if err != nil {
		return nil, err
	}
	inner, err := newHosts(cfg, o, newDialer())
	if err != nil {
		return nil, err
	}
	t := newTimes()
	c := &connector{Connector: inner, dialect: Postgres, times: t}
	pool := sql.OpenDB(c)
	pool.SetMaxOpenConns(o.MaxConns)
	pool.SetMaxIdleConns(o.MaxConns)
	pool.SetConnMaxIdleTime(postgresIdleTime)
	pool.SetConnMaxLifetime(postgresLifetime)
	var syncCommit string
	if err := pool.QueryRowContext(ctx, `SELECT coalesce(current_setting('synchronous_commit', true), '')`).Scan(&syncCommit); err != nil {
		return nil, errors.Join(fmt.Errorf("open Postgres database: %w", err), pool.Close())
	}
	if syncCommit == "off" {
		o.Log.Warn("the Postgres server has synchronous_commit=off: a crash of it can lose what was acknowledged")
	}
	return &DB{
		dialect: Postgres, opts: o, write: pool, read: pool, connector: c, config: cfg, times: t, groups: map[string]*Group{}, known: map[string]int64{},
	}, nil
}

var (
	markerText    = regexp.MustCompile(`(?s)/\*(sqlite|postgres):(.*?)\*/`)
	serialKeyText = regexp.MustCompile(`(?i)\b(?:BIGSERIAL|BIGINT)\s+PRIMARY\s+KEY\b`)
	bytesText     = regexp.MustCompile(`(?i)\bBYTEA\b`)
	upText        = regexp.MustCompile(`(?m)^-- \+goose Up[ \t]*$`)
	columnText    = regexp.MustCompile(`(?i)\b(\w+)(\s+)TEXT\b`)
)

// migrationText turns the text of a migration, written as doc.go says, into the dialect's own.
func (d Dialect) migrationText(text string) string {
	text = markerText.ReplaceAllStringFunc(text, func(m string) string {
		parts := markerText.FindStringSubmatch(m)
		if parts[1] == string(d) {
			return parts[2]
		}
		return ""
	})
	if d == SQLite {
		text = serialKeyText.ReplaceAllString(text, "INTEGER PRIMARY KEY")
		return bytesText.ReplaceAllString(text, "BLOB")
	}
	// To build an index may take long.
	text = upText.ReplaceAllString(text, "$0\nSET LOCAL statement_timeout = 0;")
	return columnText.ReplaceAllStringFunc(text, func(m string) string {
		if word, _, _ := strings.Cut(m, m[len(m)-5:]); strings.EqualFold(strings.TrimSpace(word), "AS") {
			return m // CAST(x AS TEXT)
		}
		return m + ` COLLATE "C"`
	})
}
