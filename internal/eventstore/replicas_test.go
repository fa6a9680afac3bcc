package eventstore_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"weft/internal/eventstore"
	"weft/internal/eventstore/write"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/internal/statetree"
	"weft/matrix/event"
	"weft/matrix/id"
)

// replicated is a room on a database with a standby.
type replicated struct {
	*room
	pg    *sqldbtest.Replicated
	clock atomic.Int64 // milliseconds
	want  []*eventstore.Event
	// late is an auth event of outlier that comes later, redacted is by what an event is redacted.
	late     *event.Event
	outlier  *eventstore.Event
	redacted map[nid.Event]nid.Event
}

func newReplicated(t *testing.T) *replicated {
	r := &replicated{pg: sqldbtest.NewReplicated(t), redacted: map[nid.Event]nid.Event{}}
	primary, standby := r.pg.URLs()
	db, err := sqldb.Open(t.Context(), primary, sqldb.Options{Now: func() time.Time { return time.UnixMilli(r.clock.Load()) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	w := newWorld(t, db)
	r.room = w.newRoom("11", alice)
	r.want = append(r.want, r.last)
	r.write(60)
	r.late = r.build(alice, "m.room.name", ptr(""), map[string]any{"name": "late"})
	outlier, err := (&event.Builder{
		Rules: r.late.Rules, RoomID: r.id, Sender: dave, Type: "m.room.topic", StateKey: ptr("away"), Content: []byte(`{"topic":"x"}`),
		PrevEvents: []id.Event{}, AuthEvents: []id.Event{r.want[0].ID, r.late.ID}, Depth: 1, OriginServerTS: 1,
	}).Build(dave.Server(), "ed25519:1", r.key)
	r.ok(err)
	r.outlier = r.put(outlier, option{flags: eventstore.Outlier})
	r.pg.CatchUp()
	r.ok(db.UseReplicas(t.Context(), []string{standby}))
	return r
}

// write makes some state events of types and state keys of their own, and as many messages.
func (r *replicated) write(n int) {
	r.t.Helper()
	for range n {
		name := fmt.Sprint(len(r.want))
		r.want = append(r.want, r.send(alice, "type."+name, ptr("key."+name), map[string]any{"n": name}), r.say(alice, name))
	}
}

func (r *replicated) redact(e *eventstore.Event) {
	r.t.Helper()
	by := r.send(alice, "m.room.redaction", nil, map[string]any{"redacts": e.ID})
	r.update(func(ctx context.Context, tx *sqldb.Tx) error { return r.w.SetRedacted(ctx, tx, e.NID, by.NID) })
	r.redacted[e.NID] = by.NID
}

// reader gives a reader with empty caches that takes all events that are there now for settled.
func (r *replicated) reader() *eventstore.Reader {
	r.t.Helper()
	reader := r.fresh()
	for i := range 3 {
		_, err := reader.Unredacted(r.ctx(), []nid.Event{r.want[len(r.want)-1-i].NID})
		r.ok(err)
		r.clock.Add(1000)
	}
	return reader
}

// check reads everything.
func (r *replicated) check(reader *eventstore.Reader) {
	r.t.Helper()
	var nids []nid.Event
	for _, e := range append(slices.Clone(r.want), r.outlier) {
		nids = append(nids, e.NID)
	}
	got, err := reader.Events(r.ctx(), nids)
	r.ok(err)
	for i, e := range append(slices.Clone(r.want), r.outlier) {
		want := e.Event
		if r.redacted[e.NID] != 0 {
			want, err = e.Redact()
			r.ok(err)
		}
		if g := got[i]; !bytes.Equal(g.JSON(), want.JSON()) || g.RedactedBy != r.redacted[e.NID] || g.StreamPos != e.StreamPos ||
			!slices.Equal(g.AuthNIDs, slices.Sorted(slices.Values(e.AuthNIDs))) {
			r.t.Errorf("event %d: got %+v %s, want %+v %s", i, g, g.JSON(), e, want.JSON())
		}
	}
	found := map[statetree.Key]nid.Event{}
	r.ok(reader.State(r.state).Walk(r.ctx(), statetree.Key{}, func(e statetree.Entry) error {
		found[e.Key] = e.Event
		return nil
	}))
	var keys []statetree.Key
	for _, e := range r.want {
		if e.IsState {
			keys = append(keys, e.Key())
			if found[e.Key()] != e.NID {
				r.t.Errorf("the state has %d for %s %s, not %d", found[e.Key()], e.Type, e.StateKey, e.NID)
			}
		}
	}
	texts, err := reader.KeyTexts(r.ctx(), keys)
	r.ok(err)
	for _, e := range r.want {
		if text := texts[e.Key()]; e.IsState && (text.Type != e.Type || text.StateKey != e.StateKey) {
			r.t.Errorf("%d is %v, want %s %s", e.NID, text, e.Type, e.StateKey)
		}
	}
}

// during gives what replicas were asked by a function.
func (r *replicated) during(fn func()) (d sqldb.ReplicaStats) {
	before := r.db.ReplicaStats()
	fn()
	d = r.db.ReplicaStats()
	d.Found, d.Missed, d.Failed, d.Passed = d.Found-before.Found, d.Missed-before.Missed, d.Failed-before.Failed, d.Passed-before.Passed
	return d
}

func TestReplicaMayBeBehind(t *testing.T) {
	r := newReplicated(t)
	// A reader that has just begun takes nothing for settled: all of the events come from the primary.
	if d := r.during(func() { _, err := r.fresh().Events(r.ctx(), []nid.Event{r.want[3].NID}); r.ok(err) }); d.Found+d.Missed+d.Failed+d.Passed != 0 {
		t.Errorf("%+v", d)
	}
	reader := r.reader()
	if d := r.during(func() { r.check(reader) }); d.Found < 4 || d.Missed+d.Failed+d.Passed != 0 {
		t.Errorf("with all of it there: %+v", d)
	}
	if d := r.during(func() { r.check(reader) }); d.Found != 0 {
		t.Errorf("from the caches: %+v", d)
	}

	r.pg.Pause()
	r.redact(r.want[4])
	r.completeOutlier()
	r.write(60)
	reader.Forget(r.outlier.NID) // as on the process that completed it
	r.check(reader)              // knows better than to ask for new events
	reader = r.reader()
	if d := r.during(func() { r.check(reader) }); d.Found+d.Missed == 0 || d.Missed == 0 || d.Failed != 0 {
		t.Errorf("behind: %+v", d)
	}
	r.clock.Add(1000)

	r.pg.Stop()
	reader = r.reader()
	if d := r.during(func() { r.check(reader) }); d.Found != 0 || d.Used != 0 {
		t.Errorf("stopped: %+v", d)
	}
	r.pg.Continue() // it replays again
	r.clock.Add(60_000)
	sqldbtest.Until(t, "the replica is used again", func() bool {
		_, err := r.fresh().Types(r.ctx(), []nid.Type{1})
		r.ok(err)
		return r.db.ReplicaStats().Used == 1
	})
	reader = r.reader()
	if d := r.during(func() { r.check(reader) }); d.Found < 4 || d.Missed+d.Failed+d.Passed != 0 {
		t.Errorf("used again: %+v", d)
	}
	r.ok(r.r.Verify(r.ctx()))
}

// completeOutlier gives the outlier the rest of its auth events.
func (r *replicated) completeOutlier() {
	r.t.Helper()
	r.want = append(r.want, r.put(r.late, option{}))
	r.outlier.AuthNIDs = append(r.outlier.AuthNIDs, r.last.NID)
	r.update(func(ctx context.Context, tx *sqldb.Tx) error { return r.w.SetAuth(ctx, tx, r.outlier) })
}

// TestReplicaHasAnotherEvent: where a number means another event on a replica, the replica is not believed.
func TestReplicaHasAnotherEvent(t *testing.T) {
	r := newReplicated(t)
	reader := r.reader()
	r.pg.Pause()
	e, other := r.want[6], r.build(alice, "m.room.message", nil, map[string]any{"body": "other"})
	r.update(func(ctx context.Context, tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE events SET event_id = $2, json = $3 WHERE event_nid = $1`,
			int64(e.NID), eventstore.EncodeEventID(other.ID), r.r.Codec().Encode(other.JSON()))
		return err
	})
	var got []*event.Event
	d := r.during(func() {
		var err error
		got, err = reader.Unredacted(r.ctx(), []nid.Event{e.NID})
		r.ok(err)
	})
	if d.Found != 1 {
		t.Errorf("%+v", d)
	}
	if got[0].ID != other.ID || !bytes.Equal(got[0].JSON(), other.JSON()) {
		t.Errorf("got %s %s, want %s %s", got[0].ID, got[0].JSON(), other.ID, other.JSON())
	}
}

// TestSnapshotsAskThePrimary: so does what is not committed, and who checks or sweeps.
func TestSnapshotsAskThePrimary(t *testing.T) {
	r := newReplicated(t)
	for name, read := range map[string]func(*eventstore.Reader) error{
		"snapshot": func(f *eventstore.Reader) error {
			return r.db.View(r.ctx(), func(tx *sqldb.Tx) error { r.check(f.Snapshot(tx)); return nil })
		},
		"uncommitted": func(f *eventstore.Reader) error {
			return r.db.Update(r.ctx(), func(tx *sqldb.Tx) error { r.check(f.Uncommitted(tx)); return nil })
		},
		"primary": func(f *eventstore.Reader) error { r.check(f.Primary()); return nil },
		"verify":  func(f *eventstore.Reader) error { return f.Verify(r.ctx()) },
		"sweep": func(f *eventstore.Reader) error {
			w, err := write.New(r.ctx(), r.db, f)
			if err != nil {
				return err
			}
			_, err = w.Sweep(r.ctx(), write.SweepOptions{Now: time.Now().UnixMilli()})
			return err
		},
	} {
		reader := r.reader()
		if d := r.during(func() { r.ok(read(reader)) }); d.Found+d.Missed+d.Failed+d.Passed != 0 {
			t.Errorf("%s: %+v", name, d)
		}
	}
}
