package roomserver

import (
	"context"
	"errors"
	"sync"

	"weft/internal/eventstore"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

var (
	_ api.Rooms      = (*Server)(nil)
	_ api.Directory  = (*Server)(nil)
	_ api.Federation = (*Server)(nil)
)

const (
	// maxRemoteJoins is how many joins over federation are under way at a time: each may
	// bring in the state of a big room.
	maxRemoteJoins = 4
	// maxCandidates is how many servers are asked, one after another, for one join,
	// knock or leave.
	maxCandidates = 20
)

// operations is what the operations keep in memory. The zero value is ready.
type operations struct {
	mu    sync.Mutex
	busy  map[id.Room]chan struct{} // rooms that are being joined over federation
	joins chan struct{}             // one token for each join under way
}

// enterRoom waits until nobody else on this node joins the room over federation.
// Those who come second usually find that the server is in the room then. leave
// must be called.
func (o *operations) enterRoom(ctx context.Context, room id.Room) (leave func(), err error) {
	for {
		o.mu.Lock()
		other, taken := o.busy[room]
		if !taken {
			done := make(chan struct{})
			if o.busy == nil {
				o.busy = make(map[id.Room]chan struct{})
			}
			o.busy[room] = done
			o.mu.Unlock()
			return func() {
				o.mu.Lock()
				delete(o.busy, room)
				o.mu.Unlock()
				close(done)
			}, nil
		}
		o.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// enterJoin waits until fewer than maxRemoteJoins joins are under way.
func (o *operations) enterJoin(ctx context.Context) (leave func(), err error) {
	o.mu.Lock()
	if o.joins == nil {
		o.joins = make(chan struct{}, maxRemoteJoins)
	}
	slots := o.joins
	o.mu.Unlock()
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// residence tells whether this server can act in a room by itself: it has the room's
// state, and one of its users is joined, or nobody at all is. In any other room the
// state may have moved on without us. The room is nil when it is not known at all.
func (s *Server) residence(ctx context.Context, room id.Room) (_ *eventstore.Room, resident bool, _ error) {
	r, err := s.store.Room(ctx, room)
	if errors.Is(err, merr.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil || r.Stub {
		return r, false, err
	}
	if r.Joined == 0 {
		return r, true, nil
	}
	resident, err = s.store.ServerInRoom(ctx, r.NID, s.cfg.ServerName)
	return r, resident, err
}
