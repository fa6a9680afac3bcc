package scenario

import (
	"context"
	"fmt"
	"slices"
	"time"

	"weft/test/bench/load"
)

// waitTimeout is how long the waiting syncs of fanout may sleep, in milliseconds; maxDelivery how long a delivery may take.
const (
	waitTimeout = 60_000
	maxDelivery = 50 * time.Second
)

// fanout measures what it costs to hand one message to many waiting syncs. An operation of the first row is a message with all
// its deliveries, whose latencies stand beside it; the second row holds the requests that go to sleep before.
func fanout(ctx context.Context, e *Env) error {
	users, err := e.users(ctx, e.Sizes.FanoutUsers+1)
	if err != nil {
		return err
	}
	sender, users := users[0], users[1:]
	room, err := sender.CreateRoom(ctx, load.NewRoom{Preset: "public_chat"})
	if err != nil {
		return err
	}
	if err := parallel(ctx, creators, len(users), func(ctx context.Context, _, i int) error { return users[i].Join(ctx, room) }); err != nil {
		return err
	}
	since := make([]string, len(users))
	err = parallel(ctx, creators, len(users), func(ctx context.Context, _, i int) (err error) {
		since[i], err = users[i].Position(ctx, "")
		return err
	})
	if err != nil {
		return err
	}
	deliver, wait := e.meter("fanout"), e.meter("fanout-wait")
	wait.unprofiled = true
	for n := range e.Sizes.FanoutMessages {
		if err = fanoutOnce(ctx, deliver, wait, sender, users, since, room, message(0, n, e.Sizes.ContentBytes)); err != nil {
			break
		}
	}
	deliver.finish()
	wait.finish()
	return err
}

// fanoutOnce puts all syncs to sleep, sends a message and awaits it in every one of them.
func fanoutOnce(ctx context.Context, deliver, wait *Meter, sender *load.User, users []*load.User, since []string, room string, content []byte) error {
	ctx, cancel := context.WithTimeout(ctx, maxDelivery)
	defer cancel()
	arrivals := make(chan arrival, len(users))
	wait.start(ctx)
	for i, u := range users {
		go func() { arrivals <- await(ctx, u, &since[i], room) }()
	}
	wait.row.Operations += len(users)
	wait.stop(ctx)

	deliver.start(ctx)
	began := time.Now()
	event, err := sender.Send(ctx, room, content)
	if err != nil {
		cancel()
	}
	got := make([]arrival, len(users))
	for i := range users {
		got[i] = <-arrivals
	}
	deliver.stop(ctx)
	deliver.row.Operations++
	for _, a := range got {
		switch {
		case a.err != nil:
			deliver.Fail(fmt.Errorf("the message did not reach %s: %w", a.user, a.err))
		case !slices.Equal(a.events, []string{event}):
			deliver.Fail(fmt.Errorf("%s got %v instead of %s alone", a.user, a.events, event))
		default:
			deliver.Latency(a.at.Sub(began))
		}
	}
	return err
}

// arrival is what a waiting sync brought of a room's timeline.
type arrival struct {
	user   string
	at     time.Time
	events []string
	err    error
}

// await syncs until something is new in the room's timeline. An answer about something else sends it to sleep again.
func await(ctx context.Context, u *load.User, since *string, room string) arrival {
	out := arrival{user: u.ID}
	for {
		a, err := u.Sync(ctx, *since, waitTimeout)
		if err != nil {
			out.err = err
			return out
		}
		out.at = time.Now()
		next, err := load.NextBatch(a)
		for id, r := range a.Get("rooms.join").Map() {
			if id != room {
				continue
			}
			for _, e := range r.Get("timeline.events").Array() {
				out.events = append(out.events, e.Get("event_id").Str)
			}
		}
		a.Release()
		if err != nil || len(out.events) > 0 {
			*since, out.err = next, err
			return out
		}
		*since = next
	}
}
