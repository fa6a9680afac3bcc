package syncapi

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"weft/internal/bus"
	"weft/internal/cluster"
	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/stream"
	"weft/matrix/id"
)

const moveBackfillSQL = `UPDATE sync_followers SET pos = $2 WHERE name = $1 AND share = 0 AND pos = $3`

// The logs that are followed.
const (
	followEvents   = "events"
	followBackfill = "backfill"
)

const (
	// followPage is how many events are judged at once.
	followPage = 200
	// followInline is how far a sync catches up by itself; a greater lag is left to run.
	followInline = 2000
	// followLazy is how many positions without anything to store may pass before the
	// cursor is written all the same: they would only be judged again.
	followLazy = 1000
	// followPoll is after how long the follower looks by itself, and for what other processes should have followed.
	followPoll = 30 * time.Second
	// followPace is the pause between two looks: who needs the newest (each sync does) moves the follower on itself,
	// and what comes in the pause is stored with one statement.
	followPace = 200 * time.Millisecond
	// followRest is by how much the pause is longer for each count that was changed, and followMost by how much at most: where
	// many read a room it does not have its counts rewritten five times a second.
	followRest = time.Millisecond
	followMost = 3 * time.Second
)

// errMoved says that another node moved the cursor.
var errMoved = errors.New("the cursor was moved by another node")

// follower reads the event stream and stores what follows from it: relations, threads and notifications. The rooms are in shares, each
// with a cursor of its own, and one process follows a share: the one that owns its rooms, which wrote the events and has
// what it needs in memory. Who needs something sooner follows what it needs itself, one at a time; between processes the row of
// the cursor decides.
type follower struct {
	s      *Server
	signal chan struct{}
	rules  *ruleCache
	fence  *fence // of rules; nil where nobody else writes

	mu   sync.Mutex
	at   *cursors
	back int64 // the cursor of backfilled events, downward from 0
	// counted is how many counts were changed.
	counted int

	// Noted for lag: how far the stream is, and which shares are this process's.
	end  atomic.Int64
	mine atomic.Uint64
}

// derived is what is to be stored about a page of events.
type derived struct {
	relations  []relation
	redacted   []*eventstore.Event
	highlights []highlight
	// read are the rows of unread counts that go, lowered what is taken from others, unread what is added then.
	read    map[unreadKey]bool
	lowered map[unreadKey]unreadCount
	unread  map[unreadKey]unreadChange
	// cancelled: what was counted in the page was read in it, too. Another node may have stored a part of that.
	cancelled bool
	// rooms are those that a rule asked about, as they are now.
	rooms map[nid.Room]*eventstore.Room
}

func (d *derived) empty() bool {
	return !d.cancelled && len(d.relations)+len(d.redacted)+len(d.highlights)+len(d.read)+len(d.lowered)+len(d.unread) == 0
}

func newFollower(ctx context.Context, s *Server, at *cursors) (*follower, error) {
	f := &follower{s: s, signal: make(chan struct{}, 1), rules: newRuleCache(), at: at}
	err := s.db.Update(ctx, func(tx *sqldb.Tx) error {
		if err := insertCursors(ctx, tx, followEvents, s.shares.all()); err != nil {
			return err
		}
		return insertCursors(ctx, tx, followBackfill, onlyShare)
	})
	if err != nil {
		return nil, err
	}
	if s.cfg.Shared {
		f.fence = f.rulesFence()
	}
	if err := f.reread(ctx, s.shares.all()); err != nil {
		return nil, err
	}
	f.at.seen.Store(f.at.lowest(s.shares.all(), math.MaxInt64))
	return f, f.rereadBackfilled(ctx)
}

// reread reads the cursors of some shares.
func (f *follower) reread(ctx context.Context, of shareSet) error {
	if of == 0 {
		return nil
	}
	return readCursors(ctx, f.s.db, followEvents, of, "", f.at.found)
}

func (f *follower) rereadBackfilled(ctx context.Context) error {
	return readCursors(ctx, f.s.db, followBackfill, onlyShare, "", func(_ int, pos int64) { f.back = pos })
}

// heard takes an update of the bus.
func (f *follower) heard(u bus.Update) {
	switch u.Stream {
	case stream.AccountData:
		for _, user := range u.Users {
			f.rules.forget(id.User(user))
		}
		return
	case stream.Events:
		f.reaches(u.Pos)
	case "":
		f.rules.clear()
	default:
		return
	}
	f.wake()
}

// wake makes run look for new events.
func (f *follower) wake() {
	select {
	case f.signal <- struct{}{}:
	default:
	}
}

// run follows until ctx ends.
func (f *follower) run(ctx context.Context) {
	poll := time.NewTicker(followPoll)
	defer poll.Stop()
	polled := true
	for {
		rest := followPace + min(time.Duration(f.work(ctx, polled))*followRest, followMost)
		polled = false
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return
		}
		select {
		case <-f.signal:
		case <-poll.C:
			polled = true
		case <-ctx.Done():
			return
		}
	}
}

// work follows both logs to their ends, as far as that is this process's to do; polled: also what the others have not done. It
// gives how many counts it changed.
func (f *follower) work(ctx context.Context, polled bool) (counted int) {
	to, err := position(ctx, f.s.db)
	if err == nil {
		f.reaches(to.Events)
		counted, err = f.follow(ctx, to, polled)
	}
	if err == nil && (polled || f.s.cfg.Shares == nil || f.s.cfg.Shares.Owns("syncapi", "follow/"+followBackfill)) {
		err = f.advanceBackfilled(ctx)
	}
	f.logged(ctx, err)
	return counted
}

// owned gives the shares that this process follows.
func (f *follower) owned() (out shareSet) {
	if f.s.cfg.Shares == nil {
		return f.s.shares.all()
	}
	for share := range f.s.shares.all().each {
		if f.s.cfg.Shares.Owns("syncapi", cluster.ShareKey(share)) {
			out.add(share)
		}
	}
	return out
}

// follow follows the event stream up to a position in this process's shares; polled: in all.
func (f *follower) follow(ctx context.Context, at vector, polled bool) (counted int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counted = 0
	was, due := shareSet(f.mine.Load()), f.owned()
	f.mine.Store(uint64(due))
	if polled {
		due = f.s.shares.all()
	}
	if err := f.reread(ctx, due&^was); err != nil {
		return 0, err
	}
	err = f.advance(ctx, at, due)
	return f.counted, err
}

func (f *follower) logged(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		f.s.log.WithError(err).Error("could not follow the event stream")
	}
}

// catchUp follows, up to a position, the rooms for which in is true (nil: all), unless they are far behind, so that what is derived can
// be shown with its events. Up to the position since that was done before. It returns how far it came.
func (f *follower) catchUp(ctx context.Context, at vector, since int64, in func(nid.Room) bool) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	pos := since
	due, err := f.needed(ctx, at.Events, since, in)
	if err == nil {
		pos, err = f.bring(ctx, at, due)
	}
	f.logged(ctx, err)
	return pos
}

// needed gives the shares of rooms that have events which are not judged. The lock is held.
func (f *follower) needed(ctx context.Context, to, since int64, in func(nid.Room) bool) (due shareSet, err error) {
	if err := f.look(ctx, to); err != nil {
		return 0, err
	}
	behind := f.at.behind(f.s.shares.all())
	if behind == 0 || in == nil {
		return behind, nil
	}
	rows, ok := f.s.tail.Rows(max(since, f.at.lowest(behind, to)), to)
	if !ok {
		return behind, nil
	}
	for _, r := range rows {
		share, err := f.s.shares.share(ctx, r.Room)
		if err != nil {
			return 0, err
		}
		if behind.has(share) && !due.has(share) && r.Pos > f.at.list[share].judged && in(r.Room) {
			due.add(share)
		}
	}
	return due, nil
}

// bring follows some shares up to a position, but for those that are far behind, and gives how far all of them are. The lock is
// held.
func (f *follower) bring(ctx context.Context, at vector, due shareSet) (int64, error) {
	if due == 0 {
		return at.Events, nil
	}
	if f.s.cfg.Shared { // other processes may have done it
		if err := f.reread(ctx, due); err != nil {
			return f.at.lowest(due, at.Events), err
		}
		due = f.at.behind(due)
	}
	pos := at.Events
	for share := range due.each {
		if judged := f.at.list[share].judged; at.Events-judged > followInline {
			pos = min(pos, judged)
			due &^= 1 << share
		}
	}
	if err := f.advance(ctx, at, due); err != nil {
		return min(pos, f.at.lowest(due, pos)), err
	}
	return pos, nil
}

// followTo is catchUp for one who knows of no other positions than that of an event.
func (s *Server) followTo(ctx context.Context, n nid.Room, pos int64) error {
	to := vector{Events: pos}
	if s.cfg.Shared {
		now, err := s.latest.read(ctx)
		if err != nil {
			return err
		}
		to.AccountData = now.AccountData
		if err := s.follower.fence.reach(ctx, now.AccountData); err != nil { // the receipt may judge events again
			return err
		}
	}
	s.follower.catchUp(ctx, to, 0, only(n))
	return nil
}

// look finds which shares have events up to a position. The lock is held.
func (f *follower) look(ctx context.Context, to int64) error {
	seen := f.at.seen.Load()
	if to <= seen {
		return nil
	}
	if !f.s.cfg.Shared {
		f.at.list[0].last = to
		f.at.list[0].touch()
		f.at.seen.Store(to)
		return nil
	}
	if err := f.s.tail.Reach(ctx, to); err != nil {
		return err
	}
	rows, ok := f.s.tail.Rows(seen, to)
	if !ok { // they may have some
		for share := range f.s.shares.all().each {
			f.at.list[share].last = to
			f.at.list[share].touch()
		}
	}
	for _, r := range rows {
		share, err := f.s.shares.share(ctx, r.Room)
		if err != nil {
			return err
		}
		f.at.list[share].last = r.Pos
		f.at.list[share].touch()
	}
	f.at.seen.Store(to)
	return nil
}

// advance follows some shares up to a position. Rules are those of the position in the stream of account data, or later ones. The
// lock is held.
func (f *follower) advance(ctx context.Context, at vector, due shareSet) error {
	if due == 0 {
		return nil
	}
	if err := f.look(ctx, at.Events); err != nil {
		return err
	}
	if err := f.fence.reach(ctx, at.AccountData); err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		from := f.at.lowest(f.at.behind(due), at.Events)
		if from >= at.Events {
			err := f.lazy(ctx, due, at.Events)
			if errors.Is(err, errMoved) {
				continue // with what is there now
			}
			return err
		}
		var failed error
		var picked shareSet
		rows, end, err := f.s.tail.Page(ctx, from, at.Events, followPage, func(r eventstore.StreamRow) bool {
			share, err := f.s.shares.share(ctx, r.Room)
			if err != nil {
				failed = err
				return false
			}
			if !due.has(share) || r.Pos <= f.at.list[share].judged {
				return false
			}
			picked.add(share)
			return true
		})
		if err = errors.Join(err, failed); err != nil {
			return err
		}
		d, err := f.judge(ctx, rows, true)
		if err != nil {
			return err
		}
		if !d.empty() {
			err := f.store(ctx, d, picked, end)
			if errors.Is(err, errMoved) {
				continue
			}
			if err != nil {
				return err
			}
		}
		f.at.advance(due, end)
	}
}

// lazy writes the cursors that were not written for long. The lock is held.
func (f *follower) lazy(ctx context.Context, of shareSet, to int64) error {
	var late shareSet
	for share := range of.each {
		if to-f.at.list[share].stored >= followLazy {
			late.add(share)
		}
	}
	if late == 0 {
		return nil
	}
	return f.store(ctx, &derived{}, late, to)
}

// advanceBackfilled follows what backfill brings in: relations alone follow from it.
func (f *follower) advanceBackfilled(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		rows, err := f.s.events.Backfilled(ctx, f.back, followPage)
		if err != nil || len(rows) == 0 {
			return err
		}
		end := rows[len(rows)-1].Pos
		d, err := f.judge(ctx, rows, false)
		if err != nil {
			return err
		}
		switch err := f.storeBackfilled(ctx, d, end); {
		case errors.Is(err, errMoved):
			if err := f.rereadBackfilled(ctx); err != nil {
				return err
			}
		case err != nil:
			return err
		default:
			f.back = end
		}
	}
}

// judge derives what is to be stored about a page of events.
func (f *follower) judge(ctx context.Context, rows []eventstore.StreamRow, live bool) (*derived, error) {
	d := new(derived)
	var numbers []nid.Event
	for _, r := range rows {
		if r.Flags&(eventstore.Rejected|eventstore.SoftFailed|eventstore.Outlier) == 0 {
			numbers = append(numbers, r.Event)
		}
	}
	list, err := f.s.events.Events(ctx, numbers)
	if err != nil {
		return nil, err
	}
	here := make(map[nid.Event]bool, len(list))
	for _, e := range list {
		here[e.NID] = true
	}
	for _, e := range list {
		if rel, ok := relationOf(e); ok {
			d.relations = append(d.relations, rel)
		}
		if e.Redacts != "" {
			if err := f.judgeRedaction(ctx, e, d, live); err != nil {
				return nil, err
			}
		}
		if live && !here[e.RedactedBy] {
			if err := f.notify(ctx, e, d); err != nil {
				return nil, err
			}
		}
	}
	return d, nil
}

// judgeRedaction drops what was derived from an event that is redacted now.
func (f *follower) judgeRedaction(ctx context.Context, e *eventstore.Event, d *derived, live bool) error {
	found, err := f.s.events.EventsByID(ctx, []id.Event{e.Redacts})
	if err != nil {
		return err
	}
	target := found[e.Redacts]
	if target == nil || target.RedactedBy != e.NID {
		return nil
	}
	d.redacted = append(d.redacted, target)
	if !live || target.StreamPos <= 0 {
		return nil
	}
	share, err := f.s.shares.share(ctx, e.RoomNID)
	if err != nil || target.StreamPos > f.at.list[share].judged {
		return err
	}
	return f.uncount(ctx, target, d)
}

// store stores what was derived from events of some shares, and moves their cursors, in one transaction.
func (f *follower) store(ctx context.Context, d *derived, of shareSet, to int64) error {
	err := f.s.db.Update(ctx, func(tx *sqldb.Tx) error {
		if err := f.at.move(ctx, tx, of, to); err != nil {
			return err
		}
		return f.insert(ctx, tx, d)
	})
	if err != nil {
		return err
	}
	for share := range of.each {
		f.at.list[share].stored = to
	}
	f.counted += len(d.unread)
	return nil
}

// storeBackfilled is store for backfilled events.
func (f *follower) storeBackfilled(ctx context.Context, d *derived, to int64) error {
	return f.s.db.Update(ctx, func(tx *sqldb.Tx) error {
		res, err := tx.Exec(ctx, moveBackfillSQL, followBackfill, to, f.back)
		if err != nil {
			return fmt.Errorf("followers: %w", err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return fmt.Errorf("followers: %w", err)
		}
		if n == 0 {
			return errMoved
		}
		return f.insert(ctx, tx, d)
	})
}

func (f *follower) insert(ctx context.Context, tx *sqldb.Tx, d *derived) error {
	if err := insertRelations(ctx, tx, d.relations); err != nil {
		return err
	}
	if err := insertHighlights(ctx, tx, d.highlights); err != nil {
		return err
	}
	if err := f.s.dropUnread(ctx, tx, d.read); err != nil {
		return err
	}
	if err := f.s.lowerUnread(ctx, tx, d.lowered); err != nil {
		return err
	}
	if err := f.s.addUnread(ctx, tx, d.unread); err != nil {
		return err
	}
	return deleteDerived(ctx, tx, d.redacted)
}
