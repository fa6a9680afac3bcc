package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/matrix/serveracl"
	"weft/roomserver/api"
)

// ReceiveTransaction implements api.Federation. When it returns, the events are stored,
// though some may still wait to be processed. A transaction that comes again is
// answered as before.
//
// spec: server-server §5 (PUT /_matrix/federation/v1/send/{txnId})
func (s *Server) ReceiveTransaction(ctx context.Context, req api.Transaction) (map[id.Event]string, error) {
	if len(req.PDUs) > maxTransactionPDUs {
		return nil, merr.BadJSON("a transaction has at most %d PDUs, not %d", maxTransactionPDUs, len(req.PDUs))
	}
	if answer, ok, err := s.answered(ctx, req); ok || err != nil {
		return answer, err
	}
	t := &transaction{s: s, origin: req.Origin, answer: make(map[id.Event]string),
		rooms: make(map[id.Room]*eventstore.Room), inside: make(map[id.Room]bool), counted: make(map[id.Room]bool)}
	for _, raw := range req.PDUs {
		if err := t.admit(ctx, raw); err != nil {
			return nil, err
		}
	}
	results := make(chan result, len(t.list))
	waiters := s.inbound.wait(t.list, func(ev id.Event, err error) { results <- result{ev, err} })
	defer s.inbound.forget(waiters)
	if err := t.stage(ctx, req.TxnID); errors.Is(err, errRepeated) {
		answer, _, err := s.answered(ctx, req)
		return answer, err
	} else if err != nil {
		return nil, err
	}
	return t.process(ctx, req.TxnID, results)
}

// errRepeated says that another process has taken the same transaction meanwhile.
var errRepeated = errors.New("roomserver: the transaction was taken by another process")

// result is what became of an event.
type result struct {
	event id.Event
	err   error
}

// maxTransactionPDUs bounds a transaction.
//
// spec: server-server §5 ("at most 50 PDUs")
const maxTransactionPDUs = 50

// transaction is an inbound transaction under way.
type transaction struct {
	s      *Server
	origin id.Server
	answer map[id.Event]string
	rooms  map[id.Room]*eventstore.Room
	inside map[id.Room]bool // rooms that one of our users is in
	list   []*event.Event
	// counted are rooms whose staged events were counted.
	counted map[id.Room]bool
}

// admit does what is done at the door: the event's form, its room, the server's ACL.
// What does not pass is answered and not staged.
func (t *transaction) admit(ctx context.Context, raw json.RawMessage) error {
	room, err := t.room(ctx, raw)
	if err != nil {
		return err
	}
	if room == nil {
		return nil
	}
	ev, err := event.Parse(raw, room.Rules)
	if err != nil {
		t.s.log.WithError(err).WithField("origin", t.origin).Info("a PDU is not valid")
		return nil // it has no ID to answer for
	}
	if _, twice := t.answer[ev.ID]; twice {
		return nil
	}
	t.answer[ev.ID] = ""
	refuse := func(err error) { t.answer[ev.ID] = merr.From(err).Message }
	if !t.inside[room.ID] {
		if err := t.s.receiveOutOfBand(ctx, t.origin, room, ev); err != nil {
			refuse(err)
		}
		return nil
	}
	allowed, err := t.s.allowedByACL(ctx, room, t.origin)
	if err != nil {
		return err
	}
	if !allowed {
		refuse(merr.Forbidden("the room's server ACL denies %s", t.origin))
		return nil
	}
	if err := t.checkQueue(ctx, room); err != nil {
		return err
	}
	t.list = append(t.list, ev)
	return nil
}

// checkQueue turns a server away that has too many events of a room staged, once for each room of the transaction.
func (t *transaction) checkQueue(ctx context.Context, room *eventstore.Room) error {
	if t.counted[room.ID] || t.s.owns(room.ID) && !t.s.inbound.waiting(room.ID, room.NID) {
		return nil
	}
	all, own, err := t.s.store.StagedBy(ctx, room.NID, t.origin)
	if err != nil {
		return err
	}
	if limit := int64(t.s.limits.InboundQueue); own > limit || all > limit*inboundOrigins {
		return merr.LimitExceeded("too many events of the room %s wait to be processed", room.ID)
	}
	t.counted[room.ID] = true
	return nil
}

// room finds the room of a PDU, nil when it is not known here.
func (t *transaction) room(ctx context.Context, raw json.RawMessage) (*eventstore.Room, error) {
	roomID := id.Room(gjson.GetBytes(raw, "room_id").Str)
	if room, ok := t.rooms[roomID]; ok {
		return room, nil
	}
	room, err := t.s.store.Room(ctx, roomID)
	if err != nil && !errors.Is(err, merr.ErrNotFound) {
		return nil, err
	}
	if err != nil {
		room = nil
	}
	t.rooms[roomID] = room
	if room != nil && !room.Stub {
		if t.inside[roomID], err = t.s.store.ServerInRoom(ctx, room.NID, t.s.cfg.ServerName); err != nil {
			return nil, err
		}
	}
	return room, nil
}

// stage stores the events and the answer.
func (t *transaction) stage(ctx context.Context, txnID string) error {
	answer, err := json.Marshal(t.answer)
	if err != nil {
		return fmt.Errorf("roomserver: transaction: %w", err)
	}
	now := t.s.now()
	var rows []eventstore.Staged
	of := make(map[id.Room]int)
	for _, ev := range t.list {
		at, ok := of[ev.RoomID]
		if !ok {
			at, of[ev.RoomID] = len(rows), len(rows)
			rows = append(rows, eventstore.Staged{Room: t.rooms[ev.RoomID].NID, Origin: t.origin, Received: now})
		}
		rows[at].Events = append(rows[at].Events, eventstore.StagedEvent{ID: ev.ID, JSON: ev.JSON()})
	}
	return t.s.stage(ctx, t.origin, txnID, answer, rows)
}

// process wakes the rooms and waits a while for the events.
func (t *transaction) process(ctx context.Context, txnID string, results <-chan result) (map[id.Event]string, error) {
	for _, room := range t.rooms {
		if room != nil && t.inside[room.ID] {
			t.s.inbound.take(room.ID, room.NID)
		}
	}
	timer := time.NewTimer(t.s.limits.AnswerWait)
	defer timer.Stop()
	changed := false
	for waiting := len(t.list); waiting > 0; waiting-- {
		select {
		case r := <-results:
			if r.err != nil && !isInternal(r.err) {
				t.answer[r.event], changed = merr.From(r.err).Message, true
			}
			continue
		case <-timer.C:
		case <-ctx.Done():
		}
		break
	}
	if !changed {
		return t.answer, nil
	}
	answer, err := json.Marshal(t.answer)
	if err != nil {
		return nil, fmt.Errorf("roomserver: transaction: %w", err)
	}
	if err := t.s.setAnswer(context.WithoutCancel(ctx), t.origin, txnID, answer); err != nil {
		t.s.log.WithError(err).Warn("the answer to a transaction was not stored")
	}
	return t.answer, nil
}

// answered gives the stored answer to a transaction.
func (s *Server) answered(ctx context.Context, req api.Transaction) (map[id.Event]string, bool, error) {
	stored, ok, err := s.store.InboundTxn(ctx, req.Origin, req.TxnID)
	if err != nil || !ok {
		return nil, false, err
	}
	var answer map[id.Event]string
	if err := json.Unmarshal(stored, &answer); err != nil {
		return nil, false, fmt.Errorf("roomserver: the stored answer to a transaction of %s: %w", req.Origin, err)
	}
	return answer, true, nil
}

// allowedByACL applies the server ACL of a room's current state.
//
// spec: server-server §19
func (s *Server) allowedByACL(ctx context.Context, room *eventstore.Room, server id.Server) (bool, error) {
	acl, err := s.store.CurrentState(room).Get(ctx, "m.room.server_acl", "")
	if err != nil || acl == nil {
		return err == nil, err
	}
	return serveracl.Allowed(acl.Content(), server), nil
}

// receiveOutOfBand takes an event of a room that we are not in. The only ones of use are
// those that end an invite or a knock of one of our users.
func (s *Server) receiveOutOfBand(ctx context.Context, origin id.Server, room *eventstore.Room, ev *event.Event) error {
	notIn := merr.Forbidden("this server is not in the room %s", room.ID)
	if ev.Type != eventauth.TypeMember || !ev.IsState || ev.Sender.Server() != origin {
		return notIn
	}
	if m := ev.Membership(); m != "leave" && m != "ban" {
		return notIn
	}
	user, err := id.ParseUser(ev.StateKey)
	if err != nil || !s.local(user) {
		return notIn
	}
	membership, n, err := s.store.Membership(ctx, room.NID, user)
	if err != nil || membership != eventstore.Invite && membership != eventstore.Knock {
		return errors.Join(err, notIn)
	}
	before, err := s.store.Event(ctx, n)
	if err != nil {
		return err
	}
	if !slices.Contains(ev.AuthEvents, before.ID) && ev.Depth <= before.Depth {
		return nil // it ended an earlier one, and came after the user had asked or been asked again
	}
	// Without the room's state the power to take an invite back cannot be checked:
	// whoever gave it may.
	if membership == eventstore.Invite && before.Sender != ev.Sender {
		return notIn
	}
	if err := s.checkSignatures(ctx, []*event.Event{ev})[0]; err != nil {
		return merr.Forbidden("the event is not signed as it must be")
	}
	_, err = s.storeOutlierMembership(ctx, room.Rules, room.ID, ev, nil)
	return err
}
