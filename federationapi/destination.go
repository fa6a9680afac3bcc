package federationapi

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"weft/internal/eventstore"
	"weft/internal/fedclient"
	"weft/internal/nid"
	"weft/matrix/id"
)

// queued is an event that waits for a destination.
type queued struct {
	event nid.Event
	pos   int64
}

// ephemeral is an EDU that may be lost. Where replaces is set, a later one with
// the same key takes its place.
type ephemeral struct {
	key      string
	replaces bool
	edu      json.RawMessage
}

// destination is another server that something waits for. Its fields are
// guarded by outbound.mu, except where a comment says otherwise.
type destination struct {
	name id.Server
	// queue is what is to be sent next, in order. While behind it is a piece of
	// the stream that the worker read; otherwise the follower appends to it.
	queue []queued
	// behind: the destination has all events up to from, and the follower
	// passes it by. stored: its row says so as well.
	behind, stored bool
	from           int64
	// scanned is how far the stream was read into queue while behind.
	scanned int64
	edus    []ephemeral
	durable bool // rows of fed_edus may wait

	running  bool // a worker is at it
	failures int
	retryAt  time.Time
	timer    *time.Timer
}

func (d *destination) hasWork() bool {
	return len(d.queue) > 0 || d.behind || d.durable || len(d.edus) > 0
}

// fallBehind drops the queue: the stream is read again from pos.
func (d *destination) fallBehind(pos int64) {
	d.behind, d.stored, d.from, d.scanned, d.queue = true, false, pos, pos, nil
}

func (d *destination) addEphemeral(e ephemeral, limit int) {
	if e.replaces {
		for i := range d.edus {
			if d.edus[i].key == e.key {
				d.edus[i] = e
				return
			}
		}
	}
	if len(d.edus) >= limit {
		d.edus = d.edus[1:]
	}
	d.edus = append(d.edus, e)
}

// work sends to one destination until nothing is left or it fails.
func (o *outbound) work(ctx context.Context, d *destination) {
	defer o.wg.Done()
	tokens := o.sending
	o.mu.Lock()
	if d.failures > 0 {
		tokens = o.retrying
	}
	o.mu.Unlock()
	select {
	case tokens <- struct{}{}:
		defer func() { <-tokens }()
	case <-ctx.Done():
	}
	for ctx.Err() == nil {
		more, err := o.step(ctx, d)
		if err != nil && ctx.Err() == nil {
			o.failed(ctx, d, err)
			return
		}
		if !more {
			break
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	d.running = false
	o.schedule(d) // something may have come since
}

// step sends one transaction:
//  1. a destination that is behind has its place stored, and its queue filled
//     from the stream
//  2. events and EDUs are gathered
//  3. they are sent
//  4. what was sent is taken off the queues, on disk first
//
// more says that there may be more to send.
func (o *outbound) step(ctx context.Context, d *destination) (more bool, err error) {
	if err := o.catchUp(ctx, d); err != nil {
		return false, err
	}
	b, err := o.gather(ctx, d)
	if err != nil || b.empty() {
		return false, err
	}
	if err := o.send(ctx, d, b); err != nil {
		return false, err
	}
	return true, o.sent(ctx, d, b)
}

// catchUp stores the place of a destination that is behind and reads the next
// piece of the stream for it. One that has arrived at the end keeps up from
// then on.
func (o *outbound) catchUp(ctx context.Context, d *destination) error {
	for {
		o.mu.Lock()
		if !d.behind || (d.stored && len(d.queue) > 0) {
			o.mu.Unlock()
			return nil
		}
		row := behindRow{d.name, d.from, d.failures, d.retryAt.UnixMilli()}
		stored, from, to := d.stored, d.from, o.followed
		o.mu.Unlock()
		if !stored {
			if err := o.store.setBehind(ctx, row); err != nil {
				return err
			}
			o.mu.Lock()
			d.stored = true
			o.mu.Unlock()
		}
		found, err := o.scan(ctx, d.name, from, to)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			o.mu.Lock()
			d.queue, d.scanned = found, to
			o.mu.Unlock()
			return nil
		}
		if done, err := o.caughtUp(ctx, d, to); done || err != nil {
			return err
		}
	}
}

// caughtUp ends being behind where the follower has not moved beyond to. The
// row goes first; until the follower's cursor is saved a crash only makes it
// read some of the stream again.
func (o *outbound) caughtUp(ctx context.Context, d *destination, to int64) (bool, error) {
	o.mu.Lock()
	if o.followed != to {
		d.from = to
		o.mu.Unlock()
		return false, nil
	}
	// From here on the follower queues for it.
	d.behind = false
	o.mu.Unlock()
	if err := o.store.deleteBehind(ctx, d.name); err != nil {
		o.mu.Lock()
		d.fallBehind(to)
		d.stored = true // the old row is still there, and is not later than to
		o.mu.Unlock()
		return false, err
	}
	return true, nil
}

// scan reads what a destination missed between two positions. Where that is
// more than a bound, only the last event of each room is sent, and what made
// the destination's own users leave: it will ask for the others.
//
// spec: server-server §7 (a server that has a gap asks for missing events)
func (o *outbound) scan(ctx context.Context, server id.Server, from, to int64) ([]queued, error) {
	type found struct {
		queued
		room nid.Room
		keep bool
	}
	var all []found
	collapse := func() {
		last := map[nid.Room]int64{}
		for _, f := range all {
			last[f.room] = f.pos
		}
		kept := all[:0]
		for _, f := range all {
			if f.keep || last[f.room] == f.pos {
				kept = append(kept, f)
			}
		}
		all = kept
	}
	r := newRoutes(o.cfg.Events, o.cfg.ServerName)
	full := false
	for from < to {
		rows, err := o.cfg.Events.EventStream(ctx, from, to, followPage)
		if err != nil {
			return nil, err
		}
		if len(rows) == 0 {
			break
		}
		from = rows[len(rows)-1].Pos
		events, err := o.sendable(ctx, rows)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			servers, err := r.of(ctx, e)
			if err != nil {
				return nil, err
			}
			if contains(servers, server) {
				all = append(all, found{queued{e.NID, e.StreamPos}, e.RoomNID, target(e) == server})
			}
		}
		if full = full || len(all) > o.limits.CatchUp; full {
			collapse()
		}
	}
	out := make([]queued, len(all))
	for i, f := range all {
		out[i] = f.queued
	}
	return out, nil
}

func contains(servers []id.Server, server id.Server) bool {
	for _, s := range servers {
		if s == server {
			return true
		}
	}
	return false
}

// batch is the content of one transaction.
type batch struct {
	events  []queued
	durable []storedEDU
	edus    []ephemeral
}

func (b batch) empty() bool { return len(b.events)+len(b.durable)+len(b.edus) == 0 }

// gather takes what fits into one transaction. It stays in the queues until it
// was sent, except ephemeral EDUs.
func (o *outbound) gather(ctx context.Context, d *destination) (batch, error) {
	o.mu.Lock()
	var b batch
	b.events = append(b.events, d.queue[:min(len(d.queue), fedclient.MaxPDUs)]...)
	durable := d.durable
	d.durable = false // set again by whoever stores another from here on
	o.mu.Unlock()
	if durable {
		var err error
		if b.durable, err = o.store.listEDUs(ctx, d.name, fedclient.MaxEDUs); err != nil {
			o.mu.Lock()
			d.durable = true
			o.mu.Unlock()
			return batch{}, err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	d.durable = d.durable || len(b.durable) == fedclient.MaxEDUs
	n := min(len(d.edus), fedclient.MaxEDUs-len(b.durable))
	b.edus, d.edus = d.edus[:n:n], d.edus[n:]
	return b, nil
}

// send sends one transaction.
func (o *outbound) send(ctx context.Context, d *destination, b batch) error {
	t := fedclient.Transaction{OriginServerTS: o.cfg.Now().UnixMilli()}
	// The ID follows from the content, so that a repetition is known as one.
	h := sha256.New()
	add := func(list *[]json.RawMessage, item json.RawMessage) {
		*list = append(*list, item)
		h.Write(item)
		h.Write([]byte{0})
	}
	nids := make([]nid.Event, len(b.events))
	for i, q := range b.events {
		nids[i] = q.event
	}
	var events []*eventstore.Event
	if len(nids) > 0 {
		var err error
		if events, err = o.cfg.Events.Events(ctx, nids); err != nil {
			return err
		}
	}
	for _, e := range events {
		add(&t.PDUs, pdu(e.Event))
	}
	for _, e := range b.durable {
		add(&t.EDUs, e.edu)
	}
	for _, e := range b.edus {
		add(&t.EDUs, e.edu)
	}
	t.ID = base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:15])
	ctx, cancel := context.WithTimeout(ctx, o.limits.Timeout)
	defer cancel()
	refused, err := o.cfg.Transport.SendTransaction(ctx, d.name, t)
	for eventID, reason := range refused {
		if reason != "" {
			o.cfg.Log.WithField("destination", d.name).WithField("event", eventID).Infof("another server refused an event: %s", reason)
		}
	}
	var remote *fedclient.RemoteError
	if errors.As(err, &remote) && (remote.Status == http.StatusBadRequest || remote.Status == http.StatusRequestEntityTooLarge) {
		// It would refuse the same content again for ever.
		o.cfg.Log.WithField("destination", d.name).WithError(err).Warnf("another server refused a transaction of %d events and %d EDUs; they are dropped",
			len(t.PDUs), len(t.EDUs))
		return nil
	}
	return err
}

// sent takes what was delivered off the queues.
func (o *outbound) sent(ctx context.Context, d *destination, b batch) error {
	if err := o.store.deleteEDUs(ctx, b.durable); err != nil {
		return err
	}
	o.mu.Lock()
	d.failures = 0
	var row *behindRow
	if d.stored && d.behind && len(b.events) > 0 && len(d.queue) >= len(b.events) {
		d.queue = d.queue[len(b.events):]
		d.from = b.events[len(b.events)-1].pos
		if len(d.queue) == 0 {
			d.from = d.scanned
		}
		row = &behindRow{server: d.name, pos: d.from}
	} else if !d.behind && len(d.queue) >= len(b.events) {
		d.queue = d.queue[len(b.events):]
		if len(d.queue) == 0 {
			d.queue = nil // gives the memory back
		}
	}
	o.mu.Unlock()
	if row != nil {
		return o.store.setBehind(ctx, *row)
	}
	return nil
}

// failed puts a destination behind and makes it wait.
func (o *outbound) failed(ctx context.Context, d *destination, cause error) {
	o.mu.Lock()
	d.failures++
	pause := o.limits.MaxBackoff
	if shift := d.failures - 1; shift < 30 {
		pause = min(pause, o.limits.MinBackoff<<shift)
	}
	pause = pause/2 + rand.N(pause/2+1)
	d.retryAt = o.cfg.Now().Add(pause)
	switch {
	case d.behind:
		d.queue = nil
	case len(d.queue) > 0:
		d.fallBehind(d.queue[0].pos - 1)
	default:
		d.fallBehind(o.followed)
	}
	d.durable, d.edus = true, nil
	row := behindRow{d.name, d.from, d.failures, d.retryAt.UnixMilli()}
	o.mu.Unlock()
	o.cfg.Log.WithError(cause).WithField("destination", d.name).WithField("failures", d.failures).
		Infof("could not send to another server; trying again in %s", pause.Round(time.Millisecond))
	err := o.store.setBehind(ctx, row)
	if err != nil && ctx.Err() == nil {
		o.cfg.Log.WithError(err).Error("could not store a destination's place; it is kept in memory")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	d.stored = d.stored || err == nil
	d.running = false
	o.schedule(d)
}
