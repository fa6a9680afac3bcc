package federationapi

import (
	"context"
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"time"

	"weft/matrix/id"
)

// Shares tells which part of the destinations this process sends to, where
// several share a database. It may be wrong for a while: two processes that both
// believe that they own a shard send some things twice and lose nothing.
type Shares interface {
	// Owns tells whether a share is this process's now. It is asked often, also
	// before each transaction, and must answer from memory. It may turn false at any
	// moment.
	Owns(component, key string) bool
	// Changed is closed at the next change; ask for it again after that.
	Changed() <-chan struct{}
}

// Shards is how many shards there are. All processes at a database must agree on
// it and on shardOf, also those of other versions.
const Shards = 16

// ShareComponent is the component that Shares is asked about. The keys are ShareKey(0) to ShareKey(Shards-1).
const ShareComponent = "federationapi"

// ShareKey names a shard to Shares.
func ShareKey(shard int) string { return "shard/" + strconv.Itoa(shard) }

// shardOf gives a destination's shard: FNV-1a, folded, because its low bits alone
// depend on the low bits of the letters only.
func shardOf(server id.Server) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(server)) // never fails
	n := h.Sum64()
	for bits := 32; bits >= 4; bits /= 2 {
		n ^= n >> bits
	}
	return int(n % Shards)
}

// share is a shard from the moment that this process took it until it gives it up.
// One that is taken again is a new share, with another owner number. n and owner never change; the
// rest is guarded by outbound.mu.
type share struct {
	n     int
	owner int64 // the number that was written when it was taken
	// at is how far the stream was handed to its destinations, saved the cursor on
	// disk.
	at, saved int64
	// lost: it was given up. Its destinations are forgotten; of their workers each
	// ends what it is at.
	lost bool
	// fenced: somebody else took it.
	fenced bool
	// idle: a worker found that it is not ours and stopped.
	idle bool
}

var (
	// errFenced says that another process took a shard, so that what this one knows
	// of it is not to be written any more.
	errFenced = errors.New("federationapi: another process took the shard")
	// errNotOurs says that a shard is not ours to send to now.
	errNotOurs = errors.New("federationapi: the shard is not ours")
)

// owns asks whether a shard is ours.
func (o *outbound) owns(shard int) bool {
	return o.cfg.Shares == nil || o.cfg.Shares.Owns(ShareComponent, o.keys[shard])
}

// mayWork tells whether a worker may send.
func (o *outbound) mayWork(sh *share) bool {
	o.mu.Lock()
	gone := sh.lost || sh.fenced
	o.mu.Unlock()
	return !gone && o.owns(sh.n)
}

// held gives the share that a destination belongs to, nil where it is not held
// here. mu is held.
func (o *outbound) held(server id.Server) *share { return o.shares[shardOf(server)] }

// reconcile takes the shards that have become ours and gives up those that are
// no longer. One that somebody else took although it is ours by Shares is left
// alone for a while, so that two processes that both believe in it do not take
// it from each other in turns. Only one goroutine calls it.
func (o *outbound) reconcile(ctx context.Context) error {
	var gained, lost []int
	for n := range Shards {
		own := o.owns(n)
		o.mu.Lock()
		sh := o.shares[n]
		if !own {
			o.takeAt[n] = time.Time{} // nobody contradicts the other
		}
		switch {
		case sh == nil && own && !o.cfg.Now().Before(o.takeAt[n]):
			gained = append(gained, n)
		case sh != nil && sh.fenced:
			if own {
				o.takeAt[n] = o.cfg.Now().Add(o.limits.Poll)
			}
			lost = append(lost, n)
		case sh != nil && !own:
			lost = append(lost, n)
		case sh != nil && sh.idle: // it came back before it was given up
			sh.idle = false
			for _, d := range o.dests {
				if d.share == sh {
					o.schedule(d)
				}
			}
		}
		o.mu.Unlock()
	}
	return errors.Join(o.giveUp(ctx, lost), o.take(ctx, gained))
}

// take makes shards ours: from then on nobody else writes how far they got.
func (o *outbound) take(ctx context.Context, shards []int) error {
	if len(shards) == 0 {
		return nil
	}
	owner := rand.Int64()
	t, err := o.store.take(ctx, shards, owner)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.holds() == 0 {
		// The stream is followed from the earliest place on.
		o.followed = t.pos[shards[0]]
		for _, pos := range t.pos {
			o.followed = min(o.followed, pos)
		}
		o.routes, o.late = o.newRoutes(), nil
	}
	for _, n := range shards {
		o.shares[n] = &share{n: n, owner: owner, at: t.pos[n], saved: t.pos[n]}
	}
	for _, r := range t.behind {
		if sh := o.held(r.server); sh != nil && sh.owner == owner {
			o.dests[r.server] = &destination{
				name: r.server, share: sh, behind: true, stored: true, from: r.pos, failures: r.failures, failing: r.failingTS,
				retryAt: time.UnixMilli(r.retryTS), durable: true,
			}
		}
	}
	for _, server := range t.waiting {
		if sh := o.held(server); sh != nil && sh.owner == owner {
			o.destination(server).durable = true
		}
	}
	for _, d := range o.dests {
		if d.share.owner == owner {
			o.schedule(d)
		}
	}
	return nil
}

// holds counts the shards that are held. mu is held.
func (o *outbound) holds() (n int) {
	for _, sh := range o.shares {
		if sh != nil {
			n++
		}
	}
	return n
}

// giveUp forgets shards and writes how far they got. Whoever takes one before
// that begins at the place that was saved before, and sends again what went
// since; the same goes for what is on its way now.
func (o *outbound) giveUp(ctx context.Context, shards []int) error {
	if len(shards) == 0 {
		return nil
	}
	o.mu.Lock()
	cursors := o.cursors()
	parked := map[*share][]behindRow{}
	var gone []*share
	for _, n := range shards {
		if sh := o.shares[n]; sh != nil {
			sh.lost, o.shares[n] = true, nil
			if !sh.fenced {
				gone = append(gone, sh)
			}
		}
	}
	for name, d := range o.dests {
		if !d.share.lost {
			continue
		}
		if d.parked {
			// So far the stream holds nothing for it, and is not searched again.
			d.from = max(d.from, d.share.at)
			parked[d.share] = append(parked[d.share], d.row())
		}
		d.stopTimer()
		delete(o.dests, name)
	}
	o.mu.Unlock()
	var errs []error
	var moved []cursor
	for _, sh := range gone {
		if err := o.store.setBehind(ctx, sh, parked[sh]...); err != nil && !errors.Is(err, errFenced) {
			errs = append(errs, err)
		}
		if pos := cursors[sh]; pos > sh.saved {
			moved = append(moved, cursor{sh.n, sh.owner, pos})
		}
	}
	if _, err := o.store.setCursors(ctx, moved); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// cursors gives how far all destinations of each share that keep up have got. mu
// is held.
//
// What is between a cursor and what was sent is sent again by the next owner;
// what is below a cursor, and not in the rows of those that are behind, never is.
// So whatever is in doubt counts as not sent.
func (o *outbound) cursors() map[*share]int64 {
	out := make(map[*share]int64, Shards)
	for _, sh := range o.shares {
		if sh != nil {
			out[sh] = sh.at
		}
	}
	for _, d := range o.dests {
		switch {
		case d.behind && !d.stored:
			out[d.share] = min(out[d.share], d.from)
		case !d.behind && len(d.queue) > 0:
			out[d.share] = min(out[d.share], d.queue[0].pos-1)
		}
	}
	return out
}

// saveCursors writes the cursors that moved. A shard whose cursor another process
// keeps by now is given up.
func (o *outbound) saveCursors(ctx context.Context) error {
	o.mu.Lock()
	var moved []cursor
	for sh, pos := range o.cursors() {
		if pos > sh.saved && !sh.fenced {
			moved = append(moved, cursor{sh.n, sh.owner, pos})
		}
	}
	o.mu.Unlock()
	refused, err := o.store.setCursors(ctx, moved)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range moved {
		sh := o.shares[c.shard]
		if refused[c.shard] {
			sh.fenced = true
			o.poke()
		} else {
			sh.saved = c.pos
		}
	}
	return nil
}

// stand stops the work on a destination whose shard is not ours any more, or not
// now.
func (o *outbound) stand(d *destination, why error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	d.running = false
	d.share.idle = true
	d.share.fenced = d.share.fenced || errors.Is(why, errFenced)
	o.poke()
}
