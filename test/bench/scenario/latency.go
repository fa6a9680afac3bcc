package scenario

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// latency measures the way of a message: from the request that sends it to the answer of the sync in which another user waits for
// it. One message is under way at a time; an operation is one message.
func latency(ctx context.Context, e *Env) error {
	users, rooms, err := e.sharedRooms(ctx, 2, 1)
	if err != nil {
		return err
	}
	sender, receiver, room := users[0], users[1], rooms[0]
	since, err := receiver.Position(ctx, "")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	arrivals := make(chan arrival)
	go func() {
		for {
			a := await(ctx, receiver, &since, room)
			select {
			case arrivals <- a:
			case <-ctx.Done():
				return
			}
			if a.err != nil {
				return
			}
		}
	}()
	m := e.meter("latency")
	m.start(ctx)
	for n := range e.Sizes.LatencyMessages {
		began := time.Now()
		event, err := sender.Send(ctx, room, message(0, n, e.Sizes.ContentBytes))
		if err != nil {
			m.Took(time.Since(began), err)
			break
		}
		a, err := next(ctx, arrivals)
		if err == nil && !slices.Equal(a.events, []string{event}) {
			err = fmt.Errorf("message %d: the sync brought %v, not %s alone", n, a.events, event)
		}
		m.Took(a.at.Sub(began), err)
		if err != nil {
			break // what comes next would be about the wrong message
		}
	}
	m.stop(ctx)
	m.finish()
	return nil
}

// next waits for an arrival.
func next(ctx context.Context, arrivals <-chan arrival) (arrival, error) {
	select {
	case a := <-arrivals:
		return a, a.err
	case <-time.After(maxDelivery):
		return arrival{at: time.Now()}, fmt.Errorf("nothing arrived within %v", maxDelivery)
	case <-ctx.Done():
		return arrival{at: time.Now()}, ctx.Err()
	}
}
