package sqldb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	queueLen      = 1024                  // functions that may wait; the next one blocks its caller
	batchLen      = 256                   // functions in one transaction
	batchTime     = 25 * time.Millisecond // after this no further function joins a transaction
	slowBatch     = 2 * time.Second       // reported as a warning
	batchAttempts = 4                     // of the whole batch; then each function on its own
)

// Group is a queue of write functions that share transactions: while one commit is under way, the functions
// that arrive wait, and then run one after another in one transaction with one commit. It is for
// writers that would wait for each other's row locks anyway, such as all that advance the same stream.
type Group struct {
	db         *DB
	name       string
	savepoints bool // undo a failing function by a savepoint at once; otherwise run the batch again with savepoints
	queue      chan *job
	stopped    chan struct{}

	mu     sync.RWMutex // held for reading while a job is put into the queue
	closed bool

	current *batch // owned by the working goroutine
}

// job is one function in the queue.
type job struct {
	ctx   context.Context
	fn    func(tx *Tx) error
	state atomic.Int32
	done  chan struct{}
	err   error
	hooks *Tx
}

const (
	jobQueued int32 = iota
	jobRunning
	jobAbandoned
)

func newGroup(db *DB, name string, savepoints bool) *Group {
	g := &Group{
		db: db, name: name, savepoints: savepoints,
		queue: make(chan *job, queueLen), stopped: make(chan struct{}),
	}
	go g.work()
	return g
}

// Update is DB.Update, in this group. A context that ends while fn still waits takes it out of the queue; once
// fn runs, Update returns when the outcome is known.
func (g *Group) Update(ctx context.Context, fn func(tx *Tx) error) error {
	j := &job{ctx: ctx, fn: fn, done: make(chan struct{})}
	if err := g.enqueue(j); err != nil {
		return err
	}
	select {
	case <-j.done:
		return j.err
	case <-ctx.Done():
		if j.state.CompareAndSwap(jobQueued, jobAbandoned) {
			return ctx.Err()
		}
		<-j.done
		return j.err
	}
}

func (g *Group) enqueue(j *job) error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return ErrClosed
	}
	if err := j.ctx.Err(); err != nil {
		return err
	}
	select {
	case g.queue <- j:
		return nil
	case <-j.ctx.Done():
		return j.ctx.Err()
	}
}

// close lets what is queued finish.
func (g *Group) close() {
	g.mu.Lock()
	was := g.closed
	g.closed = true
	g.mu.Unlock()
	if !was {
		close(g.queue)
	}
	<-g.stopped
}

// work runs batches until the queue is closed.
func (g *Group) work() {
	regular := false
	defer func() {
		if regular {
			close(g.stopped)
			return
		}
		// A function ended this goroutine: nobody can stop that, but others can go on.
		g.current.abandon(errGoexit)
		go g.work()
	}()
	for j := range g.queue {
		g.current = &batch{g: g, jobs: []*job{j}, savepoints: g.savepoints, started: g.db.opts.Now()}
		g.current.run()
		g.current = nil
	}
	regular = true
}

// batch is the functions that share one transaction.
type batch struct {
	g          *Group
	jobs       []*job
	finished   int // that many jobs have their answer
	savepoints bool
	started    time.Time
	s          *session
	wrote      bool // an earlier function wrote in the transaction under way
}

// errRerun ends a transaction because a function failed that can only be undone together with others.
var errRerun = errors.New("batch runs again with savepoints")

// run brings the batch to its end:
//
//  1. run all functions in one transaction, taking more from the queue as they come, and commit
//  2. when one fails that cannot be undone alone, run all again, now with savepoints
//  3. when the database refuses the transaction as a whole, run it again after a pause
//  4. when that does not help, run each function in its own transaction
//  5. after the commit: hooks and answers, in the order of the functions
func (b *batch) run() {
	db := b.g.db
	for attempt := 1; ; attempt++ {
		err := b.try(attempt == 1)
		switch {
		case err == nil:
			b.finish()
			return
		case errors.Is(err, errRerun):
			db.stats.reruns.Add(1)
			attempt--
			continue
		case errors.Is(err, ErrUnknownOutcome):
			b.fail(err)
			return
		case isRetryable(err) && attempt < batchAttempts:
			if db.backoff(context.Background(), attempt, err) == nil {
				continue
			}
		}
		b.runEach()
		return
	}
}

// try runs the functions and commits. The errors of functions stay in their jobs; the error returned is
// that of the transaction.
func (b *batch) try(grow bool) error {
	if err := b.begin(); err != nil {
		return err
	}
	defer func() { b.s.end() }()
	for i := 0; ; i++ {
		if i == len(b.jobs) && !(grow && b.take()) {
			break
		}
		if err := b.runJob(b.jobs[i]); err != nil {
			return err
		}
	}
	if !b.wrote {
		return nil // nothing to commit
	}
	if err := b.s.commit(); err != nil {
		return commitError(b.g.db.dialect, err)
	}
	b.g.db.stats.commits.Add(1)
	return nil
}

func (b *batch) begin() error {
	s, err := b.g.db.begin(context.Background(), false)
	if err != nil {
		return err
	}
	b.s, b.wrote = s, false
	return nil
}

// take adds the next waiting function to the batch, if there is one and the bounds allow it.
func (b *batch) take() bool {
	if len(b.jobs) >= batchLen || b.g.db.opts.Now().Sub(b.started) > batchTime {
		return false
	}
	select {
	case j, ok := <-b.g.queue:
		if ok {
			b.jobs = append(b.jobs, j)
		}
		return ok
	default:
		return false
	}
}

// runJob runs one function. When it fails it is undone alone if possible; the error returned ends the transaction.
func (b *batch) runJob(j *job) error {
	j.err, j.hooks = nil, nil
	if !j.state.CompareAndSwap(jobQueued, jobRunning) && j.state.Load() == jobAbandoned {
		return nil
	}
	if err := j.ctx.Err(); err != nil {
		j.err = err
		return nil
	}
	tx := b.s.newTx(b.g.db)
	tx.savepoint = b.savepoints && b.wrote
	if tx.savepoint && b.g.db.dialect == Postgres { // where a failed query spoils the transaction too
		if err := tx.setSavepoint(context.Background()); err != nil {
			return err
		}
	}
	err := tx.run(j.fn)
	if open, closeErr := b.s.leftOpen(); open {
		err = errors.Join(err, errLeftOpen, closeErr)
	}
	if err == nil {
		j.hooks = tx
		if tx.inSavepoint {
			if err := b.exec("RELEASE SAVEPOINT " + savepointName); err != nil {
				return err
			}
		}
		b.wrote = b.wrote || tx.wrote
		return nil
	}
	if isRetryable(err) {
		return err
	}
	j.err = err
	return b.undo(tx)
}

// undo takes back what a failed function did, and only that.
func (b *batch) undo(tx *Tx) error {
	switch {
	case tx.inSavepoint:
		if err := b.exec("ROLLBACK TO SAVEPOINT " + savepointName); err != nil {
			return err
		}
		return b.exec("RELEASE SAVEPOINT " + savepointName)
	case !tx.wrote && tx.failed == nil:
		return nil
	case !b.wrote: // nobody else's work is in the transaction
		b.s.end()
		return b.begin()
	case b.g.db.dialect == SQLite && !tx.wrote && !endsTransaction(tx.failed): // a failed query spoils nothing there
		return nil
	case b.savepoints: // SQLite ended the transaction
		return fmt.Errorf("transaction of a group: %w", tx.failed)
	default:
		b.savepoints = true
		return errRerun
	}
}

func (b *batch) exec(query string) error {
	if _, err := b.s.tx.ExecContext(context.Background(), query); err != nil {
		return fmt.Errorf("savepoint: %w", err)
	}
	return nil
}

// runEach gives every function its own transaction.
func (b *batch) runEach() {
	for _, j := range b.jobs[b.finished:] {
		if j.state.CompareAndSwap(jobQueued, jobRunning) || j.state.Load() == jobRunning {
			j.hooks = nil
			j.err = b.g.db.updateAlone(j.ctx, j.fn)
		}
		b.finished++
		close(j.done)
	}
}

func (b *batch) finish() {
	db := b.g.db
	if d := db.opts.Now().Sub(b.started); d > slowBatch {
		db.opts.Log.WithField("functions", len(b.jobs)).WithField("took", d).WithField("group", b.g.name).
			Warn("slow write transaction")
	}
	for _, j := range b.jobs[b.finished:] {
		if j.hooks != nil {
			db.stats.updates.Add(1)
			j.hooks.runHooks()
		}
		b.finished++
		close(j.done)
	}
}

func (b *batch) fail(err error) {
	for _, j := range b.jobs[b.finished:] {
		if j.err == nil {
			j.err = err
		}
		b.finished++
		close(j.done)
	}
}

// abandon ends a batch whose goroutine ends.
func (b *batch) abandon(err error) {
	if b == nil {
		return
	}
	if b.s != nil {
		b.s.end()
	}
	b.fail(err)
}
