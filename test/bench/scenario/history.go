package scenario

import (
	"context"

	"weft/test/bench/load"
)

// history measures reading a room from its end to its start, a page at a time.
func history(ctx context.Context, e *Env) error {
	users, rooms, err := e.sharedRooms(ctx, e.Sizes.HistoryReaders, 1)
	if err != nil {
		return err
	}
	room := rooms[0]
	sent := make([][]sentMessage, len(users))
	err = each(ctx, users, func(ctx context.Context, i int, u *load.User) error {
		for n := range (e.Sizes.HistoryMessages + len(users) - 1) / len(users) {
			event, err := u.Send(ctx, room, message(i, n, e.Sizes.ContentBytes))
			if err != nil {
				return err
			}
			sent[i] = append(sent[i], sentMessage{0, n, event})
		}
		return nil
	})
	if err != nil {
		return err
	}
	const page = 100
	read := make([][]load.Event, len(users))
	m := e.meter("history")
	m.start(ctx)
	err = each(ctx, users, func(ctx context.Context, i int, u *load.User) error {
		for from, end := "", false; !end; {
			m.Do(func() error {
				p, err := u.Messages(ctx, room, "b", from, page)
				read[i] = append(read[i], p.Events...)
				end = err != nil || p.End == "" || p.End == from
				from = p.End
				return err
			})
		}
		return ctx.Err()
	})
	m.stop(ctx)
	m.finish()
	for i := range read {
		m.Fail(compareHistory(users, room, 0, sent, read[i]))
	}
	return err
}
