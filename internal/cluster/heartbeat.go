package cluster

import (
	"context"
	"fmt"
	"time"
)

// beat is one heartbeat:
//
//  1. begin notices whether the lease ran out in the meantime;
//  2. write puts the own row into the table, and commits;
//  3. the rows of all are read, after that commit: of two nodes that join at once, at least one sees the other;
//  4. accept, called by finish, judges the others, renews the lease and publishes what is known now;
//  5. sweep removes rows of nodes that died long ago.
func (c *Cluster) beat(ctx context.Context) error {
	if err := c.turn.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("cluster: heartbeat: %w", err)
	}
	defer c.turn.Release(1)
	return c.heartbeat(ctx)
}

func (c *Cluster) heartbeat(ctx context.Context) error {
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, c.cfg.LeaseTime) // a later answer is worth nothing
	defer cancel()
	start := c.elapsed()
	if err := c.begin(start); err != nil {
		return err
	}
	err := c.write(ctx)
	var rows []row
	if err == nil {
		rows, err = c.table.list(ctx)
	}
	err = c.finish(start, rows, err, outer.Err() != nil)
	c.sweep(ctx, start, rows)
	return err
}

func (c *Cluster) begin(start time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left {
		return ErrLeft
	}
	c.noticeLoss(start)
	return nil
}

func (c *Cluster) write(ctx context.Context) error {
	added, err := c.table.put(ctx, c.own())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fresh = c.fresh || added // also when the outcome is not known
	return err
}

// own makes the row of the next heartbeat.
func (c *Cluster) own() row {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.self.Load = c.load.Load()
	if c.cfg.Schemas != nil {
		c.self.Schemas = c.cfg.Schemas()
	}
	if c.tries++; c.tries == 1 {
		c.began[(c.beatNo+1)%keptBeats] = c.elapsed()
	}
	return row{Node: c.self, beat: (c.beatNo+1)<<tryBits + c.tries}
}

// tryBits are the lower bits of what a row has for the number of a heartbeat. They count how often it was written, for it is written again where
// reading the rows failed after it. Each must look new to the others: they count from when they saw the last change, and the lease from the one
// that succeeded.
const tryBits = 16

// finish takes in what a heartbeat has brought.
func (c *Cluster) finish(start time.Duration, rows []row, err error, gaveUp bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left {
		return ErrLeft
	}
	if err == nil {
		err = c.accept(start, c.elapsed(), rows)
	}
	switch {
	case err == nil && c.failing:
		c.failing = false
		c.cfg.Log.Info("cluster: heartbeats reach the database again")
	case err != nil && !gaveUp:
		c.metrics.failed.Inc()
		if !c.failing {
			c.failing = true
			c.cfg.Log.WithError(err).Warn("cluster: a heartbeat failed; trying again")
		}
	}
	if err != nil {
		return fmt.Errorf("cluster: heartbeat: %w", err)
	}
	c.metrics.seconds.Observe((c.looked - start).Seconds())
	return nil
}

// lateBeats is of how many heartbeats a node need not know that asks this one for something: it reads the table at each of its own. It is
// a time, as heartbeats are late where the database is slow (LateAfter). keptBeats are more than there can be in that time.
const (
	lateBeats = 4
	keptBeats = 8
)

// aliveBeats is how many heartbeats of another node show that it lived, with the database, while this one had not, so that it may
// have counted this one out. Two may come around a time in which nobody had the database.
const aliveBeats = 3

// settleTime is for how long a node that was away takes what it reads for what waited in its connections meanwhile.
const settleTime = 500 * time.Millisecond

func (c *Cluster) noticeLoss(now time.Duration) {
	v := c.view.Load()
	if !c.held || now < v.until {
		return
	}
	c.held = false
	c.metrics.lost.Inc()
	c.cfg.Log.WithField("late", now-v.until).Warn("cluster: no heartbeat for too long; this node owned nothing for a while")
	c.publish(v.from, v.until)
}

// accept takes in what a heartbeat read that began at start and has its rows at end. A beat that changed was
// seen at the end, and silence is counted to the start: what happened between them is held against nobody.
func (c *Cluster) accept(start, end time.Duration, rows []row) error {
	progress := c.observe(start, end, rows)
	if len(rows) > MaxNodes {
		return ErrFull
	}
	c.beatNo++
	c.tries = 0
	c.noticeLoss(end)
	from := c.view.Load().from
	alone := c.alone()
	if c.fresh || end-c.renewed > c.cfg.DeadAfter { // others may have counted this node out, and own its share
		from = end + c.cfg.LeaseTime
	}
	// While the database was away for all, nobody has counted anybody out.
	if !c.fresh && !alone && end-c.renewed > c.cfg.DeadAfter && progress >= aliveBeats {
		c.absences++
		c.settled = end + settleTime
	}
	if alone {
		from = min(from, end)
	}
	if !c.held {
		c.back = c.beatNo
	}
	c.fresh, c.renewed, c.held = false, start, true
	c.publish(from, start+c.cfg.LeaseTime)
	return nil
}

// alone tells whether no row but the own one belongs to a node that may own something.
func (c *Cluster) alone() bool {
	for _, o := range c.others {
		if !o.Leaving {
			return false
		}
	}
	return true
}

// observe remembers what it sees of the others and judges who lives. It gives by how many heartbeats the one of them went on that went on
// most since it last looked.
func (c *Cluster) observe(start, end time.Duration, rows []row) (progress int64) {
	away := start-c.looked > c.cfg.LeaseTime
	c.looked = end
	before := c.seen
	c.seen = make(map[string]*seen, len(rows))
	c.others = make([]sighting, 0, len(rows))
	for _, r := range rows {
		if r.ID == c.self.ID {
			continue
		}
		s := before[r.ID]
		if s == nil {
			progress = max(progress, r.beat>>tryBits)
		} else {
			progress = max(progress, r.beat>>tryBits-s.beat>>tryBits)
		}
		if s == nil || s.beat != r.beat || away {
			s = &seen{beat: r.beat, at: end}
		}
		c.seen[r.ID] = s
		o := sighting{Node: r.Node, at: s.at, live: start-s.at <= c.cfg.DeadAfter}
		o.Beat = r.beat >> tryBits
		c.others = append(c.others, o)
	}
	return progress
}

// publish makes a view of what is known, for Owns and the others to look at.
func (c *Cluster) publish(from, until time.Duration) {
	now, old := c.elapsed(), c.view.Load()
	v := newView(sighting{Node: c.self, at: c.renewed, live: true}, c.others, from, until)
	v.beat, v.began, v.back, v.absences, v.settled = c.beatNo, c.began, c.back, c.absences, c.settled
	if !c.alone() {
		v.counted = c.renewed + c.cfg.DeadAfter
	}
	owning := !c.self.Leaving && from <= now && now < until
	changed := owning != c.owning || !sameNodes(old, v)
	c.owning = owning
	if v.changed = old.changed; changed {
		v.changed = make(chan struct{})
	}
	c.view.Store(v)
	if changed {
		close(old.changed)
	}
}

// old gives the rows of nodes that were not seen for RemoveAfter.
func (c *Cluster) old(start time.Duration, rows []row) (old []row) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range rows {
		if s := c.seen[r.ID]; s != nil && start-s.at > c.cfg.RemoveAfter {
			old = append(old, r)
		}
	}
	return old
}

// sweep removes the rows of nodes that were not seen for RemoveAfter. One that comes back in this moment is
// spared, because its beat has changed; one that comes back later adds its row again.
func (c *Cluster) sweep(ctx context.Context, start time.Duration, rows []row) {
	old := c.old(start, rows)
	if len(old) == 0 {
		return
	}
	if err := c.table.remove(ctx, old); err != nil {
		c.cfg.Log.WithError(err).Warn("cluster: could not remove the rows of dead nodes")
		return
	}
	c.cfg.Log.WithField("nodes", len(old)).Info("cluster: removed the rows of dead nodes")
}

// awaitRoom waits until there is room for one more row. A process that always dies young leaves rows that no other
// is there to remove, so this one does it before it joins.
func (c *Cluster) awaitRoom(ctx context.Context) error {
	if err := c.turn.Acquire(ctx, 1); err != nil {
		return err
	}
	defer c.turn.Release(1)
	tick := time.NewTicker(c.cfg.Beat)
	defer tick.Stop()
	for first := c.elapsed(); ; {
		start := c.elapsed()
		rows, err := c.table.list(ctx)
		if err != nil {
			return fmt.Errorf("read the nodes: %w", err)
		}
		if len(rows) < MaxNodes {
			return nil
		}
		dead := c.look(start, rows)
		c.sweep(ctx, start, rows)
		if dead == 0 && start-first > c.cfg.DeadAfter+c.cfg.Beat {
			return ErrFull
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// look observes, and counts the dead.
func (c *Cluster) look(start time.Duration, rows []row) (dead int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.observe(start, c.elapsed(), rows)
	for _, o := range c.others {
		if !o.live {
			dead++
		}
	}
	return dead
}
