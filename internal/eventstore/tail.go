package eventstore

import (
	"context"
	"slices"
	"sort"
	"sync"

	"weft/internal/nid"
)

const (
	tailEventsSQL = `SELECT stream_pos, event_nid, room_nid, type_nid, flags FROM events WHERE stream_pos > $1 AND stream_pos <= $2
		ORDER BY stream_pos`
	tailMovesSQL = `SELECT stream_pos, user_nid, room_nid FROM membership_changes WHERE stream_pos > $1 AND stream_pos <= $2 ORDER BY stream_pos`
)

// TailLen is how many positions of the event stream a Tail keeps.
const TailLen = 16 << 10

// Tail keeps the end of the event stream in memory: which rooms the latest events belong to, and which
// local users' memberships changed with them. Who follows the stream (each sleeping /sync does, and what is sent to other
// servers) asks the tail, and the database is asked once for all of them.
//
// It needs no invalidation: a position that is committed never changes its event, and Reach goes exactly up to
// a position that its caller has read from the database.
type Tail struct {
	r *Reader

	loading sync.Mutex // one Reach loads, the others wait for it
	mu      sync.RWMutex
	// The tail covers the positions low < pos ≤ high; low is -1 until something is loaded.
	low, high int64
	events    []StreamRow
	moves     []tailMove
	// waiting are lots that do not join, by the position before their first. Of those that never will, the database told first.
	waiting map[int64]Lot
}

// maxWaiting bounds the lots that wait.
const maxWaiting = 1024

// tailMove says that the membership of a local user changed.
type tailMove struct {
	pos  int64
	user nid.StateKey
	room nid.Room
}

// Span is what a room has in a stretch of the stream: its visible events, in order.
type Span struct{ Events []StreamRow }

// First and Last give the positions of the first and the last event.
func (s Span) First() int64 { return s.Events[0].Pos }

// Last gives the position of the last event.
func (s Span) Last() int64 { return s.Events[len(s.Events)-1].Pos }

// NewTail makes an empty tail over a reader, which must not be one of a transaction.
func NewTail(r *Reader) *Tail { return &Tail{r: r, low: -1, waiting: make(map[int64]Lot)} }

// Reach makes the tail cover the stream up to a position that is committed.
func (t *Tail) Reach(ctx context.Context, to int64) error {
	if t.covers(to) {
		return nil
	}
	t.loading.Lock()
	defer t.loading.Unlock()
	t.mu.RLock()
	low, high := t.low, t.high
	t.mu.RUnlock()
	if low >= 0 && to <= high {
		return nil
	}
	from, anew := high, false
	if low < 0 || to-high > TailLen {
		from, anew = max(0, to-TailLen/4), true
	}
	events, moves, err := t.load(ctx, from, to)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case anew:
		t.low, t.events, t.moves = from, nil, nil
	case t.high >= to: // lots came meanwhile, up to there
		return nil
	default: // those that came are not appended again
		events = events[after(events, t.high):]
		moves = moves[sort.Search(len(moves), func(i int) bool { return moves[i].pos > t.high }):]
	}
	// The slices that Changed has given out stay as they are: what is appended lies beyond them.
	t.events, t.moves, t.high = append(t.events, events...), append(t.moves, moves...), to
	for from := range t.waiting {
		if from < to { // it was read from the database
			delete(t.waiting, from)
		}
	}
	t.join()
	return nil
}

func (t *Tail) covers(to int64) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.low >= 0 && to <= t.high
}

func (t *Tail) load(ctx context.Context, from, to int64) (events []StreamRow, moves []tailMove, err error) {
	err = t.r.rows(ctx, tailEventsSQL, []any{from, to}, func(row func(...any) error) error {
		var e StreamRow
		err := row(&e.Pos, &e.Event, &e.Room, &e.Type, &e.Flags)
		events = append(events, e)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	err = t.r.rows(ctx, tailMovesSQL, []any{from, to}, func(row func(...any) error) error {
		var m tailMove
		err := row(&m.pos, &m.user, &m.room)
		moves = append(moves, m)
		return err
	})
	return events, moves, err
}

// forget drops the older half of a tail that is too long, into new memory. The lock is held.
func (t *Tail) forget() {
	if t.high-t.low <= TailLen {
		return
	}
	t.low = t.high - TailLen/2
	// With room until the next time: the slices that were given out stay as they are.
	t.events = append(make([]StreamRow, 0, TailLen+maxLot), t.events[after(t.events, t.low):]...)
	i := sort.Search(len(t.moves), func(i int) bool { return t.moves[i].pos > t.low })
	t.moves = slices.Clone(t.moves[i:])
}

// after gives the index of the first event after a position.
func after(events []StreamRow, pos int64) int {
	return sort.Search(len(events), func(i int) bool { return events[i].Pos > pos })
}

// Changed gives the visible events at the positions from < pos ≤ to, by room, of the rooms for which in is true.
// It reports false when the tail does not reach that far back. Call Reach(to) before.
func (t *Tail) Changed(from, to int64, in func(nid.Room) bool) (map[nid.Room]Span, bool) {
	events, ok := t.Rows(from, to)
	if !ok {
		return nil, false
	}
	var out map[nid.Room]Span
	for _, e := range events {
		if int64(e.Flags)&hidden != 0 || !in(e.Room) {
			continue
		}
		if out == nil {
			out = make(map[nid.Room]Span)
		}
		out[e.Room] = Span{append(out[e.Room].Events, e)}
	}
	return out, true
}

// Rows gives the events at the positions from < pos ≤ to, of all rooms, for reading only. It reports false when the tail does not
// reach that far back. Call Reach(to) before.
func (t *Tail) Rows(from, to int64) ([]StreamRow, bool) {
	t.mu.RLock()
	events, ok := t.events, t.low >= 0 && from >= t.low && to <= t.high
	t.mu.RUnlock()
	if !ok {
		return nil, false
	}
	events = events[after(events, from):]
	return events[:after(events, to)], true
}

// Last gives the position of the last visible event of each room at the positions from < pos ≤ to. It reports false when the tail does not
// reach that far back. Call Reach(to) before.
func (t *Tail) Last(from, to int64) (map[nid.Room]int64, bool) {
	events, ok := t.Rows(from, to)
	last := make(map[nid.Room]int64)
	for _, e := range events {
		if int64(e.Flags)&hidden == 0 {
			last[e.Room] = e.Pos
		}
	}
	return last, ok
}

// Page gives those of the events at the positions from < pos ≤ to for which keep is true, as EventStream does, and the position up to
// which these are all: where there are limit of them, there may be more. keep is called once for each event up to there, in order;
// nil keeps all. The rows are for reading only. to is committed.
func (t *Tail) Page(ctx context.Context, from, to int64, limit int, keep func(StreamRow) bool) (rows []StreamRow, end int64, err error) {
	if err := t.Reach(ctx, to); err != nil {
		return nil, 0, err
	}
	events, here := t.Rows(from, to)
	if !here {
		if events, err = t.r.EventStream(ctx, from, to, limit); err != nil {
			return nil, 0, err
		}
		if len(events) == limit {
			to = events[limit-1].Pos
		}
	}
	if keep == nil {
		if len(events) >= limit {
			return events[:limit], events[limit-1].Pos, nil
		}
		return events, to, nil
	}
	for _, e := range events {
		if !keep(e) {
			continue
		}
		if rows = append(rows, e); len(rows) == limit {
			return rows, e.Pos, nil
		}
	}
	return rows, to, nil
}

// Moved tells whether a local user's membership in any room changed at the positions from < pos ≤ to. It reports
// false in ok when the tail does not reach that far back.
func (t *Tail) Moved(user nid.StateKey, from, to int64) (moved, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.low < 0 || from < t.low || to > t.high {
		return false, false
	}
	i := sort.Search(len(t.moves), func(i int) bool { return t.moves[i].pos > from })
	for _, m := range t.moves[i:] {
		if m.pos > to {
			break
		}
		if m.user == user {
			return true, true
		}
	}
	return false, true
}

// End gives the position up to which the tail reaches; -1 where nothing was loaded yet.
func (t *Tail) End() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.low < 0 {
		return -1
	}
	return t.high
}

// MembersChanged tells whether a room has member events, or its local members changed, at the positions from < pos ≤ to.
// It reports false in ok when the tail does not reach that far back.
func (t *Tail) MembersChanged(room nid.Room, from, to int64) (changed, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.low < 0 || from < t.low || to > t.high {
		return false, false
	}
	for _, e := range t.events[after(t.events, from):] {
		if e.Pos > to {
			break
		}
		if e.Room == room && e.Type == nid.TypeMember && int64(e.Flags)&hidden == 0 {
			return true, true
		}
	}
	i := sort.Search(len(t.moves), func(i int) bool { return t.moves[i].pos > from })
	for _, m := range t.moves[i:] {
		if m.pos > to {
			break
		}
		if m.room == room {
			return true, true
		}
	}
	return false, true
}
