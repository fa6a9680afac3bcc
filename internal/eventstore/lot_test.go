package eventstore_test

import (
	"bytes"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/stream"
)

func TestLot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.Int64Range(1, 1<<62).Draw(t, "first")
		room := nid.Room(rapid.Int64Range(1, 1<<40).Draw(t, "room"))
		var events []*eventstore.Event
		for i := range rapid.IntRange(1, 64).Draw(t, "events") {
			events = append(events, &eventstore.Event{RoomNID: room, StreamPos: first + int64(i),
				NID:     nid.Event(rapid.Int64Range(1, 1<<62).Draw(t, "event")),
				TypeNID: nid.Type(rapid.Int64Range(0, 1<<40).Draw(t, "type")),
				Flags:   eventstore.Flags(rapid.Int64Range(0, 1<<15-1).Draw(t, "flags"))})
		}
		lot := eventstore.NewLot(events)
		b := lot.Encode()
		got, err := eventstore.DecodeLot(b)
		if err != nil || !slices.Equal(got, lot) {
			t.Fatalf("%v became %v, %v", lot, got, err)
		}
		if cut, err := eventstore.DecodeLot(b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")]); err == nil && !slices.Equal(cut, lot[:len(cut)]) {
			t.Fatalf("a part became %v", cut)
		}
	})
	many := make([]*eventstore.Event, 65)
	for i := range many {
		many[i] = &eventstore.Event{NID: 1, RoomNID: 1, StreamPos: int64(i + 1)}
	}
	if eventstore.NewLot(many) != nil || eventstore.NewLot(nil) != nil || eventstore.Lot(nil).Encode() != nil {
		t.Error("a lot of too many, or of none")
	}
}

func FuzzDecodeLot(f *testing.F) {
	f.Add(eventstore.Lot{{Pos: 7, Event: 1 << 40, Room: 3, Type: 4, Flags: 5}, {Pos: 8, Event: 9, Room: 3}}.Encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		lot, err := eventstore.DecodeLot(b)
		if err != nil {
			return
		}
		again, err := eventstore.DecodeLot(lot.Encode())
		if err != nil || !slices.Equal(lot, again) || bytes.Equal(b, nil) {
			t.Errorf("%x is %v, and then %v, %v", b, lot, again, err)
		}
	})
}

func (w *world) position() int64 {
	w.t.Helper()
	pos, err := stream.Position(w.ctx(), w.db, stream.Events)
	w.ok(err)
	return pos
}

// TestTailIsFed: whatever lots come, in whatever order, twice or not at all, the tail says what the database says.
func TestTailIsFed(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r, other := w.newRoom("11", alice), w.newRoom("11", bob)
		begin := w.position()
		rapid.Check(t, func(t *rapid.T) {
			tail := eventstore.NewTail(w.fresh())
			if rapid.Bool().Draw(t, "begun") {
				w.ok(tail.Reach(w.ctx(), begin))
			}
			start := w.position()
			for range rapid.IntRange(1, 8).Draw(t, "writes") {
				switch rapid.IntRange(0, 2).Draw(t, "write") {
				case 0:
					r.say(alice, "x")
				case 1:
					other.say(bob, "y")
				default:
					r.member(bob, rapid.SampledFrom([]string{"join", "leave"}).Draw(t, "membership"))
				}
			}
			end := w.position()
			all, err := w.r.EventStream(w.ctx(), start, end, 1000)
			w.ok(err)
			for range rapid.IntRange(0, 30).Draw(t, "messages") {
				at := rapid.IntRange(0, len(all)-1).Draw(t, "at")
				lot := eventstore.Lot{all[at]}
				for _, e := range all[at+1 : min(len(all), at+1+rapid.IntRange(0, 3).Draw(t, "more"))] {
					if e.Room == lot[0].Room {
						lot = append(lot, e)
					} else {
						break
					}
				}
				if slices.ContainsFunc(lot, func(e eventstore.StreamRow) bool { return e.Type == nid.TypeMember }) {
					continue // who writes makes no lots of these
				}
				tail.Feed(lot)
				if rapid.IntRange(0, 5).Draw(t, "reach") == 0 {
					w.ok(tail.Reach(w.ctx(), start+1+rapid.Int64Range(0, end-start-1).Draw(t, "to")))
				}
			}
			if rapid.Bool().Draw(t, "meanwhile") { // lots come while the database is asked
				var reading sync.WaitGroup
				reading.Go(func() { w.ok(tail.Reach(w.ctx(), end)) })
				for _, e := range all {
					if e.Type != nid.TypeMember {
						tail.Feed(eventstore.Lot{e})
					}
				}
				reading.Wait()
			}
			rows, to, err := tail.Page(w.ctx(), start, end, 1000, nil)
			w.ok(err)
			if to != end || !slices.Equal(rows, all) {
				t.Fatalf("to %d: %v, want %v", to, rows, all)
			}
			numbers, err := w.r.StateKeyNIDs(w.ctx(), []string{string(bob)})
			w.ok(err)
			for from := start; from < end; from++ {
				want := false
				w.ok(w.db.QueryRow(w.ctx(), `SELECT COUNT(*) > 0 FROM membership_changes WHERE user_nid = $1 AND stream_pos > $2 AND stream_pos <= $3`,
					int64(numbers[string(bob)]), from, end).Scan(&want))
				if moved, ok := tail.Moved(numbers[string(bob)], from, end); ok && moved != want {
					t.Fatalf("moved after %d: %v, want %v", from, moved, want)
				}
			}
		})
	})
}
