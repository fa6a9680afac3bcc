package roomserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/internal/statetree"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
)

func TestQueues(t *testing.T) {
	ctx := context.Background()
	none := func(context.Context, id.Room, []*job) {}
	t.Run("one at a time in a room, in order", func(t *testing.T) {
		q := newQueues(100, 10, none, func(int) {})
		var mu sync.Mutex
		var order []int
		running := 0
		var wg sync.WaitGroup
		held := make(chan struct{})
		wg.Go(func() {
			_ = q.do("!r", &job{ctx: ctx, run: func(context.Context) error { <-held; return nil }})
		})
		for q.waiting("!r") < 0 {
		}
		for i := range 20 {
			j := &job{ctx: ctx, done: make(chan error, 1), run: func(context.Context) error {
				mu.Lock()
				defer mu.Unlock()
				running++
				order = append(order, i)
				if running != 1 {
					t.Error("two at a time")
				}
				running--
				return nil
			}}
			if err := q.push("!r", j); err != nil {
				t.Fatal(err)
			}
		}
		close(held)
		wg.Wait()
		q.close()
		if !slices.IsSorted(order) || len(order) != 20 {
			t.Errorf("order %v", order)
		}
		if len(q.rooms) != 0 {
			t.Error("an idle room keeps its queue")
		}
		if err := q.do("!r", &job{ctx: ctx, run: func(context.Context) error { return nil }}); err == nil {
			t.Error("a closed queue took a job")
		}
	})
	t.Run("bounded", func(t *testing.T) {
		q := newQueues(2, 10, none, func(int) {})
		held := make(chan struct{})
		var err error
		for range 5 {
			if err = q.push("!r", &job{ctx: ctx, done: make(chan error, 1), run: func(context.Context) error { <-held; return nil }}); err != nil {
				break
			}
		}
		if !errors.Is(err, merr.ErrLimitExceeded) {
			t.Errorf("got %v, want M_LIMIT_EXCEEDED", err)
		}
		close(held)
		q.close()
	})
	t.Run("a panic is an error", func(t *testing.T) {
		q := newQueues(2, 10, none, func(int) {})
		if err := q.do("!r", &job{ctx: ctx, run: func(context.Context) error { panic("boom") }}); err == nil {
			t.Error("no error")
		}
		if err := q.do("!r", &job{ctx: ctx, run: func(context.Context) error { return nil }}); err != nil {
			t.Error(err)
		}
		q.close()
	})
	t.Run("who gives up is skipped", func(t *testing.T) {
		q := newQueues(10, 10, none, func(int) {})
		held := make(chan struct{})
		first := &job{ctx: ctx, done: make(chan error, 1), run: func(context.Context) error { <-held; return nil }}
		if err := q.push("!r", first); err != nil {
			t.Fatal(err)
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		err := q.do("!r", &job{ctx: gone, run: func(context.Context) error { t.Error("it ran"); return nil }})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		close(held)
		q.close()
	})
}

// waiting gives the jobs that wait, -1 when the room has no worker.
func (q *queues) waiting(room id.Room) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	list, ok := q.rooms[room]
	if !ok {
		return -1
	}
	return len(list)
}

func TestSpool(t *testing.T) {
	rules := rulesOf(t, "11")
	build := func(sender id.User, typ, key, content string, auth ...*event.Event) *event.Event {
		b := &event.Builder{Rules: rules, RoomID: "!r:a", Sender: sender, Type: typ, StateKey: &key, Content: []byte(content), Depth: 1, OriginServerTS: 1}
		for _, a := range auth {
			b.AuthEvents = append(b.AuthEvents, a.ID)
		}
		ev, err := b.Build(sender.Server(), testKeyID, keyOf(sender.Server()))
		if err != nil {
			t.Fatal(err)
		}
		return ev
	}
	create := build(alice, "m.room.create", "", `{}`)
	member := build(alice, "m.room.member", string(alice), `{"membership":"join"}`, create)
	absent := build(alice, "m.room.power_levels", "", `{}`, create, member)
	orphan := build(alice, "m.room.topic", "", `{}`, create, member, absent)
	late := build(alice, "m.room.name", "", `{}`, create, member, orphan)
	for _, big := range []bool{false, true} {
		t.Run(fmt.Sprintf("file %v", big), func(t *testing.T) {
			sp := newSpool(rules, "!r:a")
			events := []*event.Event{late, orphan, member, create, member}
			if big {
				for i := range 300 {
					events = append(events, build(alice, "org.big", fmt.Sprint(i), fmt.Sprintf(`{"v":"%0*d"}`, 50_000, i), create, member))
				}
			}
			for _, e := range events {
				if err := sp.AddState(e.JSON()); err != nil {
					t.Fatal(err)
				}
			}
			for _, raw := range []string{`{}`, `[]`, string(message2(t, rules))} {
				if err := sp.AddState([]byte(raw)); err != nil {
					t.Fatal(err)
				}
			}
			if sp.dropped != 3 || (sp.file != nil) != big {
				t.Errorf("%d dropped, file %v", sp.dropped, sp.file != nil)
			}
			order := sp.order(func(int32) bool { return false })
			var got []id.Event
			for _, i := range order {
				ev, err := sp.event(i)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, ev.ID)
			}
			if got[0] != create.ID || got[1] != member.ID || slices.Contains(got, orphan.ID) || slices.Contains(got, late.ID) {
				t.Errorf("order %v", got)
			}
			// With the absent event in the store the rest follows.
			known := sp.order(func(i int32) bool { return sp.entries[i].id == absent.ID })
			if len(known) != len(order)+2 {
				t.Errorf("%d in order, want %d", len(known), len(order)+2)
			}
			name := ""
			if sp.file != nil {
				name = sp.file.Name()
			}
			if err := sp.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(name); name != "" && err == nil {
				t.Error("the file is still there")
			}
		})
	}
}

// message2 is an event of another room.
func message2(t *testing.T, rules *event.Rules) []byte {
	t.Helper()
	b := &event.Builder{Rules: rules, RoomID: "!other:a", Sender: alice, Type: "m.room.topic", StateKey: ptr(""), Content: []byte(`{}`), Depth: 1}
	ev, err := b.Build("a", testKeyID, keyOf("a"))
	if err != nil {
		t.Fatal(err)
	}
	return ev.JSON()
}

func TestResolveMemoIsBounded(t *testing.T) {
	m := newResolveMemo(3)
	root := func(i int) statetree.Root { return statetree.Root{byte(i)} }
	for i := range 10 {
		m.put([]resolved{{rootSet(fmt.Sprint(i)), root(i)}})
	}
	if len(m.known) != 3 {
		t.Errorf("%d are remembered", len(m.known))
	}
	for i := range 10 {
		got, ok := m.get(rootSet(fmt.Sprint(i)))
		if ok != (i >= 7) || ok && got != root(i) {
			t.Errorf("%d: %v, %v", i, got, ok)
		}
	}
}

func TestSweepKeepsWhatIsInUse(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		s := newScene(t, open, "11")
		for i := range 40 {
			s.send(s.room, state(alice, "org.test", fmt.Sprint(i), `{}`))
		}
		for range 3 {
			for _, task := range s.upkeep() {
				if _, err := task.Run(context.Background()); err != nil {
					t.Errorf("%s: %v", task.Kind, err)
				}
			}
			s.w.clock.Add(2 * sweepEvery.Milliseconds())
		}
		s.check()
		// From the tables, not from the caches.
		s.w.nodeOn("a", s.db).check()
	})
}

func TestVerifyFindsWhatIsBroken(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		breaks := map[string]string{
			"members":     `DELETE FROM room_members`,
			"servers":     `UPDATE room_servers SET server = 'x' WHERE server = 'p'`,
			"counts":      `UPDATE rooms SET joined = joined + 1`,
			"state":       `UPDATE rooms SET current_state = (SELECT state_before FROM events WHERE state_before IS NOT NULL ORDER BY event_nid DESC LIMIT 1)`,
			"extremities": `UPDATE events SET flags = 2 WHERE stream_pos = (SELECT MAX(stream_pos) FROM events)`,
			"stream":      `UPDATE stream_positions SET pos = pos + 1 WHERE name = 'events'`,
			"parents":     `DELETE FROM events WHERE stream_pos = 3`,
		}
		for name, q := range breaks {
			t.Run(name, func(t *testing.T) {
				s := newScene(t, open, "11")
				s.check()
				if _, err := s.db.Exec(context.Background(), q); err != nil {
					t.Fatal(err)
				}
				if err := s.w.nodeOn("a", s.db).Verify(context.Background()); err == nil {
					t.Error("nothing was found")
				}
			})
		}
	})
}

// Who loses to other writers every time hears that the room is busy, and when to come back.
func TestAttemptIsBounded(t *testing.T) {
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, runs := &Server{metrics: m}, 0
	err = s.attempt(t.Context(), func() error { runs++; return errStale })
	if e := merr.From(err); runs != maxAttempts || e.Status != 503 || e.Extra["retry_after_ms"] == nil || !errors.Is(err, errStale) {
		t.Errorf("after %d runs: %v", runs, err)
	}
}
