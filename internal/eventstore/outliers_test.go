package eventstore_test

import (
	"context"
	"fmt"
	"testing"

	"weft/internal/eventstore"
	"weft/internal/eventstore/write"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/statetree"
	"weft/matrix/id"
)

// outlier stores a state event without a place, that names others among its auth events.
func (r *room) outlier(key string, auth ...*eventstore.Event) *eventstore.Event {
	r.t.Helper()
	ev := r.build(alice, "org.test", ptr(key), map[string]any{})
	ev.AuthEvents = nil
	for _, a := range auth {
		ev.AuthEvents = append(ev.AuthEvents, a.ID)
	}
	return r.put(ev, option{flags: eventstore.Outlier})
}

func (r *room) has(e *eventstore.Event) bool {
	r.t.Helper()
	found, err := r.fresh().EventsByID(r.ctx(), []id.Event{e.ID})
	r.ok(err)
	cached, err := r.r.EventsByID(r.ctx(), []id.Event{e.ID})
	r.ok(err)
	if (found[e.ID] == nil) != (cached[e.ID] == nil) {
		r.t.Errorf("%s: the cache does not agree with the tables", e.StateKey)
	}
	return found[e.ID] != nil
}

func (w *world) unreachable(nodes, outliers int) {
	w.t.Helper()
	n, o, err := w.r.Unreachable(w.ctx())
	w.ok(err)
	if n != nodes || o != outliers {
		w.t.Errorf("%d nodes and %d outliers are unreachable, want %d and %d", n, o, nodes, outliers)
	}
}

func TestSweepOfOutliers(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("11", alice)
		lost := r.outlier("lost")
		base := r.outlier("base")
		user := r.outlier("user", base)
		batch := statetree.NewBatch(w.r)
		before, err := statetree.Apply(w.ctx(), batch, r.state, []statetree.Change{{Key: user.Key(), Event: user.NID}}, batch)
		w.ok(err)
		w.update(func(ctx context.Context, tx *sqldb.Tx) error { return w.w.InsertNodes(ctx, tx, batch) })
		r.put(r.build(alice, "m.room.message", nil, map[string]any{"body": "x"}), option{before: &before})
		named := r.outlier("named by an event")
		auth := r.build(alice, "m.room.message", nil, map[string]any{"body": "y"})
		auth.AuthEvents = append(auth.AuthEvents, named.ID)
		r.put(auth, option{})
		spared, under := r.outlier("spared"), r.outlier("under")
		chain := r.outlier("chain", spared)
		invite := r.outlier("invite")
		w.update(func(ctx context.Context, tx *sqldb.Tx) error {
			_, err := w.w.SetMembers(ctx, tx, r.nid, []write.MemberChange{{User: bob, UserNID: nid.StateKey(1000), Membership: eventstore.Invite, Event: invite.NID, StreamPos: 99, Local: true}})
			return err
		})
		w.unreachable(0, 4)

		now := int64(1)
		step := func(what string, deleted int64, here ...*eventstore.Event) {
			t.Helper()
			now++
			res := w.sweep(now * 10 * hour)
			if res.Skipped || res.Outliers != deleted {
				t.Errorf("%s: %+v, want %d outliers deleted", what, res, deleted)
			}
			for _, e := range here {
				if !r.has(e) {
					t.Errorf("%s: %s is gone", what, e.StateKey)
				}
			}
		}
		used := []*eventstore.Event{base, user, named, invite}
		step("first", 0, append(used, lost, spared, under, chain)...)
		w.ok(w.w.Spare(w.ctx(), []nid.Event{chain.NID})) // and what it names
		late := r.outlier("late", under)
		step("second", 1, append(used, spared, under, chain, late)...)
		if r.has(lost) {
			t.Error("what nobody refers to is still here")
		}
		step("third", 4, used...)
		step("fourth", 0, used...)
		w.unreachable(0, 0)
		// It can come again.
		again := r.outlier("lost")
		if !r.has(again) {
			t.Error("it cannot be stored again")
		}
	})
}

// More outliers than a sweep looks at are looked at by several.
func TestSweepOfManyOutliers(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("11", alice)
		for i := range 30 {
			r.outlier(fmt.Sprint("o", i))
		}
		// A chain that is in use, longer than a sweep looks at.
		chain := []*eventstore.Event{r.outlier("c0")}
		for i := range 30 {
			chain = append(chain, r.outlier(fmt.Sprint("c", i+1), chain[i]))
		}
		last := r.build(alice, "m.room.message", nil, map[string]any{"body": "x"})
		last.AuthEvents = append(last.AuthEvents, chain[30].ID)
		r.put(last, option{})
		removed := int64(0)
		for i := range int64(60) {
			res, err := w.w.Sweep(w.ctx(), write.SweepOptions{Now: (1000 + 10*i) * hour, Seed: uint64(i), MaxOutliers: 10})
			w.ok(err)
			removed += res.Outliers
		}
		if removed < 20 {
			t.Errorf("%d of 30 were removed", removed)
		}
		for _, e := range chain {
			if !r.has(e) {
				t.Errorf("%s is gone, and in use", e.StateKey)
			}
		}
	})
}
