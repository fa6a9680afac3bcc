package syncapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft/internal/bus"
	"weft/internal/eventstore"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/internal/stream"
	"weft/matrix/id"
)

// wire is a node's end of a bus between two nodes. What a node publishes it hears itself; its peer hears it
// unless the wire is cut.
type wire struct {
	*bus.Local
	peer *wire
	cut  *atomic.Bool
}

// newWires makes both ends.
func newWires() (a, b *wire) {
	cut := new(atomic.Bool)
	a, b = &wire{Local: bus.NewLocal(), cut: cut}, &wire{Local: bus.NewLocal(), cut: cut}
	a.peer, b.peer = b, a
	return a, b
}

// Publish implements bus.Bus.
func (w *wire) Publish(topic string, data []byte) {
	w.Local.Publish(topic, data)
	if !w.cut.Load() {
		w.peer.Local.Publish(topic, data)
	}
}

// pair is two nodes over one database. They share the fakes of the other components.
type pair struct {
	a, b *env
	// cut loses what one node publishes on the way to the other.
	cut *atomic.Bool
}

// eachPair runs a test with two nodes, on both databases.
func eachPair(t *testing.T, test func(t *testing.T, p pair)) {
	t.Helper()
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		url := newURL()
		dbA := sqldbtest.Open(t, url)
		dbB := dbA // SQLite has one process
		if dbA.Dialect() == sqldb.Postgres {
			dbB = sqldbtest.Open(t, url)
		}
		wa, wb := newWires()
		a := newNode(t, dbA, wa, func(_ *env, c *Config) { c.Shared, c.Shares, c.PollInterval = true, owner(false), 20*time.Millisecond })
		b := newNode(t, dbB, wb, func(e *env, c *Config) {
			c.Shared, c.Shares, c.PollInterval = true, owner(true), 20*time.Millisecond
			e.keys, e.todev, e.out = a.keys, a.todev, a.out
			e.accounts = a.accounts
			c.Accounts, c.Keys, c.ToDevice, c.Outbound = a.accounts, a.keys, a.todev, a.out
		})
		test(t, pair{a, b, wa.cut})
	})
}

// at is a room as another node writes it.
func (r *room) at(e *env) *room {
	other := *r
	other.env = e
	return &other
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("in vain waited until %s", what)
		}
	}
}

// A node that looked at a receipt before another node moved it on must not move it back.
func TestReceiptsOfTwoNodes(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		r := p.a.newRoom(alice)
		r.member(bob, "join")
		first, second, third := r.say(alice, "1"), r.say(alice, "2"), r.say(alice, "3")
		p.a.want(bob, 200, "", "POST", r.path("/receipt/m.read/"+string(first.ID)), obj{})
		begun, posted := make(chan struct{}), make(chan reply, 1)
		go func() {
			<-begun
			posted <- p.b.do(bob, "POST", r.path("/receipt/m.read/"+string(second.ID)), obj{})
		}()
		p.a.ok(p.a.db.Update(t.Context(), func(tx *sqldb.Tx) error { // as node a does for the third
			pos, err := stream.Advance(t.Context(), tx, stream.Receipts, 1)
			if err != nil {
				return err
			}
			close(begun)
			if p.a.db.Dialect() == sqldb.Postgres {
				until(t, "the other node waits for the counter", p.b.waits)
			}
			_, err = tx.Exec(t.Context(), upsertReceiptSQL, pos, int64(r.nid), 0, 1, third.StreamPos, string(bob), "", string(third.ID))
			return err
		}))
		expect(t, "status", (<-posted).status, 200)
		var at int64
		p.a.ok(p.a.db.QueryRow(t.Context(), receiptPosSQL, int64(r.nid), string(bob), 0, "").Scan(&at))
		expect(t, "receipt", at, third.StreamPos)
	})
}

// waits tells whether a statement waits for a lock (PostgreSQL).
func (e *env) waits() bool {
	var n int
	e.ok(e.db.QueryRow(context.Background(), `SELECT COUNT(*) FROM pg_locks WHERE NOT granted`).Scan(&n))
	return n > 0
}

// unheard gives a node whose writers tell nobody.
func (e *env) unheard() *env {
	return &env{t: e.t, db: e.db, r: e.r, w: e.w, bus: bus.NewLocal(), accounts: e.accounts, key: e.key, now: e.clock()}
}

func (e *env) unread(user id.User, r *room, since string) string {
	e.t.Helper()
	n := e.sync(user, since).in("join", r, "unread_notifications")
	return n.Get("notification_count").Raw + "/" + n.Get("highlight_count").Raw
}

// Counts that a node remembers are old when the receipt went to another node.
func TestUnreadCountsOfTwoNodes(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		p.a.rules(alice, bob)
		r := p.a.newRoom(alice)
		r.member(bob, "join")
		for _, cut := range []bool{false, true} {
			p.cut.Store(cut)
			last := r.say(alice, "one")
			expect(t, "counts", p.a.unread(bob, r, ""), "1/0")
			expect(t, "on the other node", p.b.unread(bob, r, ""), "1/0")
			since := p.a.sync(bob, "").next()
			p.b.want(bob, 200, "", "POST", r.path("/receipt/m.read/"+string(last.ID)), obj{})
			expect(t, "after a receipt elsewhere", p.a.unread(bob, r, since), "0/0")
			expect(t, "in a first sync", p.a.unread(bob, r, ""), "0/0")
		}
	})
}

// What another node's follower stored replaces what this one remembers.
func TestFollowersOfTwoNodes(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		p.a.rules(alice, bob)
		r := p.a.newRoom(alice)
		r.member(bob, "join")
		p.a.sync(bob, "")
		p.b.sync(bob, "")
		quiet := r.at(p.a.unheard())
		quiet.say(alice, "one")
		expect(t, "counted on one", p.a.unread(bob, r, ""), "1/0")
		expect(t, "not counted again", p.b.unread(bob, r, ""), "1/0")
		two := quiet.say(alice, "two")
		expect(t, "counted on the other", p.b.unread(bob, r, ""), "2/0")
		expect(t, "and on the first", p.a.unread(bob, r, ""), "2/0")
		p.b.want(bob, 200, "", "POST", r.path("/receipt/m.read/"+string(two.ID)), obj{})
		expect(t, "read", p.a.unread(bob, r, ""), "0/0")
		quiet.say(alice, "three")
		expect(t, "counted before the answer", p.b.unread(bob, r, ""), "1/0")
		quiet.say(bob, "answer")
		expect(t, "read by the answer", p.a.unread(bob, r, ""), "0/0")
		quiet.say(alice, "four")
		expect(t, "one more", p.b.unread(bob, r, ""), "1/0")
	})
}

// What comes before a receipt is counted before it, however far behind the room's share is.
func TestReceiptFarBehind(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		p.a.rules(bob)
		r := p.a.newRoom(alice)
		r.member(bob, "join")
		p.b.sync(bob, "")
		r = r.at(p.a.unheard())
		last := r.say(alice, "hello")
		p.a.ok(p.a.db.Update(t.Context(), func(tx *sqldb.Tx) error {
			_, err := stream.Advance(t.Context(), tx, stream.Events, followInline+1)
			return err
		}))
		r.send(alice, "x.other", obj{})
		p.b.want(bob, 200, "", "POST", r.path("/receipt/m.read/"+string(last.ID)), obj{})
		for _, e := range []*env{p.a, p.b} {
			to, err := position(t.Context(), e.db)
			e.ok(err)
			_, err = e.srv.follower.follow(t.Context(), to, true)
			e.ok(err)
			expect(t, "unread", e.unread(bob, r, ""), "0/0")
		}
	})
}

// What was judged without effect is not judged again by a process that comes after, by the rules of then.
func TestCursorIsWrittenAtTheEnd(t *testing.T) {
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		e := newNode(t, sqldbtest.Open(t, newURL()), bus.NewLocal(), nil)
		r := e.newRoom(alice)
		r.member(bob, "join")
		r.say(alice, "to somebody without rules")
		e.sync(bob, "")
		e.srv.follower.finish(t.Context())
		e.rules(bob)
		again, err := newFollower(t.Context(), e.srv, &cursors{shares: e.srv.shares})
		e.ok(err)
		to, err := position(t.Context(), e.db)
		e.ok(err)
		expect(t, "followed", again.catchUp(t.Context(), to, 0, nil), to.Events)
		expect(t, "unread", e.unread(bob, r, ""), "0/0")
	})
}

// Who waits for the follower waits no longer than the request lasts.
func TestFollowerThatIsBusy(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		r.say(alice, "hello")
		e.paused(func() {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			expect(t, "followed", e.srv.follower.catchUp(ctx, vector{Events: 1 << 40}, 3, nil), 3)
			expect(t, "receipt", errors.Is(e.srv.followRoom(ctx, r.nid), context.Canceled), true)
		})
	})
}

// Threads have one number each, from 1 in every room, whichever node counts first in them.
func TestThreadsOfTwoNodes(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		p.a.rules(alice, bob)
		var rooms []*room
		roots := make(map[*room][]*eventstore.Event)
		for range 2 {
			r := p.a.newRoom(alice)
			r.member(bob, "join")
			r = r.at(p.a.unheard())
			for range 3 {
				roots[r] = append(roots[r], r.say(bob, "root"))
			}
			rooms = append(rooms, r)
		}
		counts := func(e *env, r *room) (list []string) {
			named := e.sync(bob, "", "filter", `{"room":{"timeline":{"unread_thread_notifications":true}}}`).in("join", r, "unread_thread_notifications")
			for _, root := range roots[r] {
				list = append(list, named.Get(string(root.ID)+".notification_count").Raw)
			}
			return list
		}
		for n, e := range []*env{p.a, p.b, p.a} {
			for _, r := range rooms {
				for i, root := range roots[r] {
					if i <= n {
						r.send(alice, "m.room.message", relates("reply", "m.thread", root))
					}
				}
				e.sync(bob, "")
			}
		}
		for _, e := range []*env{p.a, p.b} {
			for _, r := range rooms {
				expect(t, "replies in each thread", fmt.Sprint(counts(e, r)), "[3 2 1]")
			}
		}
		rooms[0].send(bob, "m.room.message", relates("an answer", "m.thread", roots[rooms[0]][1]))
		expect(t, "read by an answer in it", fmt.Sprint(counts(p.b, rooms[0])), "[3  1]")
		expect(t, "in the other room", fmt.Sprint(counts(p.a, rooms[1])), "[3 2 1]")
		for _, r := range rooms {
			var n, least, most int
			p.a.ok(p.a.db.QueryRow(t.Context(), `SELECT COUNT(*), MIN(thread), MAX(thread) FROM thread_numbers WHERE room_nid = $1`, int64(r.nid)).Scan(&n, &least, &most))
			expect(t, "numbers", fmt.Sprint(n, least, most), "3 1 3")
		}
	})
}

// A node that did not hear of changed rules must not judge by the old ones.
func TestRulesOfTwoNodes(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		p.a.rules(alice, bob)
		r := p.a.newRoom(alice)
		r.member(bob, "join")
		r.say(alice, "one")
		expect(t, "on one node", p.a.unread(bob, r, ""), "1/0")
		expect(t, "on the other", p.b.unread(bob, r, ""), "1/0")
		quiet := r.at(p.a.unheard())
		quiet.say(alice, "two")
		expect(t, "judged there", p.b.unread(bob, r, ""), "2/0")
		p.cut.Store(true)
		p.a.ok(p.a.accounts.SetAccountData(t.Context(), bob, "", "m.push_rules", json.RawMessage(`{"global":{}}`)))
		quiet.say(alice, "three")
		expect(t, "muted", p.b.unread(bob, r, ""), "2/0")
	})
}

// What the bus lost is found by looking, and what it told of is not carried out again.
func TestPoller(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		r, other := p.a.newRoom(alice), p.a.newRoom(alice)
		r.member(bob, "join")
		p.a.sync(bob, "")
		poll := newPoller(p.b.srv)
		wa, _ := newWires()
		cancel := bus.SubscribeUpdates(wa, poll.heard)
		defer cancel()
		p.b.ok(poll.look(t.Context()))
		lost := func() []bus.Update {
			t.Helper()
			now, err := position(t.Context(), p.b.db)
			p.b.ok(err)
			out, err := poll.lost(t.Context(), poll.done, now)
			p.b.ok(err)
			poll.done = now
			return out
		}
		heard := func(s stream.Name, pos int64) {
			t.Helper()
			until(t, "the message is there", func() bool {
				poll.mu.Lock()
				defer poll.mu.Unlock()
				_, ok := poll.told[s][pos]
				return ok || poll.ends[s] == pos || poll.rooms[r.id] == pos
			})
		}
		expect(t, "nothing new", len(lost()), 0)
		told, quiet := r.at(p.a.unheard()), r.at(p.a.unheard())
		told.bus = wa
		e := told.say(alice, "told")
		heard(stream.Events, e.StreamPos)
		expect(t, "told", len(lost()), 0)
		e = quiet.say(alice, "lost")
		expect(t, "lost", lost(), []bus.Update{{Stream: stream.Events, Pos: e.StreamPos, Rooms: []string{string(r.id)}}})
		e = told.say(alice, "told")
		heard(stream.Events, e.StreamPos)
		last := other.at(quiet.env).say(alice, "lost before")
		expect(t, "one of two", lost(), []bus.Update{{Stream: stream.Events, Pos: last.StreamPos, Rooms: []string{string(other.id)}}})
		quiet.member(bob, "leave")
		expect(t, "a membership", lost(), []bus.Update{{}})
		for _, s := range []stream.Name{stream.Receipts, stream.AccountData, stream.ToDevice, stream.DeviceLists} {
			p.b.keys.changed = append(p.b.keys.changed, carol, carol)
			told.move(s, 1, alice)
			heard(s, 1)
			expect(t, "told of "+string(s), len(lost()), 0)
			quiet.move(s, 1, alice)
			expect(t, "lost of "+string(s), len(lost()), 1)
		}
	})
}

// A request that sleeps on one node is woken by what happens on another, also when the bus loses all.
func TestWakingWithoutBus(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		r := p.a.newRoom(alice)
		r.member(bob, "join")
		p.cut.Store(true)
		p.b.wakes(bob, r, func() { r.say(alice, "hello") })
	})
}

// wakes puts a sync of a user to sleep and expects that it soon tells of what happens then: somebody says hello.
func (e *env) wakes(user id.User, r *room, happens func()) {
	e.t.Helper()
	path := v3 + "/sync?timeout=300000&set_presence=offline" // a change of presence would wake it too
	since := e.do(user, "GET", path, nil).next()
	got := make(chan reply, 1)
	go func() { got <- e.do(user, "GET", path+"&since="+since, nil) }()
	until(e.t, "it sleeps", func() bool { return e.srv.requests.asleep.Load() == 1 })
	happens()
	begin := time.Now()
	expect(e.t, "told", bodies((<-got).in("join", r, "timeline.events")), "hello")
	if took := time.Since(begin); took > pollInterval/2 {
		e.t.Errorf("woken after %v", took)
	}
}

// A request that comes before its process listens to the bus, and looks at positions, does not miss what happens until then.
func TestWakingFromBeforeTheStart(t *testing.T) {
	for _, shared := range []bool{false, true} {
		sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
			e := newStill(t, open(), bus.NewLocal(), func(_ *env, c *Config) { c.Shared = shared })
			r := e.newRoom(alice)
			e.wakes(alice, r, func() { // nothing is counted for her, which would wake it too
				r.say(alice, "hello")
				e.run()
			})
		})
	}
}

// What the bus lost before the first look at the positions is not found by comparing them: all are woken.
func TestFirstLook(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		e := newStill(t, open(), bus.NewLocal(), func(_ *env, c *Config) { c.Shared = true })
		w := e.srv.notifier.wait(alice)
		look := func() int {
			e.ok(e.srv.poller.look(t.Context()))
			e.srv.notifier.flush(t.Context())
			return len(w.woken)
		}
		expect(t, "woken by the first", look(), 1)
		<-w.woken
		expect(t, "woken by one that finds nothing", look(), 0)
	})
}

// Who comes from another node is told who types, and that typing ended, though the positions of nodes say nothing
// to each other.
func TestTypingOfTwoNodes(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		r := p.a.newRoom(alice)
		r.member(bob, "join")
		types := func(on bool) {
			t.Helper()
			p.a.want(alice, 200, "", "PUT", r.path("/typing/"+string(alice)), obj{"typing": on, "timeout": 100000})
		}
		users := func(a reply) string { return a.in("join", r, "ephemeral.events.0.content.user_ids").Raw }
		const one, none = `["@alice:home"]`, `[]`
		known := func(n int) {
			t.Helper()
			until(t, "the other node knows", func() bool {
				list, ok := p.b.srv.typing.typists(r.id, 0, true)
				return ok && len(list) == n
			})
		}
		since := p.a.sync(bob, "").next()
		p.cut.Store(true)
		types(true)
		got := p.a.sync(bob, since)
		expect(t, "types", users(got), one)
		types(false)
		got = p.b.sync(bob, got.next())
		expect(t, "ended, to a young process that knows nothing", users(got), none)
		expect(t, "once", p.b.sync(bob, got.next()).in("join", r, "").Exists(), false)

		p.a.advance(2 * maxTyping)
		p.b.advance(2 * maxTyping)
		got = p.a.sync(bob, got.next())
		types(true)
		got = p.a.sync(bob, got.next())
		expect(t, "types again", users(got), one)
		p.cut.Store(false)
		types(false)
		known(0)
		got = p.b.sync(bob, got.next())
		expect(t, "ended, to a process that did not know of the begin", users(got), none)
		types(true)
		known(1)
		got = p.a.sync(bob, got.next())
		expect(t, "back on the first", users(got), one)
		types(false)
		known(0)
		got = p.b.sync(bob, got.next())
		expect(t, "ended", users(got), none)
		bare := got.next()[:strings.LastIndex(got.next(), "_")]
		expect(t, "a token without a process", users(p.b.sync(bob, bare)), none)

		answered := make(chan reply, 1)
		go func() {
			answered <- p.a.do(bob, "GET", v3+"/sync?timeout=300000&since="+got.next(), nil)
		}()
		until(t, "it sleeps", func() bool { return p.a.srv.requests.asleep.Load() == 1 || len(answered) > 0 })
		r.say(alice, "hello")
		got = <-answered
		expect(t, "what may be known is no reason to answer", bodies(got.in("join", r, "timeline.events")), "hello")
		expect(t, "and told with what is new", users(got), none)

		// One who believes that somebody types is told so, or that it ended, with what is new.
		types(true)
		known(1)
		got = p.b.sync(bob, got.next())
		expect(t, "types once more", users(got), one)
		go func() {
			answered <- p.a.do(bob, "GET", v3+"/sync?timeout=300000&since="+got.next(), nil)
		}()
		until(t, "it sleeps", func() bool { return p.a.srv.requests.asleep.Load() == 1 || len(answered) > 0 })
		r.say(alice, "hello again")
		got = <-answered
		expect(t, "what is known is no reason to answer", bodies(got.in("join", r, "timeline.events")), "hello again")
		expect(t, "and told with what is new", users(got), one)
	})
}

// What is told when the time is up makes the client one who believes it.
func TestTypingToldLate(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		r := p.a.newRoom(alice)
		r.member(bob, "join")
		types := func(on bool, n int) {
			t.Helper()
			p.a.want(alice, 200, "", "PUT", r.path("/typing/"+string(alice)), obj{"typing": on, "timeout": 100000})
			until(t, "the other node knows", func() bool {
				list, ok := p.b.srv.typing.typists(r.id, 0, true)
				return ok && len(list) == n
			})
		}
		users := func(a reply) string { return a.in("join", r, "ephemeral.events.0.content.user_ids").Raw }
		since := p.a.sync(bob, "").next()
		types(true, 1)
		got := p.b.do(bob, "GET", v3+"/sync?timeout=50&since="+since, nil)
		expect(t, "types", users(got), `["@alice:home"]`)
		types(false, 0)
		got = p.a.do(bob, "GET", v3+"/sync?timeout=50&since="+got.next(), nil)
		expect(t, "ended", users(got), `[]`)
	})
}

// owner owns everything, or nothing.
type owner bool

func (o owner) Owns(string, string) bool { return bool(o) }

// Who syncs on one node is not taken for gone by another, and one node tells other servers of who goes.
func TestPresenceOfTwoNodes(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		r := p.a.newRoom(alice)
		r.member(carol, "join")
		state := func(e *env) string { x, _ := e.srv.presence.get(alice); return x.State }
		step := func() {
			p.a.advance(activeEvery)
			p.b.advance(activeEvery)
			now := p.a.clock()
			p.a.srv.presence.sayActive(now)
			if state(p.a) != presenceOffline && !p.cut.Load() {
				until(t, "the other node has heard", func() bool {
					p.b.srv.presence.mu.Lock()
					defer p.b.srv.presence.mu.Unlock()
					u := p.b.srv.presence.users[alice]
					return u != nil && (u.heard.Equal(now) || p.a.srv.presence.syncing(alice) == 0)
				})
			}
			p.b.srv.presence.expire(t.Context(), now)
			p.a.srv.presence.expire(t.Context(), now)
			if state(p.a) == presenceOffline {
				until(t, "both know", func() bool { return state(p.b) == presenceOffline })
			}
		}
		q := &syncRequest{user: alice}
		p.cut.Store(true)
		p.a.ok(p.a.srv.presence.begin(t.Context(), q))
		p.cut.Store(false)
		for range 9 {
			step()
			expect(t, "here", state(p.a), presenceOnline)
			expect(t, "and there, also where that was lost", state(p.b), presenceOnline)
		}
		p.a.srv.presence.end(q)
		before := len(p.a.out.of("m.presence"))
		for range 8 {
			step()
		}
		expect(t, "gone", state(p.a)+state(p.b), presenceOffline+presenceOffline)
		expect(t, "EDUs of who goes", len(p.a.out.of("m.presence"))-before, 1)
	})
}

func (p *presence) syncing(user id.User) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.users[user].syncs
}

// ownership is whether all is this node's.
type ownership struct{ atomic.Bool }

func (o *ownership) Owns(string, string) bool { return o.Load() }

// Who has no need of it leaves a room to the process that owns it, until it looks for what others have not done.
func TestFollowersShareRooms(t *testing.T) {
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		mine := new(ownership)
		e := newNode(t, sqldbtest.Open(t, newURL()), bus.NewLocal(), func(_ *env, c *Config) { c.Shared, c.Shares = true, mine })
		f, err := newFollower(t.Context(), e.srv, &cursors{shares: e.srv.shares})
		e.ok(err)
		r := e.newRoom(alice)
		r.member(bob, "join")
		step := func(what string, polled, wantDone bool) {
			t.Helper()
			r.say(alice, what)
			to, err := position(t.Context(), e.db)
			e.ok(err)
			_, err = f.follow(t.Context(), to, polled)
			e.ok(err)
			share, err := e.srv.shares.share(t.Context(), r.nid)
			e.ok(err)
			expect(t, what, f.at.list[share].judged >= to.Events, wantDone)
		}
		step("another's", false, false)
		mine.Store(true)
		step("ours", false, true)
		mine.Store(false)
		step("another's again", false, false)
		step("that the other left", true, true)
	})
}

// A sync follows the rooms of its user, and leaves others to their owner.
func TestSyncFollowsItsRooms(t *testing.T) {
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		e := newNode(t, sqldbtest.Open(t, newURL()), bus.NewLocal(), func(_ *env, c *Config) { c.Shared, c.Shares = true, new(ownership) })
		share := func(r *room) int {
			t.Helper()
			share, err := e.srv.shares.share(t.Context(), r.nid)
			e.ok(err)
			return share
		}
		mine, other := e.newRoom(alice), e.newRoom(alice)
		for share(other) == share(mine) {
			other = e.newRoom(alice)
		}
		e.rules(bob)
		mine.member(bob, "join")
		since := e.sync(bob, "").next()
		mine.say(alice, "hello")
		other.say(alice, "hello")
		expect(t, "counted", e.sync(bob, since).in("join", mine, "unread_notifications.notification_count").Int(), 1)
		f := e.srv.follower
		e.ok(f.turn.Acquire(t.Context(), 1))
		behind := f.at.behind(everyShare)
		f.turn.Release(1)
		expect(t, "what is left to its owner", behind.has(share(other)) && !behind.has(share(mine)), true)
	})
}
