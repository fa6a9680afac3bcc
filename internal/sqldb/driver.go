package sqldb

import (
	"container/list"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"
)

// statementCacheLen is how many prepared statements a connection keeps. The server's statements number
// a few hundred texts; a connection of Postgres holds some 10 KiB for each.
const statementCacheLen = 256

// connector opens connections that keep their prepared statements.
type connector struct {
	driver.Connector
	dialect Dialect
	times   *times
}

// rawConn is what both drivers offer.
type rawConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

// rawStmt is what the statements of both drivers offer.
type rawStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	inner, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	raw, ok := inner.(rawConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("database driver %T lacks a method", inner), inner.Close())
	}
	return &conn{
		raw: raw, dialect: c.dialect, times: c.times,
		byText: make(map[string]*list.Element, statementCacheLen), order: list.New(),
	}, nil
}

// conn adds to a driver's connection: a cache of prepared statements by their text, the rule that only one
// result is open at a time (lib/pq would mix them up), and transactions whose BEGIN and COMMIT are prepared.
// database/sql calls it under a lock of its own.
type conn struct {
	raw     rawConn
	dialect Dialect
	times   *times
	byText  map[string]*list.Element // of *statement
	order   *list.List               // most recently used first
	open    *rows
	inTx    bool
	reads   bool // inTx, and it is read-only
	broken  bool
}

type statement struct {
	text string
	rawStmt
}

var (
	_ rawConn                  = (*conn)(nil)
	_ driver.NamedValueChecker = (*conn)(nil)
)

func (c *conn) Prepare(query string) (driver.Stmt, error) { return c.raw.Prepare(query) }

func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	return c.raw.PrepareContext(ctx, query)
}

// Close ends the connection. SQLite keeps a file open, with its lock, for as long as there are statements on it.
func (c *conn) Close() error {
	var errs []error
	if c.dialect == SQLite {
		for e := c.order.Front(); e != nil; e = c.order.Front() {
			errs = append(errs, c.forget(e))
		}
	}
	return errors.Join(append(errs, c.raw.Close())...)
}

func (c *conn) Begin() (driver.Tx, error) { return c.BeginTx(context.Background(), driver.TxOptions{}) }

func (c *conn) ResetSession(ctx context.Context) error {
	if c.broken {
		return driver.ErrBadConn
	}
	return c.raw.ResetSession(ctx)
}

func (c *conn) IsValid() bool { return !c.broken && c.raw.IsValid() }

// CheckNamedValue admits only what both databases store alike. Booleans become 0 and 1.
func (c *conn) CheckNamedValue(nv *driver.NamedValue) error {
	switch v := nv.Value.(type) {
	case int64, string, []byte, nil:
		return nil
	case int:
		nv.Value = int64(v)
		return nil
	case bool:
		nv.Value = boolInt(v)
		return nil
	case time.Time, *time.Time:
		return errors.New("time.Time is no column type: store milliseconds")
	}
	v, err := driver.DefaultParameterConverter.ConvertValue(nv.Value)
	if err != nil {
		return err
	}
	switch x := v.(type) {
	case bool:
		v = boolInt(x)
	case time.Time:
		return errors.New("time.Time is no column type: store milliseconds")
	}
	nv.Value = v
	return nil
}

func boolInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// ExecContext runs a statement without result.
func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if c.open != nil {
		return nil, errResultOpen
	}
	defer c.times.statement(query, time.Now())
	if !c.cacheable(query, args) {
		res, err := c.raw.ExecContext(ctx, query, args)
		c.after(ctx, query, err)
		return res, err
	}
	for {
		st, err := c.prepared(ctx, query)
		if err != nil {
			return nil, err
		}
		res, err := st.ExecContext(ctx, args)
		if again := c.after(ctx, query, err); !again {
			return res, err
		}
	}
}

// QueryContext runs a statement with a result.
func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if c.open != nil {
		return nil, errResultOpen
	}
	if !c.inTx && writes(query) {
		return nil, errWriteQuery // autocommit: database/sql may send it twice when the connection breaks
	}
	defer c.times.statement(query, time.Now())
	if !c.cacheable(query, args) {
		raw, err := c.raw.QueryContext(ctx, query, args)
		c.after(ctx, query, err)
		if err != nil {
			return nil, c.readError(err)
		}
		return c.result(ctx, raw), nil
	}
	for {
		st, err := c.prepared(ctx, query)
		if err != nil {
			return nil, c.readError(err)
		}
		raw, err := st.QueryContext(ctx, args)
		if again := c.after(ctx, query, err); again {
			continue
		}
		if err != nil {
			return nil, c.readError(err)
		}
		return c.result(ctx, raw), nil
	}
}

// readError makes database/sql repeat a read on another connection when this one broke. lib/pq says so
// only when it is sure that the server did not see the statement, which matters to writes alone.
func (c *conn) readError(err error) error {
	if c.inTx || !isConnectionLost(err) {
		return err
	}
	c.broken = true
	return driver.ErrBadConn
}

func (c *conn) result(ctx context.Context, raw driver.Rows) driver.Rows {
	c.open = &rows{Rows: raw, c: c, ctx: ctx}
	return c.open
}

// after looks at the outcome of a statement and tells whether to try it again with a new plan.
func (c *conn) after(ctx context.Context, query string, err error) (again bool) {
	if c.dialect == Postgres && ctx.Err() != nil {
		// A request to cancel is on its way and might hit the next statement of this connection.
		c.broken = true
	}
	if pgCode(err) == pgReadOnlyTransaction && !c.reads {
		c.broken = true // the server has become a standby: the next connection finds the primary
	}
	if err == nil || !isStalePlan(err) {
		return false
	}
	if e := c.byText[query]; e == nil || c.forget(e) != nil {
		return false
	}
	return !c.inTx // in a transaction the whole of it has to run again
}

// cacheable tells whether a statement is worth keeping. Without arguments lib/pq has a short way of its
// own, and schema changes have neither arguments nor a second run.
func (c *conn) cacheable(query string, args []driver.NamedValue) bool {
	if len(args) > 0 {
		return true
	}
	if c.dialect == Postgres {
		return false
	}
	for _, verb := range [...]string{"SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "SAVEPOINT", "RELEASE", "ROLLBACK TO"} {
		if hasVerb(query, verb) {
			return true
		}
	}
	return false
}

func writes(query string) bool {
	return hasVerb(query, "INSERT") || hasVerb(query, "UPDATE") || hasVerb(query, "DELETE")
}

func hasVerb(query, verb string) bool {
	query = strings.TrimLeft(query, " \t\r\n")
	return len(query) >= len(verb) && strings.EqualFold(query[:len(verb)], verb)
}

// prepared returns the statement for a text, from the cache or new.
func (c *conn) prepared(ctx context.Context, query string) (*statement, error) {
	if e := c.byText[query]; e != nil {
		c.order.MoveToFront(e)
		return e.Value.(*statement), nil
	}
	if c.order.Len() >= statementCacheLen {
		if err := c.forget(c.order.Back()); err != nil {
			return nil, err
		}
	}
	inner, err := c.raw.PrepareContext(ctx, query)
	c.after(ctx, query, err)
	if err != nil {
		return nil, err
	}
	raw, ok := inner.(rawStmt)
	if !ok {
		return nil, errors.Join(fmt.Errorf("database driver %T lacks a method", inner), inner.Close())
	}
	st := &statement{text: query, rawStmt: raw}
	c.byText[query] = c.order.PushFront(st)
	return st, nil
}

func (c *conn) forget(e *list.Element) error {
	st := e.Value.(*statement)
	c.order.Remove(e)
	delete(c.byText, st.text)
	return st.Close()
}

// rows is the open result of a connection.
type rows struct {
	driver.Rows
	c      *conn
	ctx    context.Context
	closed bool
}

func (r *rows) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	if r.c.open == r {
		r.c.open = nil
	}
	if r.c.dialect == Postgres && r.ctx.Err() != nil {
		r.c.broken = true
	}
	return r.Rows.Close()
}

// BeginTx begins a transaction. One that may write takes SQLite's write lock at once: to ask for it later,
// after reading, could fail without remedy.
func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if c.dialect == Postgres {
		tx, err := c.raw.BeginTx(ctx, opts)
		if pgCode(err) == pgFeatureNotSupported { // READ WRITE, from a standby
			c.broken = true
			return nil, errors.Join(driver.ErrBadConn, err)
		}
		if err != nil {
			return nil, err
		}
		c.inTx, c.reads = true, opts.ReadOnly
		return &pgTx{Tx: tx, c: c}, nil
	}
	begin := "BEGIN IMMEDIATE"
	if opts.ReadOnly {
		begin = "BEGIN"
	}
	if err := c.step(begin); err != nil {
		return nil, err
	}
	c.inTx = true
	return &sqliteTx{c: c}, nil
}

type pgTx struct {
	driver.Tx
	c *conn
}

func (t *pgTx) Commit() error {
	defer t.c.times.committed(time.Now())
	t.c.inTx, t.c.reads = false, false
	return t.Tx.Commit()
}

func (t *pgTx) Rollback() error {
	t.c.inTx, t.c.reads = false, false
	return t.Tx.Rollback()
}

type sqliteTx struct{ c *conn }

// step runs a prepared statement that takes no arguments.
func (c *conn) step(query string) error {
	st, err := c.prepared(context.Background(), query)
	if err != nil {
		return err
	}
	_, err = st.ExecContext(context.Background(), nil)
	return err
}

func (t *sqliteTx) Commit() error {
	defer t.c.times.committed(time.Now())
	t.c.inTx = false
	err := t.c.step("COMMIT")
	if err != nil {
		// The transaction may still be open (a lock, a full disk): end it. When SQLite ended it
		// by itself, this fails, rightly.
		_ = t.c.step("ROLLBACK")
	}
	return err
}

func (t *sqliteTx) Rollback() error {
	t.c.inTx = false
	return t.c.step("ROLLBACK")
}
