package syncapi

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/syncapi/pushrules"
)

const (
	insertNotificationSQL = `INSERT INTO notifications (user_nid, pos, room_nid, event_nid, highlight, unread, ts, thread, actions)
		VALUES ($1, $2, $3, $4, $5, 1, $6, $7, $8) ON CONFLICT (user_nid, pos) DO NOTHING`
	markReadSQL       = `UPDATE notifications SET unread = 0 WHERE user_nid = $1 AND room_nid = $2 AND unread = 1 AND pos <= $3`
	markThreadReadSQL = markReadSQL + ` AND thread = $4`
	relationOfSQL     = `SELECT target, rel_type FROM relations WHERE event_nid = $1 LIMIT 1`
	deleteOldSQL      = `DELETE FROM notifications WHERE ts < $1 AND unread = 0`
	unreadSQL         = `SELECT room_nid, thread, COUNT(*), SUM(highlight) FROM notifications
		WHERE user_nid = $1 AND unread = 1 AND room_nid IN `
	unreadTail = ` GROUP BY room_nid, thread`
)

const (
	// keepNotifications is for how long read notifications are kept for GET /notifications.
	keepNotifications = 60 * 24 * time.Hour
	// maxCachedRules bounds the users whose compiled rules are kept.
	maxCachedRules = 10_000
	// threadSteps bounds the relations that are followed to find an event's thread.
	threadSteps = 3
)

// notification is an event that a user's push rules notify of.
type notification struct {
	user      nid.StateKey
	room      nid.Room
	event     nid.Event
	pos, ts   int64
	highlight bool
	thread    string
	actions   string
}

// readMark says that a user has read a room, or a thread of it, up to a position.
type readMark struct {
	user   nid.StateKey
	room   nid.Room
	upTo   int64
	thread string // empty: all threads
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
			return nil, err
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
	members, err := f.s.events.LocalMembers(ctx, e.RoomNID)
	if err != nil {
		return err
	}
	if e.TypeNID == nid.TypeMember && e.Membership() == "invite" && f.s.isLocal(id.User(e.StateKey)) {
		members = append(members, eventstore.Member{User: id.User(e.StateKey), UserNID: e.StateKeyNID, Event: e.NID})
	}
	if len(members) == 0 {
		return nil
	}
	judged, err := f.s.judgedEvent(ctx, e)
	if err != nil {
		return err
	}
	thread := ""
	names := &memberNames{s: f.s, ctx: ctx, members: members}
	for i, m := range members {
		if m.User == e.Sender {
			if thread, err = f.sent(ctx, e, m, d, thread); err != nil {
				return err
			}
			continue
		}
		r, err := f.rulesOf(ctx, m.User)
		if err != nil {
			return err
		}
		if r == nil || r.ignored[e.Sender] {
			continue
		}
		o := r.rules.Eval(judged.Event, pushrules.User{DisplayName: func() string { return names.of(i) }})
		if judged.err != nil || names.err != nil {
			return errors.Join(judged.err, names.err)
		}
		if !o.Notify {
			continue
		}
		if thread, err = f.thread(ctx, e, d, thread); err != nil {
			return err
		}
		d.notifications = append(d.notifications, notification{user: m.UserNID, room: e.RoomNID, event: e.NID, pos: e.StreamPos,
			ts: f.s.nowMS(), highlight: o.Highlight, thread: thread, actions: string(o.Actions)})
	}
	return nil
}

// sent marks as read what came before an event of the user's own.
//
// spec: client-server §13.13 (Marking notifications as read): "updates their read receipt (either by using
// the API or by sending an event)"
func (f *follower) sent(ctx context.Context, e *eventstore.Event, m eventstore.Member, d *derived, thread string) (string, error) {
	some := false
	for _, n := range d.notifications {
		some = some || n.user == m.UserNID && n.room == e.RoomNID
	}
	if !some {
		have, err := f.s.readUnread(ctx, m.UserNID, []nid.Room{e.RoomNID})
		if err != nil || len(have) == 0 {
			return thread, err
		}
	}
	thread, err := f.thread(ctx, e, d, thread)
	if err == nil {
		d.read = append(d.read, readMark{user: m.UserNID, room: e.RoomNID, upTo: e.StreamPos, thread: thread})
	}
	return thread, err
}

// judgedEvent is an event with what rules may ask about its room.
type judgedEvent struct {
	*pushrules.Event
	err error
}

func (s *Server) judgedEvent(ctx context.Context, e *eventstore.Event) (*judgedEvent, error) {
	room, err := s.events.RoomByNID(ctx, e.RoomNID)
	if err != nil {
		return nil, err
	}
	j := &judgedEvent{}
	var levels *eventauth.PowerLevels
	j.Event = &pushrules.Event{Room: e.RoomID, Sender: e.Sender, JSON: e.JSON(),
		Members: func() int64 { return room.Joined },
		MayNotify: func(key string) bool {
			if levels == nil {
				found, err := s.events.CurrentState(room).GetMany(ctx, []eventauth.Key{{Type: "m.room.create"}, {Type: "m.room.power_levels"}})
				if err != nil {
					j.err = err
					return false
				}
				create := found[eventauth.Key{Type: "m.room.create"}]
				if create == nil {
					return false
				}
				if pl := found[eventauth.Key{Type: "m.room.power_levels"}]; pl != nil {
					levels = eventauth.PowerLevelsOf(create.Event, pl.Event)
				} else {
					levels = eventauth.PowerLevelsOf(create.Event, nil)
				}
			}
			return levels.User(e.Sender) >= levels.Notification(key)
		}}
	return j, nil
}

// memberNames gives display names, read for all members once one is asked for.
type memberNames struct {
	s       *Server
	ctx     context.Context //nolint:containedctx // lives as long as the call of notify
	members []eventstore.Member
	names   []string
	err     error
}

func (n *memberNames) of(i int) string {
	if n.names == nil {
		numbers := make([]nid.Event, len(n.members))
		for i, m := range n.members {
			numbers[i] = m.Event
		}
		list, err := n.s.events.Events(n.ctx, numbers)
		if err != nil {
			n.err = err
			return ""
		}
		n.names = make([]string, len(list))
		for i, e := range list {
			n.names[i] = gjson.GetBytes(e.Content(), "displayname").Str
		}
	}
	return n.names[i]
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

func insertNotifications(ctx context.Context, tx *sqldb.Tx, list []notification) error {
	for _, n := range list {
		highlight := int64(0)
		if n.highlight {
			highlight = 1
		}
		_, err := tx.Exec(ctx, insertNotificationSQL, int64(n.user), n.pos, int64(n.room), int64(n.event), highlight, n.ts, n.thread, n.actions)
		if err != nil {
			return fmt.Errorf("storing a notification: %w", err)
		}
	}
	return nil
}

// markRead marks notifications as read.
func markRead(ctx context.Context, tx *sqldb.Tx, marks ...readMark) error {
	for _, m := range marks {
		q, args := markReadSQL, []any{int64(m.user), int64(m.room), m.upTo}
		if m.thread != "" {
			q, args = markThreadReadSQL, append(args, m.thread)
		}
		if _, err := tx.Exec(ctx, q, args...); err != nil {
			return fmt.Errorf("marking notifications as read: %w", err)
		}
	}
	return nil
}

func (s *Server) deleteOldNotifications(ctx context.Context) error {
	if _, err := s.db.Exec(ctx, deleteOldSQL, s.now().Add(-keepNotifications).UnixMilli()); err != nil {
		return fmt.Errorf("removing old notifications: %w", err)
	}
	return nil
}

// unreadCounts are a room's unread notifications, by thread.
type unreadCounts map[string]unreadCount

type unreadCount struct{ notify, highlight int64 }

// readUnread counts unread notifications in rooms.
func (s *Server) readUnread(ctx context.Context, user nid.StateKey, rooms []nid.Room) (map[nid.Room]unreadCounts, error) {
	out := make(map[nid.Room]unreadCounts)
	err := sqldb.Chunk(rooms, func(part []nid.Room) error {
		list := make([]int64, len(part))
		for i, n := range part {
			list[i] = int64(n)
		}
		in, args := sqldb.InArgs([]any{int64(user)}, list)
		rows, err := s.db.Query(ctx, unreadSQL+in+unreadTail, args...)
		if err != nil {
			return fmt.Errorf("counting notifications: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			var room nid.Room
			var thread string
			var c unreadCount
			if err := rows.Scan(&room, &thread, &c.notify, &c.highlight); err != nil {
				return fmt.Errorf("counting notifications: %w", err)
			}
			if out[room] == nil {
				out[room] = make(unreadCounts)
			}
			out[room][thread] = c
		}
		return rows.Err()
	})
	return out, err
}

// write writes the counts of a room.
//
// spec: client-server §6.4 (unread_notifications, unread_thread_notifications)
func (u unreadCounts) write(b *object, threads bool) {
	var main unreadCount
	var named []string
	for _, thread := range sortedKeys(u) {
		if threads && thread != threadMain {
			named = append(named, thread)
			continue
		}
		main.notify += u[thread].notify
		main.highlight += u[thread].highlight
	}
	main.write(b, "unread_notifications")
	if len(named) == 0 {
		return
	}
	in := b.key("unread_thread_notifications").open()
	for _, thread := range named {
		u[thread].write(in, thread)
	}
	in.close()
}

func (c unreadCount) write(b *object, name string) {
	in := b.key(name).open()
	in.key("highlight_count").int(c.highlight)
	in.key("notification_count").int(c.notify)
	in.close()
}
