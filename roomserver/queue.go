package roomserver

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"weft/matrix/id"
	"weft/matrix/merr"
)

// errClosed is what waiting jobs get when the server stops.
var errClosed = merr.New(503, "M_UNKNOWN", "the server is stopping")

// errFull marks the refusal of a job because too many wait: that says nothing about what it is to do.
var errFull = errors.New("roomserver: the room's queue is full")

// job is one piece of work in a room's queue. Sends that wait one behind another
// are handed on together.
type job struct {
	ctx  context.Context
	run  func(ctx context.Context) error // alone in the room
	send *sendJob                        // or: part of a batch of sends
	done chan error                      // has room for one
}

// queues runs jobs room by room: one at a time in each room, any number of rooms
// side by side. A room that has nothing to do has no goroutine and no entry.
type queues struct {
	maxLen, maxBatch int
	sends            func(ctx context.Context, room id.Room, jobs []*job)
	length           func(delta int) // metrics

	mu     sync.Mutex
	closed bool
	rooms  map[id.Room][]*job // an entry, even empty, means that a worker runs
	wg     sync.WaitGroup
}

func newQueues(maxLen, maxBatch int, sends func(context.Context, id.Room, []*job), length func(int)) *queues {
	return &queues{maxLen: maxLen, maxBatch: maxBatch, sends: sends, length: length, rooms: make(map[id.Room][]*job)}
}

// do puts a job into the room's queue and waits for it. When ctx ends first, do
// returns at once; a job that has not begun by then never will.
func (q *queues) do(room id.Room, j *job) error {
	j.done = make(chan error, 1)
	if err := q.push(room, j); err != nil {
		return err
	}
	select {
	case err := <-j.done:
		return err
	case <-j.ctx.Done():
	}
	// It may have ended at the same moment.
	select {
	case err := <-j.done:
		return err
	default:
		return fmt.Errorf("waiting in the queue of %s: %w", room, j.ctx.Err())
	}
}

func (q *queues) push(room id.Room, j *job) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return errClosed
	}
	waiting, running := q.rooms[room]
	if len(waiting) >= q.maxLen {
		return fmt.Errorf("%w: %w", merr.LimitExceeded("too many events are waiting to be sent in this room"), errFull)
	}
	q.rooms[room] = append(waiting, j)
	q.length(1)
	if !running {
		q.wg.Add(1)
		go q.work(room)
	}
	return nil
}

// work runs a room's jobs until there are none.
func (q *queues) work(room id.Room) {
	defer q.wg.Done()
	for {
		// Those who are about to send something, too, do so first: then it goes into the same batch.
		runtime.Gosched()
		jobs := q.next(room)
		if jobs == nil {
			return
		}
		if jobs[0].send != nil {
			q.sends(context.WithoutCancel(jobs[0].ctx), room, jobs)
			continue
		}
		j := jobs[0]
		j.done <- runJob(j)
	}
}

// next takes the first job that is still wanted, and with a send all sends right
// behind it. It returns nil, and drops the room's entry, when none is left.
func (q *queues) next(room id.Room) []*job {
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting := q.rooms[room]
	taken := 0
	var out []*job
	for _, j := range waiting {
		if len(out) > 0 && (j.send == nil || out[0].send == nil || len(out) >= q.maxBatch) {
			break
		}
		taken++
		if err := j.ctx.Err(); err != nil {
			j.done <- err
			continue
		}
		out = append(out, j)
	}
	q.length(-taken)
	clear(waiting[:taken])
	if q.rooms[room] = waiting[taken:]; out == nil {
		delete(q.rooms, room)
	}
	return out
}

// runJob turns a panic of one room's job into an error: other rooms go on.
func runJob(j *job) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("roomserver: panic in a room's queue: %v", r)
		}
	}()
	return j.run(j.ctx)
}

// close lets the jobs that wait run to their end and refuses new ones.
func (q *queues) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.wg.Wait()
}
