package roomserver

import (
	"context"
	"fmt"

	"github.com/maypok86/otter/v2"

	"weft/internal/eventstore"
	"weft/matrix/id"
)

// maxHeads bounds the rooms that are remembered.
const maxHeads = 4096

// head is a room as its last commit left it.
type head struct {
	room *eventstore.Room
	tips []*eventstore.Event // forward extremities, in the order of their numbers
}

// heads remembers the rooms that were written last, so that the next event of a busy room is built without
// reading the room again. It may be wrong, when another node wrote to the room: then the fence refuses
// what was built on it, and the room is read.
type heads struct{ cache *otter.Cache[id.Room, head] }

func newHeads() (*heads, error) {
	cache, err := otter.New(&otter.Options[id.Room, head]{MaximumSize: maxHeads})
	if err != nil {
		return nil, fmt.Errorf("roomserver: cache of rooms: %w", err)
	}
	return &heads{cache}, nil
}

// forget makes the next draft of a room read it.
func (h *heads) forget(room id.Room) { h.cache.Invalidate(room) }

// put remembers what a commit made of a room.
func (h *heads) put(w *writeSet) {
	room := *w.room
	room.Revision = max(room.Revision, 1) + 1
	h.cache.Set(room.ID, head{room: &room, tips: w.d.tips})
}

// overtaken is errStale when a draft that stores nothing, and so meets no fence, was begun on a room as it
// is no longer: what was decided on it may be wrong.
func (s *Server) overtaken(ctx context.Context, d *draft) error {
	if !d.remembered || !s.cfg.Shared {
		return nil
	}
	s.heads.forget(d.room.ID)
	now, err := s.store.Room(ctx, d.room.ID)
	if err == nil && now.Revision != d.room.Revision {
		err = fmt.Errorf("%w: revision %d, it is %d", errStale, d.room.Revision, now.Revision)
	}
	return err
}

// draftOn begins a draft on a room, stub or not. One that is not known is M_NOT_FOUND.
func (s *Server) draftOn(ctx context.Context, room id.Room) (*draft, error) {
	if h, ok := s.heads.cache.GetIfPresent(room); ok {
		d := s.draftAt(h.room, h.tips)
		d.remembered = true
		return d, nil
	}
	row, err := s.store.Room(ctx, room)
	if err != nil {
		return nil, err
	}
	return s.newDraft(ctx, row)
}
