package syncapi

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/syncapi/pushrules"
)

const (
	insertHighlightSQL  = `INSERT INTO highlights (user_nid, pos, ts, event_nid) VALUES `
	insertHighlightTail = ` ON CONFLICT DO NOTHING`
	deleteHighlightSQL  = `DELETE FROM highlights WHERE pos = $1`
	relationOfSQL       = `SELECT target, rel_type FROM relations WHERE event_nid = $1 LIMIT 1`
)

const (
	// maxCachedRules bounds the users whose compiled rules are kept.
	maxCachedRules = 10_000
	// threadSteps bounds the relations that are followed to find an event's thread.
	threadSteps = 3
)

// highlight is an event that a user is to notice most.
type highlight struct {
	user    nid.StateKey
	event   nid.Event
	pos, ts int64
}

// ruleCache keeps users' compiled rules until they change.
type ruleCache struct {
	mu    sync.Mutex
	rules map[id.User]*userRules
	// epoch grows with each forget, so that rules read before are not put in after it.
	epoch int64
}

// userRules is what decides about a user's notifications.
type userRules struct {
	rules   *pushrules.Rules
	ignored map[id.User]bool
}

func newRuleCache() *ruleCache { return &ruleCache{rules: make(map[id.User]*userRules)} }

func (c *ruleCache) forget(u id.User) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.rules, u)
	c.epoch++
}

func (c *ruleCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.rules)
	c.epoch++
}

// rulesOf gives a user's rules; nil for one who has none any more.
func (f *follower) rulesOf(ctx context.Context, user id.User) (*userRules, error) {
	c := f.rules
	c.mu.Lock()
	r, ok := c.rules[user]
	epoch := c.epoch
	c.mu.Unlock()
	if ok {
		return r, nil
	}
	content, err := f.s.cfg.Accounts.GetAccountData(ctx, user, "", "m.push_rules")
	switch {
	case errors.Is(err, merr.ErrNotFound):
	case err != nil:
		return nil, err
	default:
		r = new(userRules)
		if r.rules, err = pushrules.Compile(user, content); err != nil {
			f.s.log.WithError(err).Warn("push rules that are not understood match nothing")
		}
		if r.ignored, err = f.s.ignoredUsers(ctx, user); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch == epoch {
		if len(c.rules) >= maxCachedRules {
			clear(c.rules)
		}
		c.rules[user] = r
	}
	return r, nil
}

// notify asks the rules of the local members of an event's room.
//
// spec: client-server §13.13.2 (Push server behaviour)
func (f *follower) notify(ctx context.Context, e *eventstore.Event, d *derived) error {
	room, err := f.s.residents.of(ctx, e.RoomNID)
	if err != nil {
		return err
	}
	members := room.members
	if e.TypeNID == nid.TypeMember && e.Membership() == "invite" && f.s.isLocal(id.User(e.StateKey)) {
		members = append(slices.Clip(members), eventstore.Member{User: id.User(e.StateKey), UserNID: e.StateKeyNID, Event: e.NID})
	}
	if len(members) == 0 {
		return nil
	}
	judged, thread := f.s.judgedEvent(ctx, e, d), ""
	for _, m := range members {
		if m.User == e.Sender {
			if thread, err = f.sent(ctx, e, m, d, thread); err != nil {
				return err
			}
			continue
		}
		o, err := f.outcome(ctx, judged, room, m)
		if err != nil {
			return err
		}
		if !o.Notify {
			continue
		}
		if thread, err = f.thread(ctx, e, d, thread); err != nil {
			return err
		}
		d.count(unreadKey{m.UserNID, e.RoomNID, thread}, e.StreamPos, o)
		if o.Highlight {
			d.highlights = append(d.highlights, highlight{user: m.UserNID, event: e.NID, pos: e.StreamPos, ts: f.s.nowMS()})
		}
	}
	return nil
}

// outcome gives what a member's rules say about an event.
func (f *follower) outcome(ctx context.Context, e *judgedEvent, room *residents, m eventstore.Member) (pushrules.Outcome, error) {
	r, err := f.rulesOf(ctx, m.User)
	if err != nil || r == nil || r.ignored[e.Sender] {
		return pushrules.Outcome{}, err
	}
	var nameErr error
	o := r.rules.Eval(e.Event, pushrules.User{DisplayName: func() string {
		name, err := f.s.residents.name(ctx, room, m)
		nameErr = errors.Join(nameErr, err)
		return name
	}})
	return o, errors.Join(e.err, nameErr)
}

// judgeFor judges a stored event once more, for one user; an event that is redacted says nothing.
func (f *follower) judgeFor(ctx context.Context, e *eventstore.Event, room *residents, m eventstore.Member) (thread string, o pushrules.Outcome, err error) {
	if e.RedactedBy != 0 || m.User == e.Sender {
		return "", o, nil
	}
	d := new(derived)
	if o, err = f.outcome(ctx, f.s.judgedEvent(ctx, e, d), room, m); err != nil || !o.Notify {
		return "", o, err
	}
	thread, err = f.thread(ctx, e, d, "")
	return thread, o, err
}

// count adds one event to what a user has not read.
func (d *derived) count(k unreadKey, pos int64, o pushrules.Outcome) {
	if d.unread == nil {
		d.unread = make(map[unreadKey]unreadChange)
	}
	c, ok := d.unread[k]
	if !ok {
		c.from = pos
	}
	c.to = pos
	c.add(o)
	d.unread[k] = c
}

func (c *unreadCount) add(o pushrules.Outcome) {
	if c.notify++; o.Highlight {
		c.highlight++
	}
}

// sent marks as read what came before an event of the user's own, in its thread.
//
// spec: client-server §13.13 (Marking notifications as read): "updates their read receipt (either by using
// the API or by sending an event)"
func (f *follower) sent(ctx context.Context, e *eventstore.Event, m eventstore.Member, d *derived, thread string) (string, error) {
	have, err := f.s.readUnread(ctx, m.UserNID, []nid.Room{e.RoomNID}, 0) // as far as it is followed
	if err != nil {
		return thread, err
	}
	stored := have[e.RoomNID]
	if len(stored) == 0 && len(d.unread) == 0 {
		return thread, nil
	}
	if thread, err = f.thread(ctx, e, d, thread); err != nil {
		return thread, err
	}
	k := unreadKey{m.UserNID, e.RoomNID, thread}
	if _, ok := d.unread[k]; ok {
		d.cancelled = f.s.cfg.Shared
		delete(d.unread, k)
	}
	if _, ok := stored[thread]; ok {
		if d.read == nil {
			d.read = make(map[unreadKey]bool)
		}
		d.read[k] = true
	}
	return thread, nil
}

// judgedEvent is an event with what rules may ask about its room.
type judgedEvent struct {
	*pushrules.Event
	err error
}

func (s *Server) judgedEvent(ctx context.Context, e *eventstore.Event, d *derived) *judgedEvent {
	j := &judgedEvent{}
	var room *eventstore.Room // read when a rule asks
	load := func() bool {
		if room == nil && j.err == nil {
			room, j.err = s.roomOf(ctx, e.RoomNID, d)
		}
		return j.err == nil
	}
	var levels *eventauth.PowerLevels
	j.Event = &pushrules.Event{Room: e.RoomID, Sender: e.Sender, JSON: e.JSON(),
		Members: func() int64 {
			if !load() {
				return 0
			}
			return room.Joined
		},
		MayNotify: func(key string) bool {
			if levels == nil && load() {
				levels, j.err = s.powerLevels(ctx, room)
			}
			return levels != nil && levels.User(e.Sender) >= levels.Notification(key)
		}}
	return j
}

// roomOf reads the row of a room, once for all events that are judged together.
func (s *Server) roomOf(ctx context.Context, n nid.Room, d *derived) (*eventstore.Room, error) {
	if room := d.rooms[n]; room != nil {
		return room, nil
	}
	room, err := s.events.RoomByNID(ctx, n)
	if err != nil {
		return nil, err
	}
	if d.rooms == nil {
		d.rooms = make(map[nid.Room]*eventstore.Room)
	}
	d.rooms[n] = room
	return room, nil
}

// powerLevels gives the power levels of a room, nil where there is no room.
func (s *Server) powerLevels(ctx context.Context, room *eventstore.Room) (*eventauth.PowerLevels, error) {
	create, levels := eventauth.Key{Type: "m.room.create"}, eventauth.Key{Type: "m.room.power_levels"}
	found, err := s.events.CurrentState(room).GetMany(ctx, []eventauth.Key{create, levels})
	if err != nil || found[create] == nil {
		return nil, err
	}
	if pl := found[levels]; pl != nil {
		return eventauth.PowerLevelsOf(found[create].Event, pl.Event), nil
	}
	return eventauth.PowerLevelsOf(found[create].Event, nil), nil
}

// uncount takes an event that was counted, and is redacted now, from what users have not read.
func (f *follower) uncount(ctx context.Context, e *eventstore.Event, d *derived) error {
	room, err := f.s.residents.of(ctx, e.RoomNID)
	if err != nil {
		return err
	}
	users := make([]nid.StateKey, len(room.members))
	for i, m := range room.members {
		users[i] = m.UserNID
	}
	holders, err := f.s.unreadHolders(ctx, e.RoomNID, e.StreamPos, users)
	if err != nil || len(holders) == 0 {
		return err
	}
	was, err := f.unredacted(ctx, e)
	if err != nil {
		return err
	}
	judged := f.s.judgedEvent(ctx, was, d)
	thread, err := f.thread(ctx, was, d, "")
	if err != nil {
		return err
	}
	for _, m := range room.members {
		if !holders[m.UserNID][thread] {
			continue
		}
		o, err := f.outcome(ctx, judged, room, m)
		if err != nil {
			return err
		}
		if o.Notify {
			l := lowering{unreadKey: unreadKey{m.UserNID, e.RoomNID, thread}, pos: e.StreamPos}
			l.add(o)
			d.lowered = append(d.lowered, l)
		}
	}
	return nil
}

// thread gives the thread that an event belongs to: directly, or by what it relates to.
// known is returned where it is there already.
//
// spec: client-server §11.5.2 (Threaded read receipts): events related to one of a thread are of the thread
func (f *follower) thread(ctx context.Context, e *eventstore.Event, d *derived, known string) (string, error) {
	if known != "" {
		return known, nil
	}
	rel, ok := relationOf(e)
	for step := 0; ok && step < threadSteps; step++ {
		if rel.rel == relThread {
			return rel.target, nil
		}
		number, err := f.s.events.NID(ctx, id.Event(rel.target))
		if err != nil || number == 0 {
			return threadMain, err
		}
		ok = false
		for _, r := range d.relations { // those that are about to be stored
			if r.event == number {
				rel, ok = r, true
			}
		}
		if !ok {
			if rel, ok, err = f.s.storedRelation(ctx, number); err != nil {
				return "", err
			}
		}
	}
	return threadMain, nil
}

func (s *Server) storedRelation(ctx context.Context, event nid.Event) (relation, bool, error) {
	var r relation
	err := s.db.QueryRow(ctx, relationOfSQL, int64(event)).Scan(&r.target, &r.rel)
	if errors.Is(err, sql.ErrNoRows) {
		return r, false, nil
	}
	if err != nil {
		return r, false, fmt.Errorf("reading a relation: %w", err)
	}
	return r, true, nil
}

func insertHighlights(ctx context.Context, tx *sqldb.Tx, list []highlight) error {
	rows := make([][]any, len(list))
	for i, h := range list {
		rows[i] = []any{int64(h.user), h.pos, h.ts, int64(h.event)}
	}
	if err := sqldb.Insert(ctx, tx, insertHighlightSQL, rows, insertHighlightTail); err != nil {
		return fmt.Errorf("storing highlights: %w", err)
	}
	return nil
}
