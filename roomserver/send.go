package roomserver

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/statetree"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

var badContent = merr.BadJSON("the content cannot be part of an event")

// sendOptions say more about a send.
type sendOptions struct {
	// User and Txn make a send idempotent: the same pair gives the same events. An
	// empty Txn.ID does not.
	User id.User
	Txn  api.Txn
}

// buildFunc says which events to send, given the room as it is. It may be called
// more than once. No events and no error: nothing is sent.
type buildFunc func(ctx context.Context, v *roomView) ([]eventSpec, error)

// sendJob is a send in a room's queue.
type sendJob struct {
	build buildFunc
	// built are events that are ready: they had to leave the queue to be signed by
	// the room's policy server.
	built []*event.Event
	opt   sendOptions
	// fresh: the client's transaction is not known, as far as we know.
	fresh bool

	events []*eventstore.Event
	err    error
}

// inRoom runs fn alone in the room's queue on this node, with a fresh view. What fn
// decides can be overtaken by another node; what must hold when it is stored belongs into
// the build function of sendLocal.
func (s *Server) inRoom(ctx context.Context, room id.Room, fn func(ctx context.Context, v *roomView) error) error {
	return s.queues.do(room, &job{ctx: ctx, run: func(ctx context.Context) error {
		if s.cfg.Shared {
			s.heads.forget(room) // fn looks, and meets no fence
		}
		d, err := s.draftOf(ctx, room)
		if err != nil {
			return err
		}
		return fn(ctx, &roomView{d})
	}})
}

// draftOf begins a draft on a room that this server is in.
func (s *Server) draftOf(ctx context.Context, room id.Room) (*draft, error) {
	d, err := s.draftOn(ctx, room)
	if err == nil && d.room.Stub {
		if err := s.overtaken(ctx, d); err != nil {
			return nil, err
		}
		return nil, merr.NotFound("this server is not in the room %s", room)
	}
	return d, err
}

// sendLocal builds events of local users on the room's forward extremities, checks
// them against its current state, signs and stores them, all of them or none. It returns when they
// are durable. Sends that wait for the same room are stored together.
//
// What the rules refuse is M_FORBIDDEN with the rule's message.
func (s *Server) sendLocal(ctx context.Context, room id.Room, opt sendOptions, build buildFunc) ([]*eventstore.Event, error) {
	send := &sendJob{build: build, opt: opt, fresh: true}
	err := s.queues.do(room, &job{ctx: ctx, send: send})
	var unsigned *needsPolicy
	if errors.As(err, &unsigned) {
		if send.built, err = s.recommended(ctx, room, unsigned.events); err != nil {
			return nil, err
		}
		err = s.queues.do(room, &job{ctx: ctx, send: send})
	}
	if err != nil {
		return nil, err
	}
	return send.events, nil
}

// needsPolicy says that built events must be signed by the room's policy server
// first, which is not waited for in the room's queue.
type needsPolicy struct{ events []*event.Event }

func (*needsPolicy) Error() string { return "the room's policy server must be asked" }

// recommended gets events of ours signed by the room's policy server. What it says
// against them goes to the client.
//
// spec: server-server §26.2 ("that error SHOULD be provided to the client verbatim")
func (s *Server) recommended(ctx context.Context, roomID id.Room, events []*event.Event) ([]*event.Event, error) {
	room, err := s.store.Room(ctx, roomID)
	if err != nil {
		return nil, err
	}
	out := make([]*event.Event, len(events))
	for i, ev := range events {
		if out[i], err = s.askPolicy(ctx, room, ev); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// sentBefore gives the events of a client's transaction, nil when it is new.
func (s *Server) sentBefore(ctx context.Context, opt sendOptions) ([]*eventstore.Event, error) {
	n, err := s.store.Txn(ctx, opt.User, opt.Txn.Device, opt.Txn.Scope, opt.Txn.ID)
	if err != nil || n == 0 {
		return nil, err
	}
	return s.store.Events(ctx, []nid.Event{n})
}

// sendBatch stores the sends that wait in a room as one draft. A send that fails
// leaves the others alone.
func (s *Server) sendBatch(ctx context.Context, room id.Room, jobs []*job) {
	err := s.attempt(ctx, func() error { return s.sendOnce(ctx, room, jobs) })
	for _, j := range jobs {
		if err != nil {
			j.done <- err
		} else {
			j.done <- j.send.err
		}
	}
}

func (s *Server) sendOnce(ctx context.Context, room id.Room, jobs []*job) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("roomserver: panic in a room's queue: %v", r)
		}
	}()
	d, err := s.draftOf(ctx, room)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		j.send.events, j.send.err = nil, s.givenUp(j.ctx)
		if j.send.err != nil {
			continue
		}
		m := d.mark()
		if err := d.send(ctx, j.send); err != nil {
			d.rewind(m)
			j.send.err = err
		} else {
			d.asked = append(d.asked, j.ctx)
		}
		j.send.fresh = false
	}
	return s.commit(ctx, d)
}

// send adds the events of one send to the draft. Whether its transaction was carried out before is asked when it fails, or
// when the transaction was found as it was to be stored: hardly ever.
func (d *draft) send(ctx context.Context, send *sendJob) error {
	if send.opt.Txn.ID != "" {
		done, err := d.sentBefore(ctx, send, send.fresh)
		if err != nil || done {
			return err
		}
	}
	err := d.addSend(ctx, send)
	if err == nil || send.opt.Txn.ID == "" || !send.fresh {
		return err
	}
	if done, txnErr := d.sentBefore(ctx, send, false); done || txnErr != nil {
		return txnErr
	}
	return err
}

// addSend adds the events of a send that was not carried out before.
func (d *draft) addSend(ctx context.Context, send *sendJob) error {
	if send.built != nil {
		for _, ev := range send.built {
			if err := d.accept(ctx, &incoming{ev: ev, origin: d.s.cfg.ServerName, mode: inputMembership}); err != nil {
				return err
			}
			send.events = append(send.events, d.byID[ev.ID])
		}
	} else if err := d.build(ctx, send); err != nil {
		return err
	}
	if send.opt.Txn.ID != "" && len(send.events) > 0 {
		d.txns = append(d.txns, clientTxn{sendOptions: send.opt, event: send.events[0]})
	}
	return nil
}

// build makes the events of a send.
func (d *draft) build(ctx context.Context, send *sendJob) error {
	specs, err := send.build(ctx, &roomView{d})
	if err != nil {
		return err
	}
	policy, err := (&roomView{d}).State(ctx, typePolicy, "")
	if err != nil {
		return err
	}
	server, err := d.s.policyOf(ctx, d.room, policy)
	if err != nil {
		return err
	}
	var unsigned []*event.Event
	asks := false
	for _, spec := range specs {
		e, err := d.addLocal(ctx, spec)
		if err != nil {
			return err
		}
		send.events, unsigned = append(send.events, e), append(unsigned, e.Event)
		asks = asks || !server.exempt(e.Event) && server.via != d.s.cfg.ServerName
	}
	if asks {
		return &needsPolicy{unsigned}
	}
	return nil
}

// sentBefore looks for the transaction in the draft itself and, unless told that it is not there, in the store.
func (d *draft) sentBefore(ctx context.Context, send *sendJob, fresh bool) (bool, error) {
	for _, t := range d.txns {
		if t.sendOptions == send.opt {
			send.events = []*eventstore.Event{t.event}
			return true, nil
		}
	}
	if fresh {
		return false, nil
	}
	done, err := d.s.sentBefore(ctx, send.opt)
	if done != nil {
		send.events = done
	}
	return done != nil, err
}

// addLocal builds, signs and checks an event of a local user and adds it to the draft.
func (d *draft) addLocal(ctx context.Context, spec eventSpec) (*eventstore.Event, error) {
	b, root, state, err := d.template(ctx, spec)
	if err != nil {
		return nil, err
	}
	ev, err := b.Build(d.s.cfg.ServerName, d.s.cfg.Key.ID, d.s.cfg.Key.Private)
	if err != nil {
		return nil, err
	}
	if err := d.auth.Check(ev, state); err != nil {
		return nil, err
	}
	return d.addBuilt(ctx, ev, root)
}

// addBuilt adds an event of ours that the rules allow.
func (d *draft) addBuilt(ctx context.Context, ev *event.Event, before statetree.Root) (*eventstore.Event, error) {
	e, err := d.newEvent(ctx, ev, nil)
	if err != nil {
		return nil, err
	}
	e.Flags, e.StateBefore, e.HasState = eventstore.SendOut, before, true
	return e, d.add(ctx, &addition{Event: e, live: true, ours: true})
}

// createRoom stores a brand-new room with all its events, or nothing. The first
// spec is the create event; room is empty where the room's ID is made from it
// (version 12 on). A room ID that is taken is M_ROOM_IN_USE. also, if any, runs in the
// transaction that stores the room, and may run more than once.
//
// Where the ID is made from the create event, two rooms that a user makes in the same millisecond would be one: then
// the later says that it was made in the next.
func (s *Server) createRoom(ctx context.Context, rules *event.Rules, room id.Room, specs []eventSpec,
	also func(ctx context.Context, tx *sqldb.Tx, room nid.Room) error) ([]*eventstore.Event, error) {
	for n := int64(1); ; n++ {
		out, err := s.createOnce(ctx, rules, room, specs, also)
		if err == nil || !isTaken(err) {
			return out, err
		}
		if !rules.RoomIDIsCreateHash || n == maxAttempts {
			return nil, fmt.Errorf("%w: %w", merr.RoomInUse("the room %s exists already", room), err)
		}
		specs = slices.Clone(specs)
		specs[0].Timestamp = s.now() + n
	}
}

// isTaken tells whether a room was not stored because there is one with its ID.
func isTaken(err error) bool { return sqldb.IsUniqueViolation(err) || errors.Is(err, errStale) }

func (s *Server) createOnce(ctx context.Context, rules *event.Rules, room id.Room, specs []eventSpec,
	also func(ctx context.Context, tx *sqldb.Tx, room nid.Room) error) ([]*eventstore.Event, error) {
	var out []*eventstore.Event
	d, err := s.emptyDraft(ctx, rules, room)
	if err != nil {
		return nil, err
	}
	for _, spec := range specs {
		e, err := d.addLocal(ctx, spec)
		if err != nil {
			return nil, err
		}
		if spec.Type == eventauth.TypeCreate {
			d.room.ID = e.RoomID
		}
		out = append(out, e)
	}
	d.also = also
	return out, s.commit(ctx, d)
}
