package federationapi

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
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
// guarded by outbound.mu.
type destination struct {
	name  id.Server
	share *share
	// queue is what is to be sent next, in order. While behind it is a piece of
	// the stream that the worker read; otherwise the follower appends to it.
	queue []queued
	// behind: the destination has all events up to from, and the follower
	// passes it by. stored: its row says so as well, or an earlier place.
	behind, stored bool
	from           int64
	// scanned is how far the stream was read into queue while behind.
	scanned int64
	// parked: it failed, and nothing waits for it. It is kept, and behind, so
	// that it is not tried at full speed each time something comes up.
	parked bool

	edus    []ephemeral
	durable bool // rows of fed_edus may wait
	edusPut int  // durable EDUs since they were last bounded
	// most bounds a transaction where a larger one was refused; 0: no more than
	// the specification does.
	most int

	running  bool  // a worker is at it
	failures int   // in a row
	failing  int64 // when the first of them was, in milliseconds
	tried    time.Time
	retryAt  time.Time
	heard    bool // it sent us something since it last failed
	timer    *time.Timer
}

func (d *destination) hasWork() bool {
	return len(d.queue) > 0 || (d.behind && !d.parked) || d.durable || len(d.edus) > 0
}

// fallBehind drops the queue: the stream is read again from pos.
func (d *destination) fallBehind(pos int64) {
	d.behind, d.stored, d.from, d.scanned, d.queue = true, false, pos, pos, nil
}

func (d *destination) row() behindRow {
	return behindRow{d.name, d.from, d.failures, d.retryAt.UnixMilli(), d.failing}
}

// works notes that it can be reached.
func (d *destination) works() { d.failures, d.failing, d.heard = 0, 0, false }

func (d *destination) stopTimer() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
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
		if errors.Is(err, errNotOurs) || errors.Is(err, errFenced) {
			o.stand(d, err)
			return
		}
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
//  3. they are sent, if the shard is ours still
//  4. what was sent is taken off the queues, on disk first
//
// more says that there may be more to send.
func (o *outbound) step(ctx context.Context, d *destination) (more bool, err error) {
	if err := o.catchUp(ctx, d); err != nil {
		return false, err
	}
	b, err := o.gather(ctx, d)
	if err != nil {
		return false, err
	}
	if b.size() == 0 {
		return o.park(d), nil
	}
	if !o.mayWork(d.share) {
		o.putBack(d, b)
		return false, errNotOurs
	}
	err = o.send(ctx, d, b)
	switch {
	case refused(err) && b.size() > 1:
		o.split(d, b)
		return true, nil
	case refused(err) && final(err):
		// It would refuse the same again for ever.
		o.cfg.Log.WithField("destination", d.name).WithError(err).Warn("another server refuses an event or EDU, which is dropped")
		err = nil
	}
	if err != nil {
		return false, err
	}
	return true, o.sent(ctx, d, b)
}

// refused tells that a server will not take a transaction as it is, however
// often it is sent: it is too large, or something in it is not understood.
func refused(err error) bool {
	remote, ok := fedclient.AsRemote(err)
	return ok && (remote.Status == http.StatusRequestEntityTooLarge || remote.Status == http.StatusBadRequest)
}

// final tells whether a refusal is about the content. Without a code that says
// so it may be a proxy's answer while the server is away, or a fault that will
// be mended.
func final(err error) bool {
	remote, ok := fedclient.AsRemote(err)
	if !ok || remote.Status == http.StatusRequestEntityTooLarge || remote.Remote == nil {
		return ok
	}
	return remote.Remote.Code != "M_UNKNOWN" && remote.Remote.Code != "M_UNRECOGNIZED"
}

// split makes the next transactions half as large as one that was refused.
func (o *outbound) split(d *destination, b batch) {
	o.putBack(d, b)
	o.mu.Lock()
	defer o.mu.Unlock()
	d.most = b.size() / 2
}

// putBack undoes gather.
func (o *outbound) putBack(d *destination, b batch) {
	o.mu.Lock()
	defer o.mu.Unlock()
	d.durable = d.durable || len(b.durable) > 0
	d.edus = append(b.edus, d.edus...)
}

// catchUp stores the place of a destination that is behind and reads the next
// piece of the stream for it. One that has arrived at the end keeps up from
// then on, if it is known to answer.
func (o *outbound) catchUp(ctx context.Context, d *destination) error {
	for {
		o.mu.Lock()
		if !d.behind || (d.stored && len(d.queue) > 0) {
			o.mu.Unlock()
			return nil
		}
		row, stored, from, to, probe := d.row(), d.stored, d.from, d.share.at, d.failures > 0
		o.mu.Unlock()
		if !stored {
			if err := o.store.setBehind(ctx, d.share, row); err != nil {
				return err
			}
		}
		found, scanned, err := o.scan(ctx, d.name, from, to, probe)
		if err != nil {
			return err
		}
		o.mu.Lock()
		d.stored = true
		if len(found) > 0 {
			d.queue, d.scanned, d.from = found, scanned, found[0].pos-1
			o.mu.Unlock()
			return nil
		}
		d.from = max(from, to)
		switch {
		case d.share.at != to: // there is more by now
			o.mu.Unlock()
			continue
		case probe:
			o.mu.Unlock()
			return nil
		}
		// From here on the follower queues for it.
		d.behind = false
		o.mu.Unlock()
		return o.caughtUp(ctx, d, to)
	}
}

// caughtUp removes the row of a destination that keeps up again. Until the
// follower's cursor is saved a crash only makes some of the stream be read
// again.
func (o *outbound) caughtUp(ctx context.Context, d *destination, at int64) error {
	err := o.store.deleteBehind(ctx, d.share, d.name)
	o.mu.Lock()
	defer o.mu.Unlock()
	d.stored = false
	if err != nil {
		d.fallBehind(at)
		d.stored = true // the old row is still there, and is not later
	}
	return err
}

// park ends the work on a destination for which nothing waits. It reports that
// there is something after all.
func (o *outbound) park(d *destination) (more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case len(d.queue) > 0 || d.durable || len(d.edus) > 0 || d.behind && d.from < d.share.at:
		return true
	case d.behind && d.heard: // as good as delivered
		d.works()
		return true
	}
	d.parked = d.behind
	return false
}

// missed is an event that a destination lacks.
type missed struct {
	queued
	room nid.Room
	keep bool // it made one of the destination's own users leave
}

// collapse keeps the last event of each room, and those to be kept anyway.
func collapse(all []missed) []missed {
	last := map[nid.Room]int64{}
	for _, f := range all {
		last[f.room] = f.pos
	}
	return slices.DeleteFunc(all, func(f missed) bool { return !f.keep && last[f.room] != f.pos })
}

// scan reads what a destination missed between two positions, and gives how far
// it read. Where that is more than a bound, only the last event of each room is
// sent, and what made the destination's own users leave: it will ask for the
// others. A probe is for a destination that may well fail again: the first few
// events are enough, and no more of the stream is read than needed for them.
//
// spec: server-server §8 (a server that has a gap asks for missing events)
func (o *outbound) scan(ctx context.Context, server id.Server, from, to int64, probe bool) ([]queued, int64, error) {
	var all []missed
	r := newRoutes(o.cfg.Events, o.cfg.ServerName, server)
	full := false
	for from < to {
		rows, err := o.cfg.Events.EventStream(ctx, from, to, o.limits.Page)
		if err != nil {
			return nil, 0, err
		}
		if from = to; len(rows) == o.limits.Page {
			from = rows[len(rows)-1].Pos
		}
		events, err := o.sendable(ctx, r, rows)
		if err != nil {
			return nil, 0, err
		}
		list, err := r.route(ctx, events)
		if err != nil {
			return nil, 0, err
		}
		for _, h := range list {
			if len(h.servers) > 0 {
				all = append(all, missed{queued{h.event.NID, h.event.StreamPos}, h.event.RoomNID, r.target(h.event) != ""})
			}
		}
		if probe && len(all) > 0 {
			break
		}
		if full = full || len(all) > o.limits.CatchUp; full {
			all = collapse(all)
		}
	}
	if probe && len(all) > fedclient.MaxPDUs {
		all = all[:fedclient.MaxPDUs]
		from = all[len(all)-1].pos
	}
	out := make([]queued, len(all))
	for i, f := range all {
		out[i] = f.queued
	}
	return out, from, nil
}

// batch is the content of one transaction.
type batch struct {
	events  []queued
	durable []storedEDU
	edus    []ephemeral
}

func (b batch) size() int { return len(b.events) + len(b.durable) + len(b.edus) }

// gather takes what fits into one transaction. It stays in the queues until it
// was sent, except ephemeral EDUs.
func (o *outbound) gather(ctx context.Context, d *destination) (batch, error) {
	o.mu.Lock()
	var b batch
	pdus, edus := fedclient.MaxPDUs, fedclient.MaxEDUs
	if d.most > 0 {
		pdus = min(pdus, d.most)
		edus = min(edus, d.most-min(len(d.queue), pdus))
	}
	b.events = append(b.events, d.queue[:min(len(d.queue), pdus)]...)
	durable := d.durable && edus > 0
	if durable {
		d.durable = false // set again by whoever stores another from here on
	}
	o.mu.Unlock()
	if durable {
		var err error
		if b.durable, err = o.store.listEDUs(ctx, d.name, edus); err != nil {
			o.mu.Lock()
			d.durable = true
			o.mu.Unlock()
			return batch{}, err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	d.durable = d.durable || durable && len(b.durable) == edus
	n := min(len(d.edus), edus-len(b.durable))
	b.edus, d.edus = d.edus[:n:n], d.edus[n:]
	return b, nil
}

// send sends one transaction.
//
// Its ID follows from the content, so that a repetition is known as one. Only
// ephemeral EDUs are never repeated, but may well come again with the same
// content (somebody types again), and then must not pass for a repetition.
func (o *outbound) send(ctx context.Context, d *destination, b batch) error {
	t := fedclient.Transaction{OriginServerTS: o.cfg.Now().UnixMilli()}
	h := sha256.New()
	add := func(list *[]json.RawMessage, item json.RawMessage, number uint64) {
		*list = append(*list, item)
		h.Write(binary.BigEndian.AppendUint64(nil, number))
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
		add(&t.PDUs, pdu(e.Event), 0)
	}
	for _, e := range b.durable {
		add(&t.EDUs, e.edu, uint64(e.seq))
	}
	for _, e := range b.edus {
		add(&t.EDUs, e.edu, rand.Uint64())
	}
	t.ID = base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:15])
	ctx, cancel := context.WithTimeout(ctx, o.limits.Timeout)
	defer cancel()
	results, err := o.cfg.Transport.SendTransaction(ctx, d.name, t)
	if err == nil || !errors.Is(ctx.Err(), context.Canceled) { // a stop cuts it off
		o.metrics.sent(err)
	}
	for eventID, reason := range results {
		if reason != "" {
			o.cfg.Log.WithField("destination", d.name).WithField("event", eventID).Infof("another server refused an event: %s", reason)
		}
	}
	return err
}

// sent takes what was delivered off the queues.
func (o *outbound) sent(ctx context.Context, d *destination, b batch) error {
	if err := o.store.deleteEDUs(ctx, b.durable); err != nil {
		return err
	}
	o.mu.Lock()
	d.works()
	if d.most *= 2; d.most >= fedclient.MaxPDUs+fedclient.MaxEDUs {
		d.most = 0
	}
	var row *behindRow
	if n := len(b.events); n > 0 {
		last := b.events[n-1].pos
		switch {
		case !d.behind:
			if d.queue = d.queue[n:]; len(d.queue) == 0 {
				d.queue = nil // gives the memory back
			}
		case d.stored:
			d.from = last
			if d.queue = d.queue[n:]; len(d.queue) == 0 {
				d.from = d.scanned
			}
			r := d.row()
			row = &r
		default: // its queue ran over meanwhile
			d.from = last
		}
	}
	o.mu.Unlock()
	if row != nil {
		return o.store.setBehind(ctx, d.share, *row)
	}
	return nil
}

// failed puts a destination behind and makes it wait.
func (o *outbound) failed(ctx context.Context, d *destination, cause error) {
	o.mu.Lock()
	d.failures++
	pause := o.limits.backoff(d.failures)
	if d.heard { // it may have come back while it was being tried
		pause = o.limits.backoff(1)
	}
	d.tried = o.cfg.Now()
	if d.failures == 1 {
		d.failing = d.tried.UnixMilli()
	}
	d.retryAt, d.heard = d.tried.Add(pause), false
	switch {
	case d.behind:
		d.queue = nil
	case len(d.queue) > 0:
		d.fallBehind(d.queue[0].pos - 1)
	default:
		d.fallBehind(d.share.at)
	}
	d.durable, d.edus = true, nil
	row := d.row()
	o.mu.Unlock()
	o.cfg.Log.WithError(cause).WithField("destination", d.name).WithField("failures", row.failures).
		Infof("could not send to another server; trying again in %s", pause.Round(time.Millisecond))
	err := o.store.setBehind(ctx, d.share, row)
	switch {
	case errors.Is(err, errFenced):
		o.stand(d, err)
		return
	case err != nil && ctx.Err() == nil:
		o.cfg.Log.WithError(err).Error("could not store a destination's place; it is kept in memory")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	d.stored = d.stored || err == nil
	d.running = false
	o.schedule(d)
}
