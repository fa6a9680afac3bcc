package cluster

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// actor is a node in the simulation, and what it is at.
type actor struct {
	*node
	due       time.Duration // of its next heartbeat
	frozen    time.Duration // it does nothing before
	down      time.Duration // it cannot reach the database before
	downReads bool          // only reading fails
	phase     int           // of a slow heartbeat: 0 none, 1 written, 2 read
	start     time.Duration
	rows      []row
	drained   bool
	gone      bool // crashed or left: asks and beats no more
}

// step does what the actor has to do now, and says whether that was anything. A slow heartbeat takes three
// steps, and those of others come between.
func (a *actor) step(now time.Duration, slow bool) bool {
	if a.gone || now < a.frozen {
		return false
	}
	down := now < a.down
	a.db.putFails, a.db.listFails = down && !a.downReads, down
	switch a.phase {
	case 1:
		a.phase = 0
		rows, err := a.table.list(context.Background())
		if err == nil {
			a.rows, a.phase = rows, 2
		}
		return true
	case 2:
		a.phase = 0
		_ = a.accept(a.start, a.elapsed(), a.rows)
		a.sweep(context.Background(), a.start, a.rows)
		return true
	}
	if now < a.due {
		return false
	}
	a.due = now + time.Second
	if !slow {
		_ = a.beat(context.Background())
		return true
	}
	a.start = a.elapsed()
	a.noticeLoss(a.start)
	if a.write(context.Background()) == nil {
		a.phase = 1
	}
	return true
}

// TestNoTwoOwners lets nodes join, freeze, crash, drain, leave, lose the database alone and all at once, with heartbeats that take
// time and clocks that differ, and looks at each moment: no key has two owners. When all is quiet, each has one.
func TestNoTwoOwners(t *testing.T) {
	const keys = 12 // enough for each node to have some
	most, moments := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, &memory{rows: map[string]row{}}, time.Minute)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var actors []*actor
		join := func() {
			a := &actor{node: w.make("rooms"), due: w.now}
			v := newView(sighting{Node: a.self, live: true}, nil, 0, 0)
			v.changed = make(chan struct{})
			a.view.Store(v)
			actors = append(actors, a)
		}
		join()
		join()
		check := func() {
			owners := 0
			for i := range keys {
				owned := ""
				for _, a := range actors {
					if !a.gone && a.Owns("rooms", key(i)) {
						if owned != "" {
							t.Fatalf("at %v %s and %s both own %s", w.now, owned, a.cfg.Address, key(i))
						}
						owned = a.cfg.Address
						owners++
					}
				}
			}
			most = max(most, owners)
			moments++
		}
		ticks := func(n int, slow bool) {
			for range n {
				w.now += 100 * time.Millisecond
				check()
				for _, a := range actors {
					if a.step(w.now, slow && rng.IntN(4) == 0) {
						check()
					}
				}
			}
		}
		some := rapid.SampledFrom([]int{1, 3, 10, 25, 35, 45, 70, 650}) // tenths of a second
		for range rapid.IntRange(5, 15).Draw(t, "acts") {
			a := actors[rapid.IntRange(0, len(actors)-1).Draw(t, "who")]
			long := time.Duration(some.Draw(t, "long")) * 100 * time.Millisecond
			switch rapid.IntRange(0, 8).Draw(t, "act") {
			case 0:
				if len(actors) < 8 {
					join()
				}
			case 1, 2:
				a.frozen = w.now + long
			case 3, 4:
				a.down, a.downReads = w.now+long, rapid.Bool().Draw(t, "reads")
			case 5:
				for _, a := range actors {
					a.down = w.now + long
				}
			case 6:
				a.gone = a.gone || rapid.IntRange(0, 2).Draw(t, "crash") == 0
			case 7:
				if !a.gone && w.now >= a.frozen && a.phase == 0 {
					a.drained = true
					_ = a.Drain(context.Background())
				}
			case 8:
				if a.drained && !a.gone && w.now >= a.frozen && a.phase == 0 {
					a.gone = true
					a.leave(context.Background())
				}
			}
			check()
			ticks(min(some.Draw(t, "ticks"), 70), true)
		}
		for _, a := range actors {
			a.frozen, a.down = 0, 0
		}
		ticks(150, false)
		var there []*node
		serving := false
		for _, a := range actors {
			if !a.gone {
				there = append(there, a.node)
				serving = serving || !a.drained
			}
		}
		if serving {
			w.wantOneOwner(there...)
		}
	})
	if most != keys {
		t.Errorf("at most %d of %d keys had an owner: the test saw too little", most, keys)
	}
	t.Logf("looked at %d moments", moments)
}
