package federationapi

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weft/federationapi/api"
	"weft/internal/bus"
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
	// the pause between two looks (10 ms): what is said in between is read at once.
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

// outbound follows the event stream and owns the destinations.
//
// Lock order: mu is the only lock, and nothing that waits is done under it.
type outbound struct {
	cfg    *Config
	limits Limits
	store  outStore
	wake   chan struct{} // the stream may have moved
	routes *routes       // of what is followed

	sending, retrying chan struct{} // tokens

	mu       sync.Mutex
	dests    map[id.Server]*destination
	followed int64           // the stream up to here was handed to the destinations
	saved    int64           // the cursor on disk
	ctx      context.Context // of run; nil before and after
	wg       sync.WaitGroup  // workers; added to under mu
}

func newOutbound(ctx context.Context, cfg *Config) (*outbound, error) {
	o := &outbound{
		cfg: cfg, limits: cfg.Limits.withDefaults(), store: outStore{cfg.DB, cfg.Limits.withDefaults().DurableEDUs},
		wake: make(chan struct{}, 1), dests: map[id.Server]*destination{}, routes: newRoutes(cfg.Events, cfg.ServerName, ""),
	}
	o.sending = make(chan struct{}, o.limits.Sending)
	o.retrying = make(chan struct{}, o.limits.Retrying)
	var err error
	if o.followed, err = o.store.cursor(ctx); err != nil {
		return nil, err
	}
	o.saved = o.followed
	behind, err := o.store.listBehind(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range behind {
		o.dests[r.server] = &destination{
			name: r.server, behind: true, stored: true, from: r.pos, failures: r.failures,
			retryAt: time.UnixMilli(r.retryTS), durable: true,
		}
	}
	waiting, err := o.store.listWaiting(ctx)
	if err != nil {
		return nil, err
	}
	for _, server := range waiting {
		o.destination(server).durable = true
	}
	return o, o.register(cfg.Metrics)
}

// register exports how much waits.
func (o *outbound) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	gauge := func(name, help string, value func(d *destination) int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			o.mu.Lock()
			defer o.mu.Unlock()
			n := 0
			for _, d := range o.dests {
				n += value(d)
			}
			return float64(n)
		})
	}
	one := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	for _, c := range []prometheus.Collector{
		gauge("weft_federation_queued_events", "Events waiting in memory for other servers.", func(d *destination) int { return len(d.queue) }),
		gauge("weft_federation_behind_destinations", "Servers that failed or fell behind and are caught up from disk.", func(d *destination) int { return one(d.behind) }),
		gauge("weft_federation_sending_destinations", "Servers being sent to.", func(d *destination) int { return one(d.running) }),
	} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("federationapi: metrics: %w", err)
		}
	}
	return nil
}

// run follows the stream until ctx ends, and waits for the workers.
func (o *outbound) run(ctx context.Context) error {
	cancel := bus.SubscribeUpdates(o.cfg.Bus, func(u bus.Update) {
		if u.Stream == stream.Events || u.Stream == "" {
			o.poke()
		}
	})
	defer cancel()
	o.mu.Lock()
	o.ctx = ctx
	for _, d := range o.dests {
		o.schedule(d)
	}
	o.mu.Unlock()

	poll, save := time.NewTicker(o.limits.Poll), time.NewTicker(o.limits.Save)
	defer poll.Stop()
	defer save.Stop()
	for ctx.Err() == nil {
		if err := o.follow(ctx); err != nil && ctx.Err() == nil {
			o.cfg.Log.WithError(err).Error("could not read the event stream for other servers; trying again")
		}
		select {
		case <-ctx.Done():
		case <-time.After(o.limits.Pace):
		}
		select {
		case <-ctx.Done():
		case <-o.wake:
		case <-poll.C:
		case <-save.C:
			if err := o.saveCursor(ctx); err != nil && ctx.Err() == nil {
				o.cfg.Log.WithError(err).Error("could not save the federation cursor; trying again")
			}
		}
	}
	o.mu.Lock()
	o.ctx = nil
	for _, d := range o.dests {
		d.stopTimer()
	}
	o.mu.Unlock()
	o.wg.Wait()
	return o.leave(context.WithoutCancel(ctx))
}

// leaveTimeout bounds what is written at the end of run.
const leaveTimeout = 10 * time.Second

// leave saves the cursor, and how far the stream holds nothing for destinations
// that do not answer, so that it is not searched again.
func (o *outbound) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	o.mu.Lock()
	var rows []behindRow
	for _, d := range o.dests {
		if d.parked {
			d.from = max(d.from, o.followed)
			rows = append(rows, d.row())
		}
	}
	o.mu.Unlock()
	if err := o.store.setBehind(ctx, rows...); err != nil {
		return err
	}
	return o.saveCursor(ctx)
}

func (o *outbound) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// follow hands what is new in the stream to the destinations.
func (o *outbound) follow(ctx context.Context) error {
	for {
		// The position is asked for first: up to it the stream has no holes.
		to, err := stream.Position(ctx, o.cfg.DB, stream.Events)
		if err != nil {
			return err
		}
		o.mu.Lock()
		from := o.followed
		o.mu.Unlock()
		if from >= to {
			return nil
		}
		rows, err := o.cfg.Events.EventStream(ctx, from, to, o.limits.Page)
		if err != nil {
			return err
		}
		if len(rows) == o.limits.Page {
			to = rows[len(rows)-1].Pos
		}
		if err := o.handOut(ctx, rows, to); err != nil {
			return err
		}
	}
}

// handOut queues the events that are ours to send, and moves to position to.
func (o *outbound) handOut(ctx context.Context, rows []eventstore.StreamRow, to int64) error {
	events, err := o.sendable(ctx, rows)
	if err != nil {
		return err
	}
	list, err := o.routes.page(ctx, events)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	touched := map[*destination]struct{}{}
	for _, h := range list {
		for _, s := range h.servers {
			d := o.destination(s)
			touched[d] = struct{}{}
			switch {
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
	o.followed = to
	for d := range touched {
		o.schedule(d)
	}
	return nil
}

// sendable reads the events of a page that this server has to send.
func (o *outbound) sendable(ctx context.Context, rows []eventstore.StreamRow) ([]*eventstore.Event, error) {
	var nids []nid.Event
	for _, row := range rows {
		if row.Flags&eventstore.SendOut != 0 && row.Flags&(eventstore.Rejected|eventstore.Outlier) == 0 {
			nids = append(nids, row.Event)
		}
	}
	if len(nids) == 0 {
		return nil, nil
	}
	return o.cfg.Events.Events(ctx, nids)
}

// saveCursor writes how far all destinations that keep up have got.
func (o *outbound) saveCursor(ctx context.Context) error {
	o.mu.Lock()
	pos := o.followed
	for _, d := range o.dests {
		switch {
		case d.behind && !d.stored:
			pos = min(pos, d.from)
		case !d.behind && len(d.queue) > 0:
			pos = min(pos, d.queue[0].pos-1)
		}
	}
	saved := o.saved
	o.mu.Unlock()
	if pos <= saved {
		return nil
	}
	if err := o.store.setCursor(ctx, pos); err != nil {
		return err
	}
	o.mu.Lock()
	o.saved = pos
	o.mu.Unlock()
	return nil
}

// destination finds or makes a destination. mu is held.
func (o *outbound) destination(server id.Server) *destination {
	d, ok := o.dests[server]
	if !ok {
		d = &destination{name: server}
		o.dests[server] = d
	}
	return d
}

// schedule starts a destination's worker where there is work and nothing keeps
// it back, and forgets a destination that keeps up and has nothing. mu is held.
func (o *outbound) schedule(d *destination) {
	// A timer may come late, for a destination that was forgotten since and is
	// perhaps another one by now.
	if o.ctx == nil || o.ctx.Err() != nil || d.running || o.dests[d.name] != d {
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
	defer o.mu.Unlock()
	d, ok := o.dests[server]
	if !ok || d.failures == 0 || d.heard {
		return
	}
	d.heard, d.parked = true, false
	d.retryAt = d.tried.Add(o.limits.MinBackoff)
	o.schedule(d)
}

// sendEDU queues an EDU.
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
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.cfg.Now()
	for _, s := range servers {
		d := o.destination(s)
		switch {
		case edu.Durable:
			d.durable, d.parked = true, false
			d.edusPut++
		case d.failures == 0 || !now.Before(d.retryAt):
			d.addEphemeral(ephemeral{edu.Type + "\x00" + edu.Key, edu.Key != "", body}, o.limits.EphemeralEDUs)
		default: // it cannot be reached now
			continue
		}
		o.schedule(d)
	}
	return nil
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
		}
	}
	return out
}
