package syncapi

import (
	"context"
	"errors"

	"weft/internal/eventstore"
	"weft/internal/nid"
)

// liveAttempts is how often the live way begins anew because something happened meanwhile.
const liveAttempts = 3

// live chooses what to tell from memory: the tail of the event stream knows which rooms changed, and the pieces of
// rooms are read once for all who follow them. It reports false where that does not serve: for first and whole syncs,
// for tokens from before the tail, when the user's own memberships changed, and when much has
// happened. Then the plan is made from a snapshot of the database.
func (c *chooser) live(ctx context.Context) (bool, error) {
	if c.q.whole() {
		return false, nil
	}
	for range liveAttempts {
		look := c.q.look
		if c.q.look = nil; look == nil {
			look = c.s.latest.ask()
		}
		to, err := c.s.latest.await(ctx, look)
		if err != nil {
			return false, err
		}
		if done, err := c.begin(to); done || err != nil {
			return true, err
		}
		if c.p.me, err = c.s.events.UserNID(ctx, c.q.user); err != nil || c.p.me == 0 || !c.roomsMayHaveNews() {
			return true, err
		}
		ok, err := c.fromTail(ctx)
		if errors.Is(err, errBehind) {
			continue
		}
		return ok, err
	}
	return false, nil
}

// fromTail finds the rooms with something new. It reports false where the tail does not say.
func (c *chooser) fromTail(ctx context.Context) (bool, error) {
	s, since, to := c.s, c.q.since.Events, c.p.to.Events
	c.reset()
	if err := s.tail.Reach(ctx, to); err != nil {
		return false, err
	}
	var err error
	if c.rooms, err = s.joined.at(ctx, c.p.me, to); err != nil {
		return false, err
	}
	if c.rooms.at > to {
		return false, errBehind
	}
	if moved, ok := s.tail.Moved(c.p.me, since, to); !ok || moved {
		return false, nil
	}
	spans, ok := s.tail.Changed(since, to, c.rooms.has)
	if !ok || len(spans) > maxPieces {
		return false, nil
	}
	for n, span := range spans {
		if ok, err := c.takeSpan(ctx, n, span); !ok || err != nil {
			return false, err
		}
	}
	return true, c.ephemeral(ctx, s.db, s.events)
}

// takeSpan takes what is new in one room.
func (c *chooser) takeSpan(ctx context.Context, n nid.Room, span eventstore.Span) (bool, error) {
	if len(span.Events) > maxPiece {
		return false, nil
	}
	if wanted, err := c.wantedNID(ctx, n); !wanted || err != nil {
		return true, err
	}
	p, err := c.s.pieces.get(ctx, n, span, c.p.to.Events)
	if err != nil {
		return false, err
	}
	c.concerned[n], c.rows[n], c.pieces[n] = true, p.room, p
	return true, nil
}
