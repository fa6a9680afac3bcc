package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

const (
	kills   = 20
	workers = 3 // on each server
)

// sent is a message that a server acknowledged.
type sent struct{ text, eventID string }

// worker sends messages one after another. A request that fails is repeated
// with the same transaction ID until the server acknowledges it, as clients do.
func worker(ctx context.Context, u *user, room, name string, crashed func(error) bool) (acked []sent, err error) {
	for i := 0; ctx.Err() == nil; i++ {
		text := fmt.Sprintf("%s-%d", name, i)
		for {
			// A message that was begun is seen through, after the load ended too.
			eventID, err := u.send(context.WithoutCancel(ctx), room, text, text)
			if err == nil {
				acked = append(acked, sent{text, eventID})
				break
			}
			if !crashed(err) {
				return acked, fmt.Errorf("%s: %w", text, err)
			}
			time.Sleep(time.Millisecond) // a client's pause before it tries again
		}
	}
	return acked, nil
}

// isCrash tells an error that a killed or starting server explains from a
// refusal.
func isCrash(err error) bool {
	var status *statusError
	return !errors.As(err, &status)
}

func TestNothingAcknowledgedIsLostToSIGKILL(t *testing.T) {
	pair(t, arrangements[:2], func(t *testing.T, sa, sb *server) {
		alice, bob := register(t, sa, "alice"), register(t, sb, "bob")
		room := alice.createRoom(t)
		bob.join(t, room, sa)

		load, stopLoad := context.WithCancel(t.Context())
		defer stopLoad()
		acked := make([][]sent, 2*workers)
		failures := make([]error, 2*workers)
		var wg sync.WaitGroup
		for i := range 2 * workers {
			u := alice
			if i%2 == 1 {
				u = bob
			}
			wg.Go(func() {
				acked[i], failures[i] = worker(load, u, room, fmt.Sprintf("%s%d", u.id[1:4], i), isCrash)
			})
		}
		for i := range kills {
			victim := sa
			if i%2 == 1 {
				victim = sb
			}
			// The moment is random on purpose: that is what the test is about.
			time.Sleep(100*time.Millisecond + rand.N(500*time.Millisecond))
			victim.kill()
			victim.start()
		}
		stopLoad()
		wg.Wait()
		total := 0
		for i, err := range failures {
			if err != nil {
				t.Error(err)
			}
			total += len(acked[i])
		}
		t.Logf("%d kills, %d messages acknowledged", kills, total)
		if total < kills {
			t.Fatalf("only %d messages were acknowledged: there was no load", total)
		}
		for _, u := range []*user{alice, bob} {
			var problem string
			deadline := time.Now().Add(2 * time.Minute)
			for {
				if problem = u.check(t, room, acked); problem == "" || time.Now().After(deadline) {
					break
				}
				time.Sleep(200 * time.Millisecond) // between looks at another process
			}
			if problem != "" {
				t.Errorf("on %s: %s", u.name, problem)
			}
		}
		// Stopping checks the invariants of the store.
		sa.stop()
		sb.stop()
	})
}

// check compares a server's history with what was acknowledged: every message
// once, each worker's in order.
func (u *user) check(t *testing.T, room string, acked [][]sent) (problem string) {
	t.Helper()
	history, err := u.history(t.Context(), room)
	if err != nil {
		return err.Error()
	}
	place, byText := map[string]int{}, map[string]int{}
	for i, m := range history {
		if _, twice := place[m.EventID]; twice {
			return fmt.Sprintf("%s is there twice", m.EventID)
		}
		place[m.EventID] = i
		byText[m.Content.Body]++
	}
	var missing []string
	for _, list := range acked {
		last := -1
		for _, s := range list {
			at, ok := place[s.eventID]
			if !ok {
				missing = append(missing, s.text+" "+s.eventID)
				continue
			}
			if at < last {
				return fmt.Sprintf("%s is out of order", s.text)
			}
			if byText[s.text] != 1 {
				return fmt.Sprintf("%s is there %d times", s.text, byText[s.text])
			}
			last = at
		}
	}
	if len(missing) > 0 {
		return fmt.Sprintf("%d of %d acknowledged messages are missing: %s", len(missing), len(history), missing[:min(len(missing), 10)])
	}
	return ""
}
