package rpc

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"weft/internal/bus/natsbus"
	"weft/internal/cluster"
	"weft/matrix/merr"
)

const (
	// Patience is how long a call waits for a process that can carry it out: longer than it takes to notice that one is
	// dead.
	Patience = 10 * time.Second

	maxCall    = natsbus.MaxTimeout
	lookEvery  = 250 * time.Millisecond // while there are calls
	watchEvery = time.Second            // where a call takes longer: does the other process live?
	pingTime   = 900 * time.Millisecond // less than that, or a ping would be such a call
	silentFor  = 3                      // pings that are not answered in a row: then a process counts as one that cannot be reached
	lateMargin = 500 * time.Millisecond // to carry out what came just in time
	retryEvery = 250 * time.Millisecond
	workers    = 1024 // calls of one method that run at once, in the called process, whose components shed what is too much
)

// Bus carries messages between processes.
type Bus interface {
	Request(ctx context.Context, node, subject string, data []byte) ([]byte, error)
	// Gather is Request for calls that may wait for others to go with.
	Gather(ctx context.Context, node, subject string, data []byte) ([]byte, error)
	Handle(subject string, workers int, fn func(ctx context.Context, data []byte) ([]byte, error)) (stop func())
	// MaxData is how many bytes a message may have.
	MaxData() int
	// Waiting tells since when the oldest request to each node has waited, and Lose ends those that were made before a time.
	Waiting() map[string]time.Time
	Lose(node string, before time.Time, err error)
	// Check asks a node whether it is there, and which of the requests that were sent to it before a time it does not have, nor
	// has answered as far as this process knows. End ends requests by their numbers.
	Check(ctx context.Context, node string, before time.Time) (missing []uint64, err error)
	End(numbers []uint64, err error)
	// Sign tells when the last Check of a node was answered. Wanted tells the handler of a request for how long at most its caller has not
	// wanted it any more, as far as a Check has said: one that was sent after the answer to an earlier one.
	Sign(node string) time.Time
	Wanted(ctx context.Context) (ago time.Duration, ok bool)
}

// Nodes are the processes of the server.
type Nodes interface {
	Self() cluster.Node
	Nodes() []cluster.Node
	Ranked(component, key string) []cluster.Node
	Owner(component, key string) (cluster.Node, bool)
	Changed() <-chan struct{}
	// Timely tells whether a call to this process is to be carried out whose caller had seen a heartbeat of it, and Asked gives the
	// context in which it is: nothing is committed in it once the call, and what wanted says, are older than LateAfter. It ends then, by
	// cluster.ErrGivenUp.
	Timely(beat int64) bool
	LateAfter() time.Duration
	Asked(ctx context.Context, beat int64, wanted func() (ago time.Duration, ok bool)) (_ context.Context, cancel context.CancelFunc)
}

// Router carries calls out. All methods may be called by many goroutines at once, but services are added before the bus
// is there.
type Router struct {
	nodes    Nodes
	spill    *Spill
	log      logrus.FieldLogger
	metrics  *metrics
	services map[string]map[string]method

	mu  sync.RWMutex
	bus Bus
	// silent are processes that live, as the database says, and do not answer: the way to them is cut. They are not asked.
	silent map[string]bool
	// watched are processes of which it is found out whether they live.
	watched map[string]bool

	asking  atomic.Int64 // calls
	looking atomic.Bool  // look runs; it does while there are calls
}

// NewRouter makes a Router that serves nothing yet, and knows no other process.
func NewRouter(nodes Nodes, spill *Spill, log logrus.FieldLogger) *Router {
	return &Router{nodes: nodes, spill: spill, log: log, metrics: newMetrics(), services: make(map[string]map[string]method),
		silent: make(map[string]bool), watched: make(map[string]bool)}
}

// Add makes methods those of a service of this process, "component.Interface".
func (r *Router) Add(service string, methods Methods) { r.services[service] = methods.known(service) }

// SetBus makes this process call others, and answer them, from now on. Its connection is the caller's to close.
func (r *Router) SetBus(b Bus) {
	for service, methods := range r.services {
		for name, m := range methods {
			b.Handle(subject(service, name), workers, func(ctx context.Context, msg []byte) ([]byte, error) {
				answer, err := r.answer(ctx, b, m, msg)
				if err != nil {
					return nil, &natsbus.RemoteError{Data: encodeError(err)}
				}
				return answer, nil
			})
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bus = b
}

func (r *Router) getBus() Bus {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.bus
}

func subject(service, method string) string { return "rpc." + service + "." + method }

func (r *Router) answer(ctx context.Context, b Bus, m method, msg []byte) ([]byte, error) {
	beat := beatOf(msg)
	if !r.nodes.Timely(beat) {
		r.log.Info("a call that was on its way for too long is not carried out")
		return nil, errLate
	}
	call := ctx
	ctx, cancel := r.nodes.Asked(ctx, beat, func() (time.Duration, bool) { return b.Wanted(call) })
	defer cancel()
	data, err := r.spill.unpack(ctx, msg)
	if err != nil {
		return nil, err
	}
	data, err = m.answer(ctx, data)
	switch {
	case err != nil && errors.Is(context.Cause(ctx), cluster.ErrGivenUp):
		r.log.WithError(err).Info("a call is not carried out any more, as nothing is heard of who made it")
		return nil, unavailable("the process that asked was not heard of for too long; it is not known whether the request was carried out")
	case err != nil:
		return nil, err
	}
	return r.spill.pack(ctx, data, b.MaxData())
}

// Invoke implements Caller.
func (r *Router) Invoke(ctx context.Context, c Call, args, results []any) error {
	component, _, _ := strings.Cut(c.Service, ".")
	m, here := r.services[c.Service][c.Method]
	if here && r.mine(component, c.Key) {
		return m.call(ctx, args, results)
	}
	msg, err := message(args)
	if err != nil {
		return err
	}
	began := time.Now()
	answer, err := r.far(ctx, c, component, here, msg)
	r.metrics.took(component, began)
	switch {
	case errors.Is(err, errNobody) && here:
		r.metrics.done(c, "taken over")
		return m.call(ctx, args, results)
	case errors.Is(err, errNobody):
		r.metrics.done(c, "nobody")
		return unavailable("no process runs the component %s just now", component)
	case err != nil:
		return err
	}
	return Unmarshal(answer, results)
}

// mine tells whether a call that this process can carry out is its own to carry out.
func (r *Router) mine(component, key string) bool {
	if key == "" || r.getBus() == nil {
		return true
	}
	owner, ok := r.nodes.Owner(component, key)
	return !ok || owner.ID == r.nodes.Self().ID
}

func unavailable(format string, args ...any) *merr.Error {
	return merr.New(503, "M_UNKNOWN", format, args...).With("retry_after_ms", int64(1000))
}

var (
	// errNobody says that no other process carried the call out.
	errNobody = errors.New("rpc: no process carried the call out")
	// errGone says that a process died while it had the call.
	errGone = errors.New("rpc: the process is gone")
	// errLate says that a process did not carry a call out, because it was on its way for too long: its caller may have
	// given it up, done it elsewhere, and something else after it.
	errLate = errors.New("rpc: the call came too late")
	// errLost says that a process lives and does not have the call.
	errLost = errors.New("rpc: the call or its answer is lost")
)

// far has a call carried out by another process: the owner of its key, or the next ones. A process that can do it itself does
// not wait for others to come.
func (r *Router) far(ctx context.Context, c Call, component string, here bool, msg []byte) ([]byte, error) {
	patience := time.Now().Add(Patience)
	for {
		changed := r.nodes.Changed()
		if bus := r.getBus(); bus != nil {
			for node := range r.others(component, c.Key) {
				answer, err := r.ask(ctx, bus, node, c, msg)
				if !errors.Is(err, errNobody) {
					return answer, err
				}
				if here {
					return nil, errNobody
				}
			}
		}
		// Who stops does not wait for others to come: they may all be stopping.
		if here || r.nodes.Self().Leaving || !time.Now().Before(patience) {
			return nil, errNobody
		}
		retry := time.NewTimer(retryEvery)
		select {
		case <-changed:
		case <-retry.C:
		case <-ctx.Done():
		}
		retry.Stop()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

// others gives the processes that run a component in the order in which to ask them.
func (r *Router) others(component, key string) iter.Seq[cluster.Node] {
	self := r.nodes.Self().ID
	if key == "" {
		key = self // so that calls without a key spread over those who can answer
	}
	return func(yield func(cluster.Node) bool) {
		owner, ok := r.nodes.Owner(component, key) // nearly always it is enough
		if !ok || r.canAsk(owner.ID) && !yield(owner) {
			return
		}
		for _, n := range r.nodes.Ranked(component, key) {
			if n.ID != owner.ID && r.canAsk(n.ID) && !yield(n) {
				return
			}
		}
	}
}

func (r *Router) canAsk(node string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return node != r.nodes.Self().ID && !r.silent[node]
}

// ask has one process carry a call out. The error is errNobody where it did not, or where that does not matter.
func (r *Router) ask(ctx context.Context, bus Bus, to cluster.Node, c Call, msg []byte) ([]byte, error) {
	node := to.ID
	setBeat(msg, to.Beat)
	msg, err := r.spill.pack(ctx, msg, bus.MaxData())
	if err != nil {
		return nil, err
	}
	request := bus.Request
	if c.Often {
		request = bus.Gather
	}
	r.asking.Add(1) // before it is seen whether somebody looks: who ends that looks at this afterwards
	defer r.asking.Add(-1)
	if !r.looking.Load() && r.looking.CompareAndSwap(false, true) {
		go r.look(bus)
	}
	answer, err := request(ctx, node, subject(c.Service, c.Method), msg)
	var remote *natsbus.RemoteError
	switch {
	case err == nil:
		r.metrics.done(c, "done")
		return r.spill.unpack(ctx, answer)
	case errors.As(err, &remote):
		err := decodeError(remote.Data)
		if errors.Is(err, errLate) {
			r.metrics.done(c, "elsewhere")
			return nil, errNobody
		}
		if merr.From(err).Status >= 500 {
			r.metrics.done(c, "failed")
		} else {
			r.metrics.done(c, "done")
		}
		return nil, err
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		r.metrics.done(c, "failed")
		return nil, err
	case errors.Is(err, natsbus.ErrNoNode), errors.Is(err, natsbus.ErrBusy), c.Again:
		r.log.WithFields(logrus.Fields{"method": c.Service + "." + c.Method, "node": node}).WithError(err).Debug("a call goes elsewhere")
		r.metrics.done(c, "elsewhere")
		return nil, errNobody
	}
	r.metrics.done(c, "lost")
	return nil, fmt.Errorf("%w (%w)", unavailable("the process that had the request ended or cannot be reached; it is not known whether the request was carried out"), err)
}

// look looks after the calls of this process for as long as there are any. One goroutine does it for all of them: a timer for each
// cost more than half of what it takes to send it.
func (r *Router) look(bus Bus) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		<-tick.C
		if r.asking.Load() == 0 {
			r.looking.Store(false)
			if r.asking.Load() == 0 || !r.looking.CompareAndSwap(false, true) {
				return
			}
			continue
		}
		for node, since := range bus.Waiting() {
			if took := time.Since(since); took >= maxCall {
				bus.Lose(node, time.Now().Add(-maxCall), context.DeadlineExceeded)
			} else if took >= watchEvery && r.beginWatch(node) {
				go r.watch(bus, node)
			}
		}
	}
}

// beginWatch notes that a process is watched, and tells whether it was not yet.
func (r *Router) beginWatch(node string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	begun := !r.watched[node]
	r.watched[node] = true
	return begun
}

func (r *Router) endWatch(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.watched, node)
}

// watch ends the calls to a process that is not there any more: at once where the bus says that nobody is there, when the others
// declare it dead where the bus says nothing, and once it cannot carry them out any more when it does not answer to pings either. Of a process that answers it ends the calls
// that it lacks at two pings: a connection that broke took them, or their answers. One may not be there yet at the first.
func (r *Router) watch(bus Bus, node string) {
	defer r.endWatch(node)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var lacked []uint64 // at the last ping that was answered
	for unanswered, known := 0, false; ; {
		missing, err := ping(bus, node)
		switch {
		case errors.Is(err, natsbus.ErrClosed):
			return
		case errors.Is(err, natsbus.ErrNoNode) || !r.lives(node):
			bus.Lose(node, time.Now(), errGone)
			return
		case err == nil && !known: // by this sign the next one, which goes at once, says which calls are wanted
			known, unanswered = true, 0
			continue
		case err == nil:
			unanswered = 0
			bus.End(both(lacked, missing), errLost)
			lacked = missing
		default:
			unanswered++
		}
		if unanswered >= silentFor {
			r.avoid(bus, node)
			// It may get what was sent to it when the way is open again, and carry it out for as long as that is Timely; and commit what it
			// has for as long after the last sign of it that it may know of. Who has it done elsewhere before, and then something else,
			// finds it done once more after that.
			if late := time.Now().Add(-r.nodes.LateAfter() - lateMargin); bus.Sign(node).Before(late) {
				bus.Lose(node, late, errGone)
			}
		}
		<-tick.C
		if since, ok := bus.Waiting()[node]; !ok || time.Since(since) < watchEvery {
			return
		}
	}
}

// both gives what is in two ascending lists.
func both(a, b []uint64) (out []uint64) {
	for _, n := range a {
		if _, in := slices.BinarySearch(b, n); in {
			out = append(out, n)
		}
	}
	return out
}

// ping asks a process whether it is there, and which calls it should have and has not.
func ping(bus Bus, node string) (missing []uint64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), pingTime)
	defer cancel()
	return bus.Check(ctx, node, time.Now())
}

func (r *Router) lives(node string) bool {
	return slices.ContainsFunc(r.nodes.Nodes(), func(n cluster.Node) bool { return n.ID == node })
}

// avoid makes calls go elsewhere until a process answers again, or is gone. Else each call that it owns by the database's word
// would wait for it.
func (r *Router) avoid(bus Bus, node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.silent[node] {
		return
	}
	r.silent[node] = true
	log := r.log.WithField("node", node)
	log.Warn("a process lives and does not answer; until it does, what it should carry out goes elsewhere")
	go func() {
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for ; r.lives(node); <-tick.C {
			_, err := ping(bus, node)
			if err == nil {
				log.Info("the process answers again")
				break
			}
			if errors.Is(err, natsbus.ErrClosed) {
				break
			}
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.silent, node)
	}()
}
