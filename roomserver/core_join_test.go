package roomserver

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"testing"

	"weft/internal/eventstore"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/roomserver/api"
)

// sameRoom fails unless two servers hold the same current state and extremities.
func sameRoom(t *testing.T, room id.Room, a, b *node) {
	t.Helper()
	if !maps.Equal(a.current(room), b.current(room)) {
		t.Errorf("%s and %s hold different states:\n%v\n%v", a.name, b.name, a.current(room), b.current(room))
	}
	if !slices.Equal(a.tips(room), b.tips(room)) {
		t.Errorf("%s and %s hold different extremities:\n%v\n%v", a.name, b.name, a.tips(room), b.tips(room))
	}
}

func TestJoinOverFederation(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		for _, v := range []event.RoomVersion{"1", "6", "11", "12"} {
			t.Run("v"+string(v), func(t *testing.T) {
				w := newWorld(t, open)
				a, b := w.node("a"), w.node("b")
				room := a.create(v, alice)
				a.send(room, state(alice, "m.room.topic", "", `{"topic":"x"}`), message(alice, "before"))
				join := b.joinFrom(a, room, bob)
				if join.StreamPos != 1 || join.Flags != 0 {
					t.Errorf("the join is at %d with flags %d", join.StreamPos, join.Flags)
				}
				sameRoom(t, room, a, b)
				row := b.row(room)
				if row.Stub || row.Joined != 2 {
					t.Errorf("the room's row is %+v", row)
				}
				rooms, err := b.store.RoomsOf(context.Background(), bob, eventstore.Join)
				if err != nil || len(rooms) != 1 {
					t.Errorf("bob is in %v, %v", rooms, err)
				}
				// And on: each hears of the other.
				said := b.send(room, message(bob, "hello"))[0]
				a.mustPush("b", said.Event)
				answer := a.send(room, message(alice, "welcome"))[0]
				b.mustPush("a", answer.Event)
				sameRoom(t, room, a, b)
				a.check()
				b.check()
			})
		}
	})
}

func TestJoinRefusesWhatTheRulesForbid(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		w := newWorld(t, open)
		a, b := w.node("a"), w.node("b")
		room := a.create("11", alice)
		join := a.acceptJoin(room, bob)
		ctx := context.Background()
		// The state without the room's beginning.
		sp := newSpool(join.Rules, room)
		for _, e := range a.stateAt(a.stored(join.ID).StateBefore) {
			if e.Type != eventauth.TypeCreate {
				if err := sp.AddState(e.JSON()); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := b.storeJoinedRoom(ctx, join.Rules, room, "a", join, sp); err == nil {
			t.Error("joined a room without a create event")
		}
		// A state in which bob is banned.
		banned := a.forge(room, state(alice, "m.room.member", string(bob), `{"membership":"ban"}`))
		sp = newSpool(join.Rules, room)
		for _, e := range a.stateAt(a.stored(join.ID).StateBefore) {
			if err := sp.AddState(e.JSON()); err != nil {
				t.Fatal(err)
			}
		}
		for _, e := range []*event.Event{banned, join} {
			if err := sp.AddAuth(e.JSON()); err != nil {
				t.Fatal(err)
			}
		}
		if err := sp.AddState(banned.JSON()); err != nil {
			t.Fatal(err)
		}
		if _, err := b.storeJoinedRoom(ctx, join.Rules, room, "a", join, sp); err == nil {
			t.Error("joined a room from which the user is banned")
		}
		if row := b.row(room); !row.Stub {
			t.Error("the room is no stub")
		}
		b.check()
	})
}

func TestRejoinAfterLeaving(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		w := newWorld(t, open)
		a, b := w.node("a"), w.node("b")
		room := a.create("11", alice)
		b.joinFrom(a, room, bob)
		left := b.send(room, state(bob, "m.room.member", string(bob), `{"membership":"leave"}`))[0]
		a.mustPush("b", left.Event)
		missed := a.send(room, state(alice, "m.room.topic", "", `{"topic":"missed"}`), message(alice, "missed"))
		b.joinFrom(a, room, bob)
		sameRoom(t, room, a, b)
		if row := b.row(room); row.Joined != 2 {
			t.Errorf("%d joined", row.Joined)
		}
		// What happened meanwhile can be had as history.
		stored, err := b.Backfill(context.Background(), api.Backfill{Room: room, Before: 100, Limit: 50})
		if err != nil || !stored {
			t.Fatalf("backfill: %v, %v", stored, err)
		}
		for _, e := range missed {
			got := b.stored(e.ID)
			if got == nil || got.StreamPos >= 0 || !got.HasState {
				t.Errorf("%s is stored as %+v", e.Type, got)
			}
		}
		sameRoom(t, room, a, b)
		a.check()
		b.check()
	})
}

// Two users of one server join at the same time: the second join does not hide the first.
func TestTwoJoinsAtOnce(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		w := newWorld(t, open)
		a, b := w.node("a"), w.node("b")
		room := a.create("11", alice)
		first := a.acceptJoin(room, bob)
		second := a.acceptJoin(room, "@bea:b")
		for _, join := range []*event.Event{second, first} {
			if _, err := b.enterWith(a, join); err != nil {
				t.Fatal(err)
			}
		}
		sameRoom(t, room, a, b)
		b.check()
	})
}

func TestMembershipFromOutside(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		w := newWorld(t, open)
		a, b := w.node("a"), w.node("b")
		ctx := context.Background()
		room := a.create("11", alice)
		invite := a.send(room, state(alice, "m.room.member", string(bob), `{"membership":"invite"}`))[0]
		stripped := []json.RawMessage{json.RawMessage(`{"type":"m.room.name","state_key":"","content":{"name":"x"}}`)}
		if _, err := b.storeOutlierMembership(ctx, invite.Rules, room, invite.Event, stripped); err != nil {
			t.Fatal(err)
		}
		row := b.row(room)
		if !row.Stub {
			t.Error("the room is no stub")
		}
		membership, _, err := b.store.Membership(ctx, row.NID, bob)
		if err != nil || membership != eventstore.Invite {
			t.Errorf("bob's membership is %v, %v", membership, err)
		}
		got, err := b.store.InviteState(ctx, row.NID, bob)
		if err != nil || len(got) != 1 {
			t.Errorf("stripped state %s, %v", got, err)
		}
		if _, err := b.trySend(room, message(bob, "x")); err == nil {
			t.Error("sent into a room that the server is not in")
		}
		// alice takes it back, and says so by a transaction.
		leave := a.send(room, state(alice, "m.room.member", string(bob), `{"membership":"leave"}`))[0]
		answer, err := b.ReceiveTransaction(ctx, api.Transaction{Origin: "a", TxnID: "1", PDUs: []json.RawMessage{leave.JSON()}})
		if err != nil || answer[leave.ID] != "" {
			t.Fatalf("%v, %v", answer, err)
		}
		if membership, _, err = b.store.Membership(ctx, row.NID, bob); err != nil || membership != eventstore.Leave {
			t.Errorf("bob's membership is %v, %v", membership, err)
		}
		changes, err := b.store.MembershipChanges(ctx, bob, 0, 100)
		if err != nil || len(changes) != 2 {
			t.Errorf("changes %v, %v", changes, err)
		}
		b.check()
		// Joining later puts the state in place of what was heard.
		b.joinFrom(a, room, bob)
		sameRoom(t, room, a, b)
		b.check()
		// The invite, which was known from outside, has its whole auth chain.
		if len(b.authChain(b.stored(leave.ID).NID)) != len(a.authChain(a.stored(leave.ID).NID)) {
			t.Error("the auth chain of the leave event is cut short")
		}
	})
}

func TestBackfill(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		w := newWorld(t, open)
		a, b := w.node("a"), w.node("b")
		ctx := context.Background()
		room := a.create("11", alice)
		var sent []*eventstore.Event
		for i := range 10 {
			sent = append(sent, a.send(room, message(alice, fmt.Sprint(i)))...)
			if i == 4 {
				sent = append(sent, a.send(room, state(alice, "m.room.topic", "", `{"topic":"x"}`))...)
			}
		}
		b.joinFrom(a, room, bob)
		tips := b.tips(room)
		// Only messages: the state before them is that of the join.
		stored, err := b.Backfill(ctx, api.Backfill{Room: room, Before: 100, Limit: 3})
		if err != nil || !stored {
			t.Fatalf("%v, %v", stored, err)
		}
		if slices.Contains(a.peer.calls, "state_ids") {
			t.Error("the state was asked for though nothing changed it")
		}
		for range 20 {
			if stored, err = b.Backfill(ctx, api.Backfill{Room: room, Before: 0, Limit: 4}); err != nil {
				t.Fatal(err)
			}
			if !stored {
				break
			}
		}
		last := int64(0)
		for _, e := range slices.Backward(sent) {
			got := b.stored(e.ID)
			if got == nil || got.StreamPos >= last {
				t.Fatalf("%s: %+v after %d", e.ID, got, last)
			}
			last = got.StreamPos
			want := make(map[id.Event]bool)
			for _, s := range a.stateAt(e.StateBefore) {
				want[s.ID] = true
			}
			for _, s := range b.stateAt(got.StateBefore) {
				if !want[s.ID] {
					t.Errorf("the state before %s has %s", e.ID, s.Type)
				}
				delete(want, s.ID)
			}
			if len(want) > 0 {
				t.Errorf("the state before %s lacks %v", e.ID, want)
			}
		}
		ends, err := b.store.BackwardExtremities(ctx, b.row(room).NID)
		if err != nil || len(ends) > 0 {
			t.Errorf("backward extremities %v, %v", ends, err)
		}
		if got := b.tips(room); !slices.Equal(got, tips) {
			t.Errorf("backfill moved the extremities to %v", got)
		}
		b.check()
	})
}

func TestFetchEvent(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		w := newWorld(t, open)
		a, b := w.node("a"), w.node("b")
		room := a.create("11", alice)
		old := a.send(room, message(alice, "old"))[0]
		b.joinFrom(a, room, bob)
		n, err := b.FetchEvent(context.Background(), room, old.ID)
		if err != nil || b.stored(old.ID).NID != n || b.stored(old.ID).Flags != eventstore.Outlier {
			t.Errorf("%d, %v", n, err)
		}
		if _, err := b.FetchEvent(context.Background(), room, "$nothing"); err == nil {
			t.Error("an event was found that does not exist")
		}
	})
}

// A room of 10,000 members: joined in bounded memory, and then changed cheaply.
func TestJoinBigRoom(t *testing.T) {
	const members = 10_000
	w := newWorld(t, func() *sqldb.DB { return sqldbtest.Open(t, sqldbtest.SQLiteURL(t)) })
	b := w.node("b")
	rules := rulesOf(t, "11")
	const room id.Room = "!big:a"
	var prev *event.Event
	build := func(sender id.User, typ, key, content string, auth ...*event.Event) *event.Event {
		bld := &event.Builder{Rules: rules, RoomID: room, Sender: sender, Type: typ, StateKey: &key, Content: json.RawMessage(content),
			Depth: 1, OriginServerTS: w.now().UnixMilli()}
		if prev != nil {
			bld.PrevEvents, bld.Depth = []id.Event{prev.ID}, prev.Depth+1
		}
		for _, a := range auth {
			bld.AuthEvents = append(bld.AuthEvents, a.ID)
		}
		ev, err := bld.Build(sender.Server(), testKeyID, keyOf(sender.Server()))
		if err != nil {
			t.Fatal(err)
		}
		prev = ev
		return ev
	}
	create := build(alice, "m.room.create", "", `{"room_version":"11"}`)
	creator := build(alice, "m.room.member", string(alice), `{"membership":"join"}`, create)
	levels := build(alice, "m.room.power_levels", "", fmt.Sprintf(`{"users":{%q:100}}`, alice), create, creator)
	join := build(alice, "m.room.join_rules", "", `{"join_rule":"public"}`, create, creator, levels)
	sp := newSpool(rules, room)
	defer b.closeSpool(sp)
	add := func(ev *event.Event) {
		if err := sp.AddState(ev.JSON()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range members {
		user := id.User(fmt.Sprintf("@user%d:server%d", i, i%300))
		add(build(user, "m.room.member", string(user), `{"membership":"join","displayname":"Somebody with a name of some length"}`, create, levels, join))
	}
	for _, ev := range []*event.Event{join, levels, creator, create} {
		add(ev) // the worst order: all wait for these
	}
	ours := build(bob, "m.room.member", string(bob), `{"membership":"join"}`, create, levels, join)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := b.storeJoinedRoom(context.Background(), rules, room, "a", ours, sp); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if row := b.row(room); row.Joined != members+2 {
		t.Errorf("%d joined", row.Joined)
	}
	if servers, err := b.store.Servers(context.Background(), b.row(room).NID); err != nil || len(servers) != 302 {
		t.Errorf("%d servers, %v", len(servers), err)
	}
	t.Logf("heap %d MB before, %d MB after", before.HeapAlloc>>20, after.HeapAlloc>>20)
	b.send(room, message(bob, "hello"))
	b.check()
}
