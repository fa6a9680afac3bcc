package scenario

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"weft/test/bench/load"
)

// creators is how many users make rooms at the same time.
const creators = 4

// createRoom measures making encrypted private rooms.
func createRoom(ctx context.Context, e *Env) error {
	users, err := e.users(ctx, creators)
	if err != nil {
		return err
	}
	rooms := make([]string, e.Sizes.CreateRooms)
	owners := make([]*load.User, len(rooms))
	m := e.meter("create-room")
	m.start(ctx)
	err = parallel(ctx, creators, len(rooms), func(ctx context.Context, worker, i int) error {
		m.Do(func() (err error) {
			rooms[i], err = users[worker].CreateRoom(ctx, load.NewRoom{Preset: "private_chat", Name: "Private", Encrypted: true})
			return err
		})
		owners[i] = users[worker]
		return ctx.Err()
	})
	m.stop(ctx)
	m.finish()
	if err != nil {
		return err
	}
	return parallel(ctx, creators, len(rooms), func(ctx context.Context, _, i int) error {
		if rooms[i] != "" {
			m.Fail(checkPrivate(ctx, owners[i], rooms[i]))
		}
		return nil
	})
}

// checkPrivate looks whether a room is what was asked for.
func checkPrivate(ctx context.Context, u *load.User, room string) error {
	state, err := u.Read(ctx, http.MethodGet, "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/state", nil)
	if err != nil {
		return err
	}
	want := map[string]string{
		"m.room.encryption content.algorithm": "m.megolm.v1.aes-sha2", "m.room.join_rules content.join_rule": "invite",
		"m.room.history_visibility content.history_visibility": "shared", "m.room.name content.name": "Private",
		"m.room.member state_key": u.ID, "m.room.member content.membership": "join", "m.room.create sender": u.ID,
	}
	for _, event := range state.Array() {
		for key, value := range want {
			var kind, field string
			if _, err := fmt.Sscan(key, &kind, &field); err != nil {
				return err
			}
			if event.Get("type").Str == kind && event.Get(field).Str == value {
				delete(want, key)
			}
		}
	}
	if len(want) > 0 {
		return fmt.Errorf("the room %s lacks %v", room, want)
	}
	return nil
}

// join measures joining and leaving: every user joins every room, one after the other.
func join(ctx context.Context, e *Env) error {
	users, err := e.users(ctx, e.Sizes.JoinUsers+1)
	if err != nil {
		return err
	}
	owner, users := users[0], users[1:]
	rooms := make([]string, e.Sizes.JoinRooms)
	for r := range rooms {
		if rooms[r], err = owner.CreateRoom(ctx, load.NewRoom{Preset: "public_chat"}); err != nil {
			return err
		}
	}
	for _, step := range []struct {
		name string
		do   func(u *load.User, ctx context.Context, room string) error
		left int
	}{{"join", (*load.User).Join, len(users) + 1}, {"leave", (*load.User).Leave, 1}} {
		m := e.meter(step.name)
		m.weigh(ctx)
		m.start(ctx)
		err := parallel(ctx, creators, len(users), func(ctx context.Context, _, i int) error {
			for _, room := range rooms {
				m.Do(func() error { return step.do(users[i], ctx, room) })
			}
			return ctx.Err()
		})
		m.stop(ctx)
		m.finish()
		if err != nil {
			return err
		}
		m.grown(ctx, m.row.Operations)
		for _, room := range rooms {
			members, err := owner.Joined(ctx, room)
			m.Fail(err)
			if err == nil && (len(members) != step.left || !members[owner.ID] || members[users[0].ID] != (step.left > 1)) {
				m.Fail(fmt.Errorf("%s: %d joined members after %s, not %d", room, len(members), step.name, step.left))
			}
		}
	}
	return nil
}
