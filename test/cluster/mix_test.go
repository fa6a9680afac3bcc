package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// keysEach is how many one-time keys each user has for others to claim.
const keysEach = 200

// mixed adds to a load what is no message: state, joins and leaves, claims of one-time keys.
func (w *workload) mixed() {
	w.t.Helper()
	ctx := w.t.Context()
	made, err := w.c.ok(ctx, "POST", "/_matrix/client/v3/createRoom", w.users[0].token, roomOptions)
	must(w.t, err)
	w.lobby = made.Get("room_id").Str
	w.users[0].inLobby = true
	for _, u := range w.users {
		var keys []string
		for i := range keysEach {
			keys = append(keys, fmt.Sprintf(`"signed_curve25519:k%d":{"key":"%s %d"}`, i, u.id, i))
		}
		_, err := w.c.ok(ctx, "POST", "/_matrix/client/v3/keys/upload", u.token, `{"one_time_keys":{`+strings.Join(keys, ",")+`}}`)
		must(w.t, err)
	}
}

// mix does what is due after the nth message of a user.
func (w *workload) mix(ctx context.Context, u, to *user, n int) error {
	switch {
	case w.lobby == "":
		return nil
	case n%3 == 0:
		return w.setState(ctx, u, n)
	case n%5 == 0:
		return w.claim(ctx, u, to)
	case u != w.users[0]: // half of the messages
		return w.comeOrGo(ctx, u)
	}
	return nil
}

func (u *user) statePath() string {
	return fmt.Sprintf("/_matrix/client/v3/rooms/%s/state/%s/%s", url.PathEscape(u.room), stateType, url.PathEscape(u.id))
}

func (w *workload) setState(ctx context.Context, u *user, n int) error {
	_, err := w.c.ok(ctx, "PUT", u.statePath(), u.token, fmt.Sprintf(`{"n":%d}`, n))
	if err == nil {
		u.state = n
	}
	return err
}

// claim takes a key of another user. Repeated it may take two; no key may be given twice.
func (w *workload) claim(ctx context.Context, u, to *user) error {
	body := fmt.Sprintf(`{"one_time_keys":{%q:{%q:"signed_curve25519"}}}`, to.id, to.device)
	a, err := w.c.ok(ctx, "POST", "/_matrix/client/v3/keys/claim", u.token, body)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for k := range a.Get("one_time_keys." + gjsonPath(to.id) + "." + gjsonPath(to.device)).Map() {
		w.claimed[to.id+" "+k]++
	}
	return nil
}

// moves are how many changes of a user's membership are remembered.
const moves = 5

// comeOrGo changes a user's membership of the lobby. Before that it must be what was acknowledged last: what a node did late would be
// hidden by the next change.
func (w *workload) comeOrGo(ctx context.Context, u *user) error {
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(w.lobby)
	member, err := w.c.do(ctx, "GET", path+"/state/m.room.member/"+url.PathEscape(u.id)+"?format=event", w.users[0].token, nil, 0)
	if err != nil || member.status != 200 && member.status != 404 {
		return errors.Join(err, fmt.Errorf("the membership of %s: %d %s", u.id, member.status, member.body.Raw))
	}
	if is := member.body.Get("content.membership").Str == "join"; is != u.inLobby {
		w.t.Errorf("%s: %s is in the lobby: %v; acknowledged: %v\n%s\n%s", time.Now().Format(time.StampMilli), u.id, is, u.inLobby,
			strings.Join(u.moves, "\n"), member.body.Raw)
		u.inLobby = is
	}
	what := "join"
	if u.inLobby {
		what = "leave"
	}
	began := time.Now()
	a, err := w.c.do(ctx, "POST", path+"/"+what, u.token, []byte(`{}`), 0)
	u.moves = append(u.moves[max(0, len(u.moves)-moves+1):], fmt.Sprintf("%s: %s, %s, %d %v", began.Format(time.StampMilli), what, short(time.Since(began)), a.status, err))
	// A repeated leave is refused where the first came through; the check sees whether it did.
	if err == nil && a.status != 200 && (what == "join" || a.status != 403) {
		err = fmt.Errorf("%s: %d %s", what, a.status, a.body.Raw)
	}
	if err == nil {
		u.inLobby = !u.inLobby
	}
	return err
}

// checkMix demands that all state and memberships are as they were acknowledged last, and that no key was given twice.
func (w *workload) checkMix(ctx context.Context) {
	w.t.Helper()
	if w.lobby == "" {
		return
	}
	members, err := w.c.ok(ctx, "GET", "/_matrix/client/v3/rooms/"+url.PathEscape(w.lobby)+"/joined_members", w.users[0].token, "")
	must(w.t, err)
	in := members.Get("joined").Map()
	for _, u := range w.users {
		if _, is := in[u.id]; is != u.inLobby {
			w.t.Errorf("%s is in the lobby: %v; acknowledged: %v", u.id, is, u.inLobby)
		}
		if u.state == 0 {
			continue
		}
		have, err := w.c.ok(ctx, "GET", u.statePath(), u.token, "")
		must(w.t, err)
		if n := int(have.Get("n").Int()); n != u.state {
			w.t.Errorf("the state of %s is %d, acknowledged was %d", u.id, n, u.state)
		}
	}
	for k, times := range w.claimed {
		if times != 1 {
			w.t.Errorf("the key %s was given %d times", k, times)
		}
	}
	w.t.Logf("%d one-time keys claimed", len(w.claimed))
}
