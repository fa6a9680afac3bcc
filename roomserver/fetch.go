package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"weft/internal/eventstore"
	"weft/internal/fedclient"
	"weft/internal/statetree"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	// fewEvents is up to how many events are asked for one by one rather than
	// with the whole auth chain or state.
	fewEvents = 8
	// fewState is the same for the state at a gap: asking one by one costs a request
	// each, asking for all costs the whole state.
	fewState = 100
	// fetchRounds bounds how many steps back along auth events are followed one
	// by one.
	fetchRounds = 100
	// gapWait is how long an event waits for parts of the state at a gap before it: for the
	// keys of servers that are away, of which some in a big room are gone for good, and for
	// what the origin fails to give. Then the state is taken without the former, and as a
	// whole instead of the latter.
	gapWait = 10 * time.Minute
)

// fetchAuth is step 6: it fetches the auth events of an event that are not in the
// store, and theirs, and stores them as outliers. An event whose auth events cannot
// be had is refused.
//
// spec: server-server §5.1.6 (Retrieving event authorisation information)
func (p *plan) fetchAuth(ctx context.Context, ev *event.Event) error {
	missing, err := p.missingAuth(ctx, ev)
	if err != nil || len(missing) == 0 {
		return err
	}
	if len(missing) <= fewEvents {
		if err := p.fetchOutliers(ctx, missing, 8*fewEvents); err != nil {
			return err
		}
		if missing, err = p.missingAuth(ctx, ev); err != nil || len(missing) == 0 {
			return err
		}
	}
	sp := newSpool(p.room.Rules, p.room.ID)
	defer p.s.closeSpool(sp)
	got := 0
	err = p.ask(func() error {
		return p.s.cfg.Remote.GetEventAuth(ctx, p.origin, p.room.ID, ev.ID, func(_ fedclient.List, raw json.RawMessage) error {
			got++
			return sp.AddAuth(raw)
		})
	})
	p.s.metrics.fetched("event_auth", got)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		p.s.log.WithError(err).WithField("event", ev.ID).Info("the auth chain was not given")
	default:
		if err := p.storeOutliers(ctx, sp); err != nil {
			return err
		}
	}
	if missing, err = p.missingAuth(ctx, ev); err != nil || len(missing) == 0 {
		return err
	}
	if err := p.fetchOutliers(ctx, missing, p.s.limits.FetchEvents); err != nil {
		return err
	}
	if missing, err = p.missingAuth(ctx, ev); err != nil || len(missing) == 0 {
		return err
	}
	return merr.Forbidden("the auth event %s is not known and could not be fetched", missing[0])
}

// missingAuth gives the auth events that are neither stored nor planned.
func (p *plan) missingAuth(ctx context.Context, ev *event.Event) ([]id.Event, error) {
	var look []id.Event
	for _, a := range ev.AuthEvents {
		if !p.has[a] {
			look = append(look, a)
		}
	}
	return p.missing(ctx, look, 0)
}

// fetchOutliers fetches events one by one, and the auth events they need, at
// most budget in all, and stores those that can be authorised. That some cannot
// be had is no error.
func (p *plan) fetchOutliers(ctx context.Context, wanted []id.Event, budget int) error {
	sp := newSpool(p.room.Rules, p.room.ID)
	defer p.s.closeSpool(sp)
	if err := p.fetchInto(ctx, sp, wanted, budget); err != nil {
		return err
	}
	return p.storeOutliers(ctx, sp)
}

// fetchInto fetches events into a spool, round by round along their auth events.
func (p *plan) fetchInto(ctx context.Context, sp *spool, wanted []id.Event, budget int) error {
	asked := make(map[id.Event]bool)
	for range fetchRounds {
		if len(wanted) > budget {
			wanted = wanted[:budget]
		}
		if len(wanted) == 0 {
			return nil
		}
		budget -= len(wanted)
		raws, err := p.fetchEvents(ctx, wanted)
		if err != nil {
			return err
		}
		for _, w := range wanted {
			asked[w] = true
		}
		var next []id.Event
		for _, ev := range p.s.parseAll(raws, p.room) {
			if err := sp.addEvent(ev, false); err != nil {
				return err
			}
			for _, a := range ev.AuthEvents {
				if !asked[a] && !sp.has(a) && !p.has[a] {
					asked[a] = true
					next = append(next, a)
				}
			}
		}
		if wanted, err = p.s.missing(ctx, next, 0); err != nil {
			return err
		}
	}
	return nil
}

// fetchEvents asks the origin for events side by side, a bounded number at a
// time. Those it does not give are left out. The error is the context's.
func (p *plan) fetchEvents(ctx context.Context, ids []id.Event) ([]json.RawMessage, error) {
	var mu sync.Mutex
	var out []json.RawMessage
	var wg sync.WaitGroup
	slots := make(chan struct{}, p.s.limits.FetchConcurrency)
	for _, i := range ids {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			var raw json.RawMessage
			err := p.ask(func() (err error) {
				raw, err = p.s.cfg.Remote.GetEvent(ctx, p.origin, i)
				return err
			})
			if err != nil {
				p.s.log.WithError(err).WithField("event", i).Info("an event was not given")
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, raw)
		})
	}
	wg.Wait()
	p.s.metrics.fetched("event", len(out))
	return out, ctx.Err()
}

// fetchState is step 5: the state after a previous event that we do not have, as
// the origin says it. The events of the state and the missing event itself are
// stored as outliers; those that fail their checks are not part of the state. It is no state when
// the origin gave no answer about a part of it, nor, for some time (gapWait), when keys for what is newer
// than our knowledge of the room cannot be had: what it lacked would have good events rejected for ever.
//
// spec: server-server §8 (state_ids: "the fully resolved state of the room, prior to considering
// any state changes induced by the requested event")
func (p *plan) fetchState(ctx context.Context, missing id.Event) (gapState, error) {
	g := gapState{missing: missing}
	var ids *fedclient.StateIDs
	err := p.ask(func() (err error) {
		ids, err = p.s.cfg.Remote.GetStateIDs(ctx, p.origin, p.room.ID, missing)
		return err
	})
	if err != nil {
		return g, err
	}
	p.s.metrics.fetched("state_ids", 1)
	all := append(append([]id.Event{missing}, ids.State...), ids.AuthChain...)
	unknown, err := p.s.missing(ctx, all, 0)
	if err != nil {
		return g, err
	}
	sp := newSpool(p.room.Rules, p.room.ID)
	defer p.s.closeSpool(sp)
	if len(unknown) > min(max(fewState, len(all)/10), p.s.limits.FetchEvents) {
		if err := p.wholeState(ctx, sp, missing); err != nil {
			return g, err
		}
		unknown = []id.Event{missing}
	}
	unanswered, err := p.fetchParts(ctx, sp, unknown, ids.State)
	if err != nil {
		return g, err
	}
	var whole error
	if unanswered && !p.patient {
		unanswered, whole = false, p.wholeState(ctx, sp, missing)
	}
	o, err := p.s.storeSpool(ctx, p.room, sp) // also when that failed: the next time, less is missing
	if err = errors.Join(whole, err); err != nil {
		return g, err
	}
	p.asked(o.later)
	if unanswered || p.patient && o.laterDepth > p.room.Depth {
		lacking, err := p.s.missing(ctx, ids.State, 0)
		if err != nil {
			return g, err
		}
		if len(lacking) > 0 {
			return g, merr.Forbidden("%s of the state after %s, and %d more, cannot be had or verified for now", lacking[0], missing, len(lacking)-1)
		}
	}
	g.entries, err = p.s.stateEntries(ctx, p.room, ids.State, missing)
	return g, err
}

// wholeState fetches the state before an event, with its auth chain, into a spool.
func (p *plan) wholeState(ctx context.Context, sp *spool, at id.Event) error {
	got := 0
	err := p.ask(func() error {
		return p.s.cfg.Remote.GetState(ctx, p.origin, p.room.ID, at, func(_ fedclient.List, raw json.RawMessage) error {
			got++
			return sp.AddAuth(raw)
		})
	})
	p.s.metrics.fetched("state", got)
	return err
}

// fetchParts fetches what is unknown of a state into a spool. unanswered tells that some of the state is not there
// because a request got no answer.
func (p *plan) fetchParts(ctx context.Context, sp *spool, unknown, state []id.Event) (unanswered bool, _ error) {
	earlier := p.unreached.Swap(false)
	err := p.fetchInto(ctx, sp, unknown, p.s.limits.FetchEvents)
	if p.unreached.Load() {
		lacking := make(map[id.Event]bool)
		for _, e := range unknown {
			lacking[e] = !sp.has(e)
		}
		unanswered = slices.ContainsFunc(state, func(e id.Event) bool { return lacking[e] })
	}
	if earlier {
		p.unreached.Store(true)
	}
	return unanswered, err
}

// stateEntries makes a state of event IDs, with the change by the event that
// follows. Rejected events and those that could not be had are not part of it.
func (s *Server) stateEntries(ctx context.Context, room *eventstore.Room, ids []id.Event, then id.Event) ([]statetree.Change, error) {
	places := make(map[statetree.Key]int, len(ids))
	var out []statetree.Change
	created := false
	put := func(e *eventstore.Event) {
		if !e.IsState || e.Flags&eventstore.Rejected != 0 || e.RoomNID != room.NID {
			return
		}
		created = created || e.Type == "m.room.create" && e.StateKey == ""
		c := statetree.Change{Key: e.Key(), Event: e.NID}
		if i, ok := places[c.Key]; ok {
			out[i] = c
			return
		}
		places[c.Key] = len(out)
		out = append(out, c)
	}
	const chunk = 500
	for len(ids) > 0 {
		n := min(chunk, len(ids))
		events, err := s.eventsByID(ctx, ids[:n])
		if err != nil {
			return nil, err
		}
		for _, i := range ids[:n] {
			if e := events[i]; e != nil {
				put(e)
			}
		}
		ids = ids[n:]
	}
	last, err := s.eventsByID(ctx, []id.Event{then})
	if err != nil {
		return nil, err
	}
	if last[then] == nil {
		return nil, merr.Forbidden("the previous event %s could not be fetched", then)
	}
	put(last[then])
	if !created {
		return nil, merr.Forbidden("the state after %s has no create event", then)
	}
	return out, nil
}

// storeOutliers stores the events of a spool. That some could not be verified for now is noted.
func (p *plan) storeOutliers(ctx context.Context, sp *spool) error {
	o, err := p.s.storeSpool(ctx, p.room, sp)
	if err == nil {
		p.asked(o.later)
	}
	return err
}

func (s *Server) closeSpool(sp *spool) {
	if err := sp.Close(); err != nil {
		s.log.WithError(err).Error("a temporary file was not removed")
	}
}
