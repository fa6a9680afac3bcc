package rpc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weft/internal/rpc"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/matrix/merr"
)

func TestWhoIsAsked(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld()
		a, _ := w.add("a", nil)
		b, _ := w.add("b", nil)
		front, _ := w.add("front", nil)
		for _, c := range []struct {
			what string
			from service
			want string
		}{
			{"owner, with a key", remote{caller: a, key: "k"}, "a"},
			{"another, with a key", remote{caller: b, key: "k"}, "a"},
			{"another, without", remote{caller: b}, "b"},
			{"one that does not run it", remote{caller: front}, "a"},
			{"one that does not run it, with a key", remote{caller: front, key: "k"}, "a"},
		} {
			if got := where(t, c.from); got != c.want {
				t.Errorf("%s: %s answered, want %s", c.what, got, c.want)
			}
		}
		w.buses["a"].busy = true
		if got := where(t, remote{caller: front}); got != "b" {
			t.Errorf("with a busy: %s", got)
		}
		if got := where(t, remote{caller: b, key: "k"}); got != "b" {
			t.Errorf("a process that can do it itself, with a busy: %s", got)
		}
		w.buses["a"].busy, w.buses["a"].gone = false, true
		if got := where(t, remote{caller: front, key: "k"}); got != "b" {
			t.Errorf("with a gone: %s", got)
		}
	})
}

// A call of somebody who knows less of the process than that it was away is not carried out there, but elsewhere.
func TestACallComesTooLate(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld()
		for _, n := range []string{"a", "b"} {
			w.add(n, nil)
		}
		front, _ := w.add("front", nil)
		w.change(func() { w.beats["a"], w.needs["a"] = 1<<40, 1<<40+1 })
		if got := where(t, remote{caller: front, key: "k"}); got != "b" {
			t.Errorf("%s carried out what was too late for the owner", got)
		}
		w.change(func() { w.beats["a"]++ })
		if got := where(t, remote{caller: front, key: "k"}); got != "a" {
			t.Errorf("%s answered once the owner was seen to be back", got)
		}
	})
}

func TestNobodyIsThere(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld()
		front, _ := w.add("front", nil)
		began := time.Now()
		var m *merr.Error
		if _, _, err := (remote{caller: front}).Echo(t.Context(), "", 0); !errors.As(err, &m) || m.Status != 503 || m.Extra["retry_after_ms"] == nil {
			t.Errorf("nobody there: %v", err)
		}
		if took := time.Since(began); took < rpc.Patience || took > rpc.Patience+time.Second {
			t.Errorf("it took %s", took)
		}
		// One comes in time.
		got := make(chan string)
		go func() { got <- where(t, remote{caller: front}) }()
		time.Sleep(rpc.Patience / 2) // of the bubble's clock
		w.add("a", nil)
		if node := <-got; node != "a" {
			t.Errorf("the one that came: %s", node)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		w.change(func() { w.nodes = []string{"front"} })
		if _, _, err := (remote{caller: front}).Echo(ctx, "", 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a deadline: %v", err)
		}
	})
}

func TestAProcessDiesWithACall(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld()
		w.add("a", nil)
		w.add("b", nil)
		front, _ := w.add("front", nil)
		w.buses["a"].deaf = true
		results := make(chan string, 2)
		go func() { results <- "again: " + where(t, remote{caller: front, again: true}) }()
		go func() {
			_, _, err := (remote{caller: front}).Echo(t.Context(), "x", 1)
			results <- fmt.Sprint("once: ", merr.From(err).Status)
		}()
		time.Sleep(3 * time.Second)
		select {
		case r := <-results:
			t.Fatalf("%s while the process lives", r)
		default:
		}
		w.change(func() { w.nodes = []string{"b", "front"} }) // it is declared dead
		got := []string{<-results, <-results}
		slices.Sort(got)
		if !reflect.DeepEqual(got, []string{"again: b", "once: 503"}) {
			t.Errorf("got %q", got)
		}
		// Where the bus knows it, nobody waits for the others to notice.
		w.change(func() { w.nodes = []string{"a", "b", "front"} })
		go func() { results <- where(t, remote{caller: front, again: true}) }()
		synctest.Wait()
		w.change(func() { w.buses["a"].gone = true })
		began := time.Now()
		if node := <-results; node != "b" || time.Since(began) > 2*time.Second {
			t.Errorf("%s after %s", node, time.Since(began))
		}
	})
}

// The way to a process can be cut while the database says that it lives.
func TestAProcessLivesAndDoesNotAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld()
		w.add("a", nil)
		b, _ := w.add("b", nil)
		front, _ := w.add("front", nil)
		w.buses["a"].deaf = true
		began := time.Now()
		if _, _, err := (remote{caller: front, key: "k"}).Echo(t.Context(), "x", 1); merr.From(err).Status != 503 {
			t.Errorf("a call that may have been carried out: %v", err)
		}
		if took := time.Since(began); took < lateAfter || took > lateAfter+2*time.Second {
			t.Errorf("it took %s", took)
		}
		if node := where(t, remote{caller: b, key: "k", again: true}); node != "b" {
			t.Errorf("a call that can be repeated: %s", node)
		}
		began = time.Now()
		for _, r := range []*rpc.Router{front, b} {
			if node := where(t, remote{caller: r, key: "k"}); node != "b" || time.Since(began) > 0 {
				t.Errorf("the next call: %s after %s", node, time.Since(began))
			}
		}
		w.change(func() { w.buses["a"].deaf = false })
		time.Sleep(3 * time.Second) // of the bubble's clock
		for _, r := range []*rpc.Router{front, b} {
			if node := where(t, remote{caller: r, key: "k"}); node != "a" {
				t.Errorf("after it answers again: %s", node)
			}
		}
	})
}

// What was on its way to a process when that was cut off comes to it later. Nobody has it done elsewhere as long as it would be
// carried out then.
func TestACallComesLate(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		for open := 500 * time.Millisecond; open <= lateAfter; open += time.Second {
			w := newWorld()
			_, a := w.add("a", nil)
			_, b := w.add("b", nil)
			front, _ := w.add("front", nil)
			held := make(chan struct{})
			w.change(func() { w.buses["a"].held = held })
			results := make(chan string)
			go func() { results <- where(t, remote{caller: front, again: true}) }()
			time.Sleep(open) // of the bubble's clock
			w.change(func() { w.buses["a"].held = nil })
			close(held)
			if node := <-results; node != "a" || a.echoes.Load() != 1 || b.echoes.Load() != 0 {
				t.Errorf("after %s: %s answers; it was done %d times, and elsewhere %d times", open, node, a.echoes.Load(), b.echoes.Load())
			}
			time.Sleep(time.Minute) // of the bubble's clock
		}
	})
}

// Two processes that live can be cut off from each other, while one carries out a call of the other: once that has been
// done elsewhere it is not done any more, and how long it takes matters to nobody while there is no cut.
func TestACallIsCutOff(t *testing.T) {
	elsewhere, refused := 0, 0
	for takes := 500 * time.Millisecond; takes < 14*time.Second; takes += 1500 * time.Millisecond {
		for cut := time.Duration(0); cut < 4*time.Second; cut += 370 * time.Millisecond {
			for long := time.Duration(0); long < 12*time.Second; long += 1100 * time.Millisecond {
				inBubble(t, func(t *testing.T) {
					w := newWorld()
					_, a := w.add("a", nil)
					_, b := w.add("b", nil)
					front, _ := w.add("front", nil)
					result := make(chan error)
					go func() { result <- remote{caller: front, again: true}.Write(t.Context(), takes) }()
					time.Sleep(cut) // of the bubble's clock
					held := make(chan struct{})
					if long > 0 {
						w.change(func() { w.buses["a"].held = held })
						go func() {
							time.Sleep(long) // of the bubble's clock
							w.change(func() { w.buses["a"].held = nil })
							close(held)
						}()
					}
					err := <-result
					done := time.Now()
					time.Sleep(time.Minute) // of the bubble's clock
					for _, at := range a.writes {
						if at.After(done) {
							t.Errorf("%s, cut after %s for %s: written %s after it was answered (%v)", takes, cut, long, at.Sub(done), err)
						}
					}
					if err != nil && merr.From(err).Status != 503 {
						t.Errorf("%s, cut after %s for %s: %v", takes, cut, long, err)
					}
					switch {
					case len(b.writes) > 0:
						elsewhere++
					case len(a.writes) == 0:
						refused++
					}
					if long == 0 && (err != nil || len(a.writes) != 1 || len(b.writes) != 0) {
						t.Errorf("%s, never cut: %v, written %d times, elsewhere %d times", takes, err, len(a.writes), len(b.writes))
					}
				})
			}
		}
	}
	if elsewhere < 100 || refused > elsewhere {
		t.Errorf("%d calls were done elsewhere, %d not at all", elsewhere, refused)
	}
}

// A connection between two processes that live can break with what is on it.
func TestACallIsLostOnTheWay(t *testing.T) {
	for _, c := range []struct {
		what string
		lose func(b *memBus, does bool)
		ran  int32 // of two calls
	}{
		{"the request", func(b *memBus, does bool) { b.losesRequests = does }, 0},
		{"the answer", func(b *memBus, does bool) { b.losesAnswers = does }, 2},
	} {
		t.Run(c.what, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld()
				_, a := w.add("a", nil)
				_, b := w.add("b", nil)
				front, _ := w.add("front", nil)
				ctx, cancel := context.WithCancel(t.Context())
				long := make(chan error, 1)
				go func() { long <- remote{caller: front}.Wait(ctx) }() // which a has all the time
				synctest.Wait()
				w.change(func() { c.lose(w.buses["a"], true) })
				results := make(chan string, 2)
				began := time.Now()
				go func() { results <- "again: " + where(t, remote{caller: front, again: true}) }()
				go func() {
					_, _, err := (remote{caller: front}).Echo(t.Context(), "x", 1)
					results <- fmt.Sprint("once: ", merr.From(err).Status)
				}()
				synctest.Wait()
				w.change(func() { c.lose(w.buses["a"], false) })
				got := []string{<-results, <-results}
				slices.Sort(got)
				if took := time.Since(began); !reflect.DeepEqual(got, []string{"again: b", "once: 503"}) || took > 4*time.Second {
					t.Errorf("got %q after %s", got, took)
				}
				if a.echoes.Load() != c.ran || b.echoes.Load() != 1 {
					t.Errorf("%d and %d calls were carried out, want %d and 1", a.echoes.Load(), b.echoes.Load(), c.ran)
				}
				time.Sleep(time.Minute) // of the bubble's clock
				if node := where(t, remote{caller: front}); node != "a" {
					t.Errorf("the next call: %s", node)
				}
				select {
				case err := <-long:
					t.Errorf("a call that the process has was ended: %v", err)
				default:
				}
				cancel()
				if err := <-long; !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		})
	}
}

// Who looks after the calls ends when there are none, which may be just when another one begins.
func TestEachCallIsLookedAfter(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld()
		w.add("a", nil)
		front, _ := w.add("front", nil)
		if node := where(t, remote{caller: front}); node != "a" { // now somebody looks
			t.Error(node)
		}
		w.change(func() { w.buses["a"].deaf, w.buses["front"].slow = true, time.Second })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		if _, _, err := (remote{caller: front}).Echo(ctx, "x", 1); merr.From(err).Status != 503 || time.Since(began) > lateAfter+3*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		w.change(func() { w.buses["a"].deaf = false })
		time.Sleep(2 * time.Second) // of the bubble's clock: until it is seen to answer
	})
}

func TestCancelReachesTheOtherSide(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld()
		_, a := w.add("a", nil)
		front, _ := w.add("front", nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- remote{caller: front}.Wait(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("caller: %v", err)
		}
		if err := <-a.ends; !errors.Is(err, context.Canceled) {
			t.Errorf("component: %v", err)
		}
	})
}

// Errors are the same values whether the component is here or elsewhere.
func TestErrorsStayThemselves(t *testing.T) {
	w := newWorld()
	a, _ := w.add("a", nil)
	front, _ := w.add("front", nil)
	for _, kind := range []string{"matrix", "wrapped", "deadline", "plain", "none"} {
		here, there := remote{caller: a}.Fail(t.Context(), kind), remote{caller: front}.Fail(t.Context(), kind)
		if (here == nil) != (there == nil) || here != nil && here.Error() != there.Error() {
			t.Fatalf("%s: here %v, there %v", kind, here, there)
		}
		if here == nil {
			continue
		}
		if errors.Is(here, context.DeadlineExceeded) != errors.Is(there, context.DeadlineExceeded) {
			t.Errorf("%s: only one is a deadline", kind)
		}
		h, hErr := json.Marshal(merr.From(here))
		e, eErr := json.Marshal(merr.From(there))
		if err := errors.Join(hErr, eErr); err != nil || string(h) != string(e) || merr.From(here).Status != merr.From(there).Status {
			t.Errorf("%s: here %s, there %s (%v)", kind, h, e, err)
		}
	}
	var m *merr.Error
	// What is away there is away, and not broken: here the error itself says so to who answers the request.
	if err := (remote{caller: front}).Fail(t.Context(), "away"); !errors.As(err, &m) || m.Status != 503 || m.Extra["retry_after_ms"] == nil ||
		!strings.Contains(err.Error(), "connection to the database lost") {
		t.Errorf("a database that is away: %v", err)
	}
	if err := (remote{caller: front}).Fail(t.Context(), "matrix"); !errors.As(err, &m) || m.Extra["retry_after_ms"] != int64(7) {
		t.Errorf("the time to wait is %v", m.Extra)
	}
}

func TestLargeDataGoesThroughTheDatabase(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db := open()
		spill, err := rpc.NewSpill(t.Context(), db, nil, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld()
		w.add("a", spill)
		front, _ := w.add("front", spill)
		for _, n := range []int{0, 400, 900, 998, 999, 1000, 3 << 20} {
			data := make([]byte, n)
			for i := range data {
				data[i] = byte(i * 7)
			}
			got, err := remote{caller: front}.Double(t.Context(), data)
			if err != nil || len(got) != 2*n || string(got[:n]) != string(data) || string(got[n:]) != string(data) {
				t.Fatalf("%d bytes: got %d, %v", n, len(got), err)
			}
		}
		var left int
		if err := db.QueryRow(t.Context(), "SELECT COUNT(*) FROM rpc_spilled").Scan(&left); err != nil || left != 0 {
			t.Errorf("%d rows are left, %v", left, err)
		}
		if _, err := (remote{caller: front}).Double(t.Context(), make([]byte, rpc.MaxBytes+1)); err == nil {
			t.Error("too much was taken")
		}
	})
}

func BenchmarkInvoke(b *testing.B) {
	w := newWorld()
	a, _ := w.add("a", nil)
	front, _ := w.add("front", nil)
	for name, caller := range map[string]rpc.Caller{"here": a, "there": front} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := (remote{caller: caller}).Echo(b.Context(), "text", 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
