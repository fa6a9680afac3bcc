package scenario

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"weft/test/bench/load"
)

// scaleMembers is how many users are in each room of scale, and how many rooms a user is in where there are as many of both.
const scaleMembers = 4

// crowdRooms are rooms with some of the users each.
type crowdRooms struct {
	users   []*load.User
	rooms   []string
	members [][]int // of a room, as places in users
	of      [][]int // rooms of a user, as places in rooms
}

// scale measures how much a server can do at most: as many requests as there are to be at a time for each of its processes, each followed
// by the next at once, for a time. First messages into all rooms; then syncs that bring a message of each of the user's rooms; then
// syncs with nothing new.
func scale(ctx context.Context, e *Env) error {
	c, err := e.crowdRooms(ctx, e.Sizes.ScaleUsers, e.Sizes.ScaleRooms)
	if err != nil {
		return err
	}
	if err := c.send(ctx, e); err != nil {
		return err
	}
	return c.sync(ctx, e)
}

func (e *Env) crowdRooms(ctx context.Context, users, rooms int) (c *crowdRooms, err error) {
	if users >= rooms+scaleMembers {
		return nil, fmt.Errorf("%d users have no place in %d rooms of %d", users, rooms, scaleMembers)
	}
	c = &crowdRooms{rooms: make([]string, rooms), members: make([][]int, rooms), of: make([][]int, users)}
	if c.users, err = e.users(ctx, users); err != nil {
		return nil, err
	}
	for r := range rooms {
		for k := range min(scaleMembers, users) {
			u := (r + k) % users
			c.members[r] = append(c.members[r], u)
			c.of[u] = append(c.of[u], r)
		}
	}
	return c, parallel(ctx, registrations, rooms, func(ctx context.Context, _, r int) error {
		owner := c.members[r][0]
		room, err := c.users[owner].CreateRoom(ctx, load.NewRoom{Preset: "public_chat", Name: "Scale " + strconv.Itoa(r)})
		if err != nil {
			return err
		}
		c.rooms[r] = room
		for _, u := range c.members[r][1:] {
			if err := c.users[u].Join(ctx, room); err != nil {
				return err
			}
		}
		return nil
	})
}

// saturate calls do over and over for as long as the sizes say, as many at the same time as they say for each process of the server; n
// numbers the calls of a worker. Four processes with the load that saturates one have a quarter of it each: what shares a
// commit, or a message between them, is fewer then, and it is not the most that they can do.
func saturate(ctx context.Context, m *Meter, do func(ctx context.Context, worker, n int) error) error {
	m.start(ctx)
	end := time.Now().Add(m.env.Sizes.ScaleTime)
	workers := m.env.Sizes.ScaleRequests * len(m.env.Target.clients())
	var inTime atomic.Int64
	err := parallel(ctx, workers, workers, func(ctx context.Context, _, w int) error {
		for n := 0; n == 0 || time.Now().Before(end); n++ {
			m.Do(func() error { return do(ctx, w, n) })
			if time.Now().Before(end) {
				inTime.Add(1)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		return nil
	})
	m.stop(ctx)
	// Of the time after that, in which fewer and fewer are on their way, it does not tell what the server can do.
	m.row.InTime, m.row.Wall = int(inTime.Load()), m.env.Sizes.ScaleTime
	m.finish()
	return err
}

// send measures messages, and then looks whether each room has those that were taken, once each.
func (c *crowdRooms) send(ctx context.Context, e *Env) error {
	var mu sync.Mutex
	sent := make([]map[string]bool, len(c.rooms))
	for r := range sent {
		sent[r] = make(map[string]bool)
	}
	m := e.meter("scale-send")
	err := saturate(ctx, m, func(ctx context.Context, w, n int) error {
		u := w % len(c.users)
		r := c.of[u][(w/len(c.users)+n)%len(c.of[u])]
		event, err := c.users[u].Send(ctx, c.rooms[r], message(w, n, e.Sizes.ContentBytes))
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if sent[r][event] {
			return fmt.Errorf("two messages have the ID %s", event)
		}
		sent[r][event] = true
		return nil
	})
	if err != nil {
		return err
	}
	for r, room := range c.rooms {
		m.Fail(c.checkSent(ctx, r, room, sent[r]))
	}
	return nil
}

func (c *crowdRooms) checkSent(ctx context.Context, r int, room string, sent map[string]bool) error {
	history, err := c.users[c.members[r][0]].History(ctx, room)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	found := 0
	for _, e := range history {
		if e.Type != "m.room.message" {
			continue
		}
		if !sent[e.ID] {
			return fmt.Errorf("history of %s: %s was not sent, or is there twice", room, e.ID)
		}
		delete(sent, e.ID)
		found++
	}
	if len(sent) > 0 {
		return fmt.Errorf("history of %s: %d messages, and %d that were taken are missing", room, found, len(sent))
	}
	return nil
}

// sync measures both kinds of sync. Each process has seen what its users ask for before: they came upon it once.
func (c *crowdRooms) sync(ctx context.Context, e *Env) error {
	since := make([]string, len(c.users)) // of each user
	if _, err := c.mark(ctx, e, since); err != nil {
		return err
	}
	after := make([]string, len(since))
	copy(after, since)
	marks, err := c.mark(ctx, e, after)
	if err != nil {
		return err
	}
	err = saturate(ctx, e.meter("scale-sync-one"), func(ctx context.Context, w, _ int) error {
		u := w % len(c.users)
		a, err := c.users[u].Sync(ctx, since[u], 0)
		if err != nil {
			return err
		}
		defer a.Release()
		joined := a.Get("rooms.join").Map()
		if len(joined) != len(c.of[u]) {
			return fmt.Errorf("a sync with an event in each of %d rooms has %d rooms", len(c.of[u]), len(joined))
		}
		for _, r := range c.of[u] {
			events := joined[c.rooms[r]].Get("timeline.events").Array()
			if len(events) != 1 || events[0].Get("event_id").Str != marks[r] {
				return fmt.Errorf("a sync should bring %s alone: %.300s", marks[r], joined[c.rooms[r]].Raw)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return saturate(ctx, e.meter("scale-sync-empty"), func(ctx context.Context, w, _ int) error {
		u := w % len(c.users)
		a, err := c.users[u].Sync(ctx, after[u], 0)
		if err != nil {
			return err
		}
		defer a.Release()
		if rooms := a.Get("rooms.join"); rooms.Exists() && rooms.Raw != "{}" {
			return fmt.Errorf("an empty sync has rooms: %.200s", rooms.Raw)
		}
		_, err = load.NextBatch(a)
		return err
	})
}

// markPatience is how long a message may take until every member has it.
const markPatience = 30 * time.Second

// mark sends a message into each room and moves the users' tokens to where they have seen those of all their rooms.
func (c *crowdRooms) mark(ctx context.Context, e *Env, tokens []string) (marks []string, err error) {
	marks = make([]string, len(c.rooms))
	err = parallel(ctx, registrations, len(c.rooms), func(ctx context.Context, _, r int) (err error) {
		marks[r], err = c.users[c.members[r][0]].Send(ctx, c.rooms[r], message(r, 0, e.Sizes.ContentBytes))
		return err
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, markPatience, fmt.Errorf("messages that were sent are not in /sync after %v", markPatience))
	defer cancel()
	err = parallel(ctx, registrations, len(c.users), func(ctx context.Context, _, u int) error {
		missing := make(map[string]bool)
		for _, r := range c.of[u] {
			missing[marks[r]] = true
		}
		for len(missing) > 0 {
			a, err := c.users[u].Sync(ctx, tokens[u], 1000)
			if err != nil {
				return err
			}
			for _, r := range c.of[u] {
				for _, event := range a.Parsed().Get("rooms.join").Map()[c.rooms[r]].Get("timeline.events").Array() {
					delete(missing, event.Get("event_id").Str)
				}
			}
			tokens[u], err = load.NextBatch(a)
			a.Release()
			if err != nil {
				return err
			}
		}
		return nil
	})
	return marks, err
}
