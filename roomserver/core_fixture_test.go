package roomserver

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft/internal/bus"
	"weft/internal/eventstore"
	"weft/internal/fedclient"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/statetree"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const testKeyID id.KeyID = "ed25519:1"

// world is a federation in memory: every server knows the keys of all, and asks
// others by calls.
type world struct {
	t     testing.TB
	open  func() *sqldb.DB
	nodes map[id.Server]*node
	peers map[id.Server]*peer
	clock atomic.Int64
}

// node is a server of the world.
type node struct {
	*Server
	w    *world
	db   *sqldb.DB
	name id.Server
	peer *peer
}

// peer is how a server answers others. The functions of a node read its store; a test
// may put its own in their place.
type peer struct {
	event    func(id.Event) (json.RawMessage, error)
	auth     func(id.Room, id.Event) ([]json.RawMessage, error)
	stateIDs func(id.Room, id.Event) (*fedclient.StateIDs, error)
	missing  func(id.Room, fedclient.MissingEvents) ([]json.RawMessage, error)
	backfill func(id.Room, []id.Event, int) ([]json.RawMessage, error)
	policy   func(json.RawMessage) (map[id.Server]map[id.KeyID]string, error)
	calls    []string
}

func newWorld(t testing.TB, open func() *sqldb.DB) *world {
	w := &world{t: t, open: open, nodes: make(map[id.Server]*node), peers: make(map[id.Server]*peer)}
	w.clock.Store(1_700_000_000_000)
	return w
}

func keyOf(server id.Server) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, server)
	return ed25519.NewKeyFromSeed(seed)
}

func (w *world) now() time.Time {
	return time.UnixMilli(w.clock.Add(1))
}

// node starts a server on a database of its own.
func (w *world) node(name id.Server) *node {
	n := w.nodeOn(name, w.open())
	w.nodes[name] = n
	w.peers[name] = n.peer
	return n
}

// nodeOn starts a server on a database, which others may share.
func (w *world) nodeOn(name id.Server, db *sqldb.DB) *node {
	w.t.Helper()
	events, err := eventstore.Open(db, eventstore.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	local := bus.NewLocal()
	w.checkLots(db, local)
	s, err := New(context.Background(), Config{
		DB: db, Events: events, Bus: local, Now: w.now, ServerName: name,
		Key: Key{ID: testKeyID, Private: keyOf(name)}, Remote: &fakeRemote{w: w}, Keys: worldKeys{},
		Shared: true, Limits: Limits{AnswerWait: 20 * time.Second, CatchUp: time.Millisecond},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	n := &node{Server: s, w: w, db: db, name: name}
	n.peer = n.honest()
	return n
}

// checkLots holds what updates say of events against the database, at the end of the test.
func (w *world) checkLots(db *sqldb.DB, b *bus.Local) {
	t, ok := w.t.(*testing.T)
	if !ok {
		return
	}
	var mu sync.Mutex
	var lots []eventstore.Lot
	cancel := bus.SubscribeUpdates(b, func(u bus.Update) {
		if u.Lot == "" {
			return
		}
		lot, err := eventstore.DecodeLot([]byte(u.Lot))
		if err != nil || lot[len(lot)-1].Pos != u.Pos {
			t.Errorf("the update of position %d says %v, %v", u.Pos, lot, err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		lots = append(lots, lot)
	})
	t.Cleanup(func() {
		cancel()
		mu.Lock()
		defer mu.Unlock()
		r, err := eventstore.Open(db, eventstore.Options{})
		if err != nil {
			t.Error(err)
			return
		}
		for _, lot := range lots {
			rows, err := r.EventStream(context.Background(), lot[0].Pos-1, lot[len(lot)-1].Pos, 1000)
			if err != nil || !slices.Equal(eventstore.Lot(rows), lot) {
				t.Errorf("an update said %v, the database says %v, %v", lot, rows, err)
			}
		}
	})
}

// puppet is a server that is only what a test makes of it.
func (w *world) puppet(name id.Server) *peer {
	p := &peer{}
	w.peers[name] = p
	return p
}

// run lets a node process staged events until the test ends.
func (n *node) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			n.w.t.Error(err)
		}
	}
	if t, ok := n.w.t.(*testing.T); ok {
		t.Cleanup(stop)
	}
	return stop
}

type worldKeys struct{}

func (worldKeys) FetchFor(context.Context, []*event.Event) (event.KeyFunc, error) {
	return func(server id.Server, key id.KeyID, _ int64) (ed25519.PublicKey, bool) {
		return keyOf(server).Public().(ed25519.PublicKey), key == testKeyID
	}, nil
}

// honest answers from a node's store.
func (n *node) honest() *peer {
	ctx := context.Background()
	raw := func(events []*eventstore.Event) []json.RawMessage {
		out := make([]json.RawMessage, len(events))
		for i, e := range events {
			out[i] = e.JSON()
		}
		return out
	}
	return &peer{
		event: func(e id.Event) (json.RawMessage, error) {
			ev, err := n.store.EventByID(ctx, e)
			if err != nil {
				return nil, err
			}
			return ev.JSON(), nil
		},
		auth: func(_ id.Room, e id.Event) ([]json.RawMessage, error) {
			ev, err := n.store.EventByID(ctx, e)
			if err != nil {
				return nil, err
			}
			return raw(n.authChain(ev.NID)), nil
		},
		stateIDs: func(_ id.Room, e id.Event) (*fedclient.StateIDs, error) {
			ev, err := n.store.EventByID(ctx, e)
			if err != nil {
				return nil, err
			}
			out := &fedclient.StateIDs{}
			var nids []nid.Event
			for _, s := range n.stateAt(ev.StateBefore) {
				out.State = append(out.State, s.ID)
				nids = append(nids, s.NID)
			}
			for _, a := range n.authChain(nids...) {
				out.AuthChain = append(out.AuthChain, a.ID)
			}
			return out, nil
		},
		missing: func(_ id.Room, m fedclient.MissingEvents) ([]json.RawMessage, error) {
			return raw(n.walkBack(m.Latest, m.Earliest, m.Limit, false)), nil
		},
		backfill: func(_ id.Room, from []id.Event, limit int) ([]json.RawMessage, error) {
			return raw(n.walkBack(from, nil, limit, true)), nil
		},
	}
}

// walkBack gives ancestors, nearest first.
func (n *node) walkBack(from, stop []id.Event, limit int, self bool) []*eventstore.Event {
	ctx := context.Background()
	var out []*eventstore.Event
	seen := make(map[id.Event]bool)
	for _, s := range stop {
		seen[s] = true
	}
	queue := slices.Clone(from)
	first := len(queue)
	for i := 0; i < len(queue) && len(out) < limit; i++ {
		if seen[queue[i]] {
			continue
		}
		seen[queue[i]] = true
		ev, err := n.store.EventByID(ctx, queue[i])
		if err != nil || ev.Flags&eventstore.Outlier != 0 {
			continue
		}
		if i >= first || self {
			out = append(out, ev)
		}
		queue = append(queue, ev.PrevEvents...)
	}
	return out
}

func (n *node) authChain(of ...nid.Event) []*eventstore.Event {
	n.w.t.Helper()
	var nids []nid.Event
	if err := n.store.AuthChain(context.Background(), of, func(e nid.Event) error {
		nids = append(nids, e)
		return nil
	}); err != nil {
		n.w.t.Fatal(err)
	}
	events, err := n.store.Events(context.Background(), nids)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return events
}

func (n *node) stateAt(root statetree.Root) []*eventstore.Event {
	n.w.t.Helper()
	var nids []nid.Event
	if err := statetree.Walk(context.Background(), n.store, root, func(e statetree.Entry) error {
		nids = append(nids, e.Event)
		return nil
	}); err != nil {
		n.w.t.Fatal(err)
	}
	events, err := n.store.Events(context.Background(), nids)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return events
}

// fakeRemote carries requests to the other servers of the world.
type fakeRemote struct {
	Remote // the rest is not called
	w      *world
}

func (r *fakeRemote) to(server id.Server, call string) (*peer, error) {
	p := r.w.peers[server]
	if p == nil {
		return nil, merr.ConnectionFailed("%s cannot be reached", server)
	}
	p.calls = append(p.calls, call)
	return p, nil
}

var errNotServed = merr.NotFound("not served")

func (r *fakeRemote) GetEvent(_ context.Context, server id.Server, ev id.Event) (json.RawMessage, error) {
	p := r.w.peers[server]
	if p == nil || p.event == nil {
		return nil, errNotServed
	}
	return p.event(ev)
}

func (r *fakeRemote) GetEventAuth(_ context.Context, server id.Server, room id.Room, ev id.Event, visit fedclient.Visit) error {
	p, err := r.to(server, "event_auth")
	if err != nil || p.auth == nil {
		return errNotServed
	}
	list, err := p.auth(room, ev)
	for _, raw := range list {
		if err := visit(fedclient.AuthChain, raw); err != nil {
			return err
		}
	}
	return err
}

func (r *fakeRemote) GetState(_ context.Context, server id.Server, room id.Room, at id.Event, visit fedclient.Visit) error {
	p, err := r.to(server, "state")
	if err != nil || p.stateIDs == nil {
		return errNotServed
	}
	ids, err := p.stateIDs(room, at)
	if err != nil {
		return err
	}
	for _, e := range append(slices.Clone(ids.State), ids.AuthChain...) {
		raw, err := p.event(e)
		if err != nil {
			return err
		}
		if err := visit(fedclient.State, raw); err != nil {
			return err
		}
	}
	return nil
}

func (r *fakeRemote) GetStateIDs(_ context.Context, server id.Server, room id.Room, at id.Event) (*fedclient.StateIDs, error) {
	p, err := r.to(server, "state_ids")
	if err != nil || p.stateIDs == nil {
		return nil, errNotServed
	}
	return p.stateIDs(room, at)
}

func (r *fakeRemote) GetMissingEvents(_ context.Context, server id.Server, room id.Room, m fedclient.MissingEvents) ([]json.RawMessage, error) {
	p, err := r.to(server, "get_missing_events")
	if err != nil || p.missing == nil {
		return nil, errNotServed
	}
	return p.missing(room, m)
}

func (r *fakeRemote) Backfill(_ context.Context, server id.Server, room id.Room, from []id.Event, limit int) ([]json.RawMessage, error) {
	p, err := r.to(server, "backfill")
	if err != nil || p.backfill == nil {
		return nil, errNotServed
	}
	return p.backfill(room, from, limit)
}

func (r *fakeRemote) PolicySign(_ context.Context, server id.Server, pdu json.RawMessage) (map[id.Server]map[id.KeyID]string, error) {
	p, err := r.to(server, "policy")
	if err != nil || p.policy == nil {
		return nil, errNotServed
	}
	return p.policy(pdu)
}

// Building blocks of tests.

func ptr(s string) *string { return &s }

func rulesOf(t testing.TB, v event.RoomVersion) *event.Rules {
	t.Helper()
	r, err := event.Version(v)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// createSpecs makes a public room in which everybody may send messages, and the creator
// may do the rest.
func createSpecs(rules *event.Rules, creator id.User) []eventSpec {
	create := fmt.Sprintf(`{"room_version":%q}`, rules.Version)
	if rules.CreatorInContent {
		create = fmt.Sprintf(`{"creator":%q,"room_version":%q}`, creator, rules.Version)
	}
	levels := fmt.Sprintf(`{"users":{%q:100},"state_default":50,"events_default":0}`, creator)
	if rules.CreatorsPrivileged {
		levels = `{"users":{},"state_default":50,"events_default":0}`
	}
	state := func(typ, key, content string) eventSpec {
		return eventSpec{Type: typ, StateKey: &key, Sender: creator, Content: json.RawMessage(content)}
	}
	return []eventSpec{
		state("m.room.create", "", create),
		state("m.room.member", string(creator), `{"membership":"join"}`),
		state("m.room.power_levels", "", levels),
		state("m.room.join_rules", "", `{"join_rule":"public"}`),
		state("m.room.history_visibility", "", `{"history_visibility":"shared"}`),
	}
}

// create makes a room on a node.
func (n *node) create(version event.RoomVersion, creator id.User) id.Room {
	n.w.t.Helper()
	rules := rulesOf(n.w.t, version)
	room := id.Room("!room:" + string(n.name))
	if rules.RoomIDIsCreateHash {
		room = ""
	}
	events, err := n.createRoom(context.Background(), rules, room, createSpecs(rules, creator), nil)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return events[0].RoomID
}

func message(sender id.User, body string) eventSpec {
	return eventSpec{Type: "m.room.message", Sender: sender, Content: json.RawMessage(fmt.Sprintf(`{"body":%q,"msgtype":"m.text"}`, body))}
}

func state(sender id.User, typ, key, content string) eventSpec {
	return eventSpec{Type: typ, StateKey: &key, Sender: sender, Content: json.RawMessage(content)}
}

// trySend sends events of local users.
func (n *node) trySend(room id.Room, specs ...eventSpec) ([]*eventstore.Event, error) {
	return n.sendLocal(context.Background(), room, sendOptions{}, func(context.Context, *roomView) ([]eventSpec, error) {
		return specs, nil
	})
}

func (n *node) send(room id.Room, specs ...eventSpec) []*eventstore.Event {
	n.w.t.Helper()
	events, err := n.trySend(room, specs...)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return events
}

// join lets a user of a server join a room over a resident node, as send_join does,
// and gives the join event.
func (n *node) acceptJoin(room id.Room, user id.User) *event.Event {
	n.w.t.Helper()
	join := n.forge(room, state(user, "m.room.member", string(user), `{"membership":"join"}`))
	if errs := n.input(context.Background(), user.Server(), []*event.Event{join}, inputMembership); len(errs) > 0 {
		n.w.t.Fatal(errs[join.ID])
	}
	return join
}

// joinFrom makes a user of this node join over a resident node.
func (n *node) joinFrom(resident *node, room id.Room, user id.User) *eventstore.Event {
	n.w.t.Helper()
	join := resident.acceptJoin(room, user)
	e, err := n.enterWith(resident, join)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return e
}

func (n *node) enterWith(resident *node, join *event.Event) (*eventstore.Event, error) {
	ctx := context.Background()
	at, err := resident.store.EventByID(ctx, join.ID)
	if err != nil {
		return nil, err
	}
	sp := newSpool(join.Rules, join.RoomID)
	defer n.closeSpool(sp)
	var nids []nid.Event
	for _, e := range resident.stateAt(at.StateBefore) {
		nids = append(nids, e.NID)
		if err := sp.AddState(e.JSON()); err != nil {
			return nil, err
		}
	}
	for _, e := range resident.authChain(nids...) {
		if err := sp.AddAuth(e.JSON()); err != nil {
			return nil, err
		}
	}
	return n.storeJoinedRoom(ctx, join.Rules, join.RoomID, resident.name, join, sp)
}

// forge builds an event of any user on a node's view of a room, signed by the user's
// server, without storing it.
func (n *node) forge(room id.Room, spec eventSpec, change ...func(*event.Builder)) *event.Event {
	n.w.t.Helper()
	var out *event.Event
	err := n.inRoom(context.Background(), room, func(ctx context.Context, v *roomView) error {
		b, err := v.Template(ctx, spec)
		if err != nil {
			return err
		}
		for _, c := range change {
			c(b)
		}
		out, err = b.Build(spec.Sender.Server(), testKeyID, keyOf(spec.Sender.Server()))
		return err
	})
	if err != nil {
		n.w.t.Fatal(err)
	}
	return out
}

// on makes an event refer to others than the forward extremities.
func on(prevs ...*event.Event) func(*event.Builder) {
	return func(b *event.Builder) {
		b.PrevEvents, b.Depth = nil, 1
		for _, p := range prevs {
			b.PrevEvents = append(b.PrevEvents, p.ID)
			b.Depth = max(b.Depth, p.Depth+1)
			if b.ParentHashes != nil {
				b.ParentHashes[p.ID] = p.ReferenceHash()
			}
		}
	}
}

// by gives an event other auth events.
func by(auth ...*event.Event) func(*event.Builder) {
	return func(b *event.Builder) {
		b.AuthEvents = nil
		for _, a := range auth {
			b.AuthEvents = append(b.AuthEvents, a.ID)
			if b.ParentHashes != nil {
				b.ParentHashes[a.ID] = a.ReferenceHash()
			}
		}
	}
}

// push gives events to a node as another server would, and returns the errors.
func (n *node) push(origin id.Server, events ...*event.Event) map[id.Event]error {
	return n.input(context.Background(), origin, events, inputPushed)
}

func (n *node) mustPush(origin id.Server, events ...*event.Event) {
	n.w.t.Helper()
	for ev, err := range n.push(origin, events...) {
		n.w.t.Fatalf("%s: %v", ev, err)
	}
}

func (n *node) row(room id.Room) *eventstore.Room {
	n.w.t.Helper()
	r, err := n.store.Room(context.Background(), room)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return r
}

// stored gives an event of the store, nil if it is not there.
func (n *node) stored(e id.Event) *eventstore.Event {
	n.w.t.Helper()
	found, err := n.store.EventsByID(context.Background(), []id.Event{e})
	if err != nil {
		n.w.t.Fatal(err)
	}
	return found[e]
}

// current gives the current state by text.
func (n *node) current(room id.Room) map[eventauth.Key]id.Event {
	n.w.t.Helper()
	out := make(map[eventauth.Key]id.Event)
	for _, e := range n.stateAt(n.row(room).CurrentState) {
		out[eventauth.Key{Type: e.Type, StateKey: e.StateKey}] = e.ID
	}
	return out
}

// tips gives the forward extremities.
func (n *node) tips(room id.Room) []id.Event {
	n.w.t.Helper()
	out, err := n.store.EventIDs(context.Background(), n.row(room).Extremities)
	if err != nil {
		n.w.t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// stateEvent gives one event of the current state.
func (n *node) stateEvent(room id.Room, typ, key string) *event.Event {
	n.w.t.Helper()
	e, err := n.store.CurrentState(n.row(room)).Get(context.Background(), typ, key)
	if err != nil || e == nil {
		n.w.t.Fatalf("no %s %q in the state: %v", typ, key, err)
	}
	return e.Event
}

// check verifies the invariants.
func (n *node) check() {
	n.w.t.Helper()
	if err := n.Verify(context.Background()); err != nil {
		n.w.t.Error(err)
	}
}
