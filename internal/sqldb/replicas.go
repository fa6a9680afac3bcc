package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lib/pq"
	"github.com/sirupsen/logrus"
)

// MaxReplicas is how many read replicas one database may have.
const MaxReplicas = 16

const (
	// replicaSilence is the bound of impatient connections, for all that is asked of a replica to see whether it can be used.
	replicaSilence = silence
	// replicaLag is for how long a replica that lacked a row is not asked such a thing again: who asks for what was
	// written just now would wait for two databases. Replicas are mostly some milliseconds behind.
	replicaLag = time.Second
	// replicaRest is for how long one that failed is left alone, doubled each time up to replicaMaxRest unless it was well
	// for replicaStable.
	replicaRest, replicaMaxRest, replicaStable = time.Second, 30 * time.Second, time.Minute
	// replicaLifetime is the longest time after which a connection finds out that its server follows another primary, or none.
	replicaLifetime = 5 * time.Minute
)

// identitySQL says which database this is, on a primary and on a standby: cluster, database, timeline, whether it is a standby. The
// timeline of a standby is that of its last restart point, which is never too high.
const identitySQL = `SELECT concat_ws(' ', (SELECT system_identifier FROM pg_control_system()),
	(SELECT oid FROM pg_database WHERE datname = current_database()),
	CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
		ELSE CAST(CAST('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS bit(32)) AS BIGINT) END,
	pg_is_in_recovery())`

type identity struct {
	cluster, database string
	timeline          int64
	standby           bool
}

func parseIdentity(text string) (id identity, err error) {
	var standby string
	if _, err = fmt.Sscan(text, &id.cluster, &id.database, &id.timeline, &standby); err != nil {
		return id, fmt.Errorf("which database this is, is not to be read from %q: %w", text, err)
	}
	id.standby = standby == "t"
	return id, nil
}

var (
	errOtherDatabase = errors.New("it is a replica of another database")
	errNoStandby     = errors.New("it takes writes, so it is no replica")
	errOldTimeline   = errors.New("it has not followed the primary to its timeline (after a failover it may take until its next restart point)")
)

// check tells why a server is none to be read from in place of the primary.
//
// After a failover that lost commits the new primary may give numbers again that a standby which had received those commits has seen.
// Such a standby cannot follow the new primary, and stays behind on the timeline of the old one.
func (id identity) check(primary identity) error {
	switch {
	case id.cluster != primary.cluster || id.database != primary.database:
		return errOtherDatabase
	case !id.standby:
		return errNoStandby
	case id.timeline < primary.timeline:
		return errOldTimeline
	}
	return nil
}

// replicas are those of one database.
type replicas struct {
	db   *DB
	list []*replica
	turn atomic.Uint32
	work sync.WaitGroup // statements and probes under way
	// asks is a connection of its own to the primary, so that a busy primary is not taken for a failing replica.
	asks *sql.DB

	found, missed, failed, passed atomic.Int64
}

// ReplicaStats counts what was asked of replicas.
type ReplicaStats struct {
	Found  int64 // all rows were there
	Missed int64 // some were not, and the primary was asked for them
	Failed int64 // an error, or no answer in time: the primary was asked
	Passed int64 // no replica was fit to be asked: each failed or lagged just now, or was busy
	Used   int   // replicas that are asked now
}

// ReplicaStats returns the counters.
func (db *DB) ReplicaStats() (s ReplicaStats) {
	set := db.replicas.Load()
	if set == nil {
		return s
	}
	s = ReplicaStats{Found: set.found.Load(), Missed: set.missed.Load(), Failed: set.failed.Load(), Passed: set.passed.Load()}
	for _, rep := range set.list {
		rep.mu.Lock()
		if rep.up {
			s.Used++
		}
		rep.mu.Unlock()
	}
	return s
}

// UseReplicas makes all Immutable statements that were made before go to read replicas of a PostgreSQL database; it is called once. Each
// has at most as many connections as the database, which gets one more. A replica that cannot be reached is left alone until it can be. The error
// names one that belongs to another database, or that refuses to be read.
func (db *DB) UseReplicas(ctx context.Context, urls []string) (err error) {
	switch {
	case len(urls) == 0:
		return nil
	case db.dialect != Postgres:
		return errors.New("only PostgreSQL has read replicas")
	case len(urls) > MaxReplicas:
		return fmt.Errorf("%d read replicas, more than %d", len(urls), MaxReplicas)
	}
	set := &replicas{db: db, asks: sql.OpenDB(db.connector)}
	set.asks.SetMaxOpenConns(1)
	set.asks.SetConnMaxIdleTime(postgresIdleTime)
	set.asks.SetConnMaxLifetime(replicaLifetime)
	defer func() {
		if err != nil {
			err = errors.Join(err, set.close())
		}
	}()
	if _, err := set.primary(ctx); err != nil {
		return err
	}
	for _, url := range urls {
		rep, err := set.open(url)
		if err != nil {
			return err
		}
		set.list = append(set.list, rep)
	}
	errs := make([]error, len(set.list))
	var wg sync.WaitGroup
	for i, rep := range set.list {
		wg.Go(func() { errs[i] = rep.start(ctx) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	db.replicas.Store(set)
	return nil
}

// primary asks the primary which database it is.
func (s *replicas) primary(ctx context.Context) (identity, error) {
	var text string
	if err := s.asks.QueryRowContext(ctx, identitySQL).Scan(&text); err != nil {
		return identity{}, fmt.Errorf("which database the primary has: %w", err)
	}
	return parseIdentity(text)
}

// pick takes a connection of the next replica that is fit to be asked; nil where none is.
func (s *replicas) pick(im *Immutable) (*replica, int) {
	now, first := s.db.opts.Now(), int(s.turn.Add(1)%uint32(len(s.list)))
	for i := range s.list {
		rep := s.list[(first+i)%len(s.list)]
		if term, ok := rep.take(im, now); ok {
			return rep, term
		}
	}
	return nil, 0
}

func (s *replicas) close() error {
	for _, rep := range s.list {
		rep.mu.Lock()
		rep.closed = true
		rep.mu.Unlock()
		// An error says that the replica went before, which does not matter here either.
		_ = rep.pool.Close()
	}
	s.work.Wait()
	return s.asks.Close()
}

// replica is one of them.
type replica struct {
	set   *replicas
	name  string // for the log
	pool  *sql.DB
	conns int

	mu     sync.Mutex
	closed bool
	up     bool
	busy   int
	behind map[*Immutable]time.Time // until when it is not asked, because it lags
	// term grows whenever it goes up or down: what was begun before does not count any more.
	term    int
	probing bool
	retry   time.Time // down: when to look again
	since   time.Time // up: since when
	rests   int       // how often it went down without having been well
}

// replicaSettings are those of connections to replicas (see sessionSettings).
func replicaSettings() map[string]string {
	out := sessionSettings()
	out["statement_timeout"] = fmt.Sprint(replicaTimeout.Milliseconds())
	out["default_transaction_read_only"] = "on"
	return out
}

func (s *replicas) open(url string) (*replica, error) {
	cfg, err := postgresConfig(url, replicaSettings())
	if err != nil {
		return nil, fmt.Errorf("read replica: %w", err)
	}
	rep := &replica{set: s, name: fmt.Sprintf("%s:%d", cfg.Host, cfg.Port), conns: s.db.opts.MaxConns, behind: make(map[*Immutable]time.Time)}
	if len(cfg.Multi) > 0 {
		return nil, fmt.Errorf("read replica %s: the URL must name one host: each replica has a URL of its own", rep.name)
	}
	cfg.ConnectTimeout = replicaSilence
	inner, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("read replica %s: %w", rep.name, err)
	}
	inner.Dialer(impatient{newDialer()})
	rep.pool = sql.OpenDB(&replicaConnector{connector{Connector: inner, dialect: Postgres}, s})
	rep.pool.SetMaxOpenConns(rep.conns)
	rep.pool.SetMaxIdleConns(rep.conns)
	rep.pool.SetConnMaxIdleTime(postgresIdleTime)
	rep.pool.SetConnMaxLifetime(replicaLifetime)
	return rep, nil
}

// start looks at a replica for the first time.
func (rep *replica) start(ctx context.Context) error {
	err := rep.look(ctx)
	rep.mu.Lock()
	defer rep.mu.Unlock()
	now := rep.set.db.opts.Now()
	if err == nil {
		rep.up, rep.since = true, now
		return nil
	}
	if refuses(err) {
		return fmt.Errorf("read replica %s: %w", rep.name, err)
	}
	rep.rest(now)
	rep.log().WithError(err).Warn("a read replica cannot be used yet; the primary is asked")
	return nil
}

// refuses tells whether a replica answers, and waiting will not help.
func refuses(err error) bool {
	const badLogin, unknownDatabase, noPrivilege = "28", "3D000", "42501"
	code := pgCode(err)
	return errors.Is(err, errOtherDatabase) || strings.HasPrefix(code, badLogin) || code == unknownDatabase || code == noPrivilege
}

// look runs all statements on a new connection, for no rows.
func (rep *replica) look(ctx context.Context) error {
	rep.pool.SetMaxIdleConns(0) // those that were idle are closed
	rep.pool.SetMaxIdleConns(rep.conns)
	rep.set.db.mu.Lock()
	statements := rep.set.db.immutable
	rep.set.db.mu.Unlock()
	for _, im := range statements {
		limit, cancel := context.WithTimeout(ctx, replicaSilence)
		_, err := collect(limit, rep.pool, im.query+In(0, 1), make([]any, im.fixed), func(func(...any) error) (struct{}, error) { return struct{}{}, nil })
		cancel()
		if err != nil {
			return err
		}
	}
	return rep.pool.PingContext(ctx)
}

// take takes a connection for a statement, which work then counts until give returns it.
func (rep *replica) take(im *Immutable, now time.Time) (term int, ok bool) {
	rep.mu.Lock()
	defer rep.mu.Unlock()
	switch {
	case rep.closed:
		return 0, false
	case !rep.up:
		if !rep.probing && !now.Before(rep.retry) {
			rep.probing = true
			rep.set.work.Go(rep.probe)
		}
		return 0, false
	case rep.busy >= rep.conns || now.Before(rep.behind[im]):
		return 0, false
	}
	rep.busy++
	rep.set.work.Add(1)
	return rep.term, true
}

func (rep *replica) give(term int, err error) {
	rep.mu.Lock()
	rep.busy--
	rep.mu.Unlock()
	if err != nil {
		rep.fail(term, err)
	}
}

// lags notes that the replica lacked something.
func (rep *replica) lags(im *Immutable) {
	rep.mu.Lock()
	defer rep.mu.Unlock()
	rep.behind[im] = rep.set.db.opts.Now().Add(replicaLag)
}

// fail takes a replica out of use, because of an error of a statement that was begun in a term.
func (rep *replica) fail(term int, err error) {
	if code := pgCode(err); code == pgSerializationFailure || code == pgDeadlockDetected {
		return // it got in the way of what the replica had to replay, which happens to those that are well
	}
	rep.mu.Lock()
	defer rep.mu.Unlock()
	if rep.closed || !rep.up || rep.term != term {
		return
	}
	now := rep.set.db.opts.Now()
	if now.Sub(rep.since) >= replicaStable {
		rep.rests = 0
	}
	rep.up = false
	rep.term++
	rep.rest(now)
	rep.log().WithError(err).Warn("a read replica failed and is left alone for a while; the primary is asked")
}

// rest sets the time at which to look again, at random so that not all processes do at once. It is called with the lock.
func (rep *replica) rest(now time.Time) {
	d := min(replicaRest<<min(rep.rests, 10), replicaMaxRest)
	rep.rests++
	rep.retry = now.Add(d/2 + rand.N(d))
}

// probe looks whether a replica that was left alone can be used again. Nobody waits for it.
func (rep *replica) probe() {
	err := rep.look(context.Background())
	rep.mu.Lock()
	defer rep.mu.Unlock()
	rep.probing = false
	if rep.closed {
		return
	}
	now := rep.set.db.opts.Now()
	if err != nil {
		rep.rest(now)
		rep.log().WithError(err).Debug("a read replica still fails")
		return
	}
	rep.up, rep.since = true, now
	rep.term++
	rep.log().Info("a read replica is used again")
}

func (rep *replica) log() *logrus.Entry { return rep.set.db.opts.Log.WithField("replica", rep.name) }

// replicaConnector opens connections of which it is known that they lead to a replica of the primary.
type replicaConnector struct {
	connector
	set *replicas
}

// Connect implements driver.Connector.
func (c *replicaConnector) Connect(ctx context.Context) (driver.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, replicaSilence)
	defer cancel()
	cn, err := c.connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.check(ctx, cn); err != nil {
		return nil, errors.Join(err, cn.Close())
	}
	return cn, nil
}

func (c *replicaConnector) check(ctx context.Context, cn driver.Conn) (err error) {
	q, ok := cn.(driver.QueryerContext)
	if !ok {
		return fmt.Errorf("database driver %T lacks a method", cn)
	}
	rows, err := q.QueryContext(ctx, identitySQL, nil)
	if err != nil {
		return err
	}
	row := make([]driver.Value, 1)
	if err := errors.Join(rows.Next(row), rows.Close()); err != nil {
		return err
	}
	own, err := parseIdentity(fmt.Sprintf("%s", row[0]))
	if err != nil {
		return err
	}
	primary, err := c.set.primary(ctx)
	if err != nil {
		return err
	}
	return own.check(primary)
}
