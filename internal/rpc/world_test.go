package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"weft/internal/bus/natsbus"
	"weft/internal/cluster"
	"weft/internal/rpc"
	"weft/internal/sqldb"
	"weft/matrix/merr"
)

// service is what the tests call.
type service interface {
	Echo(ctx context.Context, text string, n int) (string, int, error)
	Fail(ctx context.Context, kind string) error
	Double(ctx context.Context, data []byte) ([]byte, error)
	Wait(ctx context.Context) error
	Write(ctx context.Context, takes time.Duration) error
}

// remote is its other implementation, as api packages have one.
type remote struct {
	caller rpc.Caller
	key    string
	again  bool
}

func (r remote) call(method string) rpc.Call {
	return rpc.Call{Service: "part.Service", Method: method, Key: r.key, Again: r.again}
}

func (r remote) Echo(ctx context.Context, text string, n int) (string, int, error) {
	return rpc.Get2[string, int](ctx, r.caller, r.call("Echo"), text, n)
}

func (r remote) Fail(ctx context.Context, kind string) error {
	return rpc.Do(ctx, r.caller, r.call("Fail"), kind)
}

func (r remote) Double(ctx context.Context, data []byte) ([]byte, error) {
	return rpc.Get[[]byte](ctx, r.caller, r.call("Double"), data)
}

func (r remote) Wait(ctx context.Context) error { return rpc.Do(ctx, r.caller, r.call("Wait")) }

func (r remote) Write(ctx context.Context, takes time.Duration) error {
	return rpc.Do(ctx, r.caller, r.call("Write"), takes)
}

// part is the component itself: it says in which process it is.
type part struct {
	node   string
	ends   chan error // of each Wait; what its context said
	echoes atomic.Int32

	mu     sync.Mutex
	writes []time.Time
}

func (p *part) Echo(_ context.Context, text string, n int) (string, int, error) {
	p.echoes.Add(1)
	return p.node + ":" + text, n + 1, nil
}

func (p *part) Fail(_ context.Context, kind string) error {
	switch kind {
	case "matrix":
		return merr.LimitExceeded("slow down").With("retry_after_ms", int64(7)).With("text", "a").With("list", []int{1})
	case "wrapped":
		return fmt.Errorf("in the middle: %w", merr.Forbidden("not you"))
	case "deadline":
		return fmt.Errorf("asking another server: %w", context.DeadlineExceeded)
	case "away":
		return fmt.Errorf("sending: %w", sqldb.ErrConnectionLost)
	case "plain":
		return errors.New("the disk is full")
	case "panic":
		panic("no")
	}
	return nil
}

func (p *part) Double(_ context.Context, data []byte) ([]byte, error) {
	return append(slices.Clone(data), data...), nil
}

func (p *part) Wait(ctx context.Context) error {
	<-ctx.Done()
	p.ends <- ctx.Err()
	return ctx.Err()
}

// Write takes some time in the process a, and is done at its end unless that is too late.
func (p *part) Write(ctx context.Context, takes time.Duration) error {
	if p.node == "a" {
		time.Sleep(takes) // of the bubble's clock
	}
	late, ok := ctx.Value(lateKey{}).(func() bool)
	if !ok || late() {
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes = append(p.writes, time.Now())
	return nil
}

// world is some processes, the messages between them, and who owns all keys: the first of them.
type world struct {
	beats, needs map[string]int64 // what is seen of each process, and what it wants to be seen
	mu           sync.Mutex
	nodes        []string
	changed      chan struct{}
	buses        map[string]*memBus
	last         uint64 // number of a call
}

type memBus struct {
	w        *world
	node     string
	limit    int
	handlers map[string]func(context.Context, []byte) ([]byte, error)
	deaf     bool // it takes messages and answers none
	// What comes to it waits until this is closed.
	held chan struct{}
	busy bool
	gone bool
	// What comes to it, and what it answers, is lost on the way.
	losesRequests, losesAnswers bool
	slow                        time.Duration // how long a request of it waits until it counts as one
	asked                       int
	waiting                     map[*memCall]bool
	has                         map[uint64]bool // calls that run
	signs                       map[string]time.Time
}

// memCall is a request that has no answer yet.
type memCall struct {
	number uint64
	node   string
	began  time.Time
	lost   chan error
	wanted time.Time
}

type callKey struct{}

func (b *memBus) Check(ctx context.Context, node string, before time.Time) (missing []uint64, err error) {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	to := b.w.buses[node]
	if to == nil || to.gone {
		return nil, natsbus.ErrNoNode
	}
	sign, named := b.signs[node], slices.Collect(maps.Keys(b.waiting))
	want := func() {
		for _, c := range named {
			if c.node == node && sign.After(c.wanted) {
				c.wanted = sign
			}
		}
	}
	if to.deaf || to.held != nil {
		held := to.held
		b.w.mu.Unlock()
		<-ctx.Done()
		b.w.mu.Lock()
		if held != nil { // it comes when the way is open
			go func() {
				<-held
				b.w.change(want)
			}()
		}
		return nil, ctx.Err()
	}
	want()
	b.signs[node] = time.Now()
	for c := range b.waiting {
		if c.node == node && c.began.Before(before) && !to.has[c.number] {
			missing = append(missing, c.number)
		}
	}
	slices.Sort(missing)
	return missing, nil
}

func (b *memBus) Sign(node string) time.Time {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	return b.signs[node]
}

func (b *memBus) Wanted(ctx context.Context) (ago time.Duration, ok bool) {
	c, ok := ctx.Value(callKey{}).(*memCall)
	if !ok {
		return 0, false
	}
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	return time.Since(c.wanted), !c.wanted.IsZero()
}

func (b *memBus) End(numbers []uint64, err error) {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	for c := range b.waiting {
		if slices.Contains(numbers, c.number) {
			delete(b.waiting, c)
			c.lost <- err
		}
	}
}

func (b *memBus) Waiting() map[string]time.Time {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	oldest := make(map[string]time.Time)
	for c := range b.waiting {
		if at, ok := oldest[c.node]; !ok || c.began.Before(at) {
			oldest[c.node] = c.began
		}
	}
	return oldest
}

func (b *memBus) Lose(node string, before time.Time, err error) {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	for c := range b.waiting {
		if c.node == node && c.began.Before(before) {
			delete(b.waiting, c)
			c.lost <- err
		}
	}
}

func (b *memBus) MaxData() int { return b.limit }

func (b *memBus) Handle(subject string, _ int, fn func(context.Context, []byte) ([]byte, error)) func() {
	b.handlers[subject] = fn
	return func() {}
}

func (b *memBus) Gather(ctx context.Context, node, subject string, data []byte) ([]byte, error) {
	return b.Request(ctx, node, subject, data)
}

func (b *memBus) Request(ctx context.Context, node, subject string, data []byte) ([]byte, error) {
	time.Sleep(b.slow) // of the bubble's clock
	b.w.mu.Lock()
	to := b.w.buses[node]
	var fn func(context.Context, []byte) ([]byte, error)
	if to != nil && !to.gone {
		to.asked++
		fn = to.handlers[subject]
	}
	switch {
	case len(data) > b.limit:
		b.w.mu.Unlock()
		return nil, natsbus.ErrTooLarge
	case fn == nil:
		b.w.mu.Unlock()
		return nil, natsbus.ErrNoNode
	case to.busy:
		b.w.mu.Unlock()
		return nil, natsbus.ErrBusy
	}
	b.w.last++
	c := &memCall{number: b.w.last, node: node, began: time.Now(), lost: make(chan error, 1)}
	b.waiting[c] = true
	comes, answers, held := !to.deaf && !to.losesRequests, !to.losesAnswers, to.held
	to.has[c.number] = comes
	b.w.mu.Unlock()
	defer func() {
		b.w.mu.Lock()
		defer b.w.mu.Unlock()
		delete(b.waiting, c)
	}()
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	if comes {
		go func() {
			if held != nil {
				<-held
			}
			data, err := fn(context.WithValue(ctx, callKey{}, c), data)
			b.w.mu.Lock()
			held := to.held
			b.w.mu.Unlock()
			if held != nil {
				<-held
			}
			if answers {
				done <- result{data, err}
			}
			b.w.mu.Lock()
			defer b.w.mu.Unlock()
			delete(to.has, c.number)
		}()
	}
	select {
	case r := <-done:
		return r.data, r.err
	case err := <-c.lost:
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// member is the world as one process sees it. All but "front" run the component.
type member struct {
	w    *world
	self string
}

func (m member) Self() cluster.Node { return cluster.Node{ID: m.self} }

func (m member) Nodes() (list []cluster.Node) {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	for _, n := range m.w.nodes {
		list = append(list, cluster.Node{ID: n, Beat: m.w.beats[n]})
	}
	return list
}

func (m member) Ranked(component, _ string) (list []cluster.Node) {
	if component != "part" {
		return nil
	}
	return slices.DeleteFunc(m.Nodes(), func(n cluster.Node) bool { return n.ID == "front" })
}

func (m member) Owner(component, key string) (cluster.Node, bool) {
	list := m.Ranked(component, key)
	if len(list) == 0 {
		return cluster.Node{}, false
	}
	return list[0], true
}

// Timely is false of a process that was away, for those who have not seen that it is back.
func (m member) Timely(beat int64) bool {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	return beat >= m.w.needs[m.self]
}

// lateAfter is how long a call may be on its way.
const lateAfter = 4500 * time.Millisecond

func (m member) LateAfter() time.Duration { return lateAfter }

type lateKey struct{}

// Asked takes the time at which a call was made for that of a heartbeat.
func (m member) Asked(ctx context.Context, _ int64, wanted func() (time.Duration, bool)) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	late := func() bool {
		ago, ok := wanted()
		c, made := ctx.Value(callKey{}).(*memCall)
		if (!ok || ago > lateAfter) && (!made || time.Since(c.began) > lateAfter) {
			end(cluster.ErrGivenUp)
		}
		return ctx.Err() != nil
	}
	return context.WithValue(ctx, lateKey{}, late), func() { end(nil) }
}

func (m member) Changed() <-chan struct{} {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	return m.w.changed
}

// inBubble is synctest.Test that waits for the routers to find that they have no calls.
func inBubble(t *testing.T, fn func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Second)
		fn(t)
	})
}

func newWorld() *world {
	return &world{changed: make(chan struct{}), buses: make(map[string]*memBus), beats: make(map[string]int64), needs: make(map[string]int64)}
}

// add starts a process.
func (w *world) add(node string, spill *rpc.Spill) (*rpc.Router, *part) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	r := rpc.NewRouter(member{w, node}, spill, log)
	p := &part{node: node, ends: make(chan error, 10)}
	if node != "front" {
		r.Add("part.Service", rpc.Methods{"Echo": p.Echo, "Fail": p.Fail, "Double": p.Double, "Wait": p.Wait, "Write": p.Write})
	}
	b := &memBus{w: w, node: node, limit: 1000, handlers: make(map[string]func(context.Context, []byte) ([]byte, error)), waiting: make(map[*memCall]bool), has: make(map[uint64]bool),
		signs: make(map[string]time.Time)}
	r.SetBus(b)
	w.change(func() { w.nodes, w.buses[node] = append(w.nodes, node), b })
	return r, p
}

func (w *world) change(how func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	how()
	close(w.changed)
	w.changed = make(chan struct{})
}

// where calls Echo and tells which process answered.
func where(t *testing.T, s service) string {
	t.Helper()
	text, n, err := s.Echo(t.Context(), "x", 41)
	if err != nil {
		return err.Error()
	}
	node, echoed, _ := strings.Cut(text, ":")
	if echoed != "x" || n != 42 {
		t.Errorf("got %q, %d", text, n)
	}
	return node
}
