package syncapi

import (
	"context"
	"fmt"
	"slices"

	"github.com/maypok86/otter/v2"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/stream"
)

// joinedBytes bounds the memory of the users' lists of rooms.
const joinedBytes = 8 << 20

// roomSet is the rooms in which a user is joined, ascending, at a position of the event stream.
type roomSet struct {
	at    int64
	rooms []nid.Room
}

func (r *roomSet) has(n nid.Room) bool {
	_, ok := slices.BinarySearch(r.rooms, n)
	return ok
}

// joinedRooms keeps the lists of rooms of users who sync. A list stays good as long as the tail of
// the stream knows of no change to the user's memberships.
type joinedRooms struct {
	s     *Server
	cache *otter.Cache[nid.StateKey, *roomSet]
}

func newJoinedRooms(s *Server) (*joinedRooms, error) {
	cache, err := otter.New(&otter.Options[nid.StateKey, *roomSet]{
		MaximumWeight: joinedBytes,
		Weigher:       func(_ nid.StateKey, r *roomSet) uint32 { return uint32(min(150+8*len(r.rooms), 1<<30)) },
	})
	if err != nil {
		return nil, fmt.Errorf("cache of joined rooms: %w", err)
	}
	return &joinedRooms{s: s, cache: cache}, nil
}

// at gives the rooms in which a user is joined at a position that the tail covers, or at a later one, when the user's
// memberships changed just now.
func (j *joinedRooms) at(ctx context.Context, user nid.StateKey, to int64) (*roomSet, error) {
	if set, ok := j.cache.GetIfPresent(user); ok && set.at <= to {
		if moved, ok := j.s.tail.Moved(user, set.at, to); ok && !moved {
			if to-set.at > eventstore.TailLen/4 {
				set = &roomSet{at: to, rooms: set.rooms} // before the tail forgets
				j.cache.Set(user, set)
			}
			return set, nil
		}
	}
	set := &roomSet{}
	err := j.s.db.View(ctx, func(tx *sqldb.Tx) error {
		var err error
		if set.at, err = stream.Position(ctx, tx, stream.Events); err != nil {
			return err
		}
		set.rooms, err = j.s.events.Snapshot(tx).JoinedRooms(ctx, user)
		return err
	})
	if err != nil {
		return nil, err
	}
	j.cache.Set(user, set)
	return set, nil
}
