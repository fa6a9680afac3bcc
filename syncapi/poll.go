package syncapi

import (
	"context"
	"fmt"
	"sync"
	"time"

	"weft/internal/bus"
	"weft/internal/nid"
	"weft/internal/stream"
	"weft/matrix/id"
)

const (
	// defaultPoll is how often a node looks for what the bus lost.
	defaultPoll = 500 * time.Millisecond
	// maxMissed is how many positions are looked through for whom they concern; of more, all requests are woken.
	// maxTold bounds what is remembered of messages.
	maxMissed = 1000
	maxTold   = 10_000
)

const missedReceiptsSQL = `SELECT DISTINCT room_nid, user_id FROM receipts WHERE pos > $1 AND pos <= $2`

// poller wakes sleeping requests, and the follower, for what the bus did not tell of. One query reads all positions;
// where no message came of a position that the look before saw already, it finds out whom that
// concerns, or wakes all of this node. So what was lost comes after two looks at most, and a message that is only late
// costs nothing. There is one for a node, with Config.Shared.
type poller struct {
	s *Server

	mu sync.Mutex
	// rooms are the last positions that messages of the event stream told of, by room; ends those of whole streams; told
	// are all positions of the streams in which a message stands for one position.
	rooms map[id.Room]int64
	ends  map[stream.Name]int64
	told  map[stream.Name]map[int64]struct{}

	begun      bool
	done, seen vector // carried out up to here; what the last look saw
}

func newPoller(s *Server) *poller {
	return &poller{s: s, rooms: make(map[id.Room]int64), ends: make(map[stream.Name]int64), told: make(map[stream.Name]map[int64]struct{})}
}

// heard notes a message of the bus.
func (p *poller) heard(u bus.Update) {
	if p == nil || u.Stream == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch u.Stream {
	case stream.Events:
		if len(p.rooms) >= maxTold {
			clear(p.rooms)
		}
		for _, r := range u.Rooms {
			p.rooms[id.Room(r)] = max(p.rooms[id.Room(r)], u.Pos)
		}
	case stream.ToDevice:
		p.ends[u.Stream] = max(p.ends[u.Stream], u.Pos)
	default:
		set := p.told[u.Stream]
		if set == nil || len(set) >= maxTold {
			set = make(map[int64]struct{})
			p.told[u.Stream] = set
		}
		set[u.Pos] = struct{}{}
	}
}

// missed tells whether messages about some of the positions from < pos ≤ to of a stream are missing, and forgets those
// that came.
//
// A message about to-device messages stands for any number of positions, so that of those only the last is known:
// one that was lost between two that came is found by the request's own look.
func (p *poller) missed(s stream.Name, from, to int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if from >= to {
		return false
	}
	if s == stream.ToDevice {
		return p.ends[s] < to
	}
	set, came := p.told[s], int64(0)
	for pos := range set {
		if pos > from && pos <= to {
			came++
		}
		if pos <= to {
			delete(set, pos)
		}
	}
	return came < to-from
}

// run looks until ctx ends.
func (p *poller) run(ctx context.Context) {
	interval := p.s.cfg.PollInterval
	if interval == 0 {
		interval = defaultPoll
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := p.look(ctx); err != nil && ctx.Err() == nil {
			p.s.log.WithError(err).Warn("could not look for what the bus lost")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// look reads the positions, and carries out what the look before saw and no message told of.
func (p *poller) look(ctx context.Context) error {
	now, err := position(ctx, p.s.db)
	if err != nil {
		return err
	}
	if !p.begun { // requests may sleep already, and what was lost until now is not known
		p.begun, p.done, p.seen = true, now, now
		p.s.notifier.take(bus.Update{})
	}
	if now.Events > p.seen.Events {
		p.s.follower.wake()
	}
	from, to := p.done, p.seen
	if from == to {
		p.seen = now
		return nil
	}
	lost, err := p.lost(ctx, from, to)
	if err != nil {
		return err
	}
	for _, u := range lost {
		p.s.notifier.take(u)
	}
	p.done, p.seen = to, now
	return nil
}

// lost gives what messages would have said of the positions between two looks that none told of. The zero
// message wakes all.
func (p *poller) lost(ctx context.Context, from, to vector) ([]bus.Update, error) {
	out, err := p.lostEvents(ctx, from.Events, to.Events)
	if err != nil {
		return nil, err
	}
	if p.missed(stream.Receipts, from.Receipts, to.Receipts) {
		u, err := p.lostReceipts(ctx, from.Receipts, to.Receipts)
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	if p.missed(stream.DeviceLists, from.DeviceLists, to.DeviceLists) {
		users, err := p.s.cfg.Keys.ListChanged(ctx, from.DeviceLists, to.DeviceLists)
		if err != nil {
			return nil, err
		}
		u := bus.Update{Stream: stream.DeviceLists}
		for _, user := range users {
			u.Users = append(u.Users, string(user))
		}
		out = append(out, u)
	}
	data := p.missed(stream.AccountData, from.AccountData, to.AccountData)
	if p.missed(stream.ToDevice, from.ToDevice, to.ToDevice) || data {
		out = append(out, bus.Update{})
	}
	return out, nil
}

// lostEvents gives the rooms in which something happened that no message told of.
func (p *poller) lostEvents(ctx context.Context, from, to int64) ([]bus.Update, error) {
	if from >= to {
		return nil, nil
	}
	if err := p.s.tail.Reach(ctx, to); err != nil {
		return nil, err
	}
	last, ok := p.s.tail.Last(from, to)
	if !ok || len(last) > maxMissed {
		return []bus.Update{{}}, nil
	}
	u := bus.Update{Stream: stream.Events, Pos: to}
	for n, pos := range last {
		room, err := p.s.events.RoomID(ctx, n)
		if err != nil {
			return nil, err
		}
		p.mu.Lock()
		told := p.rooms[room] >= pos
		p.mu.Unlock()
		if told {
			continue
		}
		if moved, ok := p.s.tail.MembersChanged(n, from, to); !ok || moved {
			return []bus.Update{{}}, nil // those who are not in the room any more, or invited, want to know
		}
		u.Rooms = append(u.Rooms, string(room))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for room, pos := range p.rooms {
		if pos <= to {
			delete(p.rooms, room)
		}
	}
	if len(u.Rooms) == 0 {
		return nil, nil
	}
	return []bus.Update{u}, nil
}

// lostReceipts gives the rooms and the users of receipts.
func (p *poller) lostReceipts(ctx context.Context, from, to int64) (bus.Update, error) {
	u := bus.Update{Stream: stream.Receipts, Pos: to}
	if to-from > maxMissed {
		return bus.Update{}, nil
	}
	rows, err := p.s.db.Query(ctx, missedReceiptsSQL, from, to)
	if err != nil {
		return u, fmt.Errorf("listing receipts: %w", err)
	}
	defer rows.Close()
	var rooms []nid.Room
	for rows.Next() {
		var n nid.Room
		var user string
		if err := rows.Scan(&n, &user); err != nil {
			return u, fmt.Errorf("listing receipts: %w", err)
		}
		rooms, u.Users = append(rooms, n), append(u.Users, user)
	}
	if err := rows.Err(); err != nil {
		return u, fmt.Errorf("listing receipts: %w", err)
	}
	for _, n := range rooms {
		room, err := p.s.events.RoomID(ctx, n)
		if err != nil {
			return u, err
		}
		u.Rooms = append(u.Rooms, string(room))
	}
	return u, nil
}
