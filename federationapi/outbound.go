package federationapi

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"weft/federationapi/api"
	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/stream"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// Limits are the bounds of the outbound side. A zero field gets its default.
type Limits struct {
	// Queue is how many events wait in memory for one destination (1,000).
	Queue int
	// EphemeralEDUs is how many EDUs that may be lost wait for one (100).
	EphemeralEDUs int
	// DurableEDUs is how many EDUs that must arrive are kept for one (20,000);
	// beyond that the oldest go. They are counted every TrimEvery (256).
	DurableEDUs, TrimEvery int
	// CatchUp is how many events a destination that was away is sent; where it
	// missed more, it gets the latest of each room and asks for the others (10,000).
	CatchUp int
	// Page is how many rows of the stream are read at a time (500).
	Page int
	// Sending is how many healthy destinations are sent to at the same time
	// (256), Retrying how many that failed last time (32).
	Sending, Retrying int
	// MinBackoff and MaxBackoff are the first and the longest pause after
	// failures (1 s, 1 h).
	MinBackoff, MaxBackoff time.Duration
	// Timeout bounds one transaction (60 s).
	Timeout time.Duration
	// Poll is how often the stream is looked at unasked (5 s), Save how often the cursor is written (1 s), and Pace
	// the longest pause between two looks (10 ms): what is said in between is read at once.
	Poll, Save, Pace time.Duration
}

func (l Limits) withDefaults() Limits {
	num := func(v *int, def int) {
		if *v <= 0 {
			*v = def
		}
	}
	dur := func(v *time.Duration, def time.Duration) {
		if *v <= 0 {
			*v = def
		}
	}
	num(&l.Queue, 1000)
	num(&l.EphemeralEDUs, 100)
	num(&l.DurableEDUs, 20_000)
	num(&l.TrimEvery, 256)
	num(&l.CatchUp, 10_000)
	num(&l.Page, 500)
	num(&l.Sending, 256)
	num(&l.Retrying, 32)
	dur(&l.MinBackoff, time.Second)
	dur(&l.MaxBackoff, time.Hour)
	dur(&l.Timeout, 60*time.Second)
	dur(&l.Poll, 5*time.Second)
	dur(&l.Save, time.Second)
	dur(&l.Pace, 10*time.Millisecond)
	return l
}

// backoff gives the pause after a number of failures in a row: twice as long
// after each, somewhere between half of that and the whole, so that destinations
// that failed together are not tried together.
func (l Limits) backoff(failures int) time.Duration {
	pause := l.MinBackoff
	for i := 1; i < failures && pause < l.MaxBackoff; i++ {
		pause *= 2
	}
	pause = min(pause, l.MaxBackoff)
	return pause/2 + rand.N(pause/2+1)
}

// outbound follows the event stream and owns the destinations of the shards that
// are held. The goroutine of serve takes and gives up shards, follows and saves.
//
// Lock order: mu is the only lock, and nothing that waits is done under it.
type outbound struct {
	cfg     *Config
	limits  Limits
	store   outStore
	metrics metrics
	wake    chan struct{} // the stream may have moved
	routes  *routes       // of what is followed
	keys    [Shards]string
	// handed counts the events that were handed out. Only the goroutine of serve uses it.
	handed int
	// gap: some of the events that the bus told of are missing. It is serve's, too.
	gap bool
	// late reads for shards that were taken and are not as far as the others yet; nil
	// where there are none. It has read up to lateAt. Only the goroutine of serve uses
	// these, and routes.
	late   *routes
	lateAt int64

	sending, retrying chan struct{} // tokens

	heard atomic.Int64 // the stream of events is at least here
	ask   atomic.Bool  // the database is to be asked how far it is

	mu       sync.Mutex
	dests    map[id.Server]*destination // of shards that are held
	shares   [Shards]*share             // nil: not held
	takeAt   [Shards]time.Time          // not before this
	followed int64                      // how far the stream was read
	others   elsewhere
	ctx      context.Context // of serve; nil before and after
	wg       sync.WaitGroup  // workers; added to under mu
}

func newOutbound(ctx context.Context, cfg *Config) (*outbound, error) {
	o := &outbound{
		cfg: cfg, limits: cfg.Limits.withDefaults(), store: outStore{cfg.DB, cfg.Limits.withDefaults().DurableEDUs},
		metrics: newMetrics(), wake: make(chan struct{}, 1), dests: map[id.Server]*destination{}, others: newElsewhere(),
	}
	o.routes = o.newRoutes()
	o.sending = make(chan struct{}, o.limits.Sending)
	o.retrying = make(chan struct{}, o.limits.Retrying)
	for n := range Shards {
		o.keys[n] = ShareKey(n)
	}
	if cfg.Shares == nil { // nobody to ask and to wait for
		if err := o.reconcile(ctx); err != nil {
			return nil, err
		}
	}
	return o, o.register(cfg.Metrics)
}

func (o *outbound) newRoutes() *routes { return newRoutes(o.cfg.Events, o.cfg.ServerName, "") }

// restFactor is how many times as long as it took to read the stream nothing is read, up to the pace: a busy server reads
// more at a time, and one at rest sends events that follow each other within milliseconds as they come.
// Where there was nothing for others, as in each of many processes most of the time, the longest pause is idleFactor times the pace.
const (
	restFactor = 9
	idleFactor = 5
)

// run sends until ctx ends, and leaves the shards to whoever comes next.
func (o *outbound) run(ctx context.Context) error {
	o.serve(ctx)
	return o.leave(context.WithoutCancel(ctx))
}

// serve follows the stream until ctx ends, and waits for the workers.
func (o *outbound) serve(ctx context.Context) {
	defer o.listen()()
	o.ask.Store(true)
	o.mu.Lock()
	o.ctx = ctx
	for _, d := range o.dests {
		o.schedule(d)
	}
	o.mu.Unlock()

	poll, save := time.NewTicker(o.limits.Poll), time.NewTicker(o.limits.Save)
	defer poll.Stop()
	defer save.Stop()
	try := func(what string, do func(ctx context.Context) error) {
		if err := do(ctx); err != nil && ctx.Err() == nil {
			o.cfg.Log.WithError(err).Errorf("could not %s; trying again", what)
		}
	}
	for ctx.Err() == nil {
		var changed <-chan struct{}
		if o.cfg.Shares != nil {
			changed = o.cfg.Shares.Changed() // asked for before Owns is
		}
		began, handed := time.Now(), o.handed
		try("read the event stream for other servers", o.follow)
		pace := o.limits.Pace
		if o.handed == handed && !o.gap {
			pace *= idleFactor
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(pace, restFactor*time.Since(began))):
		}
		select {
		case <-ctx.Done():
		case <-o.wake:
		case <-changed:
			o.ask.Store(true)
		case <-poll.C:
			o.ask.Store(true)
			try("look for what waits for other servers", o.look)
		case <-save.C:
			try("save the federation cursors", o.saveCursors)
		}
	}
	o.mu.Lock()
	o.ctx = nil
	for _, d := range o.dests {
		d.stopTimer()
	}
	o.mu.Unlock()
	o.wg.Wait()
}

// leaveTimeout bounds what is written at the end of run.
const leaveTimeout = 10 * time.Second

// leave gives up all shards.
func (o *outbound) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	all := make([]int, Shards)
	for n := range all {
		all[n] = n
	}
	return o.giveUp(ctx, all)
}

// poke makes serve look at how far the stream is.
func (o *outbound) poke() {
	o.ask.Store(true)
	o.awake()
}

func (o *outbound) awake() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// follow hands what is new in the stream to the destinations, a page at a time:
// one at the end for all shards, and one for those that were taken and are not
// there yet.
func (o *outbound) follow(ctx context.Context) error {
	o.gap = false
	for {
		if err := o.reconcile(ctx); err != nil {
			return err
		}
		// A position that was committed, or is asked for first: up to it the stream has no holes.
		if o.ask.Swap(false) {
			pos, err := stream.Position(ctx, o.cfg.DB, stream.Events)
			if err != nil {
				o.ask.Store(true)
				return err
			}
			o.hear(pos)
		}
		to := o.heard.Load()
		o.mu.Lock()
		from, low, held := o.followed, o.followed, o.holds()
		for _, sh := range o.shares {
			if sh != nil {
				low = min(low, sh.at)
			}
		}
		o.mu.Unlock()
		if held == 0 || from >= to && low >= from {
			o.late = nil
			return nil
		}
		if err := o.followLate(ctx, low, from); err != nil {
			return err
		}
		// What is missing between events that the bus told of is on its way; the database is asked where it is all there is.
		end := o.cfg.Tail.End()
		o.gap = from < end && end < to
		if o.gap {
			to = end
		}
		if from < to {
			to, err := o.page(ctx, o.routes, from, to)
			if err != nil {
				return err
			}
			o.mu.Lock()
			o.followed = to
			o.mu.Unlock()
		}
		if o.gap {
			o.awake() // after the shortest pause
			return nil
		}
	}
}

// followLate reads a page for the shards that are not as far as the others.
func (o *outbound) followLate(ctx context.Context, from, to int64) (err error) {
	if from >= to {
		o.late = nil
		return nil
	}
	if o.late == nil || o.lateAt != from { // routes go forward only
		o.late = o.newRoutes()
	}
	o.lateAt, err = o.page(ctx, o.late, from, to)
	return err
}

// page hands out a page of the stream between two positions, and gives how far it went.
func (o *outbound) page(ctx context.Context, r *routes, from, to int64) (int64, error) {
	rows, to, err := o.cfg.Tail.Page(ctx, from, to, o.limits.Page, nil)
	if err != nil {
		return 0, err
	}
	events, err := o.sendable(ctx, r, rows)
	if err != nil {
		return 0, err
	}
	list, err := r.route(ctx, events)
	if err != nil {
		return 0, err
	}
	o.handed += len(list)
	o.handOut(list, from, to)
	return to, nil
}

// handOut queues the events at from < pos ≤ to for the destinations of the shards that have got to from
// or beyond, each only what comes after its own place, and moves these shards to position to.
func (o *outbound) handOut(list []routed, from, to int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	touched := map[*destination]struct{}{}
	for _, h := range list {
		for _, s := range h.servers {
			d := o.destination(s)
			if d == nil {
				continue
			}
			touched[d] = struct{}{}
			switch {
			case d.share.at < from || h.event.StreamPos <= d.share.at: // not its turn, or it had it
			case d.parked: // so far the stream held nothing for it
				d.parked, d.from = false, max(d.from, h.event.StreamPos-1)
			case d.behind: // it will be caught up from the stream
			case len(d.queue) >= o.limits.Queue:
				d.fallBehind(d.queue[0].pos - 1)
			default:
				d.queue = append(d.queue, queued{h.event.NID, h.event.StreamPos})
			}
		}
	}
	for _, sh := range o.shares {
		if sh != nil && sh.at >= from {
			sh.at = max(sh.at, to)
		}
	}
	for d := range touched {
		o.schedule(d)
	}
}

// sendable reads the events of a page that this server has to send. Events of rooms that no other server is in are not read:
// each process follows the stream, and most events are not in its memory.
func (o *outbound) sendable(ctx context.Context, r *routes, rows []eventstore.StreamRow) ([]*eventstore.Event, error) {
	out := func(row eventstore.StreamRow) bool {
		return row.Flags&eventstore.SendOut != 0 && row.Flags&(eventstore.Rejected|eventstore.Outlier) == 0
	}
	var rooms []nid.Room
	from, seen := int64(-1), make(map[nid.Room]bool)
	for _, row := range rows {
		if !out(row) {
			continue
		}
		if from < 0 {
			from = row.Pos - 1
		}
		if !seen[row.Room] {
			seen[row.Room] = true
			rooms = append(rooms, row.Room)
		}
	}
	if len(rooms) == 0 {
		return nil, nil
	}
	if err := r.load(ctx, rooms, from); err != nil {
		return nil, err
	}
	var nids []nid.Event
	for _, row := range rows {
		if out(row) && !r.stays(row.Room, row.Type) {
			nids = append(nids, row.Event)
		}
	}
	if len(nids) == 0 {
		return nil, nil
	}
	return o.cfg.Events.Events(ctx, nids)
}

// destination finds or makes a destination; nil where its shard is not held. mu
// is held.
func (o *outbound) destination(server id.Server) *destination {
	d, ok := o.dests[server]
	if !ok {
		sh := o.held(server)
		if sh == nil {
			return nil
		}
		d = &destination{name: server, share: sh}
		o.dests[server] = d
	}
	return d
}

// schedule starts a destination's worker where there is work and nothing keeps
// it back, and forgets a destination that keeps up and has nothing. mu is held.
func (o *outbound) schedule(d *destination) {
	// A timer may come late, for a destination that was forgotten since and is
	// perhaps another one by now.
	if o.ctx == nil || o.ctx.Err() != nil || d.running || d.share.idle || o.dests[d.name] != d {
		return
	}
	d.stopTimer()
	if !d.hasWork() {
		if !d.behind {
			delete(o.dests, d.name)
		}
		return
	}
	if wait := d.retryAt.Sub(o.cfg.Now()); d.failures > 0 && wait > 0 {
		d.timer = time.AfterFunc(wait, func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.schedule(d)
		})
		return
	}
	d.running = true
	o.wg.Add(1)
	go o.work(o.ctx, d)
}

// alive ends a destination's pause. A server that we hear from and do not reach
// is still not tried more often than the shortest pause allows.
func (o *outbound) alive(server id.Server) {
	o.mu.Lock()
	tell := o.held(server) == nil && o.others.hear(server)
	if d := o.dests[server]; d != nil && d.failures > 0 && !d.heard {
		d.heard, d.parked = true, false
		d.retryAt = d.tried.Add(o.limits.MinBackoff)
		o.schedule(d)
	}
	o.mu.Unlock()
	if tell {
		o.publish(TopicAlive, notice{Servers: []id.Server{server}})
	}
}

// sendEDU queues an EDU here, or where its destinations are sent to.
func (o *outbound) sendEDU(ctx context.Context, edu api.EDU) error {
	body, err := json.Marshal(struct {
		Type    string          `json:"edu_type"`
		Content json.RawMessage `json:"content"`
	}{edu.Type, edu.Content})
	if err != nil {
		return merr.BadJSON("the content of %s: %v", edu.Type, err)
	}
	servers := slices.DeleteFunc(slices.Clone(edu.Destinations), func(s id.Server) bool { return s == o.cfg.ServerName })
	slices.Sort(servers)
	servers = slices.Compact(servers)
	if len(servers) == 0 {
		return nil
	}
	if edu.Durable {
		if err := o.store.putEDU(ctx, body, servers, o.crowded(servers)); err != nil {
			return err
		}
		o.publish(TopicEDUs, notice{Servers: o.wait(servers, 1)})
		return nil
	}
	e := ephemeral{edu.Type + "\x00" + edu.Key, edu.Key != "", body}
	o.publish(TopicEphemeral, notice{Servers: o.addEphemeral(servers, e), Key: e.key, Replaces: e.replaces, EDU: body})
	return nil
}

// wait notes that durable EDUs wait for servers, n new ones for each. It returns the servers whose
// shards are not held.
func (o *outbound) wait(servers []id.Server, n int) (others []id.Server) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range servers {
		d := o.destination(s)
		if d == nil {
			others = append(others, s)
			o.others.count(s, n)
			continue
		}
		d.durable, d.parked = true, false
		d.edusPut += n
		o.schedule(d)
	}
	return others
}

// addEphemeral queues an EDU that may be lost. It returns the servers whose
// shards are not held.
func (o *outbound) addEphemeral(servers []id.Server, e ephemeral) (others []id.Server) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.cfg.Now()
	for _, s := range servers {
		d := o.destination(s)
		switch {
		case d == nil:
			others = append(others, s)
		case d.failures == 0 || !now.Before(d.retryAt):
			d.addEphemeral(e, o.limits.EphemeralEDUs)
			o.schedule(d)
		}
	}
	return others
}

// crowded picks the destinations for which many EDUs may wait, so that the
// oldest have to go.
func (o *outbound) crowded(servers []id.Server) []id.Server {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []id.Server
	for _, s := range servers {
		if d := o.dests[s]; d != nil && d.edusPut >= o.limits.TrimEvery {
			d.edusPut = 0
			out = append(out, s)
		} else if o.others.put[s] >= o.limits.TrimEvery {
			delete(o.others.put, s)
			out = append(out, s)
		}
	}
	return out
}
