package syncapi

import (
	"context"
	"fmt"
	"sync"

	"github.com/maypok86/otter/v2"
	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/stream"
)

// residentsBytes bounds the memory of the lists of rooms' local members.
const residentsBytes = 8 << 20

// residentsStep is after how many positions a list is looked upon as newly read.
const residentsStep = 256

// residents are the local joined members of a room at a position of the event stream. All but the names is immutable.
type residents struct {
	at      int64
	members []eventstore.Member

	mu    sync.Mutex
	names map[nid.StateKey]string // display names; nil until one is asked for
}

// residentLists keeps the local members of rooms in which something happens. A list stays good as long as the tail of
// the stream knows of no member event and no change of a local membership in the room.
type residentLists struct {
	s     *Server
	cache *otter.Cache[nid.Room, *residents]
}

func newResidentLists(s *Server) (*residentLists, error) {
	cache, err := otter.New(&otter.Options[nid.Room, *residents]{
		MaximumWeight: residentsBytes,
		Weigher:       func(_ nid.Room, r *residents) uint32 { return uint32(min(200+250*len(r.members), 1<<30)) },
	})
	if err != nil {
		return nil, fmt.Errorf("cache of local members: %w", err)
	}
	return &residentLists{s: s, cache: cache}, nil
}

// of gives the local members of a room, as they are now or were when the tail was last moved on.
func (l *residentLists) of(ctx context.Context, room nid.Room) (*residents, error) {
	end := l.s.tail.End()
	if r, ok := l.cache.GetIfPresent(room); ok {
		if changed, ok := l.s.tail.MembersChanged(room, r.at, end); ok && !changed {
			if end-r.at > residentsStep {
				r = r.asOf(end)
				l.cache.Set(room, r)
			}
			return r, nil
		}
	}
	r := &residents{}
	err := l.s.db.View(ctx, func(tx *sqldb.Tx) error {
		var err error
		if r.at, err = stream.Position(ctx, tx, stream.Events); err != nil {
			return err
		}
		r.members, err = l.s.events.Snapshot(tx).LocalMembers(ctx, room)
		return err
	})
	if err != nil {
		return nil, err
	}
	l.cache.Set(room, r)
	return r, nil
}

// asOf gives the same list at a later position, so that less of the tail is looked through.
func (r *residents) asOf(at int64) *residents {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &residents{at: at, members: r.members, names: r.names}
}

// name gives a member's display name in the room. The names of all are read when the first is asked for.
func (l *residentLists) name(ctx context.Context, r *residents, m eventstore.Member) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.names == nil {
		numbers := make([]nid.Event, len(r.members))
		for i, m := range r.members {
			numbers[i] = m.Event
		}
		list, err := l.s.events.Events(ctx, numbers)
		if err != nil {
			return "", err
		}
		r.names = make(map[nid.StateKey]string, len(list))
		for i, e := range list {
			r.names[r.members[i].UserNID] = gjson.GetBytes(e.Content(), "displayname").Str
		}
	}
	if name, ok := r.names[m.UserNID]; ok {
		return name, nil
	}
	if m.Event == 0 {
		return "", nil
	}
	e, err := l.s.events.Event(ctx, m.Event) // who was invited just now is no member yet
	if err != nil {
		return "", err
	}
	return gjson.GetBytes(e.Content(), "displayname").Str, nil
}

// member gives what is known of a member, or m itself.
func (r *residents) member(m eventstore.Member) eventstore.Member {
	for _, l := range r.members {
		if l.UserNID == m.UserNID {
			return l
		}
	}
	return m
}
