package eventstore_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"weft/internal/eventstore"
	"weft/internal/eventstore/write"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/stream"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// history makes a room with hidden and backfilled events among ten messages, and
// gives the visible events in topological order.
func history(w *world) (r *room, visible []*eventstore.Event) {
	r = w.newRoom("11", alice)
	base, err := w.r.Timeline(w.ctx(), r.nid, 0, 1<<40, 10, false)
	w.ok(err)
	visible = base
	for i := range 10 {
		visible = append(visible, r.say(alice, "x"))
		switch i {
		case 3:
			r.put(r.build(alice, "m.room.message", nil, map[string]any{"body": "soft"}), option{flags: eventstore.SoftFailed})
		case 5:
			r.put(r.build(alice, "m.room.message", nil, map[string]any{"body": "bad"}), option{flags: eventstore.Rejected})
		case 7:
			r.put(r.build(alice, "m.room.message", nil, map[string]any{"body": "out"}), option{flags: eventstore.Outlier})
		}
	}
	ev := r.build(alice, "m.room.message", nil, map[string]any{"body": "old"})
	ev.Depth = visible[5].Depth // beside the sixth; its negative position sorts it before
	old := r.put(ev, option{backfill: true})
	return r, slices.Insert(visible, 5, old)
}

func TestTimeline(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r, visible := history(w)
		w.newRoom("11", bob) // another room in the stream
		live := slices.DeleteFunc(slices.Clone(visible), func(e *eventstore.Event) bool { return e.StreamPos < 0 })
		end, err := stream.Position(w.ctx(), w.db, stream.Events)
		w.ok(err)
		for _, c := range []struct {
			from, to int64
			limit    int
			backward bool
			want     []*eventstore.Event
		}{
			{0, end, 100, false, live},
			{0, end, 3, false, live[:3]},
			{live[2].StreamPos, live[6].StreamPos, 100, false, live[3:7]},
			{0, end, 3, true, reversed(live[len(live)-3:])},
			{live[2].StreamPos, live[6].StreamPos, 2, true, reversed(live[5:7])},
			{end, end + 5, 3, false, nil},
		} {
			got, err := w.r.Timeline(w.ctx(), r.nid, c.from, c.to, c.limit, c.backward)
			w.ok(err)
			if !slices.Equal(ids(got), ids(c.want)) {
				t.Errorf("%d–%d, %d, %v: %v, want %v", c.from, c.to, c.limit, c.backward, ids(got), ids(c.want))
			}
		}
		rows, err := w.r.EventStream(w.ctx(), -100, end, 1000)
		w.ok(err)
		if int64(len(rows)) != end {
			t.Errorf("%d rows in the stream, want %d", len(rows), end)
		}
		for i, row := range rows {
			if row.Pos != int64(i+1) || row.Event == 0 || row.Room == 0 {
				t.Errorf("row %d is %+v", i, row)
			}
		}
		changed, err := w.r.RoomsChanged(w.ctx(), []nid.Room{r.nid, 4711}, 0, live[4].StreamPos)
		w.ok(err)
		if len(changed) != 1 || changed[r.nid] != live[4].StreamPos {
			t.Errorf("changed %v", changed)
		}
		last, err := w.r.LastBefore(w.ctx(), r.nid, end)
		w.ok(err)
		if last != live[len(live)-1].NID {
			t.Errorf("the last is %d", last)
		}
		if pos, err := w.r.LatestPos(w.ctx(), r.nid, end); err != nil || pos != live[len(live)-1].StreamPos {
			t.Errorf("the last position is %d (%v)", pos, err)
		}
		if pos, err := w.r.LatestPos(w.ctx(), 4711, end); err != nil || pos != 0 {
			t.Errorf("in no room: %d (%v)", pos, err)
		}
	})
}

func reversed(list []*eventstore.Event) []*eventstore.Event {
	out := slices.Clone(list)
	slices.Reverse(out)
	return out
}

func TestHistory(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r, visible := history(w)
		at := func(i int) eventstore.Position {
			t.Helper()
			p, ok, err := w.r.PositionOf(w.ctx(), visible[i].NID)
			w.ok(err)
			if !ok || p.Depth != visible[i].Depth || p.Stream != visible[i].StreamPos {
				t.Errorf("event %d is at %v, %v", i, p, ok)
			}
			return p
		}
		ptr := func(p eventstore.Position) *eventstore.Position { return &p }
		n := len(visible)
		for name, c := range map[string]struct {
			q    eventstore.HistoryQuery
			want []*eventstore.Event
		}{
			"all up":        {eventstore.HistoryQuery{From: eventstore.Start(), Limit: 100}, visible},
			"all down":      {eventstore.HistoryQuery{From: eventstore.End(), Backward: true, Limit: 100}, reversed(visible)},
			"page down":     {eventstore.HistoryQuery{From: at(6), Backward: true, Limit: 3}, reversed(visible[4:7])},
			"before":        {eventstore.HistoryQuery{From: at(6).Before(), Backward: true, Limit: 3}, reversed(visible[3:6])},
			"page up":       {eventstore.HistoryQuery{From: at(6), Limit: 3}, visible[7:10]},
			"down to":       {eventstore.HistoryQuery{From: at(6), To: ptr(at(3)), Backward: true, Limit: 100}, reversed(visible[4:7])},
			"up to":         {eventstore.HistoryQuery{From: at(3), To: ptr(at(6)), Limit: 100}, visible[4:7]},
			"not too new":   {eventstore.HistoryQuery{From: eventstore.End(), Backward: true, Limit: 2, MaxStream: visible[n-3].StreamPos}, reversed(visible[n-4 : n-2])},
			"nothing above": {eventstore.HistoryQuery{From: at(n - 1), Limit: 5}, nil},
		} {
			c.q.Room = r.nid
			got, err := w.r.History(w.ctx(), c.q)
			w.ok(err)
			if !slices.Equal(ids(got), ids(c.want)) {
				t.Errorf("%s: %v, want %v", name, ids(got), ids(c.want))
			}
		}
		if _, ok, err := w.r.PositionOf(w.ctx(), 4711); ok || err != nil {
			t.Errorf("an unknown event has a place (%v)", err)
		}
	})
}

func TestRoomFence(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("11", alice)
		row := r.row()
		if row.ID != r.id || row.Depth != r.depth || row.CurrentState != r.state || row.Stub || !slices.Equal(row.Extremities, []nid.Event{r.last.NID}) {
			t.Errorf("the room is %+v", row)
		}
		u := write.RoomUpdate{NID: r.nid, Revision: row.Revision, CurrentState: row.CurrentState, Extremities: row.Extremities, Depth: 9, Version: "11"}
		w.update(func(ctx context.Context, tx *sqldb.Tx) error { return w.w.UpdateRoom(ctx, tx, u) })
		for name, write := range map[string]func(ctx context.Context, tx *sqldb.Tx) error{
			"update": func(ctx context.Context, tx *sqldb.Tx) error { return w.w.UpdateRoom(ctx, tx, u) },
			"touch":  func(ctx context.Context, tx *sqldb.Tx) error { return w.w.TouchRoom(ctx, tx, r.nid, u.Revision) },
		} {
			err := w.db.Update(w.ctx(), func(tx *sqldb.Tx) error { return write(w.ctx(), tx) })
			if !isFence(err) {
				t.Errorf("%s at an old revision: %v", name, err)
			}
		}
		if got := r.row(); got.Revision != row.Revision+1 || got.Depth != 9 {
			t.Errorf("the room is %+v", got)
		}
		w.update(func(ctx context.Context, tx *sqldb.Tx) error {
			inserted, err := w.w.InsertRoom(ctx, tx, 4711, r.id, "11")
			if inserted {
				t.Error("the room was stored twice")
			}
			return err
		})
		if _, err := w.r.Room(w.ctx(), "!unknown:x"); !errors.Is(err, merr.ErrNotFound) {
			t.Errorf("an unknown room: %v", err)
		}
		if _, err := w.r.RoomID(w.ctx(), 4711); err == nil {
			t.Error("an unknown number is no error")
		}
		if n, err := w.r.RoomNID(w.ctx(), r.id); n != r.nid || err != nil {
			t.Errorf("the room's number is %d (%v)", n, err)
		}
		if m, err := w.fresh().RoomIDs(w.ctx(), []nid.Room{r.nid, r.nid}); err != nil || len(m) != 1 || m[r.nid] != r.id {
			t.Errorf("IDs %v (%v)", m, err)
		}
		if m, err := w.r.Rooms(w.ctx(), []nid.Room{r.nid, 4711}); err != nil || len(m) != 1 || m[r.nid].ID != r.id {
			t.Errorf("rooms %v (%v)", m, err)
		}
	})
}

func isFence(err error) bool { return errors.Is(err, write.ErrFence) }

// A stub's version rests on an invite; the room may turn out to have another.
func TestStubBecomesRoomOfAnotherVersion(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room, err := w.w.RoomNID(w.ctx())
		w.ok(err)
		w.update(func(ctx context.Context, tx *sqldb.Tx) error {
			_, err := w.w.InsertRoom(ctx, tx, room, "!s:away", "5")
			return err
		})
		if got, err := w.r.RoomID(w.ctx(), room); got != id.Room("!s:away") || err != nil {
			t.Errorf("%s (%v)", got, err)
		}
		w.update(func(ctx context.Context, tx *sqldb.Tx) error {
			return w.w.UpdateRoom(ctx, tx, write.RoomUpdate{NID: room, Revision: 1, Version: "10"})
		})
		got, err := w.r.Room(w.ctx(), "!s:away")
		w.ok(err)
		if got.Version != "10" || got.Rules.Version != "10" || got.Stub {
			t.Errorf("the room is %+v", got)
		}
	})
}

func TestBackwardExtremities(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("11", alice)
		a, b := r.say(alice, "a"), r.say(alice, "b")
		list := []write.Backward{{Event: a.NID, Missing: "$one:x"}, {Event: b.NID, Missing: "$two:x"}, {Event: b.NID, Missing: "$one:x"}, {Event: b.NID, Missing: "$one:x"}}
		w.update(func(ctx context.Context, tx *sqldb.Tx) error { return w.w.AddBackward(ctx, tx, r.nid, list) })
		got, err := w.r.BackwardExtremities(w.ctx(), r.nid)
		w.ok(err)
		want := []eventstore.BackwardExtremity{
			{Missing: "$two:x", Event: b.NID, Depth: b.Depth}, {Missing: "$one:x", Event: b.NID, Depth: b.Depth}, {Missing: "$one:x", Event: a.NID, Depth: a.Depth},
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		w.update(func(ctx context.Context, tx *sqldb.Tx) error {
			return w.w.DeleteBackward(ctx, tx, r.nid, []id.Event{"$one:x", "$other:x"})
		})
		if got, err := w.r.BackwardAmong(w.ctx(), r.nid, []id.Event{"$one:x", "$two:x"}); len(got) != 1 || !got["$two:x"] || err != nil {
			t.Errorf("missing are %v (%v)", got, err)
		}
	})
}
