package syncapi

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

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
	// followEnd is how long the end of the process waits for the cursors to be written.
	followEnd = 2 * time.Second
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
	fence  *fence // of rules

	turn *semaphore.Weighted // who has it reads and writes what follows, a page of events at a time
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
	lowered []lowering
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
	f := &follower{s: s, signal: make(chan struct{}, 1), turn: semaphore.NewWeighted(1), rules: newRuleCache(), at: at}
	err := s.db.Update(ctx, func(tx *sqldb.Tx) error {
		if err := insertCursors(ctx, tx, followEvents, s.shares.all()); err != nil {
			return err
		}
		return insertCursors(ctx, tx, followBackfill, onlyShare)
	})
	if err != nil {
		return nil, err
	}
	f.fence = f.rulesFence()
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
	defer f.finish(ctx)
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

// finish writes the cursors, when ctx has ended.
func (f *follower) finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), followEnd)
	defer cancel()
	err := f.turn.Acquire(ctx, 1)
	if err == nil {
		defer f.turn.Release(1)
		mine := shareSet(f.mine.Load()) | f.owned()
		err = f.lazy(ctx, mine&^f.at.behind(mine), f.at.seen.Load(), true)
	}
	if !errors.Is(err, errMoved) {
		f.logged(ctx, err)
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
	err = f.pages(ctx, at, polled, func() (shareSet, error) {
		f.counted = 0
		was, due := shareSet(f.mine.Load()), f.owned()
		f.mine.Store(uint64(due))
		if polled {
			due = f.s.shares.all()
		}
		return due, f.reread(ctx, due&^was)
	})
	if err := f.turn.Acquire(ctx, 1); err != nil {
		return 0, err
	}
	defer f.turn.Release(1)
	return f.counted, err
}

// pages follows the shares that begin gives up to a position. Between two pages it gives others their turn, who may need no more
// than one. save: it also writes cursors that nothing else made it write.
func (f *follower) pages(ctx context.Context, at vector, save bool, begin func() (shareSet, error)) error {
	var due shareSet
	for first, done := true, false; !done; first = false {
		if err := f.turn.Acquire(ctx, 1); err != nil {
			return err
		}
		err := func() (err error) {
			defer f.turn.Release(1)
			if first {
				if due, err = begin(); err != nil {
					return err
				}
			}
			done, err = f.page(ctx, at, due, save)
			return err
		}()
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) logged(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		f.s.log.WithError(err).Error("could not follow the event stream")
	}
}

// catchUp follows, up to a position, the rooms for which in is true (nil: all), unless they are far behind, so that what is derived can
// be shown with its events. Up to the position since that was done before. It returns how far it came.
func (f *follower) catchUp(ctx context.Context, at vector, since int64, in func(nid.Room) bool) int64 {
	pos := since
	err := f.turn.Acquire(ctx, 1)
	if err == nil {
		defer f.turn.Release(1)
		var due shareSet
		if due, err = f.needed(ctx, at.Events, since, in); err == nil {
			pos, err = f.bring(ctx, at, due)
		}
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

// fresh leaves those of some shares that are behind in the database, too. The lock is held.
func (f *follower) fresh(ctx context.Context, due shareSet) (shareSet, error) {
	if due == 0 || !f.s.cfg.Shared {
		return due, nil
	}
	err := f.reread(ctx, due) // other processes may have done it
	return f.at.behind(due), err
}

// bring follows some shares up to a position, but for those that are far behind, and gives how far all of them are. The lock is
// held.
func (f *follower) bring(ctx context.Context, at vector, all shareSet) (int64, error) {
	due, err := f.fresh(ctx, all)
	if err != nil {
		return f.at.lowest(all, at.Events), err
	}
	pos := at.Events
	for share := range due.each {
		if judged := f.at.list[share].judged; at.Events-judged > followInline {
			pos = min(pos, judged)
			due &^= 1 << share
		}
	}
	for done := due == 0; !done && err == nil; {
		done, err = f.page(ctx, at, due, false)
	}
	if err != nil {
		return min(pos, f.at.lowest(due, pos)), err
	}
	return pos, nil
}

// followRoom follows all that is committed in a room, however much that is: what is written next builds on it.
func (s *Server) followRoom(ctx context.Context, n nid.Room) error {
	to, err := s.latest.read(ctx)
	if err != nil {
		return err
	}
	// Others may have judged it all, and the receipt may judge events again.
	if err := s.follower.fence.reach(ctx, to.AccountData); err != nil {
		return err
	}
	return s.follower.pages(ctx, to, false, func() (shareSet, error) {
		due, err := s.follower.needed(ctx, to.Events, 0, only(n))
		if err != nil {
			return 0, err
		}
		return s.follower.fresh(ctx, due)
	})
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

// page follows some shares by a page of events on the way to a position; done: they are there. Rules are those of the position in the
// stream of account data, or later ones. The lock is held.
func (f *follower) page(ctx context.Context, at vector, due shareSet, save bool) (done bool, err error) {
	if due == 0 {
		return true, nil
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if err := f.look(ctx, at.Events); err != nil {
		return false, err
	}
	if err := f.fence.reach(ctx, at.AccountData); err != nil {
		return false, err
	}
	from := f.at.lowest(f.at.behind(due), at.Events)
	if from >= at.Events {
		err := f.lazy(ctx, due, at.Events, save)
		if errors.Is(err, errMoved) {
			return false, nil // with what is there now
		}
		return err == nil, err
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
		return false, err
	}
	d, err := f.judge(ctx, rows, true)
	if err != nil {
		return false, err
	}
	if !d.empty() {
		err := f.store(ctx, d, picked, end)
		if errors.Is(err, errMoved) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	f.at.advance(due, end)
	return false, nil
}

// lazy writes the cursors that were not written for long; save: all that are behind the events that were judged. Events that
// nothing followed from are judged again from where the database has the cursor, by the rules of then. The lock is held.
func (f *follower) lazy(ctx context.Context, of shareSet, to int64, save bool) error {
	var late shareSet
	for share := range of.each {
		if c := &f.at.list[share]; to-c.stored >= followLazy || save && c.last > c.stored {
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
	for done := false; !done; {
		if err := f.turn.Acquire(ctx, 1); err != nil {
			return err
		}
		err := func() (err error) {
			defer f.turn.Release(1)
			done, err = f.pageBackfilled(ctx)
			return err
		}()
		if err != nil {
			return err
		}
	}
	return nil
}

// pageBackfilled follows a page of what backfill brings in. The lock is held.
func (f *follower) pageBackfilled(ctx context.Context) (done bool, err error) {
	rows, err := f.s.events.Backfilled(ctx, f.back, followPage)
	if err != nil || len(rows) == 0 {
		return true, err
	}
	end := rows[len(rows)-1].Pos
	d, err := f.judge(ctx, rows, false)
	if err != nil {
		return false, err
	}
	switch err := f.storeBackfilled(ctx, d, end); {
	case errors.Is(err, errMoved):
		return false, f.rereadBackfilled(ctx)
	case err != nil:
		return false, err
	}
	f.back = end
	return false, nil
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
		if !live || here[e.RedactedBy] {
			continue
		}
		if e.RedactedBy != 0 {
			if e, err = f.beforeRedaction(ctx, e); err != nil {
				return nil, err
			}
		}
		if e == nil {
			continue
		}
		if err := f.notify(ctx, e, d); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// beforeRedaction gives a redacted event as it was where its redaction is yet to be followed, which will take back what was
// counted for it; nil where the redaction came first: nobody is to hear of such an event.
func (f *follower) beforeRedaction(ctx context.Context, e *eventstore.Event) (*eventstore.Event, error) {
	by, err := f.s.events.Event(ctx, e.RedactedBy)
	if err != nil || by.StreamPos < e.StreamPos {
		return nil, err
	}
	return f.unredacted(ctx, e)
}

// unredacted gives an event as it was before it was redacted.
func (f *follower) unredacted(ctx context.Context, e *eventstore.Event) (*eventstore.Event, error) {
	whole, err := f.s.events.Unredacted(ctx, []nid.Event{e.NID})
	if err != nil {
		return nil, err
	}
	was := *e
	was.Event = whole[0]
	return &was, nil
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
