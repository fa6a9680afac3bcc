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

// draftOn begins a draft on a room, stub or not. One that is not known is M_NOT_FOUND.
func (s *Server) draftOn(ctx context.Context, room id.Room) (*draft, error) {
	if h, ok := s.heads.cache.GetIfPresent(room); ok {
		return s.draftAt(h.room, h.tips), nil
	}
	row, err := s.store.Room(ctx, room)
	if err != nil {
		return nil, err
	}
	return s.newDraft(ctx, row)
}
