package syncapi

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// shown gives a reader of a node's metrics.
func (e *env) shown() func(name string) float64 {
	e.t.Helper()
	reg := prometheus.NewRegistry()
	e.ok(e.srv.register(reg))
	return func(name string) float64 {
		families, err := reg.Gather()
		e.ok(err)
		for _, f := range families {
			if f.GetName() == name {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		e.t.Fatalf("no metric %s", name)
		return 0
	}
}

// paused runs fn while the follower does nothing.
func (e *env) paused(fn func()) {
	e.ok(e.srv.follower.turn.Acquire(e.t.Context(), 1))
	defer e.srv.follower.turn.Release(1)
	fn()
}

const followerLag = "weft_sync_follower_lag_positions"

func TestFollowerThatIsHeldUpShowsItsLag(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		value := e.shown()
		r := e.newRoom(alice)
		until(t, "all is followed", func() bool { return value(followerLag) == 0 && e.srv.follower.at.seen.Load() > 0 })
		e.paused(func() {
			before, err := ReadLag(t.Context(), e.db)
			e.ok(err)
			for _, text := range []string{"one", "two", "three"} {
				r.say(alice, text)
			}
			until(t, "three positions are left", func() bool { return value(followerLag) == 3 })
			after, err := ReadLag(t.Context(), e.db)
			e.ok(err)
			if after != before+3 || before >= LazyPositions {
				t.Errorf("by the database %d positions, then %d", before, after)
			}
		})
		until(t, "all is followed again", func() bool { return value(followerLag) == 0 })
	})
}

// Else each process would show the lag of the one that owns the room.
func TestLagIsShownByWhoFollows(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		mine, theirs := p.b.shown(), p.a.shown()
		r := p.a.newRoom(alice)
		until(t, "all is followed", func() bool { return mine(followerLag) == 0 && p.b.srv.follower.at.seen.Load() > 0 })
		p.b.paused(func() {
			r.say(alice, "one")
			until(t, "one shows the lag", func() bool { return mine(followerLag) == 1 })
			until(t, "and the other does not", func() bool { return theirs(followerLag) == 0 })
		})
	})
}

func TestRequestsAreAsleepOrAtWork(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		value := e.shown()
		now := func(asleep, working float64) func() bool {
			return func() bool { return value("weft_sync_waiting") == asleep && value("weft_sync_working") == working }
		}
		r := e.newRoom(alice)
		since := e.sync(alice, "").next()
		answered := make(chan reply)
		go func() { answered <- e.sync(alice, since, "timeout", "60000") }()
		until(t, "it sleeps", now(1, 0))
		e.paused(func() { // before it answers, it makes sure that all is followed
			r.say(alice, "wake up")
			until(t, "it works", now(0, 1))
		})
		<-answered
		until(t, "it is done", now(0, 0))
	})
}
