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
	maxReruns     = 4                     // of a batch because of functions that fail; then the same
)

// Group is a queue of write functions that share transactions: while one commit is under way, the functions
// that arrive wait, and then run one after another in one transaction with one commit. It is for
// writers that would wait for each other's row locks anyway, such as all that advance the same stream. Writers that take
// several locks say so by Steps.
type Group struct {
	db         *DB
	name       string
	savepoints bool // undo a failing function by a savepoint at once; otherwise run the batch again with savepoints
	queue      chan *job
	stopped    chan struct{}

	mu     sync.RWMutex // held for reading while a job is put into the queue
	closed bool

	current *batch // owned by the working goroutine
	late    *job   // the same: taken from the queue too late for the batch under way
}

// job is one write in the queue. All but ctx and state are the working goroutine's until done is closed.
type job struct {
	ctx      context.Context
	steps    []Step
	state    atomic.Int32
	done     chan struct{}
	answered bool
	err      error

	// In the transaction under way:
	next  int  // the step that comes next
	wrote bool // a step that ended well wrote
	hooks []func()
	// apart: it failed after other jobs' steps had followed its own, so it runs after the batch, alone.
	apart bool
}

// unfinished tells whether a job has run a part of its steps.
func (j *job) unfinished() bool { return j.next > 0 && j.next < len(j.steps) }

func (j *job) answer() {
	if !j.answered {
		j.answered = true
		close(j.done)
	}
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
	return g.do(ctx, []Step{{Run: fn}})
}

func (g *Group) do(ctx context.Context, steps []Step) error {
	j := &job{ctx: ctx, steps: steps, done: make(chan struct{})}
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
	for {
		j, ok := g.late, true
		if g.late = nil; j == nil {
			j, ok = <-g.queue
		}
		if !ok {
			break
		}
		g.current = &batch{g: g, jobs: []*job{j}, savepoints: g.savepoints, started: g.db.opts.Now()}
		g.current.run()
		g.current = nil
	}
	regular = true
}

// batch is the jobs that share one transaction.
type batch struct {
	g          *Group
	jobs       []*job
	savepoints bool
	started    time.Time
	s          *session

	// In the transaction under way:
	turns turns
	at    Lock   // that of the step that runs or ran last
	ended []*job // whose steps all ended well, in the order in which they did
	wrote bool   // an earlier step wrote
}

// errRerun ends a transaction because a step failed that can only be undone together with others.
var errRerun = errors.New("batch runs again")

// run brings the batch to its end:
//
//  1. run the steps of all jobs in the order of their locks in one transaction, taking more jobs from the queue as
//     they come, and commit
//  2. when a job fails that cannot be undone alone, run all again: with savepoints, or without it
//  3. when the database refuses the transaction as a whole, run it again after a pause
//  4. when that does not help, run each job in its own transaction
//  5. after the commit: hooks and answers, in the order in which the jobs ended
//  6. run the jobs that were left out, each in its own transaction
func (b *batch) run() {
	db := b.g.db
	for attempt, reruns := 1, 0; ; attempt++ {
		err := b.try(attempt == 1 && reruns == 0)
		switch {
		case err == nil:
			b.finish()
			b.runEach()
			return
		case errors.Is(err, errRerun):
			db.stats.reruns.Add(1)
			if reruns++; reruns <= maxReruns {
				attempt--
				continue
			}
		case errors.Is(err, ErrUnknownOutcome):
			b.fail(err)
			return
		case isRetryable(err) && attempt < attempts(err, batchAttempts, lockGroupAttempts):
			if db.backoff(context.Background(), attempt, err) == nil {
				continue
			}
		}
		b.runEach()
		return
	}
}

// try runs the steps and commits. The errors of jobs stay in the jobs; the error returned is that of the transaction.
func (b *batch) try(grow bool) error {
	if err := b.begin(); err != nil {
		return err
	}
	defer func() { b.s.end() }()
	b.ended, b.turns, b.at = nil, b.turns[:0], Lock{}
	for i, j := range b.jobs {
		j.err, j.hooks, j.next, j.wrote = nil, nil, 0, false
		if !j.apart {
			b.turns.add(j, i)
		}
	}
	for {
		for grow && b.take() {
		}
		t, ok := b.turns.next()
		if !ok {
			break
		}
		b.at = t.lock
		ok, err := b.step(t.job)
		if err != nil {
			return err
		}
		switch {
		case !ok:
		case t.job.next < len(t.job.steps):
			b.turns.add(t.job, t.number)
		default:
			b.ended = append(b.ended, t.job)
		}
	}
	if !b.wrote {
		return nil // nothing to commit
	}
	if err := b.s.check(b.g.db); err != nil {
		return err
	}
	for _, j := range b.ended { // a stale one fails when each has a transaction of its own
		if err := b.g.db.Stale(j.ctx); err != nil {
			return err
		}
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

// take adds the next waiting job to the batch, if there is one, the bounds allow it, and it begins with a lock that is
// still to come. One that does not is the first of the next batch.
func (b *batch) take() bool {
	if b.g.late != nil || len(b.jobs) >= batchLen || b.g.db.opts.Now().Sub(b.started) > batchTime {
		return false
	}
	select {
	case j, ok := <-b.g.queue:
		if !ok {
			return false
		}
		if j.steps[0].Lock.compare(b.at) < 0 {
			b.g.late = j
			return false
		}
		b.turns.add(j, len(b.jobs))
		b.jobs = append(b.jobs, j)
		return true
	default:
		return false
	}
}

// step runs the next step of a job and tells whether it ended well. When it fails the job is undone alone if possible;
// the error returned ends the transaction.
func (b *batch) step(j *job) (ok bool, err error) {
	if j.next == 0 {
		if !j.state.CompareAndSwap(jobQueued, jobRunning) && j.state.Load() == jobAbandoned {
			return false, nil
		}
		if err := j.ctx.Err(); err != nil {
			j.err = err
			return false, nil
		}
	}
	tx := b.s.newTx(b.g.db)
	// A later step that fails takes the job out of the batch: a savepoint would not help.
	tx.savepoint = b.savepoints && j.next == 0 && b.others(j)
	if tx.savepoint && b.g.db.dialect == Postgres { // where a failed query spoils the transaction too
		if err := tx.setSavepoint(context.Background()); err != nil {
			return false, err
		}
	}
	err = tx.run(j.steps[j.next].Run)
	if open, closeErr := b.s.leftOpen(); open {
		err = errors.Join(err, errLeftOpen, closeErr)
	}
	if err == nil {
		j.next++
		j.hooks = append(j.hooks, tx.hooks...)
		if tx.inSavepoint {
			if err := b.exec("RELEASE SAVEPOINT " + savepointName); err != nil {
				return false, err
			}
		}
		j.wrote = j.wrote || tx.changed
		b.wrote = b.wrote || tx.changed
		return true, nil
	}
	if isRetryable(err) {
		return false, err
	}
	j.err = err
	return false, b.undo(j, tx)
}

// undo takes back what a failed job did, and only that.
func (b *batch) undo(j *job, tx *Tx) error {
	switch {
	case tx.inSavepoint:
		if err := b.exec("ROLLBACK TO SAVEPOINT " + savepointName); err != nil {
			return err
		}
		return b.exec("RELEASE SAVEPOINT " + savepointName)
	case !j.wrote && !tx.changed && tx.failed == nil:
		return nil
	case !b.others(j): // nobody else's work is in the transaction
		b.s.end()
		return b.begin()
	case b.g.db.dialect == SQLite && !tx.changed && !endsTransaction(tx.failed): // a failed query spoils nothing there
		return nil
	case j.next > 0:
		j.apart = true
		return errRerun
	case b.savepoints: // SQLite ended the transaction
		return fmt.Errorf("transaction of a group: %w", tx.failed)
	default:
		b.savepoints = true
		return errRerun
	}
}

// others tells whether the transaction holds what a job other than j wrote, or locks of one that is not finished.
func (b *batch) others(j *job) bool {
	for _, o := range b.jobs {
		if o != j && (o.wrote || o.unfinished() && o.err == nil) {
			return true
		}
	}
	return false
}

func (b *batch) exec(query string) error {
	if _, err := b.s.tx.ExecContext(context.Background(), query); err != nil {
		return fmt.Errorf("savepoint: %w", err)
	}
	return nil
}

// runEach gives every job that has no answer its own transaction.
func (b *batch) runEach() {
	for _, j := range b.jobs {
		if j.answered {
			continue
		}
		if j.state.CompareAndSwap(jobQueued, jobRunning) || j.state.Load() == jobRunning {
			j.err = b.g.db.updateAlone(j.ctx, inTurn(j.steps))
		}
		j.answer()
	}
}

// finish gives the answers after a commit, but to those that were left out of it.
func (b *batch) finish() {
	db := b.g.db
	if d := db.opts.Now().Sub(b.started); d > slowBatch {
		db.opts.Log.WithField("functions", len(b.jobs)).WithField("took", d).WithField("group", b.g.name).
			Warn("slow write transaction")
	}
	for _, j := range b.ended {
		db.stats.updates.Add(1)
		for _, f := range j.hooks {
			runHook(db, f)
		}
		j.answer()
	}
	for _, j := range b.jobs {
		if !j.apart {
			j.answer()
		}
	}
}

func (b *batch) fail(err error) {
	for _, j := range b.jobs {
		if j.answered {
			continue
		}
		if j.err == nil {
			j.err = err
		}
		j.answer()
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
