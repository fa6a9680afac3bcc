package storage

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"testing"

	"weft/matrix/id"
)

// scale is how much is done.
type scale struct {
	users         int // of this server
	servers       int // other ones
	members       int // of the big room, users of this server among them
	changes       int // memberships in the big room once it is full
	direct        int // rooms of two
	groups        int // rooms of groupSize, all of this server
	groupSize     int
	messages      int // in all rooms: three tenths direct, six in groups, one in the big room
	oneTimeKeys   int // of each device
	toDevice      int // messages, of which half are fetched
	receiptEveryN int // messages in a room
}

func small() scale {
	return scale{users: 40, servers: 3, members: 400, changes: 400, direct: 10, groups: 4, groupSize: 10, messages: 4000,
		oneTimeKeys: 20, toDevice: 200, receiptEveryN: 10}
}

func full() scale {
	return scale{users: 1000, servers: 30, members: 10_000, changes: 10_000, direct: 300, groups: 100, groupSize: 10, messages: 100_000,
		oneTimeKeys: 50, toDevice: 5000, receiptEveryN: 10}
}

// load is a server that is being filled.
type load struct {
	t      testing.TB
	api    *api
	others *others
	scale  scale
	tokens []string

	direct, groups []string // rooms; i-th direct: users 2i and 2i+1; i-th group: users from i*groupSize on
	big            string
	resident       *resident
}

const home = id.Server("home.test")

func (l *load) user(i int) string { return fmt.Sprintf("@user%d:%s", i, home) }

// accounts makes users, each with a device, its keys and some account data.
func (l *load) accounts() {
	l.tokens = make([]string, l.scale.users)
	parallel(l.t, l.scale.users, func(i int) error {
		res, err := l.api.do(http.MethodPost, client+"/register", asToken, fmt.Sprintf(`{"type":"m.login.application_service","username":"user%d"}`, i))
		if err != nil {
			return err
		}
		token, device := res.Get("access_token").Str, res.Get("device_id").Str
		l.tokens[i] = token
		user := url.PathEscape(l.user(i))
		for _, c := range []struct{ method, path, body string }{
			{http.MethodPost, client + "/keys/upload", l.keys(i, device)},
			{http.MethodPut, client + "/profile/" + user + "/displayname", fmt.Sprintf(`{"displayname":"User Number %d"}`, i)},
			{http.MethodPost, client + "/user/" + user + "/filter", `{"room":{"timeline":{"limit":20},"state":{"lazy_load_members":true}}}`},
			{http.MethodPut, client + "/user/" + user + "/account_data/m.direct", fmt.Sprintf(`{"%s":["!room%d:home.test"]}`, l.user(i+1), i)},
			{http.MethodPut, client + "/user/" + user + "/account_data/im.vector.web.settings", `{"breadcrumb_rooms":["!a:home.test"],"theme":"light"}`},
		} {
			if _, err := l.api.do(c.method, c.path, token, c.body); err != nil {
				return err
			}
		}
		return nil
	})
}

// keys are what a client uploads first.
func (l *load) keys(i int, device string) string {
	rng := rand.New(rand.NewPCG(uint64(i), 3))
	key := func(n int) string {
		const set = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
		b := make([]byte, n)
		for i := range b {
			b[i] = set[rng.IntN(len(set))]
		}
		return string(b)
	}
	signed := func() map[string]any {
		return map[string]any{"key": key(43), "signatures": map[string]any{l.user(i): map[string]any{"ed25519:" + device: key(86)}}}
	}
	oneTime := make(map[string]any)
	for range l.scale.oneTimeKeys {
		oneTime["signed_curve25519:"+key(6)] = signed()
	}
	raw, err := json.Marshal(map[string]any{
		"device_keys": map[string]any{
			"user_id": l.user(i), "device_id": device, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"},
			"keys":       map[string]any{"curve25519:" + device: key(43), "ed25519:" + device: key(43)},
			"signatures": map[string]any{l.user(i): map[string]any{"ed25519:" + device: key(86)}},
		},
		"one_time_keys": oneTime, "fallback_keys": map[string]any{"signed_curve25519:" + key(6): signed()},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return string(raw)
}

// rooms makes the rooms of two and of ten, all joined.
func (l *load) rooms() {
	l.direct, l.groups = make([]string, l.scale.direct), make([]string, l.scale.groups)
	make1 := func(creator int, body string, members ...int) (string, error) {
		res, err := l.api.do(http.MethodPost, client+"/createRoom", l.tokens[creator], body)
		if err != nil {
			return "", err
		}
		room := res.Get("room_id").Str
		for _, m := range members {
			if _, err := l.api.do(http.MethodPost, in(room)+"/join", l.tokens[m%l.scale.users], `{}`); err != nil {
				return "", err
			}
		}
		return room, nil
	}
	parallel(l.t, l.scale.direct, func(i int) (err error) {
		a, b := 2*i%l.scale.users, (2*i+1)%l.scale.users
		l.direct[i], err = make1(a, `{"preset":"trusted_private_chat","is_direct":true,"invite":["`+l.user(b)+`"]}`, b)
		return err
	})
	parallel(l.t, l.scale.groups, func(i int) (err error) {
		var members []int
		for k := 1; k < l.scale.groupSize; k++ {
			members = append(members, l.memberOf(i, k))
		}
		l.groups[i], err = make1(l.memberOf(i, 0), fmt.Sprintf(`{"preset":"public_chat","name":"Group %d"}`, i), members...)
		return err
	})
}

func (l *load) memberOf(group, k int) int { return (group*l.scale.groupSize + k) % l.scale.users }

// fill makes the big room: a user of each other server enters with the handshake, then the
// users of this server join, then the rest of the others'. It says how many joined.
func (l *load) fill() int {
	l.big = l.api.must(http.MethodPost, client+"/createRoom", l.tokens[0], `{"preset":"public_chat","name":"Everybody"}`).Get("room_id").Str
	l.resident = l.others.enter(l.big)
	parallel(l.t, l.scale.users-1, func(i int) error {
		_, err := l.api.do(http.MethodPost, in(l.big)+"/join", l.tokens[i+1], `{}`)
		return err
	})
	l.resident.follow(l.tokens[0])
	l.eachOther(l.scale.members-l.scale.users-l.scale.servers, func(i int) member {
		return member{content: fmt.Sprintf(`{"membership":"join","displayname":"Somebody %d"}`, i)}
	})
	return l.scale.members
}

// eachOther lets n users of the other servers change their membership, 50 in a transaction.
func (l *load) eachOther(n int, change func(i int) member) {
	const batch = 50
	for from := 0; from < n; from += batch {
		server := l.others.names[from/batch%l.scale.servers]
		var list []member
		for i := from; i < min(from+batch, n); i++ {
			m := change(i)
			m.user = id.User(fmt.Sprintf("@somebody%d:%s", i, server))
			list = append(list, m)
		}
		l.resident.change(server, list)
	}
}

// churn changes memberships of the full room: a tenth by users of this server, who leave and
// come back; of the others a half changes the profile, a quarter leaves, and comes back.
func (l *load) churn() int {
	local := min(l.scale.changes/10, 2*(l.scale.users-1)) / 2 * 2
	parallel(l.t, local/2, func(i int) error {
		for _, what := range []string{"/leave", "/join"} {
			if _, err := l.api.do(http.MethodPost, in(l.big)+what, l.tokens[i+1], `{}`); err != nil {
				return err
			}
		}
		return nil
	})
	l.resident.follow(l.tokens[0])
	rest := l.scale.changes - local
	rest = min(rest, l.scale.members-l.scale.users-l.scale.servers) // each user once in each round
	half := rest / 2
	l.eachOther(half, func(i int) member {
		return member{content: fmt.Sprintf(`{"membership":"join","displayname":"Somebody else %d","avatar_url":"mxc://others.test/avatar%d"}`, i, i)}
	})
	quarter := (rest - half) / 2
	l.eachOther(quarter, func(int) member { return member{content: `{"membership":"leave"}`, leave: true} })
	l.eachOther(quarter, func(i int) member {
		return member{content: fmt.Sprintf(`{"membership":"join","displayname":"Somebody %d"}`, i)}
	})
	return local + half + 2*quarter
}

// fork lets users of the other servers change their profiles at the same time, so that the room's
// states have to be merged: the states in between are garbage.
func (l *load) fork(rounds int) int {
	l.resident.follow(l.tokens[0])
	n := 0
	for round := range rounds {
		before, depth := l.resident.prev, l.resident.depth
		var tips []id.Event
		for i := range 3 {
			server := l.others.names[i%l.scale.servers]
			l.resident.prev, l.resident.depth = before, depth
			l.resident.change(server, []member{{user: id.User("@first:" + string(server)),
				content: fmt.Sprintf(`{"membership":"join","displayname":"Fork %d of round %d"}`, i, round)}})
			tips, n = append(tips, l.resident.prev...), n+1
		}
		l.resident.prev = tips
	}
	return n
}

// talkIn sends messages to rooms, and receipts. Members take turns.
func (l *load) talkIn(rooms []string, n int, members func(room, turn int) int) int {
	each := n / len(rooms)
	parallel(l.t, len(rooms), func(r int) error {
		talk, last, thread := newTalk(uint64(r)), "", ""
		rng := rand.New(rand.NewPCG(uint64(r), 9))
		for i := range each {
			token := l.tokens[members(r, rng.IntN(1000))]
			txn := fmt.Sprintf("m%d.%d", 1_700_000_000_000+rng.Int64N(1_000_000_000), i)
			res, err := l.api.do(http.MethodPut, in(rooms[r])+"/send/m.room.message/"+txn, token, talk.message(last, thread))
			if err != nil {
				return err
			}
			event := res.Get("event_id").Str
			if i%3 == 0 {
				last = event
			}
			if i%200 == 0 { // some ten replies in each thread
				thread = event
			}
			if i%l.scale.receiptEveryN == 0 {
				reader := l.tokens[members(r, rng.IntN(1000))]
				if _, err := l.api.do(http.MethodPost, in(rooms[r])+"/receipt/m.read/"+url.PathEscape(event), reader, `{}`); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return each * len(rooms)
}

func (l *load) talkDirect(n int) int {
	return l.talkIn(l.direct, n, func(r, turn int) int { return (2*r + turn%2) % l.scale.users })
}

func (l *load) talkInGroups(n int) int {
	return l.talkIn(l.groups, n, func(r, turn int) int { return l.memberOf(r, turn%l.scale.groupSize) })
}

func (l *load) talkToAll(n int) int {
	return l.talkIn([]string{l.big}, n, func(_, turn int) int { return turn % l.scale.users })
}

// devices sends to-device messages; half of the users fetch theirs.
func (l *load) devices() int {
	body := fmt.Sprintf(`{"algorithm":"m.olm.v1.curve25519-aes-sha2","ciphertext":{"key":{"body":"%s","type":1}},"sender_key":"key"}`, newTalk(4).text(800))
	parallel(l.t, l.scale.toDevice, func(i int) error {
		from, to := i%l.scale.users, (i+7)%l.scale.users
		_, err := l.api.do(http.MethodPut, fmt.Sprintf("%s/sendToDevice/m.room.encrypted/t%d", client, i), l.tokens[from],
			`{"messages":{"`+l.user(to)+`":{"*":`+body+`}}}`)
		return err
	})
	var mu sync.Mutex
	got := 0
	filter := url.QueryEscape(`{"room":{"timeline":{"limit":1},"state":{"lazy_load_members":true}}}`)
	parallel(l.t, l.scale.users/2, func(i int) error {
		since := ""
		for range 2 { // the second one says that the first has arrived
			res, err := l.api.do(http.MethodGet, client+"/sync?timeout=0&filter="+filter+since, l.tokens[i], "")
			if err != nil {
				return err
			}
			mu.Lock()
			got += len(res.Get("to_device.events").Array())
			mu.Unlock()
			since = "&since=" + url.QueryEscape(res.Get("next_batch").Str)
		}
		return nil
	})
	if got == 0 {
		l.t.Error("nobody got a to-device message")
	}
	return l.scale.toDevice
}
