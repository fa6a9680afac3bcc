package scenario

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"weft/test/bench/load"
)

// message makes the content of a sender's message in exactly size bytes (or as few as it takes). What fills it is random, as the
// text of encrypted messages is, so that no server gets it smaller than its entropy of 6 bits a byte.
func message(sender, number, size int) []byte {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"
	b := make([]byte, 0, size+64)
	b = append(b, `{"msgtype":"m.text","body":"`...)
	b = append(b, 's')
	b = strconv.AppendInt(b, int64(sender), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(number), 10)
	b = append(b, ' ')
	for len(b) < size-2 {
		r := rand.Uint64()
		for range min(10, size-2-len(b)) {
			b = append(b, letters[r&63])
			r >>= 6
		}
	}
	return append(b, `"}`...)
}

// parseMessage reads which sender's message a body is, and its number.
func parseMessage(body string) (sender, number int, err error) {
	parts := strings.SplitN(body, " ", 3)
	if len(parts) != 3 || !strings.HasPrefix(parts[0], "s") {
		return 0, 0, fmt.Errorf("no message of this driver: %.40q", body)
	}
	if sender, err = strconv.Atoi(parts[0][1:]); err != nil {
		return 0, 0, err
	}
	number, err = strconv.Atoi(parts[1])
	return sender, number, err
}

// send measures messages: each sender is in every room, sends one message at a time, and goes round the rooms.
func send(ctx context.Context, e *Env) error {
	senders, rooms, err := e.sharedRooms(ctx, e.Sizes.Senders, e.Sizes.Rooms)
	if err != nil {
		return err
	}
	perSender := (e.Sizes.Messages + len(senders) - 1) / len(senders)
	sent := make([][]sentMessage, len(senders))
	m := e.meter("send")
	m.weigh(ctx)
	m.start(ctx)
	err = each(ctx, senders, func(ctx context.Context, i int, u *load.User) error {
		for n := range perSender {
			room := (i + n) % len(rooms)
			m.Do(func() error {
				event, err := u.Send(ctx, rooms[room], message(i, n, e.Sizes.ContentBytes))
				if err == nil {
					sent[i] = append(sent[i], sentMessage{room, n, event})
				}
				return err
			})
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		return nil
	})
	m.stop(ctx)
	m.finish()
	if err != nil {
		return err
	}
	m.grown(ctx, m.row.Operations)
	for r, room := range rooms {
		m.Fail(checkHistory(ctx, senders, room, r, sent))
	}
	return nil
}

// sharedRooms makes rooms that all of n users are in.
func (e *Env) sharedRooms(ctx context.Context, n, count int) ([]*load.User, []string, error) {
	users, err := e.users(ctx, n)
	if err != nil {
		return nil, nil, err
	}
	rooms := make([]string, count)
	for r := range rooms {
		owner := users[r%len(users)]
		if rooms[r], err = owner.CreateRoom(ctx, load.NewRoom{Preset: "public_chat", Name: "Bench " + strconv.Itoa(r)}); err != nil {
			return nil, nil, err
		}
		for _, u := range users {
			if u == owner {
				continue
			}
			if err := u.Join(ctx, rooms[r]); err != nil {
				return nil, nil, err
			}
		}
	}
	return users, rooms, nil
}

// sentMessage is a message that the server said it took.
type sentMessage struct {
	room, number int
	event        string
}

// checkHistory reads a room's history and looks for every message that was taken: each is there once, under the ID that its
// sender was told, and a sender's messages stand in the order in which they were sent.
func checkHistory(ctx context.Context, senders []*load.User, room string, index int, sent [][]sentMessage) error {
	history, err := senders[0].History(ctx, room)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	return compareHistory(senders, room, index, sent, history)
}

// compareHistory is checkHistory with what was read, latest first.
func compareHistory(senders []*load.User, room string, index int, sent [][]sentMessage, history []load.Event) error {
	got := make([][]sentMessage, len(sent))
	for i := len(history) - 1; i >= 0; i-- {
		e := history[i]
		if e.Type != "m.room.message" {
			continue
		}
		s, number, err := parseMessage(e.Body)
		if err != nil {
			return fmt.Errorf("history: %w", err)
		}
		if s >= len(sent) || senders[s].ID != e.Sender {
			return fmt.Errorf("history: the message %d of sender %d is said to be from %s", number, s, e.Sender)
		}
		got[s] = append(got[s], sentMessage{index, number, e.ID})
	}
	for s := range sent {
		var want []sentMessage
		for _, m := range sent[s] {
			if m.room == index {
				want = append(want, m)
			}
		}
		for i := range max(len(want), len(got[s])) {
			switch {
			case i >= len(got[s]):
				return fmt.Errorf("history of %s: %d of %d messages of %s, the first missing one is %d", room, len(got[s]), len(want), senders[s].ID, want[i].number)
			case i >= len(want):
				return fmt.Errorf("history of %s: %d messages of %s, but %d were sent; one too many is %d", room, len(got[s]), senders[s].ID, len(want), got[s][i].number)
			case got[s][i] != want[i]:
				return fmt.Errorf("history of %s: message %d of %s is number %d (%s), not %d (%s)", room, i, senders[s].ID, got[s][i].number, got[s][i].event, want[i].number, want[i].event)
			}
		}
	}
	return nil
}
