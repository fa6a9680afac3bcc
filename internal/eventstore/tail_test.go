package eventstore_test

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/stream"
)

// What the tail says is what the database says, from wherever it can be asked, also when it grew in steps.
func TestTail(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r, _ := history(w)
		other := w.newRoom("11", bob)
		mid, err := stream.Position(w.ctx(), w.db, stream.Events)
		w.ok(err)
		tail := eventstore.NewTail(w.fresh())
		if _, ok := tail.Changed(0, mid, func(nid.Room) bool { return true }); ok {
			t.Error("an empty tail answers")
		}
		w.ok(tail.Reach(w.ctx(), mid))
		r.member(bob, "join")
		other.say(bob, "x")
		r.member(bob, "leave")
		end, err := stream.Position(w.ctx(), w.db, stream.Events)
		w.ok(err)
		var all sync.WaitGroup
		errs := make([]error, 4)
		for i := range errs {
			all.Go(func() { errs[i] = tail.Reach(w.ctx(), end) })
		}
		all.Wait()
		w.ok(errors.Join(errs...))
		for from := range end {
			for to := from; to <= end; to++ {
				got, ok := tail.Changed(from, to, func(n nid.Room) bool { return n == r.nid })
				want, err := w.r.Timeline(w.ctx(), r.nid, from, to, 1000, false)
				w.ok(err)
				var have []nid.Event
				for _, e := range got[r.nid].Events {
					have = append(have, e.Event)
				}
				if !ok || len(got) > 1 || !slices.Equal(have, nids(want)) {
					t.Fatalf("%d–%d: %v %v, want %v", from, to, ok, got, nids(want))
				}
			}
		}
		numbers, err := w.r.StateKeyNIDs(w.ctx(), []string{string(bob)})
		w.ok(err)
		me := numbers[string(bob)]
		for _, c := range []struct {
			from, to  int64
			moved, ok bool
		}{{mid, end, true, true}, {mid, mid + 1, true, true}, {mid + 1, mid + 2, false, true}, {mid + 2, end, true, true}, {mid, end + 1, false, false}} {
			if moved, ok := tail.Moved(me, c.from, c.to); moved != c.moved || ok != c.ok {
				t.Errorf("moved %d–%d: %v %v, want %v %v", c.from, c.to, moved, ok, c.moved, c.ok)
			}
		}
		rooms, err := w.r.JoinedRooms(w.ctx(), me)
		w.ok(err)
		if !slices.Equal(rooms, []nid.Room{other.nid}) {
			t.Errorf("joined in %v, want %v", rooms, other.nid)
		}
	})
}

func nids(list []*eventstore.Event) []nid.Event {
	var out []nid.Event
	for _, e := range list {
		out = append(out, e.NID)
	}
	return out
}
