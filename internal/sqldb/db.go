package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lib/pq"
	"github.com/sirupsen/logrus"
)

// Dialect names the kind of database behind a DB.
type Dialect string

// The two dialects.
const (
	SQLite   Dialect = "sqlite"
	Postgres Dialect = "postgres"
)

// Options tune a database. The zero value is usable.
type Options struct {
	// Log receives retries (debug), slow transactions (warning) and panics in commit hooks (error). Nil: silent.
	Log logrus.FieldLogger
	// MaxConns bounds the connections: on Postgres all of them (default 20, at least 3), on SQLite the
	// readers beside the one writer (default twice the CPUs, from 4 to 16).
	MaxConns int
	// CacheBytes is the page cache of SQLite, all connections together (default 16 MiB): half for the
	// writer, the rest shared by the readers. Postgres has its own.
	CacheBytes int64
	// Now is the clock (default time.Now), for the time bound of a batch and the report of slow transactions.
	Now func() time.Time
	// Older fails where processes work with the database that know less of a component's schema than up to a version. It is asked before a
	// migration that they could not go on with. Nil: there are no others.
	Older func(ctx context.Context, db *DB, component string, oldest int64) error
	// Stale fails where what a write is for was asked too long ago to be done now. It is asked with the context of the write before
	// each commit, with all its locks held: what others did meanwhile is committed, or waits for this one. Nil: nothing is.
	Stale func(ctx context.Context) error
}

const (
	defaultCacheBytes    = 16 << 20
	defaultPostgresConns = 20
	minPostgresConns     = 3 // a migration holds its lock on one connection and works on another
	postgresIdleTime     = 5 * time.Minute
	postgresLifetime     = time.Hour // so that connections move to a new primary behind a balancer in the end
)

func (o Options) withDefaults(d Dialect) Options {
	if o.Log == nil {
		silent := logrus.New()
		silent.SetLevel(logrus.PanicLevel)
		o.Log = silent
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.CacheBytes <= 0 {
		o.CacheBytes = defaultCacheBytes
	}
	switch {
	case d == Postgres && o.MaxConns <= 0:
		o.MaxConns = defaultPostgresConns
	case d == Postgres:
		o.MaxConns = max(o.MaxConns, minPostgresConns)
	case o.MaxConns <= 0:
		o.MaxConns = min(max(2*runtime.GOMAXPROCS(0), 4), 16)
	}
	return o
}

// Querier runs statements: a *DB (each on its own) or a *Tx. Placeholders are $1, $2, … in any order and
// repeated at will. Statements are prepared once per connection.
type Querier interface {
	Exec(ctx context.Context, query string, args ...any) (sql.Result, error)
	Query(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRow(ctx context.Context, query string, args ...any) *sql.Row
}

var (
	_ Querier = (*DB)(nil)
	_ Querier = (*Tx)(nil)
)

// DB is an open database. All methods may be called by many goroutines at once.
type DB struct {
	dialect Dialect
	opts    Options
	write   *sql.DB // SQLite: the one writing connection. Postgres: the same pool as read.
	read    *sql.DB
	writer  *Group // SQLite only: what all writes go through
	path    string // SQLite: the file
	cleanup func() error
	times   *times // of all connections

	mu     sync.Mutex
	closed bool
	groups map[string]*Group
	known  map[string]int64 // up to which version this program knows the schema of components
	// immutable are all statements that replicas may be asked.
	immutable []*Immutable

	replicas  atomic.Pointer[replicas] // nil: there are none
	connector *connector               // Postgres: to the primary
	config    pq.Config                // Postgres: of the primary
	apart     []*DB                    // what Apart gave

	stats counters
}

type counters struct {
	updates, commits, retries, reruns atomic.Int64
}

// Stats counts what a database did since it was opened.
type Stats struct {
	Updates int64 // write functions that ended well
	Commits int64 // write transactions committed; Updates/Commits is the size of an average group
	Retries int64 // transactions run again after a serialization failure, a deadlock, a lock or a lost connection
	Reruns  int64 // groups run again because one of their functions failed
	Queued  int   // write functions that wait now, all groups together
	Open    int   // connections open now
	InUse   int   // connections in use now
}

// Open opens the database that url names:
//
//	sqlite:PATH                 a file, created when it is missing
//	sqlite::memory:             a temporary file, removed by Close (for tests)
//	postgres://… postgresql://… PostgreSQL 12 or later, or a compatible server, as lib/pq reads the URL; with
//	                            timeouts=off in it no timeouts are set (see the package's text)
//
// It fails when the database cannot be reached.
func Open(ctx context.Context, url string, o Options) (*DB, error) {
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
		return openSQLite(ctx, path, o.withDefaults(SQLite))
	}
	if strings.HasPrefix(url, "postgres://") || strings.HasPrefix(url, "postgresql://") {
		return openPostgres(ctx, url, o.withDefaults(Postgres))
	}
	scheme, _, _ := strings.Cut(url, ":") // the rest may hold a password
	return nil, fmt.Errorf("database URL must begin with sqlite:, postgres:// or postgresql://, not %q", scheme)
}

// Close lets the writes that were accepted finish, then closes all connections. Writes that come
// later get ErrClosed.
func (db *DB) Close() error {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		return nil
	}
	db.closed = true
	groups := make([]*Group, 0, len(db.groups)+1)
	for _, g := range db.groups {
		groups = append(groups, g)
	}
	apart := db.apart
	db.mu.Unlock()

	for _, g := range groups {
		g.close()
	}
	if db.writer != nil {
		db.writer.close()
	}
	var errs []error
	if r := db.replicas.Load(); r != nil {
		errs = append(errs, r.close())
	}
	for _, own := range apart {
		errs = append(errs, own.Close())
	}
	// The readers first: the last connection of a SQLite database empties its write-ahead log.
	if db.read != db.write {
		errs = append(errs, db.read.Close())
	}
	errs = append(errs, db.write.Close())
	if db.cleanup != nil {
		errs = append(errs, db.cleanup())
	}
	return errors.Join(errs...)
}

// Dialect says which kind of database this is. Only what no common SQL can express may depend on it.
func (db *DB) Dialect() Dialect { return db.dialect }

// Stats returns the counters.
func (db *DB) Stats() Stats {
	s := Stats{
		Updates: db.stats.updates.Load(),
		Commits: db.stats.commits.Load(),
		Retries: db.stats.retries.Load(),
		Reruns:  db.stats.reruns.Load(),
	}
	pool := db.read.Stats()
	s.Open, s.InUse = pool.OpenConnections, pool.InUse
	if db.read != db.write {
		pool = db.write.Stats()
		s.Open, s.InUse = s.Open+pool.OpenConnections, s.InUse+pool.InUse
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, g := range db.groups {
		s.Queued += len(g.queue)
	}
	if db.writer != nil {
		s.Queued += len(db.writer.queue)
	}
	return s
}

// Exec runs one statement in a write transaction of its own.
func (db *DB) Exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	var res sql.Result
	err := db.Update(ctx, func(tx *Tx) error {
		var err error
		res, err = tx.Exec(ctx, query, args...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// Query reads outside of any transaction. A statement that writes (INSERT … RETURNING too) is refused:
// it belongs in Update.
func (db *DB) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return db.read.QueryContext(ctx, query, args...)
}

// QueryRow is Query for one row. On SQLite a statement that began is not interrupted when ctx ends.
func (db *DB) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	if db.dialect == SQLite && ctx.Err() == nil && db.read.Stats().InUse < db.opts.MaxConns {
		// No wait for a connection. To watch a context costs two goroutines, as much as reading a row.
		ctx = context.WithoutCancel(ctx)
	}
	return db.read.QueryRowContext(ctx, query, args...)
}

// View runs fn once, in a read-only transaction whose statements all see the same snapshot. The
// snapshot is taken by the first statement. Keep it short: it holds one connection, and on SQLite it
// keeps the write-ahead log from being emptied.
func (db *DB) View(ctx context.Context, fn func(tx *Tx) error) error {
	s, err := db.begin(ctx, true)
	if err != nil {
		return connectionError(err)
	}
	defer s.end()
	if err := fn(s.newTx(db)); err != nil {
		return connectionError(err)
	}
	return nil
}

// Update runs fn in a write transaction and commits it when fn returns nil; when Update returns nil, the
// commit is durable. fn may run more than once, so it must set what it captured afresh each time, must
// not call Update itself, and must return the errors of its statements (wrapped with %w or bare).
//
// An error means that nothing was written, except ErrUnknownOutcome (Postgres: the connection broke
// during the commit). A panic in fn comes back as a *PanicError.
//
// On SQLite all waiting functions share a transaction and its fsync; one that fails is undone
// alone. On Postgres each has its own transaction, READ COMMITTED; see Group for sharing.
func (db *DB) Update(ctx context.Context, fn func(tx *Tx) error) error {
	if db.writer != nil {
		return db.writer.Update(ctx, fn)
	}
	if db.isClosed() {
		return ErrClosed
	}
	return db.updateAlone(ctx, fn)
}

// Stale is Options.Stale, for a write that is for several: it has the context of one of them.
func (db *DB) Stale(ctx context.Context) error {
	if db.opts.Stale == nil {
		return nil
	}
	return db.opts.Stale(ctx)
}

// Group returns the group of that name; always the same one.
func (db *DB) Group(name string) *Group {
	if db.writer != nil {
		return db.writer
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	g := db.groups[name]
	if g == nil {
		g = newGroup(db, name, false)
		db.groups[name] = g
		if db.closed {
			g.close()
		}
	}
	return g
}
