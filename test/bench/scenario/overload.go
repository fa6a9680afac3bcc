package scenario

import (
	"context"
	"fmt"
)

// overload sends far more requests at a time than a small server can work on. It may refuse for a while, with 429 or 503, which
// is counted; whatever it took must be in the history, once and in order.
func overload(ctx context.Context, e *Env) error {
	users, rooms, err := e.sharedRooms(ctx, e.Sizes.Senders, e.Sizes.Rooms)
	if err != nil {
		return err
	}
	events := make([]string, e.Sizes.OverloadRequests)
	m := e.meter("overload")
	m.start(ctx)
	err = parallel(ctx, len(events), len(events), func(ctx context.Context, _, i int) error {
		m.Do(func() (err error) {
			sender := i % len(users)
			events[i], err = users[sender].Send(ctx, rooms[i%len(rooms)], message(sender, i, e.Sizes.ContentBytes))
			return err
		})
		return ctx.Err()
	})
	m.stop(ctx)
	m.finish()
	if err != nil {
		return err
	}
	found := make(map[string]int)
	for _, room := range rooms {
		history, err := users[0].History(ctx, room)
		m.Fail(err)
		for _, event := range history {
			if event.Type == "m.room.message" {
				found[event.ID]++
			}
		}
	}
	for i, event := range events {
		if event != "" && found[event] != 1 {
			m.Fail(fmt.Errorf("message %d (%s) is %d times in the history", i, event, found[event]))
		}
		delete(found, event)
	}
	if len(found) > 0 {
		m.Fail(fmt.Errorf("%d messages are in the history whose sending was not answered", len(found)))
	}
	return nil
}
