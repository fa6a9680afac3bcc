package syncapi

import (
	"context"
	"sync"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/statetree"
	"weft/matrix/id"
)

const (
	maxSentRooms   = 10_000 // devices × rooms
	maxSentMembers = 100    // per device and room
)

// sentMembers remembers which member events a device has got, so that members who are loaded
// lazily are not sent with each of their messages again. Forgetting costs a repetition only.
type sentMembers struct {
	mu    sync.Mutex
	rooms map[sentKey]map[nid.Event]struct{}
}

type sentKey struct {
	user   id.User
	device id.Device
	room   id.Room
}

func newSentMembers() *sentMembers {
	return &sentMembers{rooms: make(map[sentKey]map[nid.Event]struct{})}
}

// drop takes out of state the member events that the device has got, and which are in it only
// because of who sent something. What changed since the last sync stays.
//
// spec: client-server §6.4.2 (include_redundant_members)
func (m *sentMembers) drop(ctx context.Context, r *eventstore.Reader, q *syncRequest, room id.Room, state []nid.Event, d *deltaQuery) ([]nid.Event, error) {
	list, err := r.Events(ctx, state)
	if err != nil {
		return nil, err
	}
	var keys []statetree.Key
	for _, e := range list {
		keys = append(keys, e.Key())
	}
	before, err := statetree.GetMany(ctx, d.nodes, d.prev, keys)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := sentKey{q.user, q.device, room}
	got := m.rooms[key]
	if got == nil || len(got) > maxSentMembers {
		if len(m.rooms) >= maxSentRooms {
			clear(m.rooms)
		}
		got = make(map[nid.Event]struct{})
		m.rooms[key] = got
	}
	out := state[:0]
	for i, e := range list {
		if e.TypeNID == nid.TypeMember {
			_, repeated := got[e.NID]
			got[e.NID] = struct{}{}
			if repeated && before[i] == e.NID {
				continue
			}
		}
		out = append(out, e.NID)
	}
	return out, nil
}
