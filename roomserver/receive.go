package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"weft/internal/eventstore"
	"weft/internal/fedclient"
	"weft/internal/statetree"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// inputMode says how events came.
type inputMode int

const (
	// inputPushed: another server sent the event to us as news.
	inputPushed inputMode = iota
	// inputMembership: the event was made from our template (send_join, send_leave,
	// send_knock). We pass it on to the other servers of the room, and it is refused
	// rather than soft failed.
	inputMembership
	// inputHistory: the event is older than what we have (backfill).
	inputHistory
)

// errMissingPrev refuses an event whose parents nobody shows us.
var errMissingPrev = merr.Forbidden("the previous events of the event are not known and could not be fetched")

// laterError refuses an event for now: a server that had to be asked could not be
// reached, or we were not able to ask. The event may be tried again.
type laterError struct{ err error }

func (e *laterError) Error() string { return e.err.Error() + " (to be tried again)" }
func (e *laterError) Unwrap() error { return e.err }

func isLater(err error) bool {
	var e *laterError
	return errors.As(err, &e)
}

// unreached tells that a server gave no answer, or none of worth, which may change. One of several is enough.
func unreached(err error) bool {
	switch e := err.(type) {
	case *fedclient.ConnError:
		return true
	case *fedclient.RemoteError:
		return e.Status >= 500 || e.Status == 429
	case interface{ Unwrap() error }:
		return unreached(e.Unwrap())
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), unreached)
	}
	return false
}

// errRejected is what the sender of an event hears that had been rejected before.
var errRejected = merr.Forbidden("the event was rejected")

// incoming is one event on its way in.
type incoming struct {
	ev     *event.Event
	origin id.Server
	mode   inputMode
	// pulled: we asked for the event to fill a gap.
	pulled bool
	// gaps are the states after those previous events that are missing.
	gaps []gapState
	// before is an event with the same state before it, when that is known.
	before *eventstore.Event
}

// gapState is what another server says is the state after an event that we do not
// have.
type gapState struct {
	missing id.Event
	entries []statetree.Change
}

// input takes events of one room from another server. It gives an error for each
// event that does not become part of the room: nil entries are left out. All
// must have been parsed by the rules of the room.
//
// Receiving a PDU goes in steps, one function each:
//
//  1. the form, and 3. the content hash: event.Parse, at the door
//  2. the signatures: checkSignatures
//     (the server's ACL: allowedByACL, at the door and here)
//  4. previous events that are missing are fetched: fetchMissing
//  5. at a gap that stays, the state is fetched: fetchState
//  6. auth events that are missing are fetched: fetchAuth
//     — from here on in the room's queue, on a draft —
//  7. what is known already: known
//  8. auth rules by the event's own auth events, or rejected: byAuthEvents
//  9. the state before the event: stateBefore
//  10. auth rules by that state, or rejected: byStateBefore
//  11. auth rules by the room's current state, or soft failed: byCurrentState
//  12. the room's policy server, or soft failed: byPolicy; it was asked after step 6
//  13. extremities, state, redactions: draft.add
//  14. persist, and publish: commit
//
// spec: server-server §5.1.1 (Checks performed on receipt of a PDU)
func (s *Server) input(ctx context.Context, origin id.Server, events []*event.Event, mode inputMode) map[id.Event]error {
	return (&plan{s: s, origin: origin, has: make(map[id.Event]bool)}).input(ctx, events, mode)
}

// inputStaged is input for events that are tried again when their error is a laterError, with when they came, in ms.
func (s *Server) inputStaged(ctx context.Context, origin id.Server, events []*event.Event, received map[id.Event]int64) map[id.Event]error {
	return (&plan{s: s, origin: origin, has: make(map[id.Event]bool), received: received, silent: s.inbound.silent}).input(ctx, events, inputPushed)
}

func (p *plan) input(ctx context.Context, events []*event.Event, mode inputMode) map[id.Event]error {
	s := p.s
	errs := make(map[id.Event]error)
	fail := func(ev *event.Event, err error) {
		if err != nil {
			errs[ev.ID] = err
		}
	}
	if len(events) == 0 {
		return errs
	}
	room, err := s.store.Room(ctx, events[0].RoomID)
	if err != nil {
		for _, ev := range events {
			fail(ev, err)
		}
		return errs
	}
	p.room = room
	if p.stored, err = s.eventsByID(ctx, mentioned(events)); err != nil {
		for _, ev := range events {
			fail(ev, err)
		}
		return errs
	}
	for i, err := range s.checkSignatures(ctx, events) {
		ev := events[i]
		if err == nil {
			p.unreached.Store(false)
			p.patient = p.received[ev.ID] > s.now()-gapWait.Milliseconds()
			err = p.gather(ctx, &incoming{ev: ev, origin: p.origin, mode: mode})
			if err != nil && !isInternal(err) && p.unreached.Load() {
				err = &laterError{err}
			}
		}
		fail(ev, err)
	}
	for ev, err := range s.acceptAll(ctx, room.ID, p.list) {
		if _, ok := errs[ev]; !ok && err != nil {
			errs[ev] = err
		}
	}
	return errs
}

// plan is a list of events of one room that lack nothing, in an order in which
// each can be accepted. Making it asks other servers; nothing in it waits for the
// room's queue.
type plan struct {
	s      *Server
	room   *eventstore.Room
	origin id.Server
	list   []*incoming
	has    map[id.Event]bool
	// stored are events that were found in the store, outliers among them: what is there stays.
	stored map[id.Event]*eventstore.Event
	// unreached is set when a request for what an event lacks got no answer.
	unreached atomic.Bool
	// received tells when staged events came; patient, that the one at hand came less than gapWait ago.
	received map[id.Event]int64
	patient  bool
	// silent tells of origins that do not answer; nil: they are asked all the same.
	silent *silences
}

// asked notes how a request to another server ended, or what became of what it gave.
func (p *plan) asked(err error) {
	if err != nil && (unreached(err) || isLater(err)) {
		p.unreached.Store(true)
	}
}

// ask puts a request to the origin, unless it did not answer the last ones.
func (p *plan) ask(request func() error) error {
	err := p.silent.check(p.origin)
	if err == nil {
		err = request()
		p.silent.note(p.origin, err)
	}
	p.asked(err)
	return err
}

// gather does steps 4 to 6 for an event and puts it into the plan, with the events
// before it that it needed.
func (p *plan) gather(ctx context.Context, in *incoming) error {
	if e := p.stored[in.ev.ID]; e != nil && e.Flags&eventstore.Outlier == 0 {
		p.put(in) // accept tells what became of it
		return nil
	}
	missing, err := p.missingPrevs(ctx, in.ev)
	if err != nil {
		return err
	}
	if len(missing) > 0 && in.mode == inputPushed {
		if err := p.fetchMissing(ctx, in); err != nil {
			return err
		}
		if missing, err = p.missingPrevs(ctx, in.ev); err != nil {
			return err
		}
		// An event that is pushed would become a forward extremity, and with it what its
		// sender says about the state: so its parents must be shown.
		if len(missing) > 0 {
			return errMissingPrev
		}
	}
	return p.gatherPulled(ctx, in, missing)
}

// gatherPulled does steps 5 and 6 and puts the event into the plan.
func (p *plan) gatherPulled(ctx context.Context, in *incoming, missing []id.Event) error {
	if in.mode == inputMembership && len(missing) > 0 {
		return errMissingPrev
	}
	// A state comes with its auth chain, which is most of what the event's own auth events
	// need, however long: asked for by themselves they are followed step by step.
	for _, m := range missing {
		g, err := p.fetchState(ctx, m)
		if err != nil {
			return fmt.Errorf("the state at the gap before %s: %w", in.ev.ID, err)
		}
		in.gaps = append(in.gaps, g)
	}
	if err := p.fetchAuth(ctx, in.ev); err != nil {
		return err
	}
	if in.mode != inputHistory {
		var err error
		if in.ev, err = p.s.askPolicy(ctx, p.room, in.ev); err != nil {
			if isInternal(err) {
				return err
			}
			p.s.log.WithError(err).WithField("event", in.ev.ID).Info("no recommendation by the room's policy server")
		}
	}
	p.put(in)
	return nil
}

func (p *plan) put(in *incoming) {
	if p.has[in.ev.ID] {
		return
	}
	p.has[in.ev.ID] = true
	p.list = append(p.list, in)
}

// missingPrevs gives the previous events that are neither stored, other than as
// outliers, nor planned.
func (p *plan) missingPrevs(ctx context.Context, ev *event.Event) ([]id.Event, error) {
	var look []id.Event
	for _, prev := range ev.PrevEvents {
		if !p.has[prev] && !slices.Contains(look, prev) {
			look = append(look, prev)
		}
	}
	return p.missing(ctx, look, eventstore.Outlier)
}

// missing is Server.missing, with a look at what was found before.
func (p *plan) missing(ctx context.Context, ids []id.Event, except eventstore.Flags) ([]id.Event, error) {
	return p.s.missing(ctx, slices.DeleteFunc(ids, func(i id.Event) bool {
		e := p.stored[i]
		return e != nil && e.Flags&except == 0
	}), except)
}

// missing gives those events that are not stored, or stored with one of the flags.
func (s *Server) missing(ctx context.Context, ids []id.Event, except eventstore.Flags) ([]id.Event, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	found, err := s.eventsByID(ctx, ids)
	if err != nil {
		return nil, err
	}
	var out []id.Event
	for _, i := range ids {
		if e := found[i]; e == nil || e.Flags&except != 0 {
			out = append(out, i)
		}
	}
	return out, nil
}

// fetchMissing is step 4: it asks the sender for the events between our forward
// extremities and the event, and plans those that lead to it.
//
// It asks again, from the oldest it got, as long as the answers are full: then there
// may be more. What is still missing after that is a gap.
//
// spec: server-server §7 (get_missing_events)
func (p *plan) fetchMissing(ctx context.Context, in *incoming) error {
	earliest, err := p.s.store.EventIDs(ctx, p.room.Extremities)
	if err != nil {
		return err
	}
	limit := p.s.limits.MissingEvents
	got := make(map[id.Event]*event.Event)
	latest := []id.Event{in.ev.ID}
	for range p.s.limits.MissingRounds {
		var raws []json.RawMessage
		err := p.ask(func() (err error) {
			raws, err = p.s.cfg.Remote.GetMissingEvents(ctx, p.origin, p.room.ID, fedclient.MissingEvents{
				Earliest: earliest, Latest: latest, Limit: limit, MinDepth: p.minDepth(),
			})
			return err
		})
		p.s.metrics.fetched("get_missing_events", len(raws))
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			p.s.log.WithError(err).WithField("room", p.room.ID).Info("missing events were not given")
			break
		}
		fresh, err := p.fresh(ctx, raws, got)
		if err != nil {
			return err
		}
		latest = latest[:0]
		for _, ev := range fresh {
			missing, err := p.missingPrevs(ctx, ev)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(missing, func(m id.Event) bool { return got[m] == nil }) {
				latest = append(latest, ev.ID)
			}
		}
		if len(raws) < limit || len(latest) == 0 {
			break
		}
		if len(latest) > maxPrevEvents {
			latest = latest[:maxPrevEvents]
		}
	}
	return p.planChain(ctx, in, got)
}

// maxPrevEvents bounds the previous events of events we make.
//
// spec: server-server §4 ("prev_events … must contain at most 20")
const maxPrevEvents = 20

// minDepth bounds how far back missing events are wanted: events before the
// room's beginning for us are history.
func (p *plan) minDepth() int64 { return max(0, p.room.Depth-maxGapDepth) }

// maxGapDepth is how far below the room's depth a missing event may lie.
const maxGapDepth = 10_000

// fresh parses and verifies fetched events, adds the new ones to got and returns
// them. What is not valid, or of another room, is dropped.
func (p *plan) fresh(ctx context.Context, raws []json.RawMessage, got map[id.Event]*event.Event) ([]*event.Event, error) {
	events := p.s.parseAll(raws, p.room)
	events = slices.DeleteFunc(events, func(ev *event.Event) bool { return got[ev.ID] != nil || p.has[ev.ID] })
	ids := make([]id.Event, len(events))
	for i, ev := range events {
		ids[i] = ev.ID
	}
	unknown, err := p.s.missing(ctx, ids, eventstore.Outlier)
	if err != nil {
		return nil, err
	}
	events = slices.DeleteFunc(events, func(ev *event.Event) bool { return !slices.Contains(unknown, ev.ID) })
	var good []*event.Event
	for i, err := range p.s.checkSignatures(ctx, events) {
		if err != nil {
			p.asked(err)
			p.s.log.WithError(err).WithField("event", events[i].ID).Info("a fetched event is not signed as it must be")
			continue
		}
		got[events[i].ID] = events[i]
		good = append(good, events[i])
	}
	return good, nil
}

// planChain plans the ancestors of an event among those we got, the oldest first.
func (p *plan) planChain(ctx context.Context, in *incoming, got map[id.Event]*event.Event) error {
	for _, ev := range ancestors(in.ev, got) {
		missing, err := p.missingPrevs(ctx, ev)
		if err != nil {
			return err
		}
		err = p.gatherPulled(ctx, &incoming{ev: ev, origin: p.origin, mode: inputPushed, pulled: true}, missing)
		if err == nil {
			continue
		}
		if ctx.Err() != nil || isInternal(err) {
			return err
		}
		// The events after it will be missing it.
		p.s.log.WithError(err).WithField("event", ev.ID).Info("a fetched event cannot be used")
	}
	return nil
}

// ancestors orders the ancestors of an event in a set so that parents come first.
func ancestors(of *event.Event, set map[id.Event]*event.Event) []*event.Event {
	var out []*event.Event
	type step struct {
		ev   *event.Event
		next int
	}
	seen := map[id.Event]bool{of.ID: true}
	stack := []step{{ev: of}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if top.next == len(top.ev.PrevEvents) {
			if top.ev != of {
				out = append(out, top.ev)
			}
			stack = stack[:len(stack)-1]
			continue
		}
		parent := top.ev.PrevEvents[top.next]
		top.next++
		if ev := set[parent]; ev != nil && !seen[parent] {
			seen[parent] = true
			stack = append(stack, step{ev: ev})
		}
	}
	return out
}

// parseAll is steps 1 and 3 for events that were fetched.
func (s *Server) parseAll(raws []json.RawMessage, room *eventstore.Room) []*event.Event {
	out := make([]*event.Event, 0, len(raws))
	for _, raw := range raws {
		ev, err := event.Parse(raw, room.Rules)
		if err == nil && ev.RoomID != room.ID {
			err = fmt.Errorf("it is of the room %s", ev.RoomID)
		}
		if err != nil {
			s.log.WithError(err).WithField("room", room.ID).Info("a fetched event is not valid")
			continue
		}
		out = append(out, ev)
	}
	return out
}

// isInternal tells failures of ours from faults of the events: those are
// merr.Errors, and processing may be tried again after the others.
func isInternal(err error) bool {
	var e *merr.Error
	return !errors.As(err, &e) || errors.Is(err, errFull) || e.Status >= 500 && e.Status != 502 && e.Status != 504
}
