package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"weft/internal/eventstore"
	"weft/internal/eventstore/write"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
)

func TestClientTransactions(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("11", alice)
		const day = 24 * hour
		txn := write.Txn{User: alice, Device: "DEV", Scope: "send/m.room.message/" + string(r.id), ID: "m1\x00", Created: 3 * day}
		e := r.put(r.build(alice, "m.room.message", nil, map[string]any{"body": "x"}), option{txn: &txn})
		again := txn
		again.Event = 4711
		other := txn
		second := r.say(alice, "y")
		other.Scope, other.Event, other.Created = "redact", second.NID, 5*day
		w.update(func(ctx context.Context, tx *sqldb.Tx) error {
			existing, err := w.w.PutTxn(ctx, tx, again)
			if existing != e.NID {
				t.Errorf("the second time gives %d, want %d", existing, e.NID)
			}
			if err != nil {
				return err
			}
			existing, err = w.w.PutTxn(ctx, tx, other)
			if existing != 0 {
				t.Errorf("another scope gives %d", existing)
			}
			return err
		})
		for _, c := range []struct {
			user      id.User
			device    id.Device
			scope, id string
			want      nid.Event
		}{
			{alice, "DEV", txn.Scope, txn.ID, e.NID}, {alice, "OTHER", txn.Scope, txn.ID, 0}, {alice, "DEV", txn.Scope, "m2", 0},
			{"@nobody:home", "DEV", txn.Scope, txn.ID, 0},
		} {
			if got, err := w.r.Txn(w.ctx(), c.user, c.device, c.scope, c.id); got != c.want || err != nil {
				t.Errorf("%+v: %d (%v)", c, got, err)
			}
		}
		got, err := w.r.TxnIDs(w.ctx(), alice, "DEV", []nid.Event{e.NID, e.NID - 1, 5000})
		w.ok(err)
		if !maps.Equal(got, map[nid.Event]string{e.NID: txn.ID}) {
			t.Errorf("transaction IDs %v", got)
		}
		if got, err := w.r.TxnIDs(w.ctx(), alice, "OTHER", []nid.Event{e.NID}); err != nil || len(got) != 0 {
			t.Errorf("another device sees %v (%v)", got, err)
		}
		deleted, err := w.w.DeleteTxns(w.ctx(), 4*day)
		w.ok(err)
		if deleted != 1 {
			t.Errorf("%d deleted", deleted)
		}
		for scope, want := range map[string]nid.Event{txn.Scope: 0, "redact": second.NID} {
			if got, err := w.r.Txn(w.ctx(), alice, "DEV", scope, txn.ID); got != want || err != nil {
				t.Errorf("%s after the cleaning: %d (%v)", scope, got, err)
			}
		}
	})
}

func TestStaging(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		a, b := w.newRoom("11", alice), w.newRoom("11", alice)
		stage := func(list ...eventstore.Staged) {
			t.Helper()
			w.update(func(ctx context.Context, tx *sqldb.Tx) error { return w.w.Stage(ctx, tx, list) })
		}
		staged := func(events ...id.Event) eventstore.Staged {
			out := eventstore.Staged{Room: a.nid, Origin: "away", Received: 5}
			for _, e := range events {
				out.Events = append(out.Events, eventstore.StagedEvent{ID: e, JSON: []byte(`{"a":"` + string(e) + `"}`)})
			}
			return out
		}
		other := staged("$4:away")
		other.Room = b.nid
		stage(staged("$1:away", "$2:away"), other)
		stage(staged("$3:away"), staged("$1:away"))
		stage()
		rooms, err := w.r.StagedRooms(w.ctx())
		w.ok(err)
		if !slices.Equal(rooms, []nid.Room{a.nid, b.nid}) {
			t.Errorf("rooms %v", rooms)
		}
		waiting := func(want int64) {
			t.Helper()
			if n, err := w.r.StagedCount(w.ctx(), a.nid); n != want || err != nil {
				t.Errorf("%d wait (%v), want %d", n, err, want)
			}
		}
		waiting(4)
		for most, want := range map[int]eventstore.StagedTotal{
			100: {Rows: 4, Events: 5, Rooms: 2, Oldest: 5},
			1:   {Rows: 1, Events: 2, Rooms: 1, Oldest: 5},
			0:   {},
		} {
			if got, err := w.r.StagedTotal(w.ctx(), most); got != want || err != nil {
				t.Errorf("in all rooms %+v wait (%v), want %+v", got, err, want)
			}
		}
		list := func(after int64, limit int, want string) []eventstore.Staged {
			t.Helper()
			got, err := w.r.StagedEvents(w.ctx(), a.nid, after, limit)
			w.ok(err)
			text, last := "", after
			for _, s := range got {
				if s.Seq <= last || s.Origin != "away" || s.Received != 5 || s.Room != a.nid {
					t.Errorf("staged %+v after %d", s, last)
				}
				last = s.Seq
				for _, e := range s.Events {
					text += string(e.ID[1])
					if string(e.JSON) != `{"a":"`+string(e.ID)+`"}` {
						t.Errorf("%s is %s", e.ID, e.JSON)
					}
				}
				text += " "
			}
			if text != want {
				t.Errorf("staged are %q, want %q", text, want)
			}
			return got
		}
		got := list(0, 10, "12 3 1 ")
		list(0, 1, "12 ")
		list(0, 3, "12 3 ")
		list(got[0].Seq, 10, "3 1 ")
		first, second := got[0], got[1]
		first.Events, second.Events = first.Events[1:], nil
		w.update(func(ctx context.Context, tx *sqldb.Tx) error {
			return w.w.Unstage(ctx, tx, []eventstore.Staged{first, second})
		})
		list(0, 10, "2 1 ")
		waiting(2)
	})
}

func TestInboundTransactions(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.update(func(ctx context.Context, tx *sqldb.Tx) error {
			for i, answer := range []string{`{"pdus":{}}`, `{"other":1}`} { // the first counts
				first, err := w.w.PutInboundTxn(ctx, tx, "away", "t1", 100, []byte(answer))
				if err != nil || first != (i == 0) {
					return fmt.Errorf("answer %d is the first: %v (%w)", i, first, err)
				}
			}
			return nil
		})
		got, ok, err := w.r.InboundTxn(w.ctx(), "away", "t1")
		w.ok(err)
		if !ok || string(got) != `{"pdus":{}}` {
			t.Errorf("the answer is %s, %v", got, ok)
		}
		if _, ok, err := w.r.InboundTxn(w.ctx(), "third", "t1"); ok || err != nil {
			t.Errorf("another server's: %v (%v)", ok, err)
		}
		deleted, err := w.w.DeleteInboundTxns(w.ctx(), 101)
		w.ok(err)
		if deleted != 1 {
			t.Errorf("%d deleted", deleted)
		}
		if _, ok, err := w.r.InboundTxn(w.ctx(), "away", "t1"); ok || err != nil {
			t.Errorf("after the cleaning: %v (%v)", ok, err)
		}
	})
}

func TestPendingRedactions(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.update(func(ctx context.Context, tx *sqldb.Tx) error {
			for _, n := range []nid.Event{7, 5, 7} {
				if err := w.w.AddPendingRedaction(ctx, tx, "$later:x", n); err != nil {
					return err
				}
			}
			return nil
		})
		if got, err := w.r.PendingRedactions(w.ctx(), []id.Event{"$none:x", "$later:x"}); err != nil || len(got) != 1 || !slices.Equal(got["$later:x"], []nid.Event{5, 7}) {
			t.Errorf("pending %v (%v)", got, err)
		}
		w.update(func(ctx context.Context, tx *sqldb.Tx) error { return w.w.DeletePendingRedactions(ctx, tx, "$later:x") })
		if got, err := w.r.PendingRedactions(w.ctx(), []id.Event{"$later:x"}); err != nil || len(got) != 0 {
			t.Errorf("pending %v (%v)", got, err)
		}
	})
}

func TestAliases(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		a, b := w.newRoom("11", alice), w.newRoom("11", alice)
		create := func(alias id.RoomAlias, room nid.Room) error {
			return w.db.Update(w.ctx(), func(tx *sqldb.Tx) error { return w.w.CreateAlias(w.ctx(), tx, alias, room, alice, 1) })
		}
		w.ok(create("#one:home", a.nid))
		w.ok(create("#two:home", a.nid))
		if err := create("#one:home", b.nid); merr.From(err).Status != 409 {
			t.Errorf("a taken alias: %v", err)
		}
		got, err := w.r.Alias(w.ctx(), "#one:home")
		w.ok(err)
		if got != (eventstore.Alias{Alias: "#one:home", Room: a.nid, RoomID: a.id, Creator: alice}) {
			t.Errorf("got %+v", got)
		}
		w.update(func(ctx context.Context, tx *sqldb.Tx) error {
			if err := w.w.MoveAliases(ctx, tx, a.nid, b.nid); err != nil {
				return err
			}
			return w.w.DeleteAlias(ctx, tx, "#one:home")
		})
		if list, err := w.r.Aliases(w.ctx(), b.nid); err != nil || !slices.Equal(list, []id.RoomAlias{"#two:home"}) {
			t.Errorf("aliases %v (%v)", list, err)
		}
		if _, err := w.r.Alias(w.ctx(), "#one:home"); !errors.Is(err, merr.ErrNotFound) {
			t.Errorf("a deleted alias: %v", err)
		}
		err = w.db.Update(w.ctx(), func(tx *sqldb.Tx) error { return w.w.DeleteAlias(w.ctx(), tx, "#one:home") })
		if !errors.Is(err, merr.ErrNotFound) {
			t.Errorf("deleting it again: %v", err)
		}
	})
}

func TestPublicRooms(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		var rooms []*room
		for i := range 5 {
			r := w.newRoom("11", alice)
			for j := range i % 3 {
				r.member([]id.User{bob, carol}[j], "join")
			}
			rooms = append(rooms, r)
		}
		named := rooms[2]
		named.send(alice, "m.room.name", ptr(""), map[string]any{"name": "Named"})
		named.send(alice, "m.room.topic", ptr(""), map[string]any{"topic": 5})
		named.send(alice, "m.room.join_rules", ptr(""), map[string]any{
			"join_rule": "restricted", "allow": []any{map[string]any{"type": "m.room_membership", "room_id": "!space:home"}, map[string]any{"type": "x"}},
		})
		named.send(alice, "m.room.encryption", ptr(""), map[string]any{"algorithm": "m.megolm.v1.aes-sha2"})
		named.visibility("world_readable")
		bridge := eventstore.List{AppService: "irc", Network: "libera"}
		w.update(func(ctx context.Context, tx *sqldb.Tx) error {
			for _, r := range rooms {
				if err := w.w.SetPublished(ctx, tx, r.nid, eventstore.List{}, true); err != nil {
					return err
				}
			}
			if err := w.w.SetPublished(ctx, tx, rooms[0].nid, bridge, true); err != nil {
				return err
			}
			return w.w.SetPublished(ctx, tx, rooms[4].nid, eventstore.List{}, false)
		})
		var got []nid.Room
		var cursor eventstore.PublicCursor
		for {
			page, err := w.r.PublicRooms(w.ctx(), eventstore.List{}, cursor, 2)
			w.ok(err)
			if len(page) == 0 {
				break
			}
			for _, r := range page {
				got = append(got, r.NID)
				cursor = eventstore.PublicCursor{Joined: r.Joined, Room: r.NID}
			}
		}
		if want := []nid.Room{rooms[2].nid, rooms[1].nid, rooms[0].nid, rooms[3].nid}; !slices.Equal(got, want) {
			t.Errorf("listed %v, want %v", got, want)
		}
		for list, want := range map[eventstore.List]int64{{}: 4, bridge: 1, {AppService: "x"}: 0} {
			if n, err := w.r.CountPublicRooms(w.ctx(), list); n != want || err != nil {
				t.Errorf("%v has %d rooms (%v)", list, n, err)
			}
		}
		if ok, err := w.r.Published(w.ctx(), rooms[4].nid, eventstore.List{}); ok || err != nil {
			t.Errorf("taken out, and published: %v (%v)", ok, err)
		}
		summaries, err := w.r.Summaries(w.ctx(), []*eventstore.Room{named.row(), rooms[0].row()})
		w.ok(err)
		s := summaries[0]
		if s.Name != "Named" || s.Topic != "" || s.JoinRule != "restricted" || !slices.Equal(s.AllowedRooms, []id.Room{"!space:home"}) ||
			s.HistoryVisibility != "world_readable" || s.Encryption != "m.megolm.v1.aes-sha2" || s.GuestAccess != "forbidden" {
			t.Errorf("summary %+v", s)
		}
		if s := summaries[1]; s.Name != "" || s.JoinRule != "invite" || s.HistoryVisibility != "shared" {
			t.Errorf("summary of an empty room %+v", s)
		}
	})
}
