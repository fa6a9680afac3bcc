package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weft/internal/fedclient"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// stuck makes events of pat's that need what pat's server does not show, because it does not answer. asked counts
// the requests to it; shown makes it answer.
func (s *scene) stuck(n int) (events []*event.Event, asked *atomic.Int64, answers *atomic.Bool) {
	asked, answers = &atomic.Int64{}, &atomic.Bool{}
	before := make(map[id.Event]*event.Event)
	for i := range n {
		hidden := s.forge(s.room, message(pat, fmt.Sprint("hidden ", i)))
		ev := s.forge(s.room, message(pat, fmt.Sprint("stuck ", i)), on(hidden), by(s.auth()...))
		before[ev.ID] = hidden
		events = append(events, ev)
	}
	s.p.missing = func(_ id.Room, m fedclient.MissingEvents) ([]json.RawMessage, error) {
		asked.Add(1)
		if !answers.Load() {
			return nil, &fedclient.ConnError{Server: "p", Err: errors.New("it does not answer")}
		}
		return []json.RawMessage{before[m.Latest[0]].JSON()}, nil
	}
	return events, asked, answers
}

// What stays staged because one server does not answer holds up nobody else.
func TestStagedEventsOfOneServerHoldUpNobody(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		s := newScene(t, open, "11")
		s.acceptJoin(s.room, quinn)
		events, asked, answers := s.stuck(2)
		good := s.forge(s.room, message(quinn, "hello"))
		s.run()
		s.receive(transactionOf("p", "1", events...))
		waitFor(t, func() bool { return !s.inbound.busy(s.room) })
		if n := s.staged(); n != 2 {
			t.Fatalf("%d events are staged", n)
		}
		before := asked.Load()
		s.receive(transactionOf("q", "1", good))
		waitFor(t, func() bool { return !s.inbound.busy(s.room) })
		s.has(good, 0)
		if n := asked.Load() - before; n != 0 {
			t.Errorf("the silent server was asked %d times for another one's event", n)
		}
		// Their turn comes.
		answers.Store(true)
		s.w.later(time.Hour)
		s.retry()
		for _, ev := range events {
			s.has(ev, 0)
		}
		if n := s.staged(); n != 0 {
			t.Errorf("%d events stay staged", n)
		}
		s.inbound.mu.Lock()
		defer s.inbound.mu.Unlock()
		if len(s.inbound.reached) != 0 {
			t.Errorf("it is remembered how far a room came that is done: %v", s.inbound.reached)
		}
		s.check()
	})
}

// A server that does not answer is asked a few times, not once for each event that waits for it; what needs no answer
// is received meanwhile.
func TestStagedEventsOfASilentServer(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		s := newScene(t, open, "11")
		events, asked, answers := s.stuck(10)
		good := s.forge(s.room, message(pat, "hello"))
		s.run()
		answer := s.receive(transactionOf("p", "1", append(events, good)...))
		for i, refused := range answer {
			if refused != "" {
				t.Errorf("%s is refused: %s", i, refused)
			}
		}
		waitFor(t, func() bool { return !s.inbound.busy(s.room) })
		s.has(good, 0)
		if n := s.staged(); n != 10 {
			t.Errorf("%d events are staged", n)
		}
		if n := asked.Load(); n != silentAfter {
			t.Errorf("it was asked %d times", n)
		}
		answers.Store(true)
		s.w.later(silentMax)
		s.retry()
		for _, ev := range events {
			s.has(ev, 0)
		}
		if n := s.staged(); n != 0 {
			t.Errorf("%d events stay staged", n)
		}
		s.check()
	})
}

// Who has too many events staged in a room is turned away, also while nobody works on them, and others are not.
func TestStagedEventsAreBoundedForEachServer(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		s := newScene(t, open, "11")
		s.acceptJoin(s.room, quinn)
		events, _, _ := s.stuck(6)
		s.limits.InboundQueue = 3
		s.run()
		s.receive(transactionOf("p", "1", events[:4]...))
		waitFor(t, func() bool { return !s.inbound.busy(s.room) })
		if _, err := s.ReceiveTransaction(context.Background(), transactionOf("p", "2", events[4])); !errors.Is(err, merr.ErrLimitExceeded) {
			t.Errorf("got %v, want M_LIMIT_EXCEEDED", err)
		}
		good := s.forge(s.room, message(quinn, "hello"))
		s.receive(transactionOf("q", "1", good))
		s.has(good, 0)
		// All servers together are bounded, too.
		for i := 0; s.staged() <= 3*inboundOrigins; i++ {
			from := id.Server(fmt.Sprint("r", i))
			s.w.puppet(from).missing = s.p.missing
			s.receive(transactionOf(from, "1", events[:4]...))
			waitFor(t, func() bool { return !s.inbound.busy(s.room) })
		}
		if _, err := s.ReceiveTransaction(context.Background(), transactionOf("q", "2", events[5])); !errors.Is(err, merr.ErrLimitExceeded) {
			t.Errorf("got %v, want M_LIMIT_EXCEEDED", err)
		}
	})
}

func TestSilences(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newSilences(time.Now)
		silent := &fedclient.ConnError{Server: "p", Err: errors.New("x")}
		if err := (*silences)(nil).check("p"); err != nil {
			t.Error(err)
		}
		for i := range silentAfter {
			if err := l.check("p"); err != nil {
				t.Fatalf("not asked after %d failures: %v", i, err)
			}
			l.note("p", fmt.Errorf("x: %w", silent))
		}
		// Twice as long after each failure that follows, up to a bound; those at the same time count once.
		for _, pause := range []time.Duration{silentMin, 2 * silentMin, 4 * silentMin, 8 * silentMin, silentMax, silentMax} {
			for range 5 {
				l.note("p", silent)
			}
			time.Sleep(pause - time.Millisecond)
			if err := l.check("p"); !unreached(err) {
				t.Errorf("asked before %s were over: %v", pause, err)
			}
			time.Sleep(time.Millisecond)
			if err := l.check("p"); err != nil {
				t.Errorf("not asked after %s: %v", pause, err)
			}
			l.note("p", &fedclient.ConnError{Server: "p", FailedFast: true, Err: errors.New("x")}) // nothing was tried
			if err := l.check("p"); err != nil {
				t.Error(err)
			}
			l.note("p", wire("p", merr.New(503, "M_UNKNOWN", "x")))
		}
		if err := l.check("q"); err != nil {
			t.Errorf("another server: %v", err)
		}
		// Any answer ends it.
		time.Sleep(silentMax)
		l.note("p", wire("p", merr.NotFound("x")))
		l.note("p", silent)
		if err := l.check("p"); err != nil {
			t.Error(err)
		}
		for i := range 2 * maxSilences {
			l.note(id.Server(fmt.Sprint("s", i)), silent)
		}
		if n := len(l.servers); n > maxSilences {
			t.Errorf("%d servers are remembered", n)
		}
	})
}
