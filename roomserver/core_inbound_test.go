package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"weft/internal/eventstore"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

func transactionOf(origin id.Server, txn string, events ...*event.Event) api.Transaction {
	req := api.Transaction{Origin: origin, TxnID: txn}
	for _, e := range events {
		req.PDUs = append(req.PDUs, e.JSON())
	}
	return req
}

func (s *scene) receive(req api.Transaction) map[id.Event]string {
	s.w.t.Helper()
	answer, err := s.ReceiveTransaction(context.Background(), req)
	if err != nil {
		s.w.t.Fatal(err)
	}
	return answer
}

func TestReceiveTransaction(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		s := newScene(t, open, "11")
		s.run()
		good := s.forge(s.room, message(pat, "one"))
		next := s.forge(s.room, message(pat, "two"), on(good), by(s.auth()...))
		bad := s.forge(s.room, state(pat, "m.room.topic", "", `{"topic":"mine"}`), on(next), by(s.auth()...))
		elsewhere := json.RawMessage(strings.Replace(string(good.JSON()), string(s.room), "!unknown:x", 1))
		req := transactionOf("p", "1", good, next, bad, good)
		req.PDUs = append(req.PDUs, elsewhere, json.RawMessage(`{"room_id":7}`), json.RawMessage(fmt.Sprintf(`{"room_id":%q}`, s.room)))
		answer := s.receive(req)
		if len(answer) != 3 || answer[good.ID] != "" || answer[next.ID] != "" || answer[bad.ID] == "" {
			t.Errorf("answer %v", answer)
		}
		s.has(good, 0)
		s.has(next, 0)
		s.has(bad, eventstore.Rejected)
		if n, err := s.store.StagedCount(context.Background(), s.row(s.room).NID); err != nil || n != 0 {
			t.Errorf("%d events stay staged, %v", n, err)
		}
		// Again: the same answer, whatever is in it.
		other := s.forge(s.room, message(pat, "three"))
		again := s.receive(transactionOf("p", "1", other))
		if !maps.Equal(again, answer) {
			t.Errorf("the second answer is %v, the first was %v", again, answer)
		}
		s.has(other, -1)
		// Another server's transaction with the same ID is another one.
		s.receive(transactionOf("q", "1", other))
		s.has(other, 0)
		s.check()
	})
}

func TestReceiveTransactionIsBounded(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		s := newScene(t, open, "11")
		many := transactionOf("p", "1")
		for range maxTransactionPDUs + 1 {
			many.PDUs = append(many.PDUs, json.RawMessage(`{}`))
		}
		if _, err := s.ReceiveTransaction(context.Background(), many); !errors.Is(err, merr.ErrBadJSON) {
			t.Errorf("got %v, want M_BAD_JSON", err)
		}
		// A room whose events pile up turns more of them away, for the sender to try later.
		s.limits.InboundQueue = 3
		s.limits.AnswerWait = time.Millisecond
		for i := range 5 {
			s.receive(transactionOf("p", fmt.Sprint("fill", i), s.forge(s.room, message(pat, fmt.Sprint(i)))))
			if n, err := s.store.StagedCount(context.Background(), s.row(s.room).NID); err != nil || n > 3 {
				break
			}
		}
		ev := s.forge(s.room, message(pat, "too many"))
		if _, err := s.ReceiveTransaction(context.Background(), transactionOf("p", "over", ev)); !errors.Is(err, merr.ErrLimitExceeded) {
			t.Errorf("got %v, want M_LIMIT_EXCEEDED", err)
		}
		stop := s.run()
		stop()
	})
}

// What a transaction's answer promised survives a crash: a new process on the same
// database takes it up.
func TestStagedEventsSurviveACrash(t *testing.T) {
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		url := newURL()
		db := sqldbtest.Open(t, url)
		w := newWorld(t, func() *sqldb.DB { return db })
		s := newSceneOn(t, w, "11")
		// This process never runs: it dies between the answer and the work.
		s.limits.AnswerWait = time.Millisecond
		var events []*event.Event
		last := s.stored(s.tips(s.room)[0]).Event
		for i := range 120 {
			last = s.forge(s.room, message(pat, fmt.Sprint(i)), on(last), by(s.auth()...))
			events = append(events, last)
		}
		for i := 0; i < len(events); i += 40 {
			s.receive(transactionOf("p", fmt.Sprint(i), events[i:i+40]...))
		}
		s.has(events[0], -1)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		again := w.nodeOn("a", sqldbtest.Open(t, url))
		stop := again.run()
		waitFor(t, func() bool {
			n, err := again.store.StagedCount(context.Background(), again.row(s.room).NID)
			return err == nil && n == 0
		})
		stop()
		pos := int64(0)
		for _, e := range events {
			got := again.stored(e.ID)
			if got == nil || got.Flags != 0 || got.StreamPos <= pos {
				t.Fatalf("%s is %+v", e.ID, got)
			}
			pos = got.StreamPos
		}
		again.check()
	})
}

func newSceneOn(t *testing.T, w *world, version event.RoomVersion) *scene {
	a := w.node("a")
	room := a.create(version, alice)
	s := &scene{node: a, room: room, p: w.puppet("p")}
	s.join = a.acceptJoin(room, pat)
	s.create = a.stateEvent(room, "m.room.create", "")
	s.levels = a.stateEvent(room, "m.room.power_levels", "")
	s.rules = a.stateEvent(room, "m.room.join_rules", "")
	return s
}

// waitFor polls for something that another goroutine does.
func waitFor(t testing.TB, done func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it did not happen")
		}
	}
}

func TestServerACL(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		s := newScene(t, open, "11")
		s.run()
		s.send(s.room, state(alice, "m.room.server_acl", "", `{"allow":["*"],"deny":["p"]}`))
		ev := s.forge(s.room, message(pat, "denied"))
		answer := s.receive(transactionOf("p", "1", ev))
		if answer[ev.ID] == "" {
			t.Error("a denied server was heard")
		}
		s.has(ev, -1)
		// The ACL is about who sends, not about whose event it is.
		s.receive(transactionOf("q", "1", ev))
		s.has(ev, 0)
	})
}

// What others say in a room that all of ours have left is none of our business, except
// that an invite is taken back.
func TestReceiveTransactionAfterLeaving(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		w := newWorld(t, open)
		a, b := w.node("a"), w.node("b")
		b.run()
		ctx := context.Background()
		room := a.create("11", alice)
		b.joinFrom(a, room, bob)
		left := b.send(room, state(bob, "m.room.member", string(bob), `{"membership":"leave"}`))[0]
		a.mustPush("b", left.Event)
		said := a.send(room, message(alice, "gone?"))[0]
		answer, err := b.ReceiveTransaction(ctx, transactionOf("a", "1", said.Event))
		if err != nil || answer[said.ID] == "" || b.stored(said.ID) != nil {
			t.Errorf("%v, %v", answer, err)
		}
		invite := a.send(room, state(alice, "m.room.member", string(bob), `{"membership":"invite"}`))[0]
		if _, err := b.storeOutlierMembership(ctx, invite.Rules, room, invite.Event, nil); err != nil {
			t.Fatal(err)
		}
		back := a.send(room, state(alice, "m.room.member", string(bob), `{"membership":"leave"}`))[0]
		receive := func(txn string, want eventstore.Membership) {
			t.Helper()
			if answer, err = b.ReceiveTransaction(ctx, transactionOf("a", txn, back.Event)); err != nil || answer[back.ID] != "" {
				t.Errorf("%v, %v", answer, err)
			}
			membership, _, err := b.store.Membership(ctx, b.row(room).NID, bob)
			if err != nil || membership != want {
				t.Errorf("bob's membership is %v, %v, want %v", membership, err, want)
			}
		}
		receive("2", eventstore.Leave)
		// It comes once more, when bob was invited again: it says nothing of that invite.
		again := a.send(room, state(alice, "m.room.member", string(bob), `{"membership":"invite"}`))[0]
		if _, err := b.storeOutlierMembership(ctx, again.Rules, room, again.Event, nil); err != nil {
			t.Fatal(err)
		}
		receive("3", eventstore.Invite)
		b.check()
	})
}

// fixedShares owns every room, or none.
type fixedShares bool

func (f fixedShares) Owns(string, string) bool { return bool(f) }

// A transaction that arrives at a node is processed by the one that the room belongs to; the answer says what became
// of it. Both processing it would ask other servers twice.
func TestStagedEventsGoToTheRoomsOwner(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		s := newScene(t, open, "11")
		owner := s.w.nodeOn(s.name, s.db)
		owner.cfg.Bus = s.cfg.Bus
		s.cfg.Shares, owner.cfg.Shares = fixedShares(false), fixedShares(true)
		s.run()
		owner.run()
		good := s.forge(s.room, message(pat, "one"))
		bad := s.forge(s.room, state(pat, "m.room.topic", "", `{"topic":"mine"}`), on(good), by(s.auth()...))
		req := transactionOf("p", "1", good, bad)
		answer := s.receive(req)
		if answer[good.ID] != "" || answer[bad.ID] == "" {
			t.Errorf("answer %v", answer)
		}
		s.has(good, 0)
		s.has(bad, eventstore.Rejected)
		if tried := len(s.inbound.tried); tried != 0 {
			t.Errorf("the node that it arrived at worked on %d rooms", tried)
		}
		// The same transaction arrives at the other node before it knows of the first answer.
		again, err := owner.ReceiveTransaction(context.Background(), req)
		if err != nil || !maps.Equal(again, answer) {
			t.Errorf("the second answer is %v (%v)", again, err)
		}
		err = s.stage(context.Background(), "p", "1", []byte(`{}`), []eventstore.Staged{{Room: s.row(s.room).NID, Origin: "p", Received: 1,
			Events: []eventstore.StagedEvent{{ID: good.ID, JSON: good.JSON()}}}})
		if !errors.Is(err, errRepeated) {
			t.Errorf("staging a transaction twice: %v", err)
		}
		if n, err := s.store.StagedCount(context.Background(), s.row(s.room).NID); err != nil || n != 0 {
			t.Errorf("%d events stay staged, %v", n, err)
		}
	})
}

// That too many jobs wait in a room is no fault of the events that come then: they stay staged, and nobody is told that they are refused.
func TestStagedEventsOutliveAFullQueue(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		s := newScene(t, open, "11")
		s.run()
		ev := s.forge(s.room, message(pat, "x"))
		held := make(chan struct{})
		wait := &job{ctx: context.Background(), done: make(chan error, 1), run: func(context.Context) error { <-held; return nil }}
		s.queues.maxLen = 1
		if err := s.queues.push(s.room, wait); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return s.queues.waiting(s.room) == 0 }) // it runs
		if err := s.queues.push(s.room, &job{ctx: context.Background(), done: make(chan error, 1), run: func(context.Context) error { return nil }}); err != nil {
			t.Fatal(err)
		}
		if answer := s.receive(transactionOf("p", "1", ev)); answer[ev.ID] != "" {
			t.Errorf("it was refused: %s", answer[ev.ID])
		}
		if n := s.staged(); n != 1 {
			t.Errorf("%d events are staged", n)
		}
		if _, err := s.trySend(s.room, message(alice, "x")); !errors.Is(err, merr.ErrLimitExceeded) {
			t.Errorf("a client got %v, want M_LIMIT_EXCEEDED", err)
		}
		close(held)
		waitFor(t, func() bool { return s.queues.waiting(s.room) < 0 })
		s.retry()
		s.has(ev, 0)
		if n := s.staged(); n != 0 {
			t.Errorf("%d events stay staged", n)
		}
		s.check()
	})
}
