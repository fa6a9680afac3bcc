package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"
)

// Tx is a transaction, as one function sees it. It serves one goroutine, and only until the function
// that received it returns. A result (rows) must be closed before the next statement.
type Tx struct {
	db          *DB
	s           *session
	savepoint   bool // set a savepoint before the first write, because others share the transaction
	inSavepoint bool
	wrote       bool  // a statement that may write was begun
	changed     bool  // some statement may have changed something
	failed      error // the first statement that failed
	hooks       []func()
	over        bool
}

const savepointName = "fn"

// Exec runs a statement that returns no rows.
func (tx *Tx) Exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	ctx, err := tx.prepare(ctx, query, true)
	if err != nil {
		return nil, err
	}
	res, err := tx.s.tx.ExecContext(ctx, query, args...)
	// A fence that met nothing leaves nothing to undo. Other statements than these have no rows to count.
	if err != nil || !writes(query) {
		tx.changed = true
	} else if n, err := res.RowsAffected(); err != nil || n > 0 {
		tx.changed = true
	}
	return res, tx.note(err)
}

// Query runs a statement that returns rows. The caller closes them before the next statement.
func (tx *Tx) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	ctx, err := tx.prepare(ctx, query, !isSelect(query))
	if err != nil {
		return nil, err
	}
	tx.changed = tx.changed || !isSelect(query)
	rows, err := tx.s.tx.QueryContext(ctx, query, args...)
	return rows, tx.note(err)
}

// QueryRow runs a statement that returns at most one row; Scan of the result gives sql.ErrNoRows
// when there is none.
func (tx *Tx) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	ready, err := tx.prepare(ctx, query, !isSelect(query))
	if err != nil {
		// A *sql.Row with an error can only be had from a call that fails: a cancelled one does. The
		// cause is in tx.failed, or it is the caller's own cancellation.
		dead, cancel := context.WithCancelCause(ctx)
		cancel(err)
		return tx.s.tx.QueryRowContext(dead, query, args...)
	}
	if tx.db.dialect == SQLite {
		ready = context.WithoutCancel(ready) // see DB.QueryRow
	}
	tx.changed = tx.changed || !isSelect(query)
	row := tx.s.tx.QueryRowContext(ready, query, args...)
	_ = tx.note(row.Err()) // remembered; the caller meets the same error in Scan
	return row
}

// OnCommit makes f run after the commit, before Update returns, in the order of commits on SQLite and
// within a Group, otherwise in no particular order. f must be quick, and must not wait for another Update.
func (tx *Tx) OnCommit(f func()) { tx.hooks = append(tx.hooks, f) }

// prepare does what precedes a statement, and returns the context to run it with.
func (tx *Tx) prepare(ctx context.Context, query string, writes bool) (context.Context, error) {
	if tx.over {
		return nil, sql.ErrTxDone
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if tx.db.dialect == Postgres {
		tx.s.used = tx.db.opts.Now()
	}
	if tx.db.dialect == SQLite && !tx.s.readOnly {
		// An interrupted statement would roll back the transaction, and with it the writes of others.
		ctx = context.Background()
	}
	if writes && !tx.wrote {
		if tx.savepoint && !tx.inSavepoint {
			if err := tx.setSavepoint(ctx); err != nil {
				return nil, tx.note(err)
			}
		}
		tx.wrote = true
	}
	return ctx, nil
}

func (tx *Tx) setSavepoint(ctx context.Context) error {
	if _, err := tx.s.tx.ExecContext(ctx, "SAVEPOINT "+savepointName); err != nil {
		return fmt.Errorf("savepoint: %w", err)
	}
	tx.inSavepoint = true
	return nil
}

func (tx *Tx) note(err error) error {
	if err != nil && tx.failed == nil {
		tx.failed = err
	}
	return err
}

// run calls fn and returns its error. A statement that failed fails the function even when the function
// ignored it: on Postgres the transaction is spoiled by then, and both dialects shall behave alike.
func (tx *Tx) run(fn func(tx *Tx) error) (err error) {
	defer func() {
		tx.over = true
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	if tx.failed != nil {
		return fmt.Errorf("a statement failed and the transaction went on: %w", tx.failed)
	}
	return nil
}

func (tx *Tx) runHooks() {
	for _, f := range tx.hooks {
		runHook(tx.db, f)
	}
}

func runHook(db *DB, f func()) {
	defer func() {
		if v := recover(); v != nil {
			db.opts.Log.WithField("panic", v).WithField("stack", string(debug.Stack())).
				Error("a function that ran after a commit panicked")
		}
	}()
	f()
}

// isSelect tells whether a statement surely does not write.
func isSelect(query string) bool {
	query = strings.TrimLeft(query, " \t\r\n(")
	return len(query) >= 6 && strings.EqualFold(query[:6], "SELECT")
}

// session is a connection in a transaction.
type session struct {
	readOnly bool
	conn     *sql.Conn
	tx       *sql.Tx
	ended    bool
	used     time.Time // when its last statement began
}

// pause is the time without a statement after which a transaction is not taken for granted.
const pause = time.Second

// check asks after a pause whether the server still has the transaction. That it has ended it meanwhile, because of
// idle_in_transaction_session_timeout, would look like a commit of unknown outcome, but this one can run again.
func (s *session) check(db *DB) error {
	if db.dialect != Postgres || db.opts.Now().Sub(s.used) < pause {
		return nil
	}
	if _, err := s.tx.ExecContext(context.Background(), "SELECT 1"); err != nil {
		return fmt.Errorf("after a pause of the transaction: %w", err)
	}
	return nil
}

// begin takes a connection, waiting for one while ctx lasts, and begins a transaction on it. The
// transaction itself does not end with ctx: a commit under way must not be cut off.
func (db *DB) begin(ctx context.Context, readOnly bool) (*session, error) {
	pool, opts := db.write, &sql.TxOptions{Isolation: sql.LevelReadCommitted}
	if readOnly {
		pool, opts = db.read, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	}
	var lastErr error
	for range db.opts.MaxConns + 1 {
		conn, err := pool.Conn(ctx)
		if err != nil {
			return nil, fmt.Errorf("connection to the database: %w", err)
		}
		tx, err := conn.BeginTx(context.WithoutCancel(ctx), opts)
		if err == nil {
			return &session{readOnly: readOnly, conn: conn, tx: tx, used: db.opts.Now()}, nil
		}
		lastErr = fmt.Errorf("begin: %w", errors.Join(err, closed(conn.Close())))
		if !isConnectionLost(err) {
			break
		}
		// An idle connection that the server closed meanwhile. After a restart of the server they all are.
	}
	return nil, lastErr
}

func (s *session) newTx(db *DB) *Tx { return &Tx{db: db, s: s} }

// commit ends the session.
func (s *session) commit() error {
	s.ended = true
	err := s.tx.Commit()
	return errors.Join(err, closed(s.conn.Close()))
}

// end rolls the transaction back if it was not committed. The error of a rollback is of no use: the
// connection is then closed by the pool, and with it the transaction.
func (s *session) end() {
	if s.ended {
		return
	}
	s.ended = true
	_ = s.tx.Rollback()
	_ = s.conn.Close()
}

// leftOpen closes a result that a function left open, and tells whether there was one.
func (s *session) leftOpen() (bool, error) {
	var was bool
	err := s.conn.Raw(func(raw any) error {
		c, ok := raw.(*conn)
		if !ok || c.open == nil {
			return nil
		}
		was = true
		return c.open.Close()
	})
	return was, err
}

// closed forgives that a broken connection is closed already.
func closed(err error) error {
	if errors.Is(err, sql.ErrConnDone) {
		return nil
	}
	return err
}
