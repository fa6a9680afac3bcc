package syncapi

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"weft/internal/bus"
	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/stream"
	"weft/matrix/id"
)

const (
	insertFollowerSQL = `INSERT INTO sync_followers (name, pos) VALUES ($1, 0) ON CONFLICT (name) DO NOTHING`
	readFollowerSQL   = `SELECT pos FROM sync_followers WHERE name = $1`
	moveFollowerSQL   = `UPDATE sync_followers SET pos = $2 WHERE name = $1 AND pos = $3`
)

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
	// followPoll is after how long the follower looks by itself.
	followPoll = 30 * time.Second
	// followPace is the pause between two looks: who needs the newest (each sync does) moves the follower on itself,
	// and what comes in the pause is stored with one statement.
	followPace = 200 * time.Millisecond
	// followTurn is for how many positions it is one process's turn.
	followTurn = 1024
	// followOthers is how long the process whose turn it is has, until the others do what it should have done.
	followOthers = time.Second
)

// errMoved says that another node moved the cursor.
var errMoved = errors.New("the cursor was moved by another node")

// follower reads the event stream and stores what follows from it: relations, threads and
// notifications. It is moved on by whoever needs it first, one at a time; between nodes the cursor's row
// decides. Where nobody needs it, one node moves it: whose turn it is depends on where the cursor stands, so that they
// share the work evenly, and no two judge the same events. A turn is long enough for what the node keeps in memory to be of use.
type follower struct {
	s      *Server
	signal chan struct{}
	rules  *ruleCache
	fence  *fence // of rules; nil where nobody else writes

	mu     sync.Mutex
	pos    int64 // up to here everything is judged
	stored int64 // the cursor in the database
	back   int64 // the same of backfilled events, downward from 0
	// due is up to where another node was to follow, and dueAt until when; 0: it did.
	due   int64
	dueAt time.Time

	// Noted for lag: how far the stream is, pos, and that it is another node's turn.
	end, judged atomic.Int64
	theirs      atomic.Bool
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

func newFollower(ctx context.Context, s *Server) (*follower, error) {
	f := &follower{s: s, signal: make(chan struct{}, 1), rules: newRuleCache()}
	err := s.db.Update(ctx, func(tx *sqldb.Tx) error {
		for _, name := range []string{followEvents, followBackfill} {
			if _, err := tx.Exec(ctx, insertFollowerSQL, name); err != nil {
				return fmt.Errorf("followers: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if s.cfg.Shared {
		f.fence = f.rulesFence()
	}
	return f, f.reload(ctx)
}

// reload reads the cursors.
func (f *follower) reload(ctx context.Context) error {
	if err := f.reread(ctx); err != nil {
		return err
	}
	if err := f.s.db.QueryRow(ctx, readFollowerSQL, followBackfill).Scan(&f.back); err != nil {
		return fmt.Errorf("followers: %w", err)
	}
	f.at(f.stored)
	return nil
}

// reread reads the cursor of the event stream. Where another node moved it, that node also stored what this one
// keeps in memory.
func (f *follower) reread(ctx context.Context) error {
	var stored int64
	if err := f.s.db.QueryRow(ctx, readFollowerSQL, followEvents).Scan(&stored); err != nil {
		return fmt.Errorf("followers: %w", err)
	}
	if stored != f.stored {
		f.s.unread.Clear()
		f.at(stored)
		f.stored = stored
	}
	return nil
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
		late := f.work(ctx, polled)
		polled = false
		select {
		case <-time.After(followPace):
		case <-ctx.Done():
			return
		}
		var again <-chan time.Time
		if late {
			again = time.After(followOthers)
		}
		select {
		case <-f.signal:
		case <-again:
		case <-poll.C:
			polled = true
		case <-ctx.Done():
			return
		}
	}
}

// work follows both logs to their ends, as far as that is this node's to do. late: another node is to, and it has
// to be seen whether it does.
func (f *follower) work(ctx context.Context, polled bool) (late bool) {
	to, err := position(ctx, f.s.db)
	if err == nil {
		f.reaches(to.Events)
		late, err = f.share(ctx, to)
	}
	if err == nil && (polled || f.s.cfg.Shares == nil || f.s.cfg.Shares.Owns("syncapi", "follow/"+followBackfill)) {
		err = f.advanceBackfilled(ctx)
	}
	f.logged(ctx, err)
	return late
}

// share follows the event stream up to a position as far as that is this node's to do, or the node whose turn it was did not.
func (f *follower) share(ctx context.Context, at vector) (late bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.pos < at.Events {
		if err := f.join(ctx, at); err != nil || f.pos >= at.Events {
			return false, err
		}
		to := at.Events
		if f.s.cfg.Shares != nil {
			if !f.s.cfg.Shares.Owns("syncapi", "follow/"+strconv.FormatInt(f.stored/followTurn, 10)) {
				switch now := f.s.now(); {
				case f.due == 0 || f.stored >= f.due:
					f.due, f.dueAt = at.Events, now.Add(followOthers)
					f.theirs.Store(true)
					return true, nil
				case now.Before(f.dueAt):
					return true, nil
				}
			}
			to = min(to, (max(f.pos, f.stored)/followTurn+1)*followTurn)
		}
		f.due = 0
		f.theirs.Store(false)
		if err := f.forward(ctx, to); err != nil {
			return false, err
		}
	}
	f.due = 0
	f.theirs.Store(false)
	return false, nil
}

func (f *follower) logged(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		f.s.log.WithError(err).Error("could not follow the event stream")
	}
}

// catchUp follows the event stream up to a position, unless it is far behind, so that what
// is derived can be shown with its events. It returns how far it came.
func (f *follower) catchUp(ctx context.Context, at vector) int64 {
	f.mu.Lock()
	pos, to := f.pos, at.Events
	f.mu.Unlock()
	if pos >= to || to-pos > followInline {
		return min(pos, to)
	}
	pos, err := f.advance(ctx, at)
	f.logged(ctx, err)
	return min(pos, to)
}

// followTo is catchUp for one who knows of no other positions than that of an event.
func (s *Server) followTo(ctx context.Context, pos int64) error {
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
	s.follower.catchUp(ctx, to)
	return nil
}

// join looks whether other nodes did what this one is about to do, or changed what it is done by. The lock is held.
func (f *follower) join(ctx context.Context, at vector) error {
	if !f.s.cfg.Shared {
		return nil
	}
	if err := f.reread(ctx); err != nil {
		return err
	}
	return f.fence.reach(ctx, at.AccountData)
}

// advance follows the event stream up to a position. Rules are those of the position in the stream of account data,
// or later ones.
func (f *follower) advance(ctx context.Context, at vector) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pos >= at.Events {
		return f.pos, nil
	}
	err := f.join(ctx, at)
	if err == nil {
		err = f.forward(ctx, at.Events)
	}
	return f.pos, err
}

// forward follows the event stream up to a position. The lock is held, and join was called.
func (f *follower) forward(ctx context.Context, to int64) error {
	for f.pos < to {
		if err := ctx.Err(); err != nil {
			return err
		}
		rows, end, err := f.s.tail.Page(ctx, f.pos, to, followPage)
		if err != nil {
			return err
		}
		d, err := f.judge(ctx, rows, true)
		if err != nil {
			return err
		}
		if d.empty() && end-f.stored < followLazy && end%followTurn != 0 { // who has the next turn has to see that it has
			f.at(end)
			continue
		}
		switch err := f.store(ctx, d, followEvents, f.stored, end); {
		case errors.Is(err, errMoved):
			if err := f.reload(ctx); err != nil {
				return err
			}
		case err != nil:
			return err
		default:
			f.at(end)
			f.stored = end
		}
	}
	return nil
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
		switch err := f.store(ctx, d, followBackfill, f.back, end); {
		case errors.Is(err, errMoved):
			if err := f.reload(ctx); err != nil {
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
	if live && target.StreamPos > 0 && target.StreamPos <= f.pos {
		return f.uncount(ctx, target, d)
	}
	return nil
}

// store stores what was derived, and moves the cursor, in one transaction.
func (f *follower) store(ctx context.Context, d *derived, name string, from, to int64) error {
	return f.s.db.Update(ctx, func(tx *sqldb.Tx) error {
		res, err := tx.Exec(ctx, moveFollowerSQL, name, to, from)
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
	})
}
