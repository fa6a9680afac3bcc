package syncapi

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/maypok86/otter/v2"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/statetree"
	"weft/internal/stream"
	"weft/matrix/id"
)

const (
	// piecesBytes bounds the memory of pieces; maxPiece the events of one, and maxPieces how
	// many one sync uses: beyond that a query for all its rooms is cheaper.
	piecesBytes = 8 << 20
	maxPiece    = 50
	maxPieces   = 32
)

// errBehind says that a room went on while a piece of it was read.
var errBehind = errors.New("the room has newer events")

// piece is the latest stretch of a room, with what a sync needs to tell it. It is the same for all members who
// follow the room, so it is read once for all of them; it is never changed.
type piece struct {
	room   *eventstore.Room
	events []*eventstore.Event // latest first
	gaps   map[nid.Event]bool
	moved  []eventstore.Member
	// prev is the state before the stretch; known is false where there is none. nodes has
	// what of it is not stored.
	prev  statetree.Root
	known bool
	nodes *statetree.Batch

	counting sync.Mutex
	counted  bool
	counts   map[id.Event]map[string]int64
}

// pieceKey names a piece. The room's next event makes another one.
type pieceKey struct {
	room        nid.Room
	first, last int64
}

type pieces struct {
	s     *Server
	cache *otter.Cache[pieceKey, *piece]
}

func newPieces(s *Server) (*pieces, error) {
	cache, err := otter.New(&otter.Options[pieceKey, *piece]{
		MaximumWeight: piecesBytes,
		Weigher: func(_ pieceKey, p *piece) uint32 {
			size := 500 + 150*len(p.moved) + p.nodes.Bytes()
			for _, e := range p.events {
				size += 1000 + 2*len(e.JSON())
			}
			return uint32(min(size, 1<<30))
		},
	})
	if err != nil {
		return nil, fmt.Errorf("cache of timelines: %w", err)
	}
	return &pieces{s: s, cache: cache}, nil
}

// get gives the piece of a room that a span of the tail names, which is all of the room's events up to a position of
// the stream. errBehind says that the room has newer ones by now.
func (p *pieces) get(ctx context.Context, room nid.Room, span eventstore.Span, to int64) (*piece, error) {
	key := pieceKey{room, span.First(), span.Last()}
	// What is read serves others too, so it does not end with this request.
	return p.cache.Get(context.WithoutCancel(ctx), key, otter.LoaderFunc[pieceKey, *piece](
		func(ctx context.Context, _ pieceKey) (*piece, error) { return p.read(ctx, room, span, to) }))
}

// read reads a piece, at one moment.
func (p *pieces) read(ctx context.Context, room nid.Room, span eventstore.Span, to int64) (*piece, error) {
	s := p.s
	out := &piece{nodes: statetree.NewBatch(s.events)}
	var before *eventstore.Event
	var now int64
	err := s.db.View(ctx, func(tx *sqldb.Tx) error {
		r := s.events.Snapshot(tx)
		var err error
		if now, err = stream.Position(ctx, tx, stream.Events); err != nil {
			return err
		}
		if out.room, err = r.RoomByNID(ctx, room); err != nil {
			return err
		}
		if out.gaps, err = gapsOf(ctx, r, room); err != nil {
			return err
		}
		moved, err := r.MovedMembers(ctx, []nid.Room{room}, span.First()-1, span.Last())
		if err != nil {
			return err
		}
		out.moved = moved[room]
		before, err = out.readEvents(ctx, r, span)
		return err
	})
	if err != nil {
		return nil, err
	}
	if before != nil && before.HasState {
		out.known = true
		if out.prev, err = s.rootAfter(ctx, before, out.nodes); err != nil {
			return nil, err
		}
	}
	return out, s.stillLast(ctx, room, to, now)
}

// readEvents reads the events of a span, and the room's last one before it, nil for none.
func (p *piece) readEvents(ctx context.Context, r *eventstore.Reader, span eventstore.Span) (before *eventstore.Event, err error) {
	numbers := make([]nid.Event, 0, len(span.Events)+1)
	for i := len(span.Events) - 1; i >= 0; i-- {
		numbers = append(numbers, span.Events[i].Event)
	}
	last, err := r.LastBefore(ctx, p.room.NID, span.First()-1)
	if err != nil {
		return nil, err
	}
	if last != 0 {
		numbers = append(numbers, last)
	}
	if p.events, err = r.Events(ctx, numbers); err != nil || last == 0 {
		return nil, err
	}
	n := len(p.events) - 1
	before, p.events = p.events[n], p.events[:n:n]
	return before, nil
}

// stillLast reports errBehind when a room has events at the positions from < pos ≤ to.
func (s *Server) stillLast(ctx context.Context, room nid.Room, from, to int64) error {
	if from >= to {
		return nil
	}
	if err := s.tail.Reach(ctx, to); err != nil {
		return err
	}
	newer, ok := s.tail.Changed(from, to, func(n nid.Room) bool { return n == room })
	if !ok || len(newer) > 0 {
		return errBehind
	}
	return nil
}

// relations counts the relations to the piece's events, once.
func (p *piece) relations(ctx context.Context, s *Server) (map[id.Event]map[string]int64, error) {
	p.counting.Lock()
	defer p.counting.Unlock()
	if p.counted {
		return p.counts, nil
	}
	counts, err := s.countRelations(ctx, p.events)
	if err != nil {
		return nil, err
	}
	p.counts, p.counted = counts, true
	return counts, nil
}
