package natsbus

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// QueuePerWorker is how many calls wait for each worker of a handler before further ones are refused with ErrBusy.
	QueuePerWorker = 1
)

// Handle answers the calls of a subject to this node. fn runs in at most workers goroutines at once; QueuePerWorker
// times as many calls wait, and more are refused. Its context ends with the caller's deadline, when the caller gives
// up, and when Close loses its patience. An error goes to the caller as a *RemoteError, a panic too. fn must not change the
// data. stop ends it: further calls find no such node, accepted ones go on. A second handler of a subject
// panics.
func (b *Bus) Handle(subject string, workers int, fn func(ctx context.Context, data []byte) ([]byte, error)) (stop func()) {
	h := &handler{all: &b.handlers, fn: fn, workers: workers, panicked: func(v any) {
		b.cfg.Log.WithField("subject", subject).Errorf("cluster bus: panic in a handler: %v\n%s", v, debug.Stack())
	}}
	b.handlers.add(subject, h)
	return func() { b.handlers.remove(subject, h) }
}

// handlers are those of this node, by subject.
type handlers struct {
	ctx       context.Context // of all calls
	cancelAll context.CancelFunc
	began     time.Time

	mu        sync.Mutex
	bySubject map[string]*handler
	accepted  int // calls that were accepted and have not ended
	jobs      map[jobID]*job
	closed    bool
	idle      chan struct{} // closed when closed and nothing is accepted
}

func (hs *handlers) init() {
	hs.ctx, hs.cancelAll = context.WithCancel(context.Background())
	hs.began = time.Now()
	hs.bySubject, hs.jobs, hs.idle = make(map[string]*handler), make(map[jobID]*job), make(chan struct{})
}

func (hs *handlers) add(subject string, h *handler) {
	if h.workers < 1 {
		panic("natsbus: a handler without workers")
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.bySubject[subject] != nil {
		panic("natsbus: two handlers of " + subject)
	}
	hs.bySubject[subject] = h
}

func (hs *handlers) remove(subject string, h *handler) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.bySubject[subject] == h {
		delete(hs.bySubject, subject)
	}
}

func (hs *handlers) get(subject string) *handler {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.closed {
		return nil
	}
	return hs.bySubject[subject]
}

// begin counts a call in, unless it is too late.
func (hs *handlers) begin(j *job) bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.closed {
		return false
	}
	hs.accepted++
	hs.jobs[j.id] = j
	return true
}

// end counts a call out that was answered.
func (hs *handlers) end(j *job) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.accepted--
	if hs.jobs[j.id] == j {
		delete(hs.jobs, j.id)
	}
	if hs.closed && hs.accepted == 0 {
		close(hs.idle)
	}
}

// cancel ends the context of a call.
func (hs *handlers) cancel(id jobID) {
	hs.mu.Lock()
	j := hs.jobs[id]
	hs.mu.Unlock()
	if j != nil {
		j.cancel()
	}
}

// clock is how long there have been handlers. It is no time of day: it only goes on.
func (hs *handlers) clock() time.Duration { return time.Since(hs.began) }

// wants notes that a caller wanted the calls of these numbers after a time of the clock, 0 for none, and gives those of which there is
// no call.
func (hs *handlers) wants(from string, numbers []uint64, clock time.Duration) (missing []uint64) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for _, number := range numbers {
		j := hs.jobs[jobID{from, number}]
		if j == nil {
			missing = append(missing, number)
			continue
		}
		j.wanted.Store(max(j.wanted.Load(), int64(clock))) // only here, with the lock
	}
	return missing
}

// close lets no further call in; what it returns is closed when the last one ended.
func (hs *handlers) close() (idle <-chan struct{}) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.closed = true
	if hs.accepted == 0 {
		close(hs.idle)
	}
	return hs.idle
}

// handler answers one subject.
type handler struct {
	all      *handlers
	fn       func(ctx context.Context, data []byte) ([]byte, error)
	workers  int
	panicked func(v any)

	mu      sync.Mutex
	running int    // workers
	queue   []*job // that wait for one
}

// jobID names a call: the caller's reply subjects, empty for this node itself, and the caller's number.
type jobID struct {
	from   string
	number uint64
}

// job is a call that was accepted.
type job struct {
	id     jobID
	data   []byte
	ctx    context.Context
	cancel context.CancelFunc
	answer func(status byte, data []byte)
	wanted atomic.Int64 // up to when by the clock, 0 for not known
}

// jobKey finds the job in the context of its handler.
type jobKey struct{}

// accept starts a call, queues it, or answers that there are too many. answer may wait unless the status is
// statusBusy.
func (h *handler) accept(id jobID, data []byte, left time.Duration, answer func(status byte, data []byte)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.running == h.workers && len(h.queue) >= h.workers*QueuePerWorker {
		answer(statusBusy, nil)
		return
	}
	j := &job{id: id, data: data, answer: answer}
	j.ctx, j.cancel = context.WithTimeout(h.all.ctx, left)
	if !h.all.begin(j) {
		j.cancel()
		answer(statusBusy, nil)
		return
	}
	if h.running < h.workers {
		h.running++
		go h.work(j)
		return
	}
	h.queue = append(h.queue, j)
}

// work runs a call, and those that wait after it.
func (h *handler) work(j *job) {
	for j != nil {
		h.run(j)
		j = h.next(j)
	}
}

func (h *handler) next(done *job) *job {
	h.all.end(done)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.queue) == 0 {
		h.running--
		h.queue = nil
		return nil
	}
	j := h.queue[0]
	h.queue[0] = nil
	h.queue = h.queue[1:]
	return j
}

// run answers a call unless nobody waits for it any more.
func (h *handler) run(j *job) {
	defer j.cancel()
	if j.ctx.Err() != nil {
		return
	}
	data, err := h.call(j)
	var remote *RemoteError
	switch {
	case err == nil:
		j.answer(statusOK, data)
	case j.ctx.Err() != nil && h.all.ctx.Err() == nil:
		// The caller gave up, or its time is over, and it knows.
	case h.all.ctx.Err() != nil:
		j.answer(statusClosed, nil)
	case errors.As(err, &remote):
		j.answer(statusError, remote.Data)
	default:
		j.answer(statusError, []byte(err.Error()))
	}
}

func (h *handler) call(j *job) (data []byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			h.panicked(v)
			data, err = nil, errors.New("panic in a handler")
		}
	}()
	return h.fn(context.WithValue(j.ctx, jobKey{}, j), j.data)
}
