package natsbus

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
)

const (
	// OutboxLen and OutboxBytes are how many messages of the bus, and how many bytes of them, wait for NATS before
	// the oldest are dropped.
	OutboxLen   = 4096
	OutboxBytes = 8 << 20

	outboxCalls = 256       // requests and answers that wait for NATS; more make their senders wait
	frameBytes  = 256 << 10 // a frame with several items has no more, and no more than NATS takes

	maxSpare   = 8        // buffers that are kept for frames
	spareBytes = 64 << 10 // the largest of them
)

// outbox is all that this node sends. The NATS client writes to the network while it holds its lock, so one goroutine
// alone publishes, and nobody else ever waits for it longer than they want to. What waits for the same place goes there in one
// frame: a message through NATS costs as much as several calls in one.
type outbox struct {
	publish func(f *frame) (dropped uint64) // of its messages; tells its calls of a failure
	limit   func() int                      // bytes of what NATS takes
	topics  string                          // the subject of messages of the bus

	mu      sync.Mutex
	ring    []message
	head, n int
	bytes   int
	closed  bool

	wake    chan struct{} // has an element when the ring got its first message
	calls   chan outCall
	stop    chan struct{} // closed by close
	stopped chan struct{} // closed when run returned

	frames []*frame // of run: what it is about to publish, in order
	spare  [][]byte // of run: for the data of frames, which NATS copies

	published, dropped atomic.Uint64
}

// message is a message of the bus.
type message struct {
	topic string
	data  []byte
}

// outCall is requests to a node, or an answer or a cancellation.
type outCall struct {
	to    string  // a NATS subject
	calls []*call // requests
	item  []byte  // the other kinds
}

// frame is what is published at once.
type frame struct {
	to       string
	data     []byte
	calls    []*call // those whose requests are in it
	messages uint64  // of the bus
}

func newOutbox(topics string, publish func(f *frame) (dropped uint64), limit func() int) *outbox {
	o := &outbox{publish: publish, limit: limit, topics: topics, wake: make(chan struct{}, 1), calls: make(chan outCall, outboxCalls),
		stop: make(chan struct{}), stopped: make(chan struct{})}
	go o.run()
	return o
}

// put queues a message of the bus.
func (o *outbox) put(m message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	for o.n > 0 && (o.n == OutboxLen || o.bytes+len(m.data) > OutboxBytes) {
		o.take()
		o.dropped.Add(1)
	}
	if o.n == len(o.ring) {
		ring := make([]message, min(max(2*len(o.ring), 16), OutboxLen))
		k := copy(ring, o.ring[o.head:])
		copy(ring[k:], o.ring[:o.head])
		o.ring, o.head = ring, 0
	}
	o.ring[(o.head+o.n)%len(o.ring)] = m
	o.n++
	o.bytes += len(m.data)
	if o.n == 1 {
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
}

// take removes the oldest message. There is one, and o.mu is held.
func (o *outbox) take() message {
	m := o.ring[o.head]
	o.ring[o.head] = message{}
	o.head = (o.head + 1) % len(o.ring)
	o.n--
	o.bytes -= len(m.data)
	return m
}

func (o *outbox) pop() (m message, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.n == 0 {
		return message{}, false
	}
	return o.take(), true
}

// putCall queues requests or an answer, and waits for room until ctx ends.
func (o *outbox) putCall(ctx context.Context, c outCall) error {
	select {
	case o.calls <- c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-o.stop:
		return ErrClosed
	}
}

// tryCall queues if there is room.
func (o *outbox) tryCall(c outCall) (queued bool) {
	select {
	case o.calls <- c:
		return true
	default:
		return false
	}
}

// run publishes until close; then what is queued, and it returns.
func (o *outbox) run() {
	defer close(o.stopped)
	for {
		select {
		case c := <-o.calls:
			o.pack(c)
			// Those who are about to send something, too, do so first: a commit that ends lets many answer.
			runtime.Gosched()
		case <-o.wake:
			runtime.Gosched()
		case <-o.stop:
			for o.packSome() {
				o.flush()
			}
			return
		}
		for o.packSome() {
			o.flush()
		}
		o.flush()
	}
}

// packSome packs what waits, and tells whether there was any.
func (o *outbox) packSome() (any bool) {
	for range outboxCalls {
		select {
		case c := <-o.calls:
			o.pack(c)
			any = true
			continue
		default:
		}
		break
	}
	for range outboxCalls {
		m, ok := o.pop()
		if !ok {
			break
		}
		any = true
		it := item{kind: itemMessage, name: m.topic, data: m.data}
		o.frame(o.topics, it.bytes()).messages++
	}
	return any
}

func (o *outbox) pack(c outCall) {
	for _, call := range c.calls {
		if call.leave() {
			f := o.frame(c.to, call.item)
			f.calls = append(f.calls, call)
		}
	}
	if c.item != nil {
		o.frame(c.to, c.item)
	}
}

// frame appends an item to the last frame to a place, or to a new one. Items to one place keep their order.
func (o *outbox) frame(to string, it []byte) *frame {
	for i := len(o.frames) - 1; i >= 0; i-- {
		f := o.frames[i]
		if f.to == to {
			if len(f.data)+len(it) > min(frameBytes, o.limit()) {
				break
			}
			f.data = append(f.data, it...)
			return f
		}
	}
	f := &frame{to: to}
	if n := len(o.spare); n > 0 {
		f.data, o.spare = o.spare[n-1][:0], o.spare[:n-1]
	}
	f.data = append(f.data, it...)
	o.frames = append(o.frames, f)
	return f
}

// flush publishes what is packed.
func (o *outbox) flush() {
	for i, f := range o.frames {
		o.frames[i] = nil
		dropped := o.publish(f)
		o.dropped.Add(dropped)
		o.published.Add(f.messages - dropped)
		if len(o.spare) < maxSpare && cap(f.data) <= spareBytes {
			o.spare = append(o.spare, f.data)
		}
	}
	o.frames = o.frames[:0]
}

// close lets nothing more in and makes run end.
func (o *outbox) close() {
	o.mu.Lock()
	closed := o.closed
	o.closed = true
	o.mu.Unlock()
	if !closed {
		close(o.stop)
	}
}
