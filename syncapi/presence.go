package syncapi

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"weft/internal/bus"
	"weft/internal/eventstore"
	"weft/matrix/id"
	"weft/syncapi/api"
)

const (
	presenceOnline      = "online"
	presenceUnavailable = "unavailable"
	presenceOffline     = "offline"

	topicPresence = "presence"
	eduPresence   = "m.presence"
)

const (
	// offlineAfter is for how long a user without a /sync stays online, idleAfter how long one who
	// does nothing else.
	offlineAfter = 30 * time.Second
	idleAfter    = 5 * time.Minute
	// resendAfter is when other servers are told again that a user is there; remoteAfter
	// when we stop believing them.
	resendAfter = 25 * time.Minute
	remoteAfter = 35 * time.Minute
	// presenceTick is how often all that is checked.
	presenceTick = 5 * time.Second
	// maxPresence bounds the users that are known, maxStatus a status message in bytes.
	maxPresence = 100_000
	maxStatus   = 1024
	// maxArrivals bounds the members whose presence is told because they are new to the user.
	maxArrivals = 500
)

const (
	// topicActive carries who syncs on a node, for the others; with Config.Shared only.
	topicActive = "presence.active"
	// activeEvery is how often a node says so of a user, activeLost for how long others believe it.
	activeEvery = 20 * time.Second
	activeLost  = 75 * time.Second
	// yieldOffline and yieldIdle are how much longer those wait who are not to decide about a user.
	yieldOffline = 30 * time.Second
	yieldIdle    = time.Minute
)

// presence knows who is there. It lives in memory; the bus spreads it.
//
// spec: client-server §11.7 (Presence)
type presence struct {
	s *Server

	mu    sync.Mutex
	last  int64 // the newest position given out
	users map[id.User]*userPresence
}

// userPresence is the presence of one user.
type userPresence struct {
	state   string
	status  string
	active  time.Time // when last active; zero: not known
	changed int64     // position of the last change
	// stamp orders what is said of the user, wherever: what the bus brings later has no effect when
	// it is older, this node's own words included.
	stamp int64

	// syncs are the requests under way here, seen is when the last one ended, or when a user of
	// another server was heard of.
	syncs int
	seen  time.Time
	// idle: unavailable because nothing happened, not because the user said so.
	idle bool
	told time.Time // when other servers were told

	// heard is when another node last said that the user is there, said when this one did.
	heard, said time.Time
}

func newPresence(s *Server) *presence {
	return &presence{s: s, last: s.nowMS(), users: make(map[id.User]*userPresence)}
}

func (p *presence) position() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

func (p *presence) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.users)
}

// get gives a user's presence as others see it.
func (p *presence) get(user id.User) (api.Presence, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.users[user]
	if u == nil {
		return api.Presence{User: user, State: presenceOffline}, false
	}
	return u.show(user, p.s.now()), true
}

func (u *userPresence) show(user id.User, now time.Time) api.Presence {
	out := api.Presence{User: user, State: u.state, StatusMsg: u.status}
	if !u.active.IsZero() {
		out.LastActiveAgo = max(0, now.Sub(u.active).Milliseconds())
		out.CurrentlyActive = u.state == presenceOnline && now.Sub(u.active) < idleAfter
	}
	return out
}

// since lists the users whose presence changed after a position.
func (p *presence) since(pos int64) map[id.User]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last <= pos {
		return nil
	}
	out := make(map[id.User]bool)
	for user, u := range p.users {
		if u.changed > pos {
			out[user] = true
		}
	}
	return out
}

// presenceChange is one change, as the bus carries it.
type presenceChange struct {
	User   id.User `json:"u"`
	State  string  `json:"p"`
	Status string  `json:"s,omitempty"`
	Active int64   `json:"a,omitempty"` // ms
	Stamp  int64   `json:"v"`
	Idle   bool    `json:"i,omitempty"`
}

// activeUsers is what a node says of those who sync there.
type activeUsers struct {
	Node  int64            `json:"n"`
	Users []presenceChange `json:"u"`
}

// of gives what is said of a user. The lock is held.
func (u *userPresence) of(user id.User) presenceChange {
	c := presenceChange{User: user, State: u.state, Status: u.status, Stamp: u.stamp, Idle: u.idle}
	if !u.active.IsZero() {
		c.Active = u.active.UnixMilli()
	}
	return c
}

// entry gives the record of a user, making it where there is room for one; else nil. The lock is held.
func (p *presence) entry(user id.User) *userPresence {
	u := p.users[user]
	if u != nil {
		return u
	}
	if len(p.users) >= maxPresence {
		for user, old := range p.users {
			if old.state == presenceOffline && old.status == "" && old.syncs == 0 {
				delete(p.users, user)
			}
		}
		if len(p.users) >= maxPresence {
			return nil
		}
	}
	u = &userPresence{state: presenceOffline}
	p.users[user] = u
	return u
}

// set changes a user's presence. It reports false when nothing changed. The lock is held.
func (p *presence) set(u *userPresence, state, status string) bool {
	if u.state == state && u.status == status {
		return false
	}
	u.state, u.status = state, status
	p.last = max(p.last+1, p.s.nowMS())
	u.changed = p.last
	u.stamp = p.next(u)
	return true
}

// next gives the stamp of what is now said of a user. The lock is held.
func (p *presence) next(u *userPresence) int64 { return max(u.stamp+1, p.s.nowMS()) }

// update changes a local user's presence, and tells everybody.
func (p *presence) update(ctx context.Context, user id.User, change func(u *userPresence) (state, status string)) error {
	p.mu.Lock()
	u := p.entry(user)
	if u == nil {
		p.mu.Unlock()
		return nil
	}
	state, status := change(u)
	news := p.set(u, state, status)
	msg := u.of(user)
	if news {
		u.told = p.s.now()
	}
	p.mu.Unlock()
	if !news {
		return nil
	}
	return p.spread(ctx, msg)
}

// spread tells this node's users, other nodes and other servers of a change.
func (p *presence) spread(ctx context.Context, msg presenceChange) error {
	data, err := json.Marshal(msg)
	if err != nil {
		return err
	}
	p.s.cfg.Bus.Publish(topicPresence, data)
	p.wake(msg.User)
	return p.s.sendPresence(ctx, msg.User)
}

func (p *presence) wake(user id.User) {
	p.s.notifier.take(bus.Update{Stream: topicPresence, Users: []string{string(user)}})
}

// begin notes that a user's client syncs; end that the request is over.
func (p *presence) begin(ctx context.Context, q *syncRequest) error {
	if q.presence == presenceOffline {
		return nil
	}
	return p.update(ctx, q.user, func(u *userPresence) (string, string) {
		u.syncs++
		u.seen = p.s.now()
		if q.presence == presenceUnavailable {
			u.idle = false
			return presenceUnavailable, u.status
		}
		if u.state == presenceUnavailable && u.idle {
			return u.state, u.status // polling is no activity
		}
		if u.state != presenceOnline {
			u.active = p.s.now()
		}
		return presenceOnline, u.status
	})
}

func (p *presence) end(q *syncRequest) {
	if q.presence == presenceOffline {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if u := p.users[q.user]; u != nil && u.syncs > 0 {
		u.syncs--
		u.seen = p.s.now()
	}
}

// touch notes that a user did something.
func (p *presence) touch(ctx context.Context, user id.User) error {
	return p.update(ctx, user, func(u *userPresence) (string, string) {
		u.active = p.s.now()
		if u.idle {
			u.idle = false
			return presenceOnline, u.status
		}
		return u.state, u.status
	})
}

// run takes other nodes' changes and lets presence run out, until ctx ends.
func (p *presence) run(ctx context.Context) {
	cancel := p.s.cfg.Bus.Subscribe(topicPresence, func(data []byte) {
		var msg presenceChange
		if err := json.Unmarshal(data, &msg); err != nil {
			p.s.log.WithError(err).Warn("unreadable presence message on the bus")
			return
		}
		p.apply(msg)
	})
	defer cancel()
	if p.s.cfg.Shared {
		defer p.s.cfg.Bus.Subscribe(topicActive, p.hearActive)()
	}
	tick := time.NewTicker(presenceTick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.sayActive(p.s.now())
			p.expire(ctx, p.s.now())
		case <-ctx.Done():
			return
		}
	}
}

// hear takes what another server says of its user, and gives it as the bus carries it.
func (p *presence) hear(msg presenceChange) presenceChange {
	p.mu.Lock()
	defer p.mu.Unlock()
	if u := p.entry(msg.User); u != nil {
		msg.Stamp = p.next(u)
		p.put(u, msg)
	}
	return msg
}

// apply takes a change from another node. What is older than what is known, such as this node's own
// words that come back, has no effect.
func (p *presence) apply(msg presenceChange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if u := p.entry(msg.User); u != nil && msg.Stamp > u.stamp {
		p.put(u, msg)
	}
}

// put takes a change from elsewhere, and wakes who waits for it. The lock is held.
func (p *presence) put(u *userPresence, msg presenceChange) {
	news := p.set(u, msg.State, msg.Status)
	u.stamp, u.idle = msg.Stamp, msg.Idle
	if p.s.cfg.Shared && p.s.isLocal(msg.User) {
		u.heard, u.told = p.s.now(), p.s.now() // the node that said it told other servers
	} else {
		u.seen = p.s.now()
	}
	if msg.Active != 0 {
		u.active = time.UnixMilli(msg.Active)
	}
	if news {
		p.wake(msg.User)
	}
}

// sayActive tells other nodes who syncs here, so that they do not think the user gone.
func (p *presence) sayActive(now time.Time) {
	if !p.s.cfg.Shared {
		return
	}
	msg := activeUsers{Node: p.s.node}
	p.mu.Lock()
	for user, u := range p.users {
		// Half a tick: the time between two ticks is not exact.
		if u.state == presenceOffline || u.syncs == 0 && now.Sub(u.seen) >= activeEvery || now.Sub(u.said) < activeEvery-presenceTick/2 || !p.s.isLocal(user) {
			continue
		}
		u.said = now
		msg.Users = append(msg.Users, u.of(user))
	}
	p.mu.Unlock()
	for part := range slices.Chunk(msg.Users, maxPresencePush) {
		data, err := json.Marshal(activeUsers{msg.Node, part})
		if err != nil {
			return // strings and numbers only: cannot happen
		}
		p.s.cfg.Bus.Publish(topicActive, data)
	}
}

// hearActive takes what another node says of those who sync there. It also repairs what was lost.
func (p *presence) hearActive(data []byte) {
	var msg activeUsers
	if err := json.Unmarshal(data, &msg); err != nil {
		p.s.log.WithError(err).Warn("unreadable presence message on the bus")
		return
	}
	if msg.Node == p.s.node {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range msg.Users {
		u := p.entry(c.User)
		if u == nil {
			continue
		}
		if c.Stamp > u.stamp {
			p.put(u, c)
		}
		u.heard = p.s.now()
		if at := time.UnixMilli(c.Active); c.Active != 0 && at.After(u.active) {
			u.active = at
		}
	}
}

// decides tells whether this node is the one that says first that a user is gone, or idle.
func (p *presence) decides(user id.User) bool {
	return p.s.cfg.Shares == nil || p.s.cfg.Shares.Owns("syncapi", "presence/"+string(user))
}

// gone tells whether a user is not there any more, as far as this node can know. The lock is held.
func (p *presence) gone(user id.User, u *userPresence, now time.Time) bool {
	switch {
	case u.syncs != 0:
		return false
	case !p.s.isLocal(user):
		return now.Sub(u.seen) >= remoteAfter
	case !p.s.cfg.Shared:
		return now.Sub(u.seen) >= offlineAfter
	}
	lost := func(wait time.Duration) bool {
		return now.Sub(u.seen) >= offlineAfter+wait && now.Sub(u.heard) >= activeLost+wait
	}
	return lost(0) && (p.decides(user) || lost(yieldOffline))
}

// idles tells whether a local user does nothing any more. The lock is held.
func (p *presence) idles(user id.User, u *userPresence, now time.Time) bool {
	if u.state != presenceOnline || u.active.IsZero() || now.Sub(u.active) < idleAfter {
		return false
	}
	return !p.s.cfg.Shared || p.decides(user) || now.Sub(u.active) >= idleAfter+yieldIdle
}

// expire changes the presence of those of whom nothing was heard, and tells other servers
// again of those who are still there.
func (p *presence) expire(ctx context.Context, now time.Time) {
	var changed []presenceChange
	var again []id.User
	p.mu.Lock()
	for user, u := range p.users {
		if u.state == presenceOffline {
			continue
		}
		state := u.state
		local := p.s.isLocal(user)
		switch {
		case p.gone(user, u, now):
			state = presenceOffline
		case local && p.idles(user, u, now):
			state, u.idle = presenceUnavailable, true
		case local && now.Sub(u.told) >= resendAfter && p.decides(user):
			u.told = now
			again = append(again, user)
		}
		if p.set(u, state, u.status) {
			changed = append(changed, u.of(user))
			u.told = now
		}
	}
	p.mu.Unlock()
	for _, c := range changed {
		if !p.s.isLocal(c.User) {
			p.wake(c.User)
			continue
		}
		if err := p.spread(ctx, c); err != nil && ctx.Err() == nil {
			p.s.log.WithError(err).Warn("could not tell of a user's presence")
		}
	}
	for _, user := range again {
		if err := p.s.sendPresence(ctx, user); err != nil && ctx.Err() == nil {
			p.s.log.WithError(err).Warn("could not tell of a user's presence")
		}
	}
}

// presenceSection makes the presence events of a sync: of users who share a room with the
// user, and whose presence changed, or who are new to the user. It reports whether that is a reason to answer.
func (s *Server) presenceSection(ctx context.Context, q *syncRequest, p *plan) (list [][]byte, news bool, err error) {
	since := q.since.Presence
	if q.initial {
		since = 0
	}
	ask := s.presence.since(since)
	fresh := p.arrivals(q)
	came := slices.ContainsFunc(p.joined, func(r *joinedRoom) bool { return len(r.moved) > 0 })
	if len(ask)+len(fresh) == 0 && !came {
		return nil, false, nil
	}
	lately := ask
	if q.foreign != nil {
		lately = s.presence.since(q.foreign.presence)
	}
	sharing, err := s.sharing(ctx, q.user, ask)
	if err != nil {
		return nil, false, err
	}
	if ask[q.user] {
		sharing[q.user] = true
	}
	for _, r := range fresh {
		left := maxArrivals
		err := s.events.EachMember(ctx, r.NID, func(m eventstore.Member) error {
			if left--; left >= 0 {
				sharing[m.User] = true
			}
			return nil
		}, eventstore.Join)
		if err != nil {
			return nil, false, err
		}
	}
	for _, r := range p.joined {
		for _, m := range r.moved {
			if m.Membership == eventstore.Join {
				sharing[m.User] = true
			}
		}
	}
	users := make([]id.User, 0, len(sharing))
	for u := range sharing {
		users = append(users, u)
	}
	slices.Sort(users)
	for _, u := range users {
		known, ok := s.presence.get(u)
		if !ok || q.initial && known.State == presenceOffline || !q.filter.Presence.allowsSender(string(u)) || !q.filter.Presence.allowsType(eduPresence) || p.ignored[u] {
			continue
		}
		list = append(list, presenceEvent(known))
		news = news || lately[u] || !ask[u]
	}
	return list, news, nil
}

// arrivals gives the small rooms that are new to the user, or got members.
func (p *plan) arrivals(q *syncRequest) []*joinedRoom {
	if q.initial {
		return nil
	}
	var out []*joinedRoom
	for _, r := range p.joined {
		if r.newly && r.Joined <= maxArrivals {
			out = append(out, r)
		}
	}
	return out
}

func presenceEvent(p api.Presence) []byte {
	o := new(output)
	b := o.open()
	content := b.key("content").open()
	content.presence(p)
	content.close()
	b.key("sender").string(string(p.User))
	b.key("type").string(eduPresence)
	b.close()
	return o.buf
}

// presence writes what is told of a presence.
func (b *object) presence(p api.Presence) {
	b.key("presence").string(p.State)
	if p.StatusMsg != "" {
		b.key("status_msg").string(p.StatusMsg)
	}
	if p.LastActiveAgo > 0 || p.CurrentlyActive {
		b.key("last_active_ago").int(p.LastActiveAgo)
	}
	b.key("currently_active").bool(p.CurrentlyActive)
}
