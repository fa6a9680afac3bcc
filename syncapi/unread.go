package syncapi

import (
	"context"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"weft/internal/cache"
	"weft/internal/nid"
	"weft/internal/sqldb"
)

const (
	upsertUnreadSQL  = `INSERT INTO unread (user_nid, room_nid, thread, read_pos, pos, notify, highlight) VALUES `
	upsertUnreadTail = ` ON CONFLICT (user_nid, room_nid, thread) DO UPDATE SET pos = excluded.pos,
		read_pos = CASE WHEN unread.notify = 0 THEN excluded.read_pos ELSE unread.read_pos END,
		notify = unread.notify + excluded.notify, highlight = unread.highlight + excluded.highlight
		RETURNING user_nid, room_nid, thread, notify, highlight`
	unreadThreads   = ` FROM unread u LEFT JOIN thread_numbers t ON t.room_nid = u.room_nid AND t.thread = u.thread WHERE u.notify > 0 `
	unreadSQL       = `SELECT u.room_nid, t.root, u.notify, u.highlight` + unreadThreads + `AND u.user_nid = $1 AND u.room_nid IN `
	unreadRowsSQL   = `SELECT u.thread, t.root, u.read_pos, u.pos, u.notify, u.highlight` + unreadThreads + `AND u.user_nid = $1 AND u.room_nid = $2`
	zeroUnreadSQL   = `UPDATE unread SET notify = 0, highlight = 0 WHERE user_nid = $1 AND room_nid = $2 AND thread = $3`
	deleteUnreadSQL = `DELETE FROM unread WHERE user_nid = $1 AND room_nid = $2 AND thread = $3`
	lowerUnreadSQL  = `UPDATE unread SET notify = notify - $4, highlight = highlight - $5
		WHERE user_nid = $1 AND room_nid = $2 AND thread = $3 AND notify >= $4 AND highlight >= $5 AND read_pos < $6 AND pos >= $6`
	unreadHoldersSQL = `SELECT u.user_nid, t.root` + unreadThreads + `AND u.room_nid = $1 AND u.read_pos < $2 AND u.pos >= $2 AND u.user_nid IN `
)

const (
	// unreadBytes bounds the memory of cached counts; unreadTTL for how long a node believes them when the message about
	// a change on another node was lost; maxUnreadCached the rooms of one request that are cached.
	unreadBytes     = 8 << 20
	unreadTTL       = time.Minute
	maxUnreadCached = 64
)

// readSQL gives the statement after which a row counts nothing. The main thread's row waits for the next event; a thread
// may be over.
func readSQL(thread int64) string {
	if thread == mainNumber {
		return zeroUnreadSQL
	}
	return deleteUnreadSQL
}

// unreadKey names a row of the table unread: what a user has not read of a thread.
type unreadKey struct {
	user   nid.StateKey
	room   nid.Room
	thread string
}

// unreadChange is what a page of events adds to a row; from and to are the positions of the first and
// the last event that counts.
type unreadChange struct {
	unreadCount
	from, to int64
}

// unreadCounts are a room's unread notifications, by thread.
type unreadCounts map[string]unreadCount

type unreadCount struct{ notify, highlight int64 }

// unreadPlace is a user's place in a room.
type unreadPlace struct {
	user nid.StateKey
	room nid.Room
}

// cachedUnread are counts, and the epochs of the user and of the room's share at which they were read.
type cachedUnread struct {
	counts       unreadCounts
	epoch        uint64
	share        int
	followedThen int64
}

// unreadCache keeps counts that are told again and again. Who adds to a row here changes the entry after the
// commit; receipts, and what other nodes do, make it forget.
type unreadCache struct {
	*cache.Cache[unreadPlace, cachedUnread]
	// epochs tells which entries of users are old, a few users sharing a place; at which are of shares that another process followed.
	epochs [1024]atomic.Uint64
	at     *cursors
}

func newUnreadCache(now func() time.Time, at *cursors) (*unreadCache, error) {
	entries, err := cache.New(unreadBytes, unreadTTL, now, func(_ unreadPlace, e cachedUnread) int { return 100 * len(e.counts) })
	return &unreadCache{Cache: entries, at: at}, err
}

func (c *unreadCache) epoch(user nid.StateKey) *atomic.Uint64 {
	return &c.epochs[uint64(user)%uint64(len(c.epochs))]
}

// forget drops the entries of a user.
func (c *unreadCache) forget(user nid.StateKey) { c.epoch(user).Add(1) }

// get gives counts that are there and count all events up to a position.
func (c *unreadCache) get(p unreadPlace, at int64) (unreadCounts, bool) {
	e, ok := c.Get(p)
	return e.counts, ok && e.epoch == c.epoch(p.user).Load() && c.at.reached(e.share) >= at && e.followedThen == c.at.list[e.share].epoch.Load()
}

// change sets the count of one thread in an entry that is there; the zero count drops it. epoch is the user's from
// before the change was written: an entry of another one may be newer than the change.
func (c *unreadCache) change(k unreadKey, now unreadCount, epoch uint64) {
	c.Change(unreadPlace{k.user, k.room}, func(e cachedUnread) (cachedUnread, bool) {
		if e.epoch != epoch {
			return e, false
		}
		e.counts = maps.Clone(e.counts) // readers hold the old one
		if e.counts == nil {
			e.counts = make(unreadCounts)
		}
		if e.counts[k.thread] = now; now == (unreadCount{}) {
			delete(e.counts, k.thread)
		}
		return e, true
	})
}

// readUnread gives what a user has not read in rooms, which are followed up to a position.
func (s *Server) readUnread(ctx context.Context, user nid.StateKey, rooms []nid.Room, at int64) (map[nid.Room]unreadCounts, error) {
	out := make(map[nid.Room]unreadCounts, len(rooms))
	var rest []int64
	var places []unreadPlace
	var entries []cachedUnread
	epoch := s.unread.epoch(user).Load()
	for _, n := range rooms {
		if counts, ok := s.unread.get(unreadPlace{user, n}, at); ok {
			out[n] = counts
			continue
		}
		if rest = append(rest, int64(n)); len(rooms) <= maxUnreadCached {
			share, err := s.shares.share(ctx, n)
			if err != nil {
				return nil, err
			}
			places = append(places, unreadPlace{user, n})
			entries = append(entries, cachedUnread{epoch: epoch, share: share, followedThen: s.unread.at.list[share].epoch.Load()})
		}
	}
	put := s.unread.Begin(places...)
	err := sqldb.Chunk(rest, func(part []int64) error {
		in, args := sqldb.InArgs([]any{int64(user)}, part)
		rows, err := s.db.Query(ctx, unreadSQL+in, args...)
		if err != nil {
			return fmt.Errorf("reading unread counts: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			var room nid.Room
			var thread string
			var c unreadCount
			if err := rows.Scan(&room, (*threadColumn)(&thread), &c.notify, &c.highlight); err != nil {
				return fmt.Errorf("reading unread counts: %w", err)
			}
			if out[room] == nil {
				out[room] = make(unreadCounts)
			}
			out[room][thread] = c
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	for i, p := range places {
		entries[i].counts = out[p.room]
		put(p, entries[i])
	}
	return out, nil
}

// addUnread adds to counts.
func (s *Server) addUnread(ctx context.Context, tx *sqldb.Tx, changes map[unreadKey]unreadChange) error {
	threads, err := numberThreads(ctx, tx, maps.Keys(changes))
	if err != nil {
		return err
	}
	rows := make([][]any, 0, len(changes))
	epochs := make(map[nid.StateKey]uint64)
	for k, c := range changes {
		epochs[k.user] = s.unread.epoch(k.user).Load()
		rows = append(rows, []any{int64(k.user), int64(k.room), threads.number(k), c.from - 1, c.to, c.notify, c.highlight})
	}
	now := make(map[unreadKey]unreadCount, len(changes))
	err = sqldb.InsertReturning(ctx, tx, upsertUnreadSQL, rows, upsertUnreadTail, func(scan func(...any) error) error {
		var k unreadKey
		var c unreadCount
		var thread int64
		err := scan(&k.user, &k.room, &thread, &c.notify, &c.highlight)
		k.thread = threads.root(k.room, thread)
		now[k] = c
		return err
	})
	if err != nil {
		return fmt.Errorf("counting notifications: %w", err)
	}
	tx.OnCommit(func() {
		for k, c := range now {
			s.unread.change(k, c, epochs[k.user])
		}
	})
	return nil
}

// dropUnread forgets what is not read of threads.
func (s *Server) dropUnread(ctx context.Context, tx *sqldb.Tx, keys map[unreadKey]bool) error {
	threads, err := readThreads(ctx, tx, maps.Keys(keys))
	if err != nil {
		return err
	}
	for k := range keys {
		epoch := s.unread.epoch(k.user).Load()
		if _, err := tx.Exec(ctx, readSQL(threads.number(k)), int64(k.user), int64(k.room), threads.number(k)); err != nil {
			return fmt.Errorf("marking as read: %w", err)
		}
		tx.OnCommit(func() { s.unread.change(k, unreadCount{}, epoch) })
	}
	return nil
}

// lowering is an event, by its position, that is not to be counted any more in a row where it is among what is not read.
type lowering struct {
	unreadKey
	unreadCount
	pos int64
}

// lowerUnread takes events from counts.
func (s *Server) lowerUnread(ctx context.Context, tx *sqldb.Tx, list []lowering) error {
	threads, err := readThreads(ctx, tx, func(yield func(unreadKey) bool) {
		for _, l := range list {
			if !yield(l.unreadKey) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	for _, l := range list {
		if _, err := tx.Exec(ctx, lowerUnreadSQL, int64(l.user), int64(l.room), threads.number(l.unreadKey), l.notify, l.highlight, l.pos); err != nil {
			return fmt.Errorf("taking notifications back: %w", err)
		}
		tx.OnCommit(func() { s.unread.forget(l.user) })
	}
	return nil
}

// unreadHolders gives those of some users for whom an event at a position is among what they have not
// read, and the threads in which it may be.
func (s *Server) unreadHolders(ctx context.Context, room nid.Room, pos int64, users []nid.StateKey) (map[nid.StateKey]map[string]bool, error) {
	out := make(map[nid.StateKey]map[string]bool)
	list := make([]int64, len(users))
	for i, u := range users {
		list[i] = int64(u)
	}
	err := sqldb.Chunk(list, func(part []int64) error {
		in, args := sqldb.InArgs([]any{int64(room), pos}, part)
		rows, err := s.db.Query(ctx, unreadHoldersSQL+in, args...)
		if err != nil {
			return fmt.Errorf("reading unread counts: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			var user nid.StateKey
			var thread string
			if err := rows.Scan(&user, (*threadColumn)(&thread)); err != nil {
				return fmt.Errorf("reading unread counts: %w", err)
			}
			if out[user] == nil {
				out[user] = make(map[string]bool)
			}
			out[user][thread] = true
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
