package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// replicaTimeout is how long anybody waits for a replica. Then the primary is asked.
const replicaTimeout = 500 * time.Millisecond

var errReplicaSlow = fmt.Errorf("no answer within %v", replicaTimeout)

// Immutable is a statement that read replicas may be asked, since it does not matter how far they are behind. It is the
// only way to them.
//
// It may name
//
//   - rows by what they hold (a hash), or by a number or random bytes that are never given twice,
//   - of them, columns that no statement ever updates.
//
// A row that is found is right then, however old the replica is. That it is not found means nothing: who asks then asks the primary.
// So whether there is such a row, and whether somebody may see it, is decided by what was read on the primary, not by an
// Immutable: a replica may still have what was deleted. Where that comes back it is the same again, since its name says what it is.
//
// All statements are made when the program starts, in few places; test/imports knows them.
type Immutable struct {
	db    *DB
	query string
	fixed int
}

// Immutable makes a statement for replicas: a SELECT that ends in "IN ", where a list follows. Before it may stand
// so many arguments.
func (db *DB) Immutable(query string, fixed int) *Immutable {
	im := &Immutable{db: db, query: query, fixed: fixed}
	db.mu.Lock()
	defer db.mu.Unlock()
	db.immutable = append(db.immutable, im)
	return im
}

// Ready tells whether there are replicas; never on nil. It costs nothing.
func (im *Immutable) Ready() bool { return im != nil && im.db.replicas.Load() != nil }

// Now is the clock of the database.
func (im *Immutable) Now() time.Time { return im.db.opts.Now() }

// Answer is what a replica will have said.
type Answer[T any] struct {
	from   *replica
	term   int
	im     *Immutable
	want   int
	limit  context.Context
	result chan outcome[T]
}

type outcome[T any] struct {
	rows []T
	err  error
}

// Ask begins to ask a replica for the rows of a list (of at most ChunkSize keys, each once). It is nil where no replica is fit to
// be asked; a nil *Answer has no rows. scan makes a value of a row. It runs in another goroutine, perhaps still
// when nobody waits any more, so it must not touch anything that others use.
func Ask[T any](ctx context.Context, im *Immutable, args, list []any, scan func(row func(...any) error) (T, error)) *Answer[T] {
	if !im.Ready() || len(list) == 0 {
		return nil
	}
	set := im.db.replicas.Load()
	rep, term := set.pick(im)
	if rep == nil {
		set.passed.Add(1)
		return nil
	}
	in, args := InArgs(args[:len(args):len(args)], list)
	// A request that ends does not end the statement: to cancel one costs its connection.
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), replicaTimeout)
	a := &Answer[T]{from: rep, term: term, im: im, want: len(list), limit: limit, result: make(chan outcome[T], 1)}
	go func() {
		defer set.work.Done()
		defer cancel()
		var o outcome[T]
		o.rows, o.err = collect(limit, rep.pool, im.query+in, args, scan)
		rep.give(term, o.err)
		a.result <- o
	}()
	return a
}

func collect[T any](ctx context.Context, pool *sql.DB, query string, args []any, scan func(row func(...any) error) (T, error)) (out []T, err error) {
	rows, err := pool.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		v, err := scan(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

// Rows waits for the rows that the replica has, which may be fewer than were asked for: none where it failed, or was too slow.
func (a *Answer[T]) Rows(ctx context.Context) []T {
	if a == nil {
		return nil
	}
	var o outcome[T]
	select {
	case o = <-a.result:
	case <-ctx.Done():
		return nil
	case <-a.limit.Done():
		select {
		case o = <-a.result:
		default:
			o.err = errReplicaSlow
			a.from.fail(a.term, o.err)
		}
	}
	switch set := a.from.set; {
	case o.err != nil:
		set.failed.Add(1)
		return nil
	case len(o.rows) < a.want:
		set.missed.Add(1)
		a.from.lags(a.im)
	default:
		set.found.Add(1)
	}
	return o.rows
}
