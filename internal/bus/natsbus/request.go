package natsbus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
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

// DefaultTimeout is the deadline of a call whose context has none: a node that dies in the middle says nothing.
const DefaultTimeout = time.Minute

// Headers of calls.
const (
	headerTimeout = "Weft-Timeout" // of a request: milliseconds that are left
	headerCancel  = "Weft-Cancel"  // the reply subject of the request that nobody waits for any more
	headerStatus  = "Weft-Status"  // of an answer: one of the status… texts
)

const (
	statusOK       = ""
	statusError    = "error" // the data is the handler's error
	statusBusy     = "busy"
	statusTooLarge = "large"
	statusNoNode   = "unknown"
	statusClosed   = "closed" // the handler was interrupted by Close
)

// calls are the requests of this node that wait for an answer.
type calls struct {
	prefix string // of reply subjects

	mu      sync.Mutex
	next    uint64
	waiting map[string]chan answer // by reply subject; each has room for one answer
}

type answer struct {
	status string
	data   []byte
	err    error // why the request could not be sent
}

func (c *calls) init(prefix string) {
	c.prefix, c.waiting = prefix, make(map[string]chan answer)
}

func (c *calls) add() (reply string, ch chan answer) {
	ch = make(chan answer, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	reply = c.prefix + strconv.FormatUint(c.next, 36)
	c.waiting[reply] = ch
	return reply, ch
}

func (c *calls) remove(reply string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, reply)
}

// end hands an answer to who waits for it; further ones are ignored.
func (c *calls) end(reply string, a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch := c.waiting[reply]; ch != nil {
		delete(c.waiting, reply)
		ch <- a
	}
}

// Request calls the handler of a subject on a node, this one included, and returns its answer, which must not be
// changed. data must not be changed until it returns. When ctx ends, the error is the context's and the handler's
// context ends too; a ctx without a deadline gets DefaultTimeout. Other errors: ErrNoNode at once if there is no such
// node or handler, ErrBusy, ErrTooLarge, ErrClosed, or *RemoteError.
func (b *Bus) Request(ctx context.Context, node, subject string, data []byte) ([]byte, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	to := b.nodeSubject(node, token(subject))
	if int64(len(data)) > b.maxData.Load() || len(to) > maxSubject {
		return nil, ErrTooLarge
	}
	reply, ch := b.calls.add()
	defer b.calls.remove(reply)
	cancelRemote, err := b.send(ctx, node, subject, to, reply, data)
	if err != nil {
		return nil, err
	}
	select {
	case a := <-ch:
		return a.result()
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) { // a deadline the other side has itself
			cancelRemote()
		}
		return nil, ctx.Err()
	case <-b.done:
		return nil, ErrClosed
	}
}

// send brings a request on its way and returns what takes it back.
func (b *Bus) send(ctx context.Context, node, subject, to, reply string, data []byte) (cancel func(), err error) {
	deadline, _ := ctx.Deadline()
	left := time.Until(deadline)
	if node == b.cfg.Node {
		h := b.handlers.get(subject)
		if h == nil {
			return nil, ErrNoNode
		}
		h.accept(reply, data, left, func(status string, data []byte) {
			status, data = b.bounded(status, data)
			b.calls.end(reply, answer{status: status, data: data})
		})
		return func() { h.cancel(reply) }, nil
	}
	ms := max(1, (left+time.Millisecond-1)/time.Millisecond)
	m := &nats.Msg{Subject: to, Reply: reply, Data: data, Header: nats.Header{headerTimeout: {strconv.FormatInt(int64(ms), 10)}}}
	err = b.out.putCall(ctx, outCall{m, func(err error) { b.calls.end(reply, answer{err: err}) }})
	// The cancellation takes the way of the request, so that it never arrives before it.
	return func() {
		b.out.tryCall(outCall{m: &nats.Msg{Subject: to, Header: nats.Header{headerCancel: {reply}}}})
	}, err
}

// bounded replaces an answer that is too large.
func (b *Bus) bounded(status string, data []byte) (string, []byte) {
	if int64(len(data)) > b.maxData.Load() {
		return statusTooLarge, nil
	}
	return status, data
}

func (a answer) result() ([]byte, error) {
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
	return nil, fmt.Errorf("natsbus: request: unknown status %q of an answer", a.status)
}

// answered takes an answer from another node, or the server's word that nobody listens.
func (b *Bus) answered(m *nats.Msg) {
	status := m.Header.Get(headerStatus)
	if status == "" && len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		status = statusNoNode
	}
	b.calls.end(m.Subject, answer{status: status, data: m.Data})
}

// serve takes a request from another node. It does not wait.
func (b *Bus) serve(m *nats.Msg) {
	subject, ok := text(strings.TrimPrefix(m.Subject, b.nodeSubject(b.cfg.Node, "")))
	var h *handler
	if ok {
		h = b.handlers.get(subject)
	}
	if id := m.Header.Get(headerCancel); id != "" {
		if h != nil {
			h.cancel(id)
		}
		return
	}
	if m.Reply == "" {
		return
	}
	reply := func(status string, data []byte) outCall {
		a := &nats.Msg{Subject: m.Reply, Data: data}
		if status != statusOK {
			a.Header = nats.Header{headerStatus: {status}}
		}
		return outCall{m: a}
	}
	// A refusal that is lost leaves its caller waiting until its deadline. Whoever is refused waits for it, so there are not many.
	refuse := func(status string) {
		if c := reply(status, nil); !b.out.tryCall(c) {
			go func() { _ = b.out.putCall(context.Background(), c) }() // it ends with the outbox
		}
	}
	if h == nil {
		refuse(statusNoNode)
		return
	}
	left := DefaultTimeout
	if ms, err := strconv.ParseInt(m.Header.Get(headerTimeout), 10, 64); err == nil && ms > 0 {
		left = time.Duration(min(ms, maxTimeout.Milliseconds())) * time.Millisecond
	}
	h.accept(m.Reply, m.Data, left, func(status string, data []byte) {
		if status == statusBusy { // from this goroutine
			refuse(status)
			return
		}
		status, data = b.bounded(status, data)
		// The outbox ends after the handlers, so this waits for a network that is slow, and no longer than its bounds.
		_ = b.out.putCall(context.Background(), reply(status, data))
	})
}
