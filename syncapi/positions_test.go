package syncapi

import (
	"sync"
	"testing"

	"weft/internal/bus"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/internal/stream"
)

// Those that are woken together look at the positions once, after they were woken; one that is woken again before it looked
// gets the later look, which alone shows what it was woken for.
func TestOneLookForAll(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		e := newStill(t, open(), bus.NewLocal(), func(*env, *Config) {})
		a, b := e.srv.notifier.wait(alice), e.srv.notifier.wait(bob)
		look := func(r *positionRead) int64 {
			to, err := e.srv.latest.await(t.Context(), r)
			e.ok(err)
			return to.Events
		}
		advance := func() {
			e.ok(e.db.Update(t.Context(), func(tx *sqldb.Tx) error {
				_, err := stream.Advance(t.Context(), tx, stream.Events, 1)
				return err
			}))
		}
		before := look(e.srv.latest.ask())
		e.srv.notifier.wakeAll()
		first := <-a.woken
		advance()
		expect(t, "looked at after the wake-up", look(first), before+1)
		advance()
		e.srv.notifier.wake(alice, bob)
		advance()
		second := <-b.woken
		expect(t, "the first look stays", look(first), before+1)
		expect(t, "looked at after the last wake-up", look(second), before+3)
		advance()
		expect(t, "shared", look(<-a.woken), before+3)
		expect(t, "wake-ups left", len(a.woken)+len(b.woken), 0)
	})
}

// Nobody waits for ever for a look that somebody else asked for.
func TestLooksThatNobodyAwaits(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		e := newStill(t, open(), bus.NewLocal(), func(*env, *Config) {})
		p := e.srv.latest
		left := p.ask()
		expect(t, "the next is the same", p.ask() == left, true)
		_, err := p.read(t.Context())
		e.ok(err)
		_, err = p.await(t.Context(), left)
		e.ok(err)
		expect(t, "the next is another", p.ask() == left, false)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 50 {
					asked := p.ask()
					for _, r := range []*positionRead{p.ask(), asked} {
						if _, err := p.await(t.Context(), r); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		all.Wait()
	})
}
