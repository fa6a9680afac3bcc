package eventstore_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"testing"

	"weft/internal/eventstore"
	"weft/internal/eventstore/write"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/statetree"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
)

func TestFixedTypesAreThoseOfTheMigration(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		want := nid.FixedTypes()
		got, err := w.r.Types(w.ctx(), slices.Collect(maps.Keys(want)))
		w.ok(err)
		if !maps.Equal(got, want) {
			t.Errorf("the migration has %v, the package nid %v", got, want)
		}
		keys, err := w.r.StateKeys(w.ctx(), []nid.StateKey{nid.EmptyStateKey})
		w.ok(err)
		if text, ok := keys[nid.EmptyStateKey]; !ok || text != "" {
			t.Errorf("state key 1 is %q, %v", text, ok)
		}
	})
}

func TestEventRoundTrip(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		for _, version := range event.Versions() {
			r := w.newRoom(version, alice)
			sent := []*eventstore.Event{
				r.last, r.say(alice, "hello"), r.send(alice, "m.room.name", ptr(""), map[string]any{"name": "a\x00b"}),
				r.send(alice, "x\x00y", ptr("z\x00"), map[string]any{}),
			}
			reader := w.fresh()
			for range 2 { // the second time from the cache
				for _, want := range sent {
					got, err := reader.EventByID(w.ctx(), want.ID)
					w.ok(err)
					if !bytes.Equal(got.JSON(), want.JSON()) || got.ID != want.ID || got.RoomID != r.id || got.Rules.Version != version {
						t.Errorf("version %s: got %s %s, want %s %s", version, got.ID, got.JSON(), want.ID, want.JSON())
					}
					if got.NID != want.NID || got.RoomNID != r.nid || got.TypeNID != want.TypeNID || got.StateKeyNID != want.StateKeyNID ||
						got.StreamPos != want.StreamPos || got.StateBefore != want.StateBefore || !got.HasState || got.Flags != 0 ||
						!slices.Equal(got.AuthNIDs, slices.Sorted(slices.Values(want.AuthNIDs))) {
						t.Errorf("version %s: got %+v, want %+v", version, got, want)
					}
				}
			}
		}
		w.ok(w.r.Verify(w.ctx()))
	})
}

func TestEventsInBatches(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("11", alice)
		var nids []nid.Event
		var want []id.Event
		for range 20 {
			e := r.say(alice, "x")
			nids, want = append(nids, e.NID), append(want, e.ID)
		}
		nids, want = append(nids, nids[3]), append(want, want[3]) // twice
		for len(nids) < 1200 {
			nids, want = append(nids, nids[:20]...), append(want, want[:20]...)
		}
		reader := w.fresh()
		events, err := reader.Events(w.ctx(), nids)
		w.ok(err)
		if !slices.Equal(ids(events), want) {
			t.Error("the events are not in the order of the numbers")
		}
		got, err := reader.EventIDs(w.ctx(), nids)
		w.ok(err)
		if !slices.Equal(got, want) {
			t.Error("the IDs are not in the order of the numbers")
		}
		byID, err := reader.EventsByID(w.ctx(), append(want[:20:20], "$unknown", "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"))
		w.ok(err)
		if len(byID) != 20 || byID[want[7]].NID != nids[7] {
			t.Errorf("%d events by ID", len(byID))
		}
		if _, err := reader.Events(w.ctx(), []nid.Event{nids[0], 999_999}); err == nil {
			t.Error("an unknown number is no error")
		}
		if _, err := reader.EventByID(w.ctx(), "$unknown"); !errors.Is(err, merr.ErrNotFound) {
			t.Errorf("an unknown ID: %v", err)
		}
		if list, err := reader.Events(w.ctx(), nil); err != nil || list != nil {
			t.Errorf("no numbers: %v, %v", list, err)
		}
	})
}

func TestWhatChangesIsReadAfresh(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("11", alice)
		out := r.put(r.build(alice, "m.room.message", nil, map[string]any{"body": "secret"}), option{flags: eventstore.Outlier})
		get := func() *eventstore.Event {
			t.Helper()
			e, err := w.r.EventByID(w.ctx(), out.ID)
			w.ok(err)
			return e
		}
		if e := get(); e.Flags != eventstore.Outlier || e.StreamPos != 0 || e.HasState || e.Visible() {
			t.Errorf("as an outlier: %+v", e)
		}
		redaction := r.send(alice, "m.room.redaction", nil, map[string]any{"redacts": out.ID})
		placed := *out
		placed.Flags, placed.StreamPos, placed.HasState, placed.StateBefore = eventstore.SoftFailed, 77, true, r.state
		w.update(func(ctx context.Context, tx *sqldb.Tx) error {
			return w.w.PlaceEvents(ctx, tx, []*eventstore.Event{&placed})
		})
		if e := get(); e.Flags != eventstore.SoftFailed || e.StreamPos != 77 || !e.HasState || e.StateBefore != r.state || e.Visible() {
			t.Errorf("placed: %+v", e)
		}
		w.update(func(ctx context.Context, tx *sqldb.Tx) error {
			again := placed
			again.Flags = eventstore.SendOut
			if err := w.w.PlaceEvents(ctx, tx, []*eventstore.Event{&again}); err != nil {
				return err
			}
			if err := w.w.SetRedacted(ctx, tx, out.NID, redaction.NID); err != nil {
				return err
			}
			return w.w.SetRedacted(ctx, tx, out.NID, 12345) // too late
		})
		for range 2 {
			e := get()
			if e.Flags != eventstore.SendOut || !e.Visible() || e.RedactedBy != redaction.NID || string(e.Content()) != "{}" || e.ID != out.ID {
				t.Errorf("redacted: %+v %s", e, e.JSON())
			}
		}
		whole, err := w.r.Unredacted(w.ctx(), []nid.Event{out.NID})
		w.ok(err)
		if !bytes.Contains(whole[0].JSON(), []byte("secret")) {
			t.Errorf("unredacted: %s", whole[0].JSON())
		}
	})
}

func TestRolledBackRowsReachNoCache(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("11", alice)
		e := *r.last
		e.Event = r.build(alice, "m.room.message", nil, map[string]any{"body": "never"})
		e.TypeNID, e.StateKeyNID, e.StreamPos = nid.TypeMessage, 0, 99
		var err error
		e.NID, err = w.w.EventNIDs(w.ctx(), 1, 0)
		w.ok(err)
		undo := errors.New("undo")
		err = w.db.Update(w.ctx(), func(tx *sqldb.Tx) error {
			if err := w.w.InsertEvents(w.ctx(), tx, []write.Row{w.w.Row(&e, eventstore.Parents{})}); err != nil {
				return err
			}
			got, err := w.r.Uncommitted(tx).EventByID(w.ctx(), e.ID)
			if err != nil {
				return err
			}
			if got.NID != e.NID {
				t.Errorf("inside: %d, want %d", got.NID, e.NID)
			}
			return undo
		})
		if !errors.Is(err, undo) {
			t.Fatal(err)
		}
		if _, err := w.r.EventByID(w.ctx(), e.ID); !errors.Is(err, merr.ErrNotFound) {
			t.Errorf("after the rollback: %v", err)
		}
		if _, err := w.r.Event(w.ctx(), e.NID); err == nil {
			t.Error("after the rollback the number still leads to the event")
		}
	})
}

func TestAuthChain(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("10", alice)
		join := r.last
		create, err := w.r.State(r.state).Get(w.ctx(), "m.room.create", "")
		w.ok(err)
		power := r.send(alice, "m.room.power_levels", ptr(""), map[string]any{"users": map[string]any{string(alice): 100}})
		again := r.member(alice, "join")
		msg := r.say(alice, "x")
		want := map[nid.Event][]nid.Event{
			create.NID: {}, join.NID: {create.NID}, power.NID: {create.NID, join.NID}, again.NID: {create.NID, join.NID, power.NID},
			msg.NID: {create.NID, join.NID, power.NID, again.NID},
		}
		for e, chain := range want {
			got := []nid.Event{}
			w.ok(w.fresh().AuthChain(w.ctx(), []nid.Event{e}, func(n nid.Event) error { got = append(got, n); return nil }))
			if slices.Sort(got); !slices.Equal(got, chain) {
				t.Errorf("the chain of %d is %v, want %v", e, got, chain)
			}
		}
		edges, err := w.r.AuthEdges(w.ctx(), []nid.Event{msg.NID, 4242})
		w.ok(err)
		if e := edges[msg.NID]; len(edges) != 1 || e.Depth != msg.Depth || !slices.Equal(e.Auth, []nid.Event{create.NID, power.NID, again.NID}) {
			t.Errorf("edges %v", edges)
		}
		stop := errors.New("enough")
		if err := w.r.AuthChain(w.ctx(), []nid.Event{msg.NID}, func(nid.Event) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("got %v", err)
		}
	})
}

func TestState(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("12", alice)
		r.member(bob, "join")
		before := r.state
		name := r.send(alice, "m.room.name", ptr(""), map[string]any{"name": "one"})
		reader := w.fresh()
		s := reader.State(before)
		if e, err := s.Get(w.ctx(), "m.room.name", ""); e != nil || err != nil {
			t.Errorf("before: %v, %v", e, err)
		}
		got, err := reader.EventByID(w.ctx(), name.ID)
		w.ok(err)
		after, err := reader.StateAfter(got)
		w.ok(err)
		e, err := after.Get(w.ctx(), "m.room.name", "")
		w.ok(err)
		if e == nil || e.ID != name.ID {
			t.Errorf("after: %v", e)
		}
		root, err := after.Root(w.ctx(), statetree.NewBatch(reader))
		w.ok(err)
		if root != r.state {
			t.Errorf("the root after is %s, want %s", root, r.state)
		}
		// The view with a change on top lists the same as the tree with it.
		want, err := reader.State(r.state).All(w.ctx())
		w.ok(err)
		all, err := after.All(w.ctx())
		w.ok(err)
		if !slices.Equal(all, want) {
			t.Errorf("after lists %v, want %v", all, want)
		}
		var types []string
		w.ok(after.List(w.ctx(), func(e *eventstore.Event) error { types = append(types, e.Type+" "+e.StateKey); return nil },
			"m.room.member", "m.room.name", "m.room.name", "never.seen"))
		slices.Sort(types[:2])
		if !slices.Equal(types, []string{"m.room.member @alice:home", "m.room.member @bob:home", "m.room.name "}) {
			t.Errorf("listed %q", types)
		}
		n := 0
		w.ok(after.List(w.ctx(), func(*eventstore.Event) error { n++; return statetree.Stop }))
		if n != 1 {
			t.Errorf("%d events before the stop", n)
		}
		many, err := after.GetMany(w.ctx(), []eventauth.Key{{Type: "m.room.name"}, {Type: "m.room.topic"}, {Type: "m.room.member", StateKey: string(bob)}})
		w.ok(err)
		if len(many) != 2 || many[eventauth.Key{Type: "m.room.name"}].ID != name.ID {
			t.Errorf("many: %v", many)
		}
		outlier := r.put(r.build(alice, "m.room.topic", ptr(""), map[string]any{}), option{flags: eventstore.Outlier})
		if _, err := reader.StateAfter(outlier); !errors.Is(err, merr.ErrNotFound) {
			t.Errorf("the state at an outlier: %v", err)
		}
		rejected := r.put(r.build(bob, "m.room.name", ptr(""), map[string]any{"name": "two"}), option{flags: eventstore.Rejected})
		if s, err := reader.StateAfter(rejected); err != nil {
			t.Error(err)
		} else if n, err := s.NID(w.ctx(), "m.room.name", ""); err != nil || n != name.NID {
			t.Errorf("after a rejected event: %d (%v), want %d", n, err, name.NID)
		}
	})
}

func TestKeys(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		keys := []eventauth.Key{{Type: "m.room.create"}, {Type: "new", StateKey: "a"}, {Type: "m.room.member", StateKey: "@x:y"}, {Type: "m.room.create"}}
		before, err := w.r.Keys(w.ctx(), keys)
		w.ok(err)
		if !slices.Equal(before, []statetree.Key{{Type: nid.TypeCreate, StateKey: nid.EmptyStateKey}}) {
			t.Errorf("before: %v", before)
		}
		m, err := w.w.InternKeys(w.ctx(), keys)
		w.ok(err)
		again, err := w.w.InternKeys(w.ctx(), keys)
		w.ok(err)
		if len(m) != 3 || !maps.Equal(m, again) {
			t.Errorf("interned %v and then %v", m, again)
		}
		texts, err := w.fresh().KeyTexts(w.ctx(), slices.Collect(maps.Values(m)))
		w.ok(err)
		for k, p := range m {
			if texts[p] != k {
				t.Errorf("%v stands for %v, want %v", p, texts[p], k)
			}
		}
		if p := m[keys[1]]; p.Type < nid.FirstFreeType || p.StateKey < nid.FirstFreeStateKey {
			t.Errorf("a new key has the numbers %v", p)
		}
	})
}

// A verdict holds once the event has its place, and not before.
func TestJudged(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("11", alice)
		good := r.send(alice, "org.test", ptr("good"), map[string]any{"body": "secret"})
		bad := r.put(r.build(alice, "org.test", ptr("bad"), map[string]any{}), option{flags: eventstore.Rejected})
		out := r.put(r.build(alice, "org.test", ptr("out"), map[string]any{}), option{flags: eventstore.Outlier | eventstore.Rejected})
		check := func(want map[*eventstore.Event]bool) {
			t.Helper()
			for _, reader := range []*eventstore.Reader{w.r, w.r, r.fresh()} {
				var nids []nid.Event
				var ids []id.Event
				byNID := make(map[nid.Event]bool)
				for e, rejected := range want {
					nids, ids, byNID[e.NID] = append(nids, e.NID), append(ids, e.ID), rejected
				}
				list, err := reader.Judged(w.ctx(), nids)
				w.ok(err)
				more, err := reader.JudgedByID(w.ctx(), append(ids, "$nobody:has.it"))
				w.ok(err)
				if len(list) != len(want) || len(more) != len(want) {
					t.Fatalf("%d and %d events, want %d", len(list), len(more), len(want))
				}
				for i, e := range append(list, more...) {
					if e.Rejected != byNID[e.NID] || i < len(nids) && e.NID != nids[i] {
						t.Errorf("%s: %+v", e.StateKey, e)
					}
				}
			}
		}
		check(map[*eventstore.Event]bool{good: false, bad: true, out: true})
		placed := *out
		placed.Flags, placed.StreamPos, placed.HasState, placed.StateBefore = 0, 77, true, r.state
		w.update(func(ctx context.Context, tx *sqldb.Tx) error {
			if err := w.w.PlaceEvents(ctx, tx, []*eventstore.Event{&placed}); err != nil {
				return err
			}
			return w.w.SetRedacted(ctx, tx, good.NID, placed.NID)
		})
		check(map[*eventstore.Event]bool{good: false, bad: true, out: false})
		list, err := w.r.Judged(w.ctx(), []nid.Event{good.NID})
		w.ok(err)
		if !bytes.Contains(list[0].JSON(), []byte("secret")) {
			t.Errorf("the redacted event is %s", list[0].JSON())
		}
		if _, err := w.r.Judged(w.ctx(), []nid.Event{1 << 40}); err == nil {
			t.Error("a number that leads nowhere is no error")
		}
	})
}

// Two processes take numbers in blocks. An event whose auth events the other one stored has a higher number
// than they all the same.
func TestEventNumbersFollowAuthEvents(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		other, err := write.New(w.ctx(), w.db, w.fresh())
		w.ok(err)
		var last nid.Event
		for i := range 20 {
			by := []*write.Writer{w.w, other}[i%2]
			n, err := by.EventNIDs(w.ctx(), 3, last)
			w.ok(err)
			if n <= last {
				t.Fatalf("number %d after %d", n, last)
			}
			last = n + 2
		}
	})
}

// An event that was stored before its auth events breaks the order of numbers. The room says up to where, and
// what was computed before is refused.
func TestCompletedEventsAreUnordered(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("12", alice)
		first := r.put(r.build(alice, "org.test", ptr("1"), map[string]any{}), option{})
		second := r.put(r.build(alice, "org.test", ptr("2"), map[string]any{}), option{})
		late := *first
		before := r.row()
		late.AuthNIDs = []nid.Event{late.NID - 1, second.NID}
		complete := func() {
			w.update(func(ctx context.Context, tx *sqldb.Tx) error { return w.w.SetAuth(ctx, tx, &late) })
		}
		complete()
		after := r.row()
		if after.Unordered != second.NID || after.Revision != before.Revision+1 {
			t.Fatalf("up to %d, revision %d after %d", after.Unordered, after.Revision, before.Revision)
		}
		late.AuthNIDs = late.AuthNIDs[:1]
		complete()
		if again := r.row(); again.Unordered != after.Unordered || again.Revision != after.Revision {
			t.Fatalf("what is in order changed the room: %+v", again)
		}
	})
}
