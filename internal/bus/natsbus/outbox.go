package natsbus

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
)

const (
	// OutboxLen and OutboxBytes are how many messages of the bus, and how many bytes of them, wait for NATS before
	// the oldest are dropped.
	OutboxLen   = 4096
	OutboxBytes = 8 << 20

	outboxCalls = 64 // requests and answers that wait for NATS; more make their senders wait
)

// outbox is all that this node sends. The NATS client writes to the network while it holds its lock, so one goroutine
// alone publishes, and nobody else ever waits for it longer than they want to.
type outbox struct {
	publish func(subject string, data []byte) error
	call    func(m *nats.Msg) error

	mu      sync.Mutex
	ring    []message
	head, n int
	bytes   int
	closed  bool

	wake    chan struct{} // has an element when the ring got its first message
	calls   chan outCall
	stop    chan struct{} // closed by close
	stopped chan struct{} // closed when run returned

	published, dropped atomic.Uint64
}

// message is a message of the bus.
type message struct {
	subject string
	data    []byte
}

// outCall is a request or an answer. fail learns why it could not be sent; it may be nil.
type outCall struct {
	m    *nats.Msg
	fail func(error)
}

func newOutbox(publish func(string, []byte) error, call func(*nats.Msg) error) *outbox {
	o := &outbox{publish: publish, call: call, wake: make(chan struct{}, 1), calls: make(chan outCall, outboxCalls),
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

// putCall queues a request or an answer, and waits for room until ctx ends.
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

// tryCall queues one if there is room.
func (o *outbox) tryCall(c outCall) (queued bool) {
	select {
	case o.calls <- c:
		return true
	default:
		return false
	}
}

// run publishes, calls and messages in turn, until close; then what is queued, and it returns.
func (o *outbox) run() {
	defer close(o.stopped)
	for {
		if o.sendSome() {
			continue
		}
		select {
		case c := <-o.calls:
			o.sendCall(c)
		case <-o.wake:
		case <-o.stop:
			for o.sendSome() {
			}
			return
		}
	}
}

// sendSome sends one of each kind and tells whether there was any.
func (o *outbox) sendSome() (any bool) {
	select {
	case c := <-o.calls:
		o.sendCall(c)
		any = true
	default:
	}
	if m, ok := o.pop(); ok {
		any = true
		if err := o.publish(m.subject, m.data); err != nil {
			o.dropped.Add(1)
		} else {
			o.published.Add(1)
		}
	}
	return any
}

func (o *outbox) sendCall(c outCall) {
	if err := o.call(c.m); err != nil && c.fail != nil {
		c.fail(err)
	}
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
