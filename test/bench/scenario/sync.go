package scenario

import (
	"context"
	"fmt"
	"strconv"

	"weft/test/bench/load"
)

// syncers is how many syncs of the same kind run at a time.
const syncers = 4

// member makes a user who is in n rooms, each with the same other user, who owns them.
func (e *Env) member(ctx context.Context, n int) (user, other *load.User, rooms []string, err error) {
	users, err := e.fresh(ctx, 2)
	if err != nil {
		return nil, nil, nil, err
	}
	user, other = users[0], users[1]
	rooms = make([]string, n)
	err = parallel(ctx, 1, n, func(ctx context.Context, _, i int) error {
		room, err := other.CreateRoom(ctx, load.NewRoom{Preset: "public_chat", Name: "Room " + strconv.Itoa(i)})
		if err != nil {
			return err
		}
		rooms[i] = room
		return user.Join(ctx, room)
	})
	return user, other, rooms, err
}

// syncs measures three kinds of /sync of a user in n rooms: from nothing, with nothing new, and with one new message.
func syncs(ctx context.Context, e *Env, n, initial int) error {
	user, other, rooms, err := e.member(ctx, n)
	if err != nil {
		return err
	}
	suffix := "-" + strconv.Itoa(n)
	if err := initialSyncs(ctx, e, "sync-initial"+suffix, user, n, initial); err != nil {
		return err
	}
	since, err := user.Position(ctx, "")
	if err != nil {
		return err
	}
	if err := emptySyncs(ctx, e, "sync-empty"+suffix, user, since); err != nil {
		return err
	}
	return oneSyncs(ctx, e, "sync-one"+suffix, user, other, rooms, since)
}

func initialSyncs(ctx context.Context, e *Env, name string, u *load.User, rooms, count int) error {
	m := e.meter(name)
	m.start(ctx)
	for range count {
		m.Do(func() error {
			a, err := u.Sync(ctx, "", 0)
			if err != nil {
				return err
			}
			defer a.Release()
			if got := a.Get("rooms.join.@keys.#").Int(); got != int64(rooms) {
				return fmt.Errorf("an initial sync has %d rooms, not %d", got, rooms)
			}
			_, err = load.NextBatch(a)
			return err
		})
	}
	m.stop(ctx)
	m.finish()
	return ctx.Err()
}

func emptySyncs(ctx context.Context, e *Env, name string, u *load.User, since string) error {
	tokens := make([]string, syncers)
	for i := range tokens {
		tokens[i] = since
	}
	m := e.meter(name)
	m.start(ctx)
	err := parallel(ctx, syncers, e.Sizes.EmptySyncs, func(ctx context.Context, worker, _ int) error {
		m.Do(func() error {
			a, err := u.Sync(ctx, tokens[worker], 0)
			if err != nil {
				return err
			}
			defer a.Release()
			if rooms := a.Get("rooms.join"); rooms.Exists() && rooms.Raw != "{}" {
				return fmt.Errorf("an empty sync has rooms: %.200s", rooms.Raw)
			}
			tokens[worker], err = load.NextBatch(a)
			return err
		})
		return ctx.Err()
	})
	m.stop(ctx)
	m.finish()
	return err
}

// oneRounds is how many different messages the syncs of one event bring; the same token asks for the same message again.
const oneRounds = 10

func oneSyncs(ctx context.Context, e *Env, name string, u, other *load.User, rooms []string, since string) error {
	m := e.meter(name)
	for round := range oneRounds {
		room := rooms[round*len(rooms)/oneRounds]
		event, err := other.Send(ctx, room, message(0, round, e.Sizes.ContentBytes))
		if err != nil {
			return err
		}
		next := ""
		m.start(ctx)
		err = parallel(ctx, syncers, (e.Sizes.OneSyncs+oneRounds-1)/oneRounds, func(ctx context.Context, worker, _ int) error {
			m.Do(func() error {
				a, err := u.Sync(ctx, since, 0)
				if err != nil {
					return err
				}
				defer a.Release()
				if worker == 0 {
					if next, err = load.NextBatch(a); err != nil {
						return err
					}
				}
				return onlyEvent(a, room, event)
			})
			return ctx.Err()
		})
		m.stop(ctx)
		if err != nil {
			return err
		}
		if since, err = u.Position(ctx, next); err != nil {
			return err
		}
	}
	m.finish()
	return nil
}

// onlyEvent checks that a sync brings one event of one room and nothing else.
func onlyEvent(a *load.Answer, room, event string) error {
	joined := a.Get("rooms.join").Map()
	if len(joined) != 1 {
		return fmt.Errorf("a sync with one event has %d rooms", len(joined))
	}
	events := joined[room].Get("timeline.events").Array()
	if len(events) != 1 || events[0].Get("event_id").Str != event {
		return fmt.Errorf("a sync should bring %s alone: %.300s", event, joined[room].Raw)
	}
	return nil
}
