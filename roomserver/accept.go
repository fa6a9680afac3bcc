package roomserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"weft/internal/eventstore"
	"weft/internal/sqldb"
	"weft/internal/statetree"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// errStale reports that the room was changed by another writer since the draft
// was begun. The draft is computed again.
var errStale = errors.New("roomserver: the room was changed by another writer")

// errContended is what is heard by who lost to others every time.
var errContended = merr.New(503, "M_UNKNOWN", "others write in the room all the time; try again").With("retry_after_ms", int64(1000))

// maxAttempts bounds how often a draft is computed again.
const maxAttempts = 25

// attempt runs fn until it does not lose the fence.
func (s *Server) attempt(ctx context.Context, fn func() error) error {
	for n := 1; ; n++ {
		err := fn()
		if !errors.Is(err, errStale) && !sqldb.IsUniqueViolation(err) {
			return err
		}
		s.metrics.fenceLost.Inc()
		if n == maxAttempts {
			return fmt.Errorf("%w: %w", errContended, err)
		}
		t := time.NewTimer(time.Duration(rand.Int64N(int64(n) * int64(2*time.Millisecond))))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return errors.Join(ctx.Err(), err)
		}
	}
}

// acceptAll does steps 7 to 14 for a plan, as one draft in the room's queue. It
// gives an error for each event that does not become part of the room.
func (s *Server) acceptAll(ctx context.Context, room id.Room, list []*incoming) map[id.Event]error {
	errs := make(map[id.Event]error)
	if len(list) == 0 {
		return errs
	}
	err := s.queues.do(room, &job{ctx: ctx, run: func(ctx context.Context) error {
		return s.attempt(ctx, func() error {
			clear(errs)
			err := s.acceptOnce(ctx, room, list, true, errs)
			if errors.Is(err, errUnsettled) && !isInternal(err) {
				clear(errs)
				err = s.acceptOnce(ctx, room, list, false, errs)
			}
			return err
		})
	}})
	if err != nil {
		failed := make(map[id.Event]error, len(list))
		for _, in := range list {
			failed[in.ev.ID] = err
		}
		return failed
	}
	return errs
}

func (s *Server) acceptOnce(ctx context.Context, roomID id.Room, list []*incoming, patient bool, errs map[id.Event]error) error {
	d, err := s.draftOn(ctx, roomID)
	if err != nil {
		return err
	}
	d.patient = patient
	events := make([]*event.Event, len(list))
	for i, in := range list {
		events[i] = in.ev
	}
	if err := s.intern(ctx, events, func(int) bool { return true }); err != nil {
		return err
	}
	if err := d.expect(ctx, events...); err != nil {
		return err
	}
	for _, in := range list {
		err := d.accept(ctx, in)
		if err != nil && (isInternal(err) || errors.Is(err, errUnsettled)) {
			return fmt.Errorf("receiving %s: %w", in.ev.ID, err)
		}
		if err != nil {
			errs[in.ev.ID] = err
			s.log.WithError(err).WithField("event", in.ev.ID).WithField("room", roomID).Info("event not accepted")
		}
	}
	if err := d.settle(ctx); err != nil {
		return err
	}
	return s.commit(ctx, d)
}

// accept does steps 7 to 13 for one event. The error says why it is dropped or
// rejected; a soft failure is none.
func (d *draft) accept(ctx context.Context, in *incoming) error {
	if err := d.expect(ctx, in.ev); err != nil {
		return err
	}
	known, done, err := d.known(ctx, in)
	if done || err != nil {
		return err
	}
	a, prevs, err := d.place(ctx, in, known)
	if err != nil {
		return err
	}
	verdict, err := d.byAuthEvents(ctx, in.ev)
	if err != nil {
		return err
	}
	if a.StateBefore, err = d.stateBefore(ctx, in, prevs); err != nil {
		return err
	}
	a.HasState = true
	if verdict == nil {
		if verdict, err = d.byStateBefore(ctx, in.ev, a.StateBefore); err != nil {
			return err
		}
	}
	if verdict != nil {
		a.Flags |= eventstore.Rejected
		if err := d.add(ctx, a); err != nil {
			return err
		}
		return verdict
	}
	// What accepted events refer to already is history, however late it comes: the current
	// state has no say in it.
	referred := false
	if a.live {
		if referred, err = d.isReferred(ctx, a); err != nil {
			return err
		}
	}
	if a.live && !referred {
		if verdict, err = d.byCurrentState(ctx, in, a.StateBefore); err != nil {
			return err
		}
		if verdict == nil {
			if verdict, err = d.byPolicy(ctx, in); err != nil {
				return err
			}
		}
		if verdict != nil && in.mode == inputMembership {
			return verdict
		}
		if verdict != nil {
			d.s.log.WithError(verdict).WithField("event", in.ev.ID).Info("event soft failed")
			a.Flags |= eventstore.SoftFailed
		}
	}
	return d.add(ctx, a)
}

// known is step 7. An event that has its place is not processed again; an outlier
// gets its place now, and is judged again, for it was judged by its auth events alone.
// A rejected event stays rejected: nothing that was missing then can have led to
// it, because an event that lacks something is not stored.
func (d *draft) known(ctx context.Context, in *incoming) (_ *eventstore.Event, done bool, _ error) {
	found, err := d.eventsByID(ctx, []id.Event{in.ev.ID})
	if err != nil || len(found) == 0 {
		return nil, false, err
	}
	e := found[0]
	switch {
	case e.RoomNID != d.room.NID:
		return nil, true, merr.Forbidden("the event is of another room")
	case e.Flags&eventstore.Outlier != 0:
		return e, false, nil
	case e.Flags&eventstore.Rejected != 0:
		return nil, true, errRejected
	}
	return e, true, nil
}

// place makes the event's row, with the previous events that are there. Those that
// are not, and whose state nobody told us, make the event unusable.
func (d *draft) place(ctx context.Context, in *incoming, known *eventstore.Event) (*addition, []*eventstore.Event, error) {
	found, err := d.eventsByID(ctx, in.ev.PrevEvents)
	if err != nil {
		return nil, nil, err
	}
	prevs := make([]*eventstore.Event, 0, len(found))
	for _, p := range found {
		if p.Flags&eventstore.Outlier == 0 && p.HasState && p.RoomNID == d.room.NID {
			prevs = append(prevs, p)
		}
	}
	a := &addition{known: known != nil, partial: known != nil && partial(known), live: in.mode != inputHistory}
	for _, missing := range in.ev.PrevEvents {
		if slices.ContainsFunc(prevs, func(p *eventstore.Event) bool { return p.ID == missing }) {
			continue
		}
		if in.before == nil && !slices.ContainsFunc(in.gaps, func(g gapState) bool { return g.missing == missing }) {
			return nil, nil, errMissingPrev
		}
	}
	if len(in.ev.PrevEvents) == 0 && in.ev.Type != eventauth.TypeCreate {
		return nil, nil, merr.Forbidden("the event has no previous events")
	}
	if a.Event, err = d.newEvent(ctx, in.ev, known); err != nil {
		return nil, nil, err
	}
	if in.mode == inputMembership {
		a.Flags |= eventstore.SendOut
	}
	for _, missing := range in.ev.PrevEvents {
		if !slices.ContainsFunc(prevs, func(p *eventstore.Event) bool { return p.ID == missing }) {
			d.gaps = append(d.gaps, gap{missing: missing, of: a.Event})
		}
	}
	return a, prevs, nil
}

// byAuthEvents is step 8: the auth rules by the event's own auth events. verdict
// says why it is rejected.
//
// spec: server-server §5.1.1 check 4
func (d *draft) byAuthEvents(ctx context.Context, ev *event.Event) (verdict, err error) {
	found, err := d.eventsByID(ctx, ev.AuthEvents)
	if err != nil {
		return nil, err
	}
	rejected := make(map[id.Event]bool)
	for _, a := range found {
		rejected[a.ID] = rejectedFlag(a)
	}
	for _, a := range ev.AuthEvents {
		if _, ok := rejected[a]; !ok {
			return nil, merr.Forbidden("the auth event %s is not known", a)
		}
	}
	auth, err := d.unredacted(ctx, found)
	if err != nil {
		return nil, err
	}
	state := make(eventauth.MapState, len(auth)+1)
	if ev.Rules.RoomIDIsCreateHash && ev.Type != eventauth.TypeCreate {
		create, err := d.eventsByID(ctx, []id.Event{eventauth.CreateEventID(ev.RoomID)})
		if err != nil {
			return nil, err
		}
		for _, c := range create {
			state.Put(c.Event)
			rejected[c.ID] = rejectedFlag(c)
		}
	}
	state.Put(auth...)
	if err := ev.CheckFieldSize(); err != nil {
		return err, nil
	}
	if err := eventauth.CheckAuthEvents(ev, auth, func(e id.Event) bool { return rejected[e] }); err != nil {
		return err, nil
	}
	return d.auth.Check(ev, state), nil
}

// stateBefore is step 9: the states after the previous events, and those told at
// gaps, resolved.
func (d *draft) stateBefore(ctx context.Context, in *incoming, prevs []*eventstore.Event) (statetree.Root, error) {
	if in.before != nil {
		return in.before.StateBefore, nil
	}
	var told []statetree.Root
	for _, g := range in.gaps {
		if slices.ContainsFunc(prevs, func(p *eventstore.Event) bool { return p.ID == g.missing }) {
			continue // it came meanwhile
		}
		root, err := statetree.Apply(ctx, d.nodes, statetree.Root{}, g.entries, d.nodes)
		if err != nil {
			return root, fmt.Errorf("the state after %s: %w", g.missing, err)
		}
		told = append(told, root)
	}
	return d.before(ctx, prevs, told...)
}

// byStateBefore is step 10.
//
// spec: server-server §5.1.1 check 5
func (d *draft) byStateBefore(ctx context.Context, ev *event.Event, before statetree.Root) (verdict, err error) {
	state, err := d.authState(ctx, before, ev)
	if err != nil {
		return nil, err
	}
	return d.auth.Check(ev, state), nil
}

// byCurrentState is step 11. verdict says why the event is soft failed.
//
// spec: server-server §5.1.1 check 6, §5.1.5 (Soft failure)
func (d *draft) byCurrentState(ctx context.Context, in *incoming, before statetree.Root) (verdict, err error) {
	if d.open == nil && before == d.current {
		return nil, nil
	}
	state, err := d.currentState(ctx, in.ev)
	if err != nil {
		return nil, err
	}
	return d.auth.Check(in.ev, state), nil
}

// applyRedactions marks what a new event redacts, and a new event that was redacted
// before it came.
//
// spec: rooms/v3 (Handling redactions)
func (d *draft) applyRedactions(ctx context.Context, a *addition) error {
	e := a.Event
	if !accepted(e) {
		return nil
	}
	if e.Type == eventauth.TypeRedaction && e.Redacts != "" {
		targets, err := d.eventsByID(ctx, []id.Event{e.Redacts})
		if err != nil {
			return err
		}
		for _, t := range targets {
			if err := d.redact(ctx, t, e, false); err != nil {
				return err
			}
		}
	}
	if a.ours {
		return nil
	}
	pending, err := d.pendingRedactions(ctx, e.ID)
	if err != nil {
		return err
	}
	for _, r := range pending {
		if err := d.redact(ctx, e, r, true); err != nil {
			return err
		}
	}
	return nil
}

func (d *draft) redact(ctx context.Context, target, by *eventstore.Event, late bool) error {
	if target.RedactedBy != 0 || target.NID == by.NID || !accepted(by) || !by.HasState {
		return nil
	}
	if slices.ContainsFunc(d.redacted, func(r redaction) bool { return r.target == target.NID }) {
		return nil
	}
	state, err := d.state(ctx, by.StateBefore, []eventauth.Key{{Type: eventauth.TypeCreate}, {Type: eventauth.TypePowerLevels}})
	if err != nil {
		return err
	}
	if eventauth.MayRedact(by.Event, target.Event, state) {
		d.redacted = append(d.redacted, redaction{target: target.NID, by: by.NID, id: target.ID, late: late})
	}
	return nil
}
