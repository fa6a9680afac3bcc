package eventstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"weft/internal/eventstore"
	"weft/internal/eventstore/write"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/statetree"
)

const hour = int64(time.Hour / time.Millisecond)

func (w *world) sweep(now int64) write.SweepResult {
	w.t.Helper()
	res, err := w.w.Sweep(w.ctx(), write.SweepOptions{Now: now, Seed: uint64(now)})
	w.ok(err)
	return res
}

func (w *world) countNodes() (n int) {
	w.t.Helper()
	w.ok(w.db.QueryRow(w.ctx(), `SELECT COUNT(*) FROM state_nodes`).Scan(&n))
	return n
}

// garbage stores a tree that nothing refers to.
func (w *world) garbage(seed int) (statetree.Root, *statetree.Batch) {
	w.t.Helper()
	batch := statetree.NewBatch(nil)
	var changes []statetree.Change
	for i := range 200 {
		changes = append(changes, statetree.Change{Key: statetree.Key{Type: nid.TypeMember, StateKey: nid.StateKey(i + 1000)}, Event: nid.Event(seed*1000 + i + 1)})
	}
	root, err := statetree.Apply(w.ctx(), batch, statetree.Root{}, changes, batch)
	w.ok(err)
	w.update(func(ctx context.Context, tx *sqldb.Tx) error { return w.w.InsertNodes(ctx, tx, batch) })
	return root, batch
}

func TestSweep(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("11", alice)
		for i := range 60 {
			r.send(alice, "m.room.member", ptr(fmt.Sprintf("@u%d:home", i)), map[string]any{"membership": "join"})
		}
		living := w.countNodes()
		_, batch := w.garbage(1)
		all := w.countNodes()
		if all != living+batch.Len() {
			t.Fatalf("%d nodes, want %d and %d", all, living, batch.Len())
		}
		// Written in the epoch before the first sweep's: spared once.
		if res := w.sweep(10 * hour); res.Skipped || res.Deleted != 0 || res.Visited == 0 {
			t.Errorf("the first sweep: %+v", res)
		}
		if res := w.sweep(10*hour + 1); !res.Skipped {
			t.Errorf("a sweep too early: %+v", res)
		}
		res := w.sweep(20 * hour)
		if left := w.countNodes(); left < living || left > living+2 || res.Deleted != int64(all-left) {
			t.Errorf("%d nodes left, %d are in use; %+v", left, living, res)
		}
		fresh := w.fresh()
		w.ok(fresh.Verify(w.ctx()))
		for i := range 3 { // and nothing in use goes later
			w.sweep(int64(30+10*i) * hour)
		}
		w.ok(w.fresh().Verify(w.ctx()))
	})
}

// A node that a commit writes again, although it is there and dead, must stay.
func TestSweepSparesWhatIsWrittenAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		_, again := w.garbage(1)
		w.garbage(2)
		w.sweep(10 * hour)
		w.update(func(ctx context.Context, tx *sqldb.Tx) error { return w.w.InsertNodes(ctx, tx, again) })
		w.sweep(20 * hour)
		reader := w.fresh()
		if _, err := reader.Nodes(w.ctx(), again.Hashes()); err != nil {
			t.Errorf("written again, and gone: %v", err)
		}
		if n := w.countNodes(); n < again.Len() || n > again.Len()+2 {
			t.Errorf("%d nodes left, want %d", n, again.Len())
		}
		w.sweep(30 * hour)
		w.sweep(40 * hour)
		if n := w.countNodes(); n > 2 {
			t.Errorf("%d nodes left at the end", n)
		}
	})
}

func TestVerifyFindsDamage(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("11", alice)
		e := r.say(alice, "x")
		for i := range 40 {
			r.send(alice, "m.room.member", ptr(fmt.Sprintf("@u%d:home", i)), map[string]any{"membership": "join"})
		}
		w.ok(w.r.Verify(w.ctx()))
		for name, damage := range map[string]string{
			"counts":      `UPDATE rooms SET joined = joined + 1`,
			"servers":     `DELETE FROM room_servers`,
			"members":     `DELETE FROM room_members WHERE event_nid = (SELECT MAX(event_nid) FROM room_members)`,
			"extremity":   fmt.Sprintf(`UPDATE events SET flags = %d WHERE event_nid = (SELECT MAX(event_nid) FROM events)`, eventstore.SoftFailed),
			"outlier":     fmt.Sprintf(`UPDATE events SET flags = %d WHERE event_nid = %d`, eventstore.Outlier, e.NID),
			"auth events": fmt.Sprintf(`UPDATE events SET auth_nids = (SELECT auth_nids FROM events WHERE event_nid = (SELECT MIN(event_nid) FROM events)) WHERE event_nid = %d`, e.NID),
			"state nodes": `DELETE FROM state_nodes WHERE hash = (SELECT MIN(hash) FROM state_nodes)`,
		} {
			undo := fmt.Errorf("undo")
			err := w.db.Update(w.ctx(), func(tx *sqldb.Tx) error {
				if _, err := tx.Exec(w.ctx(), damage); err != nil {
					return err
				}
				if err := w.fresh().Uncommitted(tx).Verify(w.ctx()); err == nil {
					t.Errorf("%s: not found", name)
				}
				return undo
			})
			if err == nil {
				t.Fatal("not undone")
			}
		}
	})
}
