package syncapi

import (
	"context"
	"sync"
	"time"

	"weft/internal/bus"
	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/stream"
	"weft/matrix/id"
)

const (
	// pollInterval is after how long a sleeping request looks by itself.
	pollInterval = 15 * time.Second
	// membersKept and membersTTL bound what is remembered about the local members of rooms.
	membersKept = 4096
	membersTTL  = time.Minute
)

// notifier wakes sleeping requests. Its lock is held for map operations only.
type notifier struct {
	s *Server

	mu      sync.Mutex
	users   map[id.User]map[*waiter]struct{}
	pending wakeups

	signal  chan struct{} // something is pending
	members map[id.Room]roomMembers
}

// waiter is one sleeping request. Who wakes it says which look at the positions shows why.
type waiter struct{ woken chan *positionRead }

// wakeups are the updates that are not carried out yet, merged.
type wakeups struct {
	all     bool
	rooms   map[id.Room]bool // the value: local members may have changed
	users   map[id.User]struct{}
	devices map[id.User]struct{} // users whose devices, or presence, changed
}

func (w *wakeups) empty() bool {
	return !w.all && len(w.rooms) == 0 && len(w.users) == 0 && len(w.devices) == 0
}

// roomMembers are the local joined members of a room, as they were at a time.
type roomMembers struct {
	users []id.User
	read  time.Time
}

func newNotifier(s *Server) *notifier {
	return &notifier{s: s, users: make(map[id.User]map[*waiter]struct{}), signal: make(chan struct{}, 1), members: make(map[id.Room]roomMembers)}
}

// wait registers a request of a user. What happens from now on wakes it.
func (n *notifier) wait(user id.User) *waiter {
	w := &waiter{woken: make(chan *positionRead, 1)}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.users[user] == nil {
		n.users[user] = make(map[*waiter]struct{})
	}
	n.users[user][w] = struct{}{}
	return w
}

func (n *notifier) done(user id.User, w *waiter) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.users[user], w)
	if len(n.users[user]) == 0 {
		delete(n.users, user)
	}
}

// wake wakes the requests of users.
func (n *notifier) wake(users ...id.User) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, u := range users {
		n.wakeSet(n.users[u])
	}
}

func (n *notifier) wakeAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, set := range n.users {
		n.wakeSet(set)
	}
}

// wakeSet wakes requests, all of which slept before the look that they get. One that is awake already may not have
// looked yet, so this look takes the place of the one that it was woken with. The lock is held: nobody else sends.
func (n *notifier) wakeSet(set map[*waiter]struct{}) {
	for w := range set {
		select {
		case <-w.woken:
		default:
		}
		w.woken <- n.s.latest.ask()
	}
}

// take notes an update of the bus; it is carried out by run.
func (n *notifier) take(u bus.Update) {
	n.mu.Lock()
	p := &n.pending
	switch {
	case u.Stream == "":
		p.all = true
	case u.Stream == stream.DeviceLists, u.Stream == topicPresence:
		p.devices = addAll(p.devices, u.Users)
	default:
		p.users = addAll(p.users, u.Users)
		if p.rooms == nil {
			p.rooms = make(map[id.Room]bool)
		}
		for _, r := range u.Rooms {
			p.rooms[id.Room(r)] = p.rooms[id.Room(r)] || u.Stream == stream.Events && len(u.Users) > 0
		}
	}
	n.mu.Unlock()
	select {
	case n.signal <- struct{}{}:
	default:
	}
}

func addAll(set map[id.User]struct{}, users []string) map[id.User]struct{} {
	if set == nil {
		set = make(map[id.User]struct{}, len(users))
	}
	for _, u := range users {
		set[id.User(u)] = struct{}{}
	}
	return set
}

// run carries out wake-ups until ctx ends.
func (n *notifier) run(ctx context.Context) {
	cancel := bus.SubscribeUpdates(n.s.cfg.Bus, func(u bus.Update) {
		n.s.tail.Hear(u.Lot)
		n.s.poller.heard(u)
		n.s.follower.heard(u)
		n.take(u)
	})
	defer cancel()
	n.take(bus.Update{}) // for what happened before, while requests slept already
	for {
		select {
		case <-n.signal:
			n.flush(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// flush carries out what is pending.
func (n *notifier) flush(ctx context.Context) {
	n.mu.Lock()
	p := n.pending
	n.pending = wakeups{}
	idle := len(n.users) == 0
	n.mu.Unlock()
	if p.empty() {
		return
	}
	if p.all {
		clear(n.members)
	}
	for room, changed := range p.rooms {
		if changed {
			delete(n.members, room)
		}
	}
	if idle {
		return
	}
	if p.all {
		n.wakeAll()
		return
	}
	for u := range p.users {
		n.wake(u)
	}
	for room := range p.rooms {
		n.wake(n.localMembers(ctx, room)...)
	}
	for u := range p.devices {
		n.wake(u)
		sharing, err := n.s.events.LocalUsersSharingRoomsWith(ctx, u)
		if err != nil {
			n.failed(ctx, err)
		}
		n.wake(sharing...)
	}
}

// failed logs a failure to find out whom to wake; they look by themselves, later.
func (n *notifier) failed(ctx context.Context, err error) {
	if ctx.Err() == nil {
		n.s.log.WithError(err).Warn("could not find out whom a change concerns")
	}
}

// localMembers gives the local joined members of a room. Only run calls it.
func (n *notifier) localMembers(ctx context.Context, room id.Room) []id.User {
	now := n.s.now()
	if m, ok := n.members[room]; ok && now.Sub(m.read) < membersTTL {
		return m.users
	}
	users, err := n.readMembers(ctx, room)
	if err != nil {
		n.failed(ctx, err)
		return nil
	}
	if len(n.members) >= membersKept {
		clear(n.members)
	}
	n.members[room] = roomMembers{users, now}
	return users
}

func (n *notifier) readMembers(ctx context.Context, room id.Room) ([]id.User, error) {
	number, err := n.s.events.RoomNID(ctx, room)
	if err != nil || number == 0 {
		return nil, err
	}
	return localUsers(ctx, n.s.events, number)
}

func localUsers(ctx context.Context, r *eventstore.Reader, room nid.Room) ([]id.User, error) {
	list, err := r.LocalMembers(ctx, room)
	if err != nil {
		return nil, err
	}
	users := make([]id.User, len(list))
	for i, m := range list {
		users[i] = m.User
	}
	return users, nil
}
