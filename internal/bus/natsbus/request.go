package natsbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// Errors of Request. ErrNoNode and ErrBusy say that the handler did not run. After ErrTooLarge (if the answer was
// too large) and ErrClosed (this node or the other one is closed) it may have run.
var (
	ErrNoNode   = errors.New("natsbus: no such node, or it does not handle that")
	ErrTooLarge = errors.New("natsbus: too much data for a message")
	ErrBusy     = errors.New("natsbus: the node has too many calls waiting")
	ErrClosed   = errors.New("natsbus: the node is closed")
)

// RemoteError is the error that a handler returned. A handler that returns a *RemoteError decides about the bytes; of
// any other error they are the text.
type RemoteError struct{ Data []byte }

func (e *RemoteError) Error() string { return "natsbus: remote error: " + string(e.Data) }

// MaxTimeout is how much time a handler has at most, and where its caller's context has no deadline.
const MaxTimeout = 10 * time.Minute

// The statuses of answers.
const (
	statusOK       = byte(iota)
	statusError    // the data is the handler's error
	statusBusy     // the handler did not run
	statusTooLarge // the answer was too large
	statusNoNode   // nobody handles that
	statusClosed   // the handler was interrupted by Close
)

// calls are the requests of this node that wait for an answer.
type calls struct {
	prefix string // of reply subjects

	mu      sync.Mutex
	last    uint64 // number of a call
	frames  uint64 // number of a frame
	waiting map[uint64]*call
}

// call is a request to a node.
type call struct {
	number uint64
	node   string
	began  time.Time
	item   []byte
	result chan answer // has room for the one answer
	state  atomic.Int32

	// Both under the lock of calls.
	frame  uint64  // that it was sent in
	flight *flight // of a call that is gathered
}

// The states of a call.
const (
	callWaits   = iota // for being sent
	callSent           // or about to be
	callDropped        // it is not sent any more
)

// leave tells whether the call is to be sent.
func (c *call) leave() bool { return c.state.CompareAndSwap(callWaits, callSent) }

// drop tells whether the call was kept from being sent.
func (c *call) drop() bool { return c.state.CompareAndSwap(callWaits, callDropped) }

type answer struct {
	status byte
	data   []byte
	err    error // why the request could not be sent
}

func (c *calls) init(prefix string) {
	c.prefix, c.waiting = prefix, make(map[uint64]*call)
}

func (c *calls) add(node string) *call {
	added := &call{node: node, began: time.Now(), result: make(chan answer, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	added.number = c.last
	c.waiting[c.last] = added
	return added
}

// of gives the numbers of the calls for which is is true.
func (c *calls) of(is func(*call) bool) (numbers []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for number, call := range c.waiting {
		if is(call) {
			numbers = append(numbers, number)
		}
	}
	return numbers
}

func (c *calls) remove(number uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, number)
}

// end hands an answer to who waits for it; further ones are ignored.
func (c *calls) end(number uint64, a answer) {
	c.mu.Lock()
	ended := c.waiting[number]
	var f *flight
	if ended != nil {
		delete(c.waiting, number)
		f = ended.flight
		ended.result <- a
	}
	c.mu.Unlock()
	f.release()
}

// frame gives the reply subject of a frame with these calls.
func (c *calls) frame(in []*call) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames++
	for _, call := range in {
		call.frame = c.frames
	}
	return c.prefix + strconv.FormatUint(c.frames, 36)
}

// endFrame ends the calls of a frame that reached nobody.
func (c *calls) endFrame(frame uint64) {
	for _, number := range c.of(func(call *call) bool { return call.frame == frame }) {
		c.end(number, answer{status: statusNoNode})
	}
}

// Waiting tells since when the oldest request to each node has waited for its answer. A node that dies says nothing, so somebody has
// to look after those that wait long.
func (b *Bus) Waiting() map[string]time.Time {
	oldest := make(map[string]time.Time)
	b.calls.of(func(c *call) bool {
		if at, ok := oldest[c.node]; !ok || c.began.Before(at) {
			oldest[c.node] = c.began
		}
		return false
	})
	return oldest
}

// Lose ends the requests to a node that were made before a time with an error. They may be carried out all the same.
func (b *Bus) Lose(node string, before time.Time, err error) {
	for _, number := range b.calls.of(func(c *call) bool { return c.node == node && c.began.Before(before) }) {
		b.calls.end(number, answer{err: err})
	}
}

// Request calls the handler of a subject on a node, this one included, and returns its answer, which must not be
// changed. data must not be changed until it returns. When ctx ends, the error is the context's and the handler's
// context ends too; without a deadline it waits until Lose or End. Other errors: ErrNoNode at once if there is no such
// node or handler, ErrBusy, ErrTooLarge, ErrClosed, or *RemoteError.
func (b *Bus) Request(ctx context.Context, node, subject string, data []byte) ([]byte, error) {
	return b.request(ctx, node, subject, data, b.send)
}

// Gather is Request for calls that are many and short: those to a node that are made while an earlier one has no answer yet
// go together, when the first answer is there or after a tenth of a second. One alone goes at once.
func (b *Bus) Gather(ctx context.Context, node, subject string, data []byte) ([]byte, error) {
	return b.request(ctx, node, subject, data, b.gather)
}

func (b *Bus) request(ctx context.Context, node, subject string, data []byte, send func(ctx context.Context, to string, c *call) error) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	to := b.nodeSubject(node)
	if int64(len(data)) > b.maxData.Load() || len(to) > maxSubject || len(subject) > maxName {
		return nil, ErrTooLarge
	}
	left := MaxTimeout
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	c := b.calls.add(node)
	defer b.calls.remove(c.number)
	cancelRemote, err := b.start(ctx, node, to, c, item{kind: itemRequest, number: c.number, name: subject, left: left, data: data}, send)
	if err != nil {
		return nil, err
	}
	select {
	case a := <-c.result:
		return a.value()
	case <-ctx.Done():
		if !c.drop() && errors.Is(ctx.Err(), context.Canceled) { // a deadline the other side has itself
			cancelRemote()
		}
		return nil, ctx.Err()
	case <-b.done:
		return nil, ErrClosed
	}
}

// start brings a request on its way and returns what takes it back.
func (b *Bus) start(ctx context.Context, node, to string, c *call, it item, send func(ctx context.Context, to string, c *call) error) (cancel func(), err error) {
	if node == b.cfg.Node {
		h := b.handlers.get(it.name)
		if h == nil {
			return nil, ErrNoNode
		}
		c.leave()
		id := jobID{number: c.number}
		h.accept(id, it.data, it.left, func(status byte, data []byte) {
			status, data = b.bounded(status, data)
			b.calls.end(c.number, answer{status: status, data: data})
		})
		return func() { b.handlers.cancel(id) }, nil
	}
	c.item = it.bytes()
	// The cancellation takes the way of the request, so that it never arrives before it.
	return func() {
		stop := item{kind: itemCancel, number: c.number, name: it.name}
		b.out.tryCall(outCall{to: to, item: stop.bytes()})
	}, send(ctx, to, c)
}

func (b *Bus) send(ctx context.Context, to string, c *call) error {
	return b.out.putCall(ctx, outCall{to: to, calls: []*call{c}})
}

// bounded replaces an answer that is too large.
func (b *Bus) bounded(status byte, data []byte) (byte, []byte) {
	if int64(len(data)) > b.maxData.Load() {
		return statusTooLarge, nil
	}
	return status, data
}

func (a answer) value() ([]byte, error) {
	switch {
	case errors.Is(a.err, nats.ErrMaxPayload):
		return nil, ErrTooLarge
	case errors.Is(a.err, nats.ErrConnectionClosed):
		return nil, ErrClosed
	case a.err != nil:
		return nil, fmt.Errorf("natsbus: request: %w", a.err)
	}
	switch a.status {
	case statusOK:
		return a.data, nil
	case statusError:
		return nil, &RemoteError{Data: a.data}
	case statusBusy:
		return nil, ErrBusy
	case statusTooLarge:
		return nil, ErrTooLarge
	case statusNoNode:
		return nil, ErrNoNode
	case statusClosed:
		return nil, ErrClosed
	}
	return nil, fmt.Errorf("natsbus: request: unknown status %d of an answer", a.status)
}

// publish gives a frame to NATS, and tells how many messages of the bus are lost with it.
func (b *Bus) publish(f *frame) (dropped uint64) {
	err := b.give(f)
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return b.publishEach(f)
	case err != nil:
		b.lost(f, err)
		return f.messages
	}
	return 0
}

func (b *Bus) give(f *frame) error {
	m := &nats.Msg{Subject: f.to, Data: f.data}
	if strings.HasPrefix(f.to, b.nodes) {
		m.Reply = b.calls.frame(f.calls)
	}
	return b.nc.PublishMsg(m)
}

// lost tells those who can be told. Who waits for an answer misses it (see Check).
func (b *Bus) lost(f *frame, err error) {
	if len(f.calls) == 0 && f.messages == 0 {
		b.lines.warnf("answers are lost: %v", err)
	}
	for _, c := range f.calls {
		b.calls.end(c.number, answer{err: err})
	}
}

// publishEach gives the items of a frame to NATS one by one, because it takes less than when they were packed. An answer that is too large
// all the same becomes one that says so.
func (b *Bus) publishEach(f *frame) (dropped uint64) {
	for rest := f.data; len(rest) > 0; {
		it, next, err := nextItem(rest)
		if err != nil {
			b.lost(f, err) // it does not happen: they were packed here
			return dropped
		}
		one := &frame{to: f.to, data: rest[:len(rest)-len(next)]}
		rest = next
		switch it.kind {
		case itemMessage:
			one.messages = 1
		case itemRequest:
			i := slices.IndexFunc(f.calls, func(c *call) bool { return c.number == it.number })
			one.calls = f.calls[i : i+1]
		}
		err = b.give(one)
		if it.kind == itemAnswer && errors.Is(err, nats.ErrMaxPayload) {
			it.status, it.data = statusTooLarge, nil
			one.data = it.bytes()
			err = b.give(one)
		}
		if err != nil {
			b.lost(one, err)
			dropped += one.messages
		}
	}
	return dropped
}

// items hands the items of a frame to fn.
func (b *Bus) items(data []byte, fn func(it item)) {
	for len(data) > 0 {
		it, rest, err := nextItem(data)
		if err != nil {
			b.lines.warnf("%v", err)
			return
		}
		fn(it)
		data = rest
	}
}

// answered takes answers from another node, or the server's word that nobody listens.
func (b *Bus) answered(m *nats.Msg) {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		if frame, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, b.calls.prefix), 36, 64); err == nil {
			b.calls.endFrame(frame)
		}
		return
	}
	b.items(m.Data, func(it item) {
		if it.kind == itemAnswer {
			b.calls.end(it.number, answer{status: it.status, data: it.data})
		}
	})
}

// serve takes requests from another node. It does not wait.
func (b *Bus) serve(m *nats.Msg) {
	dot := strings.LastIndexByte(m.Reply, '.')
	if dot < 0 {
		return
	}
	from := m.Reply[:dot+1] // the caller's reply subjects
	b.items(m.Data, func(it item) {
		switch it.kind {
		case itemRequest:
			b.serveCall(from, it)
		case itemCancel:
			b.handlers.cancel(jobID{from, it.number})
		}
	})
}

func (b *Bus) serveCall(from string, it item) {
	reply := func(status byte, data []byte) outCall {
		a := item{kind: itemAnswer, number: it.number, status: status, data: data}
		return outCall{to: from + "0", item: a.bytes()}
	}
	// A refusal that is lost leaves its caller waiting until it is missed. Whoever is refused waits for it, so there are not many.
	refuse := func(status byte) { b.putLater(reply(status, nil)) }
	if it.name == checkName {
		data, err := b.checked(it.data)
		if err != nil {
			b.lines.warnf("%v", err)
		}
		b.putLater(reply(statusOK, data))
		return
	}
	h := b.handlers.get(it.name)
	if h == nil {
		refuse(statusNoNode)
		return
	}
	left := it.left
	if left == 0 {
		left = MaxTimeout
	}
	h.accept(jobID{from, it.number}, it.data, left, func(status byte, data []byte) {
		if status == statusBusy { // from this goroutine
			refuse(status)
			return
		}
		status, data = b.bounded(status, data)
		// The outbox ends after the handlers, so this waits for a network that is slow, and no longer than its bounds.
		_ = b.out.putCall(context.Background(), reply(status, data))
	})
}

// putLater queues what must not be lost, for one who cannot wait.
func (b *Bus) putLater(c outCall) {
	if !b.out.tryCall(c) {
		go func() { _ = b.out.putCall(context.Background(), c) }() // it ends with the outbox
	}
}
