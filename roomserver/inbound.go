package roomserver

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	// inboundBatch is how many events of a room are received together, or more if they came
	// together.
	inboundBatch = 50
	// adoptEvery is how often staged events that nobody processes are looked for, and
	// adoptAfter how old they must be: their node has died, or failed at them, or a
	// server that had to be asked could not be reached. A room is tried again when a
	// fourth of its oldest event's age has passed since the last time, adoptRarely at
	// the latest.
	adoptEvery  = 3 * time.Second
	adoptAfter  = 3 * time.Second
	adoptOthers = 20 * time.Second // where the room is another process's to work on
	adoptRarely = 10 * time.Minute
	// stagedFor is after how long a staged event that cannot be processed is given up.
	stagedFor = 24 * time.Hour
	// receiveTimeout bounds the work on one batch, waiting for other servers included.
	receiveTimeout = 10 * time.Minute
	// inboundOrigins is how many times InboundQueue events may wait in a room, whoever sent them.
	inboundOrigins = 10
)

// inbound processes staged events room by room: in a room one batch after another, a
// bounded number of rooms side by side. The queue is the table; in memory is only
// which rooms are worked on and who waits for which event.
type inbound struct {
	s     *Server
	slots chan struct{}

	mu      sync.Mutex
	ctx     context.Context // ends the work; nil before run
	rooms   map[id.Room]*roomWork
	waiters map[id.Event][]*waiter
	tried   map[nid.Room]time.Time // rooms whose staged events were taken up again
	// reached is up to which staged event of a room all were tried: those up to there stay for adopt,
	// so that what stays of one server holds up nobody else.
	reached map[nid.Room]int64
	silent  *silences
	wg      sync.WaitGroup
}

// roomWork is a room that is worked on, or will be as soon as run begins.
type roomWork struct {
	nid   nid.Room
	all   bool // begin with the first staged event
	again bool // events were staged since the table was last read
	stay  bool // some that were tried are still staged
}

// rested tells whether a room's oldest staged event, of a certain age, may be tried
// again now, and notes that it is.
func (in *inbound) rested(room nid.Room, age time.Duration) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	now := in.s.cfg.Now()
	if now.Sub(in.tried[room]) < min(age/4, adoptRarely) {
		return false
	}
	in.tried[room] = now
	return true
}

// waiter waits for an event that it staged, which it has parsed.
type waiter struct {
	ev   *event.Event
	done func(error)
}

func newInbound(s *Server) *inbound {
	return &inbound{s: s, slots: make(chan struct{}, s.limits.InboundRooms),
		rooms: make(map[id.Room]*roomWork), waiters: make(map[id.Event][]*waiter),
		tried: make(map[nid.Room]time.Time), reached: make(map[nid.Room]int64), silent: newSilences(s.cfg.Now)}
}

// run takes up what was staged before, by this node or by one that died, and goes
// on looking. It returns when all work has ended.
func (in *inbound) run(ctx context.Context) {
	in.mu.Lock()
	in.ctx = ctx
	for room, work := range in.rooms {
		in.wg.Go(func() { in.work(ctx, room, work) })
	}
	in.mu.Unlock()
	ticker := time.NewTicker(adoptEvery)
	defer ticker.Stop()
	for _, cancel := range in.listen() {
		defer cancel()
	}
	age := time.Duration(0)
	for ctx.Err() == nil {
		if err := in.adopt(ctx, age); err != nil && ctx.Err() == nil {
			in.s.log.WithError(err).Error("staged events could not be read")
		}
		age = adoptAfter
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
	in.wg.Wait()
}

// adopt works on rooms whose staged events have waited for some time.
func (in *inbound) adopt(ctx context.Context, age time.Duration) error {
	rooms, err := in.s.store.StagedRooms(ctx)
	if err != nil {
		return err
	}
	in.mu.Lock()
	maps.DeleteFunc(in.tried, func(n nid.Room, _ time.Time) bool { return !slices.Contains(rooms, n) })
	maps.DeleteFunc(in.reached, func(n nid.Room, _ int64) bool { return !slices.Contains(rooms, n) })
	in.mu.Unlock()
	for _, n := range rooms {
		first, err := in.s.store.StagedEvents(ctx, n, 0, 1)
		if err != nil {
			return err
		}
		if len(first) == 0 {
			continue
		}
		waited := time.Duration(in.s.now()-first[0].Received) * time.Millisecond
		if waited < age || (age > 0 && !in.rested(n, waited)) {
			continue
		}
		room, err := in.s.store.RoomID(ctx, n)
		if err != nil {
			return err
		}
		if in.s.owns(room) || waited >= adoptOthers {
			in.wakeFor(room, n, true)
		}
	}
	return nil
}

// The topics of what the processes tell each other about staged events. Who misses a message finds
// the events by adopt, or waits for the answer as long as AnswerWait says.
const (
	topicStaged = "roomserver.staged"
	topicDone   = "roomserver.done"
)

// stagedRoom is a room in which events were staged by a process that does not own it.
type stagedRoom struct {
	Room id.Room  `json:"r"`
	NID  nid.Room `json:"n"`
}

// doneEvent is what became of a staged event: Refused says why it did not become part of the room.
type doneEvent struct {
	Event   id.Event `json:"e"`
	Refused string   `json:"m,omitempty"`
}

// take has a room's staged events processed by whom the room belongs to.
func (in *inbound) take(room id.Room, n nid.Room) {
	if in.s.owns(room) {
		in.wake(room, n)
		return
	}
	in.tell(topicStaged, stagedRoom{room, n})
}

func (in *inbound) tell(topic string, what any) {
	data, err := json.Marshal(what)
	if err != nil {
		in.s.log.WithError(err).Error("other processes cannot be told")
		return
	}
	in.s.cfg.Bus.Publish(topic, data)
}

// listen hears what other processes staged in rooms of ours, and what they did with what we staged.
func (in *inbound) listen() (cancels []func()) {
	if in.s.cfg.Shares == nil {
		return nil
	}
	return []func(){
		in.s.cfg.Bus.Subscribe(topicStaged, func(data []byte) {
			var m stagedRoom
			if json.Unmarshal(data, &m) == nil && in.s.owns(m.Room) {
				in.wake(m.Room, m.NID)
			}
		}),
		in.s.cfg.Bus.Subscribe(topicDone, func(data []byte) {
			var list []doneEvent
			if json.Unmarshal(data, &list) != nil {
				return
			}
			for _, e := range list {
				var err error
				if e.Refused != "" {
					err = merr.Forbidden("%s", e.Refused)
				}
				in.finish(e.Event, err)
			}
		}),
	}
}

// told tells those who wait for staged events, here and elsewhere, what became of them.
func (in *inbound) told(rows []eventstore.Staged, errs map[id.Event]error) {
	var list []doneEvent
	for _, row := range rows {
		for _, e := range row.Events {
			err := errs[e.ID]
			in.finish(e.ID, err)
			if done := (doneEvent{Event: e.ID}); err == nil || !isInternal(err) {
				if err != nil {
					done.Refused = merr.From(err).Message
				}
				list = append(list, done)
			}
		}
	}
	if in.s.cfg.Shares != nil && len(list) > 0 {
		in.tell(topicDone, list)
	}
}

// wake makes sure that somebody works on what came in a room.
func (in *inbound) wake(room id.Room, n nid.Room) { in.wakeFor(room, n, false) }

// wakeFor makes sure that somebody works on a room: on all that is staged, unless somebody works on it already, or on
// what was not tried yet.
func (in *inbound) wakeFor(room id.Room, n nid.Room, all bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if w := in.rooms[room]; w != nil {
		w.again = true
		return
	}
	w := &roomWork{nid: n, all: all, stay: !all && in.reached[n] > 0}
	in.rooms[room] = w
	if in.ctx != nil && in.ctx.Err() == nil {
		in.wg.Go(func() { in.work(in.ctx, room, w) })
	}
}

// aside does what belongs to a room's events and is staged nowhere, some time from now, for at most receiveTimeout and as long as the server
// runs.
func (in *inbound) aside(later time.Duration, do func(context.Context)) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.ctx == nil || in.ctx.Err() != nil {
		return
	}
	in.wg.Go(func() {
		select {
		case <-time.After(later):
		case <-in.ctx.Done():
			return
		}
		ctx, cancel := context.WithTimeout(in.ctx, receiveTimeout)
		defer cancel()
		do(ctx)
	})
}

// busy tells whether a room is worked on.
func (in *inbound) busy(room id.Room) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.rooms[room] != nil
}

// waiting tells whether events of a room may be staged: it is worked on, or some stayed.
func (in *inbound) waiting(room id.Room, n nid.Room) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.rooms[room] != nil || in.reached[n] > 0
}

// wait registers who will be told about events. It comes before they are staged, and
// forget after.
func (in *inbound) wait(events []*event.Event, done func(ev id.Event, err error)) []*waiter {
	in.mu.Lock()
	defer in.mu.Unlock()
	list := make([]*waiter, len(events))
	for i, ev := range events {
		list[i] = &waiter{ev, func(err error) { done(ev.ID, err) }}
		in.waiters[ev.ID] = append(in.waiters[ev.ID], list[i])
	}
	return list
}

func (in *inbound) forget(list []*waiter) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, w := range list {
		left := slices.DeleteFunc(in.waiters[w.ev.ID], func(o *waiter) bool { return o == w })
		if in.waiters[w.ev.ID] = left; len(left) == 0 {
			delete(in.waiters, w.ev.ID)
		}
	}
}

// finish tells those who wait for an event.
func (in *inbound) finish(ev id.Event, err error) {
	in.mu.Lock()
	list := in.waiters[ev]
	delete(in.waiters, ev)
	in.mu.Unlock()
	for _, w := range list {
		w.done(err)
	}
}

// work receives a room's events until none is staged that was not tried.
func (in *inbound) work(ctx context.Context, room id.Room, work *roomWork) {
	select {
	case in.slots <- struct{}{}:
		defer func() { <-in.slots }()
	case <-ctx.Done():
	}
	for ctx.Err() == nil {
		after := in.begin(work)
		rows, err := in.s.store.StagedEvents(ctx, work.nid, after, inboundBatch)
		if err == nil {
			var stay bool
			stay, err = in.batches(ctx, room, rows)
			work.stay = work.stay || stay
		}
		if err != nil {
			work.stay = true
			in.s.log.WithError(err).WithField("room", room).Error("staged events could not be processed")
		}
		if len(rows) > 0 {
			in.mu.Lock()
			in.reached[work.nid] = rows[len(rows)-1].Seq // what failed stays and is taken up later
			in.mu.Unlock()
			continue
		}
		in.mu.Lock()
		again := work.again
		if !again && !work.stay {
			delete(in.reached, work.nid) // all are done
		}
		if !again || err != nil {
			delete(in.rooms, room)
			in.mu.Unlock()
			return
		}
		in.mu.Unlock()
	}
	in.mu.Lock()
	delete(in.rooms, room)
	in.mu.Unlock()
}

// begin says after which staged event to go on.
func (in *inbound) begin(work *roomWork) int64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	work.again = false
	if work.all {
		work.all = false
		return 0
	}
	return in.reached[work.nid]
}

// batches splits staged events by their origin, which is who is asked for what they
// lack. stay tells that some are to be tried again.
func (in *inbound) batches(ctx context.Context, roomID id.Room, rows []eventstore.Staged) (stay bool, _ error) {
	if len(rows) == 0 {
		return false, nil
	}
	room, err := in.s.store.Room(ctx, roomID)
	if err != nil {
		return false, err
	}
	for len(rows) > 0 {
		n := 1
		for n < len(rows) && rows[n].Origin == rows[0].Origin {
			n++
		}
		some, err := in.receive(ctx, room, rows[:n])
		if err != nil {
			return stay, err
		}
		stay, rows = stay || some, rows[n:]
	}
	return stay, nil
}

// receive processes events of one origin and takes what is done from the stage.
// What failed for a reason of ours, or because another server could not be reached,
// stays there and is taken up again, for a day.
func (in *inbound) receive(ctx context.Context, room *eventstore.Room, rows []eventstore.Staged) (some bool, _ error) {
	ctx, cancel := context.WithTimeout(ctx, receiveTimeout)
	defer cancel()
	var events []*event.Event
	received := make(map[id.Event]int64)
	for _, row := range rows {
		for _, e := range row.Events {
			received[e.ID] = row.Received
			ev, err := in.parsed(room, e)
			if err != nil {
				in.s.log.WithError(err).WithField("event", e.ID).Warn("a staged event is not valid")
				continue
			}
			events = append(events, ev)
		}
	}
	errs := in.s.inputStaged(ctx, rows[0].Origin, events, received)
	var left []eventstore.Staged // what is to be changed: rows with the events that stay
	for _, row := range rows {
		stay := row
		stay.Events = nil
		for _, e := range row.Events {
			if in.waits(e.ID, errs, row.Received) {
				stay.Events, some = append(stay.Events, e), true
			}
		}
		if len(stay.Events) < len(row.Events) {
			left = append(left, stay)
		}
	}
	err := in.s.unstage(context.WithoutCancel(ctx), left)
	in.told(rows, errs)
	return some, err
}

// waits tells whether an event is to be tried again.
func (in *inbound) waits(ev id.Event, errs map[id.Event]error, received int64) bool {
	err := errs[ev]
	if err == nil || !isInternal(err) && !isLater(err) {
		return false
	}
	log := in.s.log.WithError(err).WithField("event", ev)
	if isLater(err) {
		log.Info("an event waits for a server that cannot be reached")
		errs[ev] = nil // it is safe, and not refused
	} else {
		log.Error("an event could not be processed")
	}
	return received > in.s.now()-stagedFor.Milliseconds()
}

// parsed gives a staged event, as it was parsed at the door or anew.
func (in *inbound) parsed(room *eventstore.Room, e eventstore.StagedEvent) (*event.Event, error) {
	in.mu.Lock()
	list := in.waiters[e.ID]
	in.mu.Unlock()
	if len(list) > 0 {
		return list[0].ev, nil
	}
	return event.Parse(e.JSON, room.Rules)
}
