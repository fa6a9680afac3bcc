package cluster

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

// user is a user with one device, who sends and syncs.
type user struct {
	id, token, device string
	room              string
	sent              int // messages so far

	since    string
	seen     map[string]int   // event ID: how often /sync gave it
	bodies   map[string][]int // sender: the numbers of their messages in the order of /sync
	gaps     int              // answers that left events out, because the user was away while many came
	toDevice map[string][]int // sender: the numbers of their to-device messages

	state   int      // what the user's own state event says
	inLobby bool     // the user's membership of the lobby
	moves   []string // the last changes of it
}

// workload is a load whose every acknowledged operation is remembered.
type workload struct {
	t     testing.TB
	c     *client
	users []*user
	rooms []string
	lobby string        // where users come and go in a mixed load; empty: messages only
	pace  time.Duration // between two operations of a user; 0: one after the other

	mu      sync.Mutex
	acked   map[string]map[int]string // sender: number of a message: event ID
	told    map[string]int            // sender: to-device messages acknowledged
	claimed map[string]int            // one-time key: how often it was handed out
	at      map[string]time.Time      // event ID: when it was acknowledged
	delays  []time.Duration           // from there to each /sync that shows it
}

// newWorkload makes users and rooms: each room has so many users.
func newWorkload(t testing.TB, nodes []*node, rooms, perRoom int) *workload {
	t.Helper()
	w := &workload{t: t, c: newClient(t, nodes), acked: map[string]map[int]string{}, told: map[string]int{}, claimed: map[string]int{},
		at: map[string]time.Time{}}
	ctx := context.Background()
	for r := range rooms {
		var room string
		for i := range perRoom {
			u := w.register(ctx, fmt.Sprintf("u%d-%d", r, i))
			if i == 0 {
				made, err := w.c.ok(ctx, "POST", "/_matrix/client/v3/createRoom", u.token, roomOptions)
				must(t, err)
				room = made.Get("room_id").Str
				w.rooms = append(w.rooms, room)
			} else {
				_, err := w.c.ok(ctx, "POST", "/_matrix/client/v3/join/"+url.PathEscape(room), u.token, `{}`)
				must(t, err)
			}
			u.room = room
			w.users = append(w.users, u)
		}
	}
	for _, u := range w.users {
		must(t, w.sync(ctx, u, 0))
		clear(u.seen)
	}
	return w
}

// roomOptions let every member set the state that a mixed load has.
const roomOptions = `{"preset":"public_chat","power_level_content_override":{"events":{"` + stateType + `":0}}}`

const stateType = "org.test.number"

// register makes a user on some node.
func (w *workload) register(ctx context.Context, name string) *user {
	w.t.Helper()
	body := fmt.Sprintf(`{"username":%q,"password":"secret-%s","auth":{"type":"m.login.dummy"}}`, name, name)
	a, err := w.c.ok(ctx, "POST", "/_matrix/client/v3/register", "", body)
	must(w.t, err)
	return &user{
		id: a.Get("user_id").Str, token: a.Get("access_token").Str, device: a.Get("device_id").Str,
		seen: map[string]int{}, bodies: map[string][]int{}, toDevice: map[string][]int{},
	}
}

const filter = `{"room":{"timeline":{"limit":1000}},"presence":{"types":[]}}`

// sync makes one /sync of a user, on whatever node.
func (w *workload) sync(ctx context.Context, u *user, wait time.Duration) error {
	q := url.Values{"filter": {filter}, "timeout": {fmt.Sprint(wait.Milliseconds())}, "set_presence": {"offline"}}
	if u.since != "" {
		q.Set("since", u.since)
	}
	a, err := w.c.do(ctx, "GET", "/_matrix/client/v3/sync?"+q.Encode(), u.token, nil, wait)
	if err != nil {
		return err
	}
	if a.status != 200 {
		return fmt.Errorf("/sync of %s: %d %s", u.id, a.status, a.body.Raw)
	}
	u.since = a.body.Get("next_batch").Str
	room := a.body.Get("rooms.join." + gjsonPath(u.room))
	list := room.Get("timeline.events").Array()
	if room.Get("timeline.limited").Bool() {
		missed, err := w.missed(ctx, u, room.Get("timeline.prev_batch").Str)
		if err != nil {
			return err
		}
		list = append(missed, list...)
	}
	for _, e := range list {
		if e.Get("type").Str != "m.room.message" {
			continue
		}
		w.arrived(u, e.Get("event_id").Str)
		sender := e.Get("sender").Str
		u.bodies[sender] = append(u.bodies[sender], int(e.Get("content.n").Int()))
	}
	for _, e := range a.body.Get("to_device.events").Array() {
		sender := e.Get("sender").Str
		u.toDevice[sender] = append(u.toDevice[sender], int(e.Get("content.n").Int()))
	}
	return nil
}

// arrived notes that a user's /sync shows a message.
func (w *workload) arrived(u *user, event string) {
	u.seen[event]++
	w.mu.Lock()
	defer w.mu.Unlock()
	if at, ok := w.at[event]; ok {
		w.delays = append(w.delays, time.Since(at))
	} else {
		w.delays = append(w.delays, 0) // before its sender heard of it
	}
}

// missed reads what a timeline left out, back to what the user has seen, as a client does.
func (w *workload) missed(ctx context.Context, u *user, from string) (list []gjson.Result, err error) {
	u.gaps++
	for from != "" {
		q := url.Values{"dir": {"b"}, "limit": {"100"}, "from": {from}}
		page, err := w.c.ok(ctx, "GET", "/_matrix/client/v3/rooms/"+url.PathEscape(u.room)+"/messages?"+q.Encode(), u.token, "")
		if err != nil {
			return nil, err
		}
		from = page.Get("end").Str
		for _, e := range page.Get("chunk").Array() {
			if u.seen[e.Get("event_id").Str] > 0 {
				from = ""
				break
			}
			list = append(list, e)
		}
	}
	slices.Reverse(list)
	return list, nil
}

// gjsonPath escapes a key for a path.
func gjsonPath(key string) string {
	return strings.NewReplacer(".", `\.`, "*", `\*`, "?", `\?`, "!", `\!`, "|", `\|`, "#", `\#`, "@", `\@`).Replace(key)
}

// run puts load on the cluster until ctx ends: each user sends messages and to-device messages, one after the other, and syncs.
func (w *workload) run(ctx context.Context) {
	var wg sync.WaitGroup
	for i, u := range w.users {
		next := w.users[(i+1)%len(w.users)]
		wg.Go(func() {
			beat := time.NewTicker(max(w.pace, time.Nanosecond))
			defer beat.Stop()
			for ctx.Err() == nil {
				if w.pace > 0 {
					<-beat.C
				}
				u.sent++
				if err := w.send(context.WithoutCancel(ctx), u, next, u.sent); err != nil {
					w.t.Errorf("message %d of %s: %v", u.sent, u.id, err)
					return
				}
			}
		})
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := w.sync(context.WithoutCancel(ctx), u, 500*time.Millisecond); err != nil {
					w.t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// send sends the nth message of a user, and every fourth time one to another user's device.
func (w *workload) send(ctx context.Context, u, to *user, n int) error {
	path := fmt.Sprintf("/_matrix/client/v3/rooms/%s/send/m.room.message/m%d", url.PathEscape(u.room), n)
	a, err := w.c.ok(ctx, "PUT", path, u.token, fmt.Sprintf(`{"msgtype":"m.text","body":"message %d","n":%d}`, n, n))
	if err != nil {
		return err
	}
	w.mu.Lock()
	if w.acked[u.id] == nil {
		w.acked[u.id] = map[int]string{}
	}
	w.acked[u.id][n] = a.Get("event_id").Str
	w.at[a.Get("event_id").Str] = time.Now()
	w.mu.Unlock()
	if err := w.mix(ctx, u, to, n); err != nil {
		return err
	}
	if n%4 != 0 {
		return nil
	}
	path = fmt.Sprintf("/_matrix/client/v3/sendToDevice/org.test/d%d", n)
	body := fmt.Sprintf(`{"messages":{%q:{%q:{"n":%d}}}}`, to.id, to.device, n/4)
	if _, err := w.c.ok(ctx, "PUT", path, u.token, body); err != nil {
		return err
	}
	w.mu.Lock()
	w.told[u.id] = n / 4
	w.mu.Unlock()
	return nil
}

// check demands that all that was acknowledged is there, once and in order, and that the syncs saw it.
func (w *workload) check() {
	w.t.Helper()
	ctx := context.Background()
	total, gaps := 0, 0
	for _, u := range w.users {
		// What is left comes at once.
		missing, seen := "", -1
		for deadline := time.Now().Add(30 * time.Second); (missing != "" || len(u.seen) != seen) && time.Now().Before(deadline); {
			seen = len(u.seen)
			must(w.t, w.sync(ctx, u, 0))
			missing = w.missing(u)
		}
		if missing != "" {
			w.t.Errorf("/sync of %s lacks %s", u.id, missing)
		}
		for e, times := range u.seen {
			if times > 1 {
				w.t.Errorf("/sync of %s gave %s %d times", u.id, e, times)
			}
		}
		gaps += u.gaps
		for sender, list := range u.bodies {
			if !slices.IsSorted(list) {
				w.t.Errorf("/sync of %s has the messages of %s out of order", u.id, sender)
			}
		}
		for sender, list := range u.toDevice {
			for i, n := range list {
				if n != i+1 {
					w.t.Errorf("%s got to-device message %d of %s in place %d", u.id, n, sender, i+1)
					break
				}
			}
		}
	}
	for _, room := range w.rooms {
		total += w.history(ctx, room)
	}
	w.checkMix(ctx)
	w.t.Logf("%d messages acknowledged, %d requests, %d repeated, longest %s, %d gaps filled", total, w.c.requests.Load(), w.c.repeated.Load(), w.c.worst, gaps)
}

// missing names what a user's syncs have not shown and must; empty when there is nothing.
func (w *workload) missing(u *user) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, other := range w.users {
		if other.room == u.room {
			for n, e := range w.acked[other.id] {
				if u.seen[e] == 0 {
					return fmt.Sprintf("message %d of %s, %s", n, other.id, e)
				}
			}
		}
		if w.users[(i+1)%len(w.users)] == u && len(u.toDevice[other.id]) < w.told[other.id] {
			return fmt.Sprintf("%d of %d to-device messages of %s: there are %v", w.told[other.id]-len(u.toDevice[other.id]),
				w.told[other.id], other.id, u.toDevice[other.id])
		}
	}
	return ""
}

// history reads a room to its beginning and compares.
func (w *workload) history(ctx context.Context, room string) int {
	w.t.Helper()
	var reader *user
	for _, u := range w.users {
		if u.room == room {
			reader = u
			break
		}
	}
	have := map[string]int{}
	numbers := map[string][]int{}
	from := ""
	for {
		q := url.Values{"dir": {"b"}, "limit": {"500"}}
		if from != "" {
			q.Set("from", from)
		}
		page, err := w.c.ok(ctx, "GET", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/messages?"+q.Encode(), reader.token, "")
		must(w.t, err)
		page.Get("chunk").ForEach(func(_, e gjson.Result) bool {
			if e.Get("type").Str == "m.room.message" {
				have[e.Get("event_id").Str]++
				numbers[e.Get("sender").Str] = append(numbers[e.Get("sender").Str], int(e.Get("content.n").Int()))
			}
			return true
		})
		if from = page.Get("end").Str; from == "" {
			break
		}
	}
	total := 0
	for _, u := range w.users {
		if u.room != room {
			continue
		}
		list := numbers[u.id]
		slices.Reverse(list)
		for i, n := range list {
			if n != i+1 {
				w.t.Errorf("%s: message %d of %s is in place %d", room, n, u.id, i+1)
				break
			}
		}
		for _, n := range slices.Sorted(maps.Keys(w.acked[u.id])) {
			if have[w.acked[u.id][n]] != 1 {
				w.t.Errorf("%s: message %d of %s is there %d times", room, n, u.id, have[w.acked[u.id][n]])
			}
			total++
		}
	}
	return total
}
