package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
	"weft/internal/fedclient"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/internal/stream"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

// linked is how a server reaches the others in tests of operations: their Federation is
// called, and what it says goes through JSON and status codes as over the wire.
type linked struct {
	*fakeRemote
	from id.Server

	// during is called when another server has answered, before the answer is used; nil: nothing.
	during func(call string)

	mu     sync.Mutex
	calls  []string        // "make_join b", …
	joined map[string]bool // users and rooms: the next template of a join is asked for to catch up
}

// federation is a world whose servers speak to each other.
type federation struct {
	*world
	sent map[id.Server]int64
	txn  int
}

// linkedWorld starts servers that process what they receive.
func linkedWorld(t *testing.T, open func() *sqldb.DB, names ...id.Server) *federation {
	f := &federation{world: newWorld(t, open), sent: make(map[id.Server]int64)}
	for _, name := range names {
		n := f.node(name)
		n.cfg.Remote = &linked{fakeRemote: &fakeRemote{w: f.world}, from: name}
		n.run()
	}
	return f
}

func federated(t *testing.T, names []id.Server, test func(t *testing.T, f *federation)) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		f := linkedWorld(t, open, names...)
		test(t, f)
		for _, n := range f.nodes {
			n.check()
		}
	})
}

func (l *linked) reach(server id.Server, call string) (*node, error) {
	l.mu.Lock()
	l.calls = append(l.calls, call+" "+string(server))
	l.mu.Unlock()
	n := l.w.nodes[server]
	if n == nil {
		return nil, &fedclient.ConnError{Server: server, Err: errors.New("there is no such server")}
	}
	return n, nil
}

// catchingUp gives the server where the template of a join is asked for after the join, which tests do not count.
func (l *linked) catchingUp(server id.Server, membership string, room id.Room, user id.User) *node {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := string(user) + " " + string(room)
	if membership != "join" || !l.joined[key] {
		return nil
	}
	delete(l.joined, key)
	return l.w.nodes[server]
}

func (l *linked) answered(call string) {
	if l.during != nil {
		l.during(call)
	}
}

// told gives what was asked of others since the last time.
func (n *node) told() []string {
	l := n.cfg.Remote.(*linked)
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.calls
	l.calls = nil
	return out
}

// wire makes of an error what is left of it after it went over the wire.
func wire(server id.Server, err error) error {
	if err == nil {
		return nil
	}
	e := merr.From(err)
	raw, jerr := e.MarshalJSON()
	if jerr != nil {
		return jerr
	}
	return &fedclient.RemoteError{Server: server, Status: e.Status, Remote: merr.Decode(e.Status, raw)}
}

func (l *linked) template(ctx context.Context, server id.Server, membership string, room id.Room, user id.User, versions []event.RoomVersion) (*fedclient.Template, error) {
	n := l.catchingUp(server, membership, room, user)
	if n == nil {
		var err error
		if n, err = l.reach(server, "make_"+membership); err != nil {
			return nil, err
		}
		defer l.answered("make_" + membership)
	}
	t, err := n.MakeMembership(ctx, api.MakeMembership{Origin: l.from, Room: room, User: user, Membership: membership, Versions: versions})
	if err != nil {
		return nil, wire(server, err)
	}
	return &fedclient.Template{RoomVersion: t.Version, Event: t.Event}, nil
}

func (l *linked) MakeJoin(ctx context.Context, server id.Server, room id.Room, user id.User, versions []event.RoomVersion) (*fedclient.Template, error) {
	return l.template(ctx, server, "join", room, user, versions)
}

func (l *linked) MakeKnock(ctx context.Context, server id.Server, room id.Room, user id.User, versions []event.RoomVersion) (*fedclient.Template, error) {
	return l.template(ctx, server, "knock", room, user, versions)
}

func (l *linked) MakeLeave(ctx context.Context, server id.Server, room id.Room, user id.User) (*fedclient.Template, error) {
	return l.template(ctx, server, "leave", room, user, nil)
}

func (l *linked) submit(ctx context.Context, server id.Server, membership string, room id.Room, ev id.Event, raw json.RawMessage) (*node, api.SentMembership, error) {
	n, err := l.reach(server, "send_"+membership)
	if err != nil {
		return nil, api.SentMembership{}, err
	}
	out, err := n.SendMembership(ctx, api.SendMembership{Origin: l.from, Room: room, EventID: ev, Membership: membership, Event: raw})
	return n, out, wire(server, err)
}

func (l *linked) SendJoin(ctx context.Context, server id.Server, room id.Room, ev id.Event, join json.RawMessage, _ bool, visit fedclient.Visit) (*fedclient.JoinResult, error) {
	n, out, err := l.submit(ctx, server, "join", room, ev, join)
	if err != nil {
		return nil, err
	}
	for list, nids := range map[fedclient.List][]nid.Event{fedclient.State: out.State, fedclient.AuthChain: out.AuthChain} {
		events, err := n.store.Unredacted(ctx, nids)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			if err := visit(list, slices.Clone(e.JSON())); err != nil {
				return nil, err
			}
		}
	}
	l.mu.Lock()
	if l.joined == nil {
		l.joined = make(map[string]bool)
	}
	l.joined[gjson.GetBytes(join, "sender").Str+" "+string(room)] = true
	l.mu.Unlock()
	l.answered("send_join")
	return &fedclient.JoinResult{Event: out.Event}, nil
}

func (l *linked) SendKnock(ctx context.Context, server id.Server, room id.Room, ev id.Event, knock json.RawMessage) ([]json.RawMessage, error) {
	_, out, err := l.submit(ctx, server, "knock", room, ev, knock)
	return out.Stripped, err
}

func (l *linked) SendLeave(ctx context.Context, server id.Server, room id.Room, ev id.Event, leave json.RawMessage) error {
	_, _, err := l.submit(ctx, server, "leave", room, ev, leave)
	return err
}

func (l *linked) Invite(ctx context.Context, server id.Server, room id.Room, ev id.Event, version event.RoomVersion, invite json.RawMessage, stripped []json.RawMessage) (json.RawMessage, error) {
	n, err := l.reach(server, "invite")
	if err != nil {
		return nil, err
	}
	out, err := n.ReceiveInvite(ctx, api.ReceiveInvite{Origin: l.from, Room: room, EventID: ev, Version: version, Event: invite, Stripped: stripped})
	return out, wire(server, err)
}

func (l *linked) QueryDirectory(ctx context.Context, alias id.RoomAlias) (*fedclient.RoomDirectory, error) {
	n, err := l.reach(alias.Server(), "directory")
	if err != nil {
		return nil, err
	}
	found, err := n.ResolveAlias(ctx, alias)
	if err != nil {
		return nil, wire(alias.Server(), err)
	}
	return &fedclient.RoomDirectory{RoomID: found.Room, Servers: found.Servers}, nil
}

// deliver sends on what the servers have to send, until there is nothing more, as their
// federation senders would.
func (f *federation) deliver() {
	f.t.Helper()
	for moved := true; moved; {
		moved = false
		for _, n := range f.nodes {
			moved = n.deliver(f) || moved
		}
	}
}

func (n *node) deliver(f *federation) bool {
	n.w.t.Helper()
	ctx := context.Background()
	to, err := stream.Position(ctx, n.db, stream.Events)
	if err != nil {
		n.w.t.Fatal(err)
	}
	rows, err := n.store.EventStream(ctx, f.sent[n.name], to, 10_000)
	if err != nil {
		n.w.t.Fatal(err)
	}
	f.sent[n.name] = to
	out := make(map[id.Server][]json.RawMessage)
	for _, row := range rows {
		if row.Flags&eventstore.SendOut == 0 {
			continue
		}
		e, err := n.store.Event(ctx, row.Event)
		if err != nil {
			n.w.t.Fatal(err)
		}
		// The servers that were in the room when the event was made.
		servers := []id.Server{}
		for _, m := range n.stateAt(e.StateBefore) {
			if m.Membership() == "join" {
				servers = append(servers, id.User(m.StateKey).Server())
			}
		}
		if e.Type == eventauth.TypeMember {
			servers = append(servers, id.User(e.StateKey).Server())
		}
		slices.Sort(servers)
		for _, server := range slices.Compact(servers) {
			if server != n.name && f.nodes[server] != nil {
				out[server] = append(out[server], e.JSON())
			}
		}
	}
	for server, pdus := range out {
		for part := range slices.Chunk(pdus, 50) {
			f.txn++
			req := api.Transaction{Origin: n.name, TxnID: fmt.Sprint(f.txn), PDUs: part}
			if _, err := f.nodes[server].ReceiveTransaction(ctx, req); err != nil {
				n.w.t.Fatal(err)
			}
		}
	}
	return len(out) > 0
}

// Steps of tests.

func (n *node) createRoomAs(user id.User, req api.CreateRoom) id.Room {
	n.w.t.Helper()
	req.Creator = user
	room, err := n.CreateRoom(context.Background(), req)
	if err != nil {
		n.w.t.Fatalf("creating a room: %v", err)
	}
	return room
}

// set makes a change of membership; target is the sender when it is empty.
func (n *node) set(membership string, room id.Room, sender, target id.User, opts ...func(*api.SetMembership)) error {
	req := api.SetMembership{Room: room, Sender: sender, Target: target, Membership: membership}
	for _, o := range opts {
		o(&req)
	}
	_, err := n.SetMembership(context.Background(), req)
	return err
}

func (n *node) mustSet(membership string, room id.Room, sender, target id.User, opts ...func(*api.SetMembership)) {
	n.w.t.Helper()
	if err := n.set(membership, room, sender, target, opts...); err != nil {
		n.w.t.Fatalf("%s of %s in %s by %s: %v", membership, target, room, sender, err)
	}
}

func through(servers ...id.Server) func(*api.SetMembership) {
	return func(r *api.SetMembership) { r.Servers = servers }
}

func action(a string) func(*api.SetMembership) {
	return func(r *api.SetMembership) { r.Action = a }
}

func withContent(raw string) func(*api.SetMembership) {
	return func(r *api.SetMembership) { r.Content = json.RawMessage(raw) }
}

// sendAs sends an event through SendEvent.
func (n *node) sendAs(user id.User, room id.Room, typ string, key *string, content string) (id.Event, error) {
	return n.SendEvent(context.Background(), api.SendEvent{Room: room, Sender: user, Type: typ, StateKey: key, Content: json.RawMessage(content)})
}

func (n *node) mustSendAs(user id.User, room id.Room, typ string, key *string, content string) id.Event {
	n.w.t.Helper()
	e, err := n.sendAs(user, room, typ, key, content)
	if err != nil {
		n.w.t.Fatalf("sending %s: %v", typ, err)
	}
	return e
}

// membership gives a user's membership as the store knows it.
func (n *node) membership(room id.Room, user id.User) string {
	n.w.t.Helper()
	m, _, err := n.store.Membership(context.Background(), n.row(room).NID, user)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return m.String()
}

// content gives a value of the content of a state event, "" when there is none.
func (n *node) content(room id.Room, typ, key, path string) string {
	n.w.t.Helper()
	e, err := n.store.CurrentState(n.row(room)).Get(context.Background(), typ, key)
	if err != nil {
		n.w.t.Fatal(err)
	}
	if e == nil {
		return ""
	}
	return gjson.GetBytes(e.Content(), path).String()
}

// agree demands that servers have the same state and the same extremities.
func (f *federation) agree(room id.Room, names ...id.Server) {
	f.t.Helper()
	first := f.nodes[names[0]]
	want := first.current(room)
	for _, name := range names[1:] {
		n := f.nodes[name]
		got := n.current(room)
		for k, v := range want {
			if got[k] != v {
				f.t.Errorf("%v is %s on %s, %s on %s", k, v, first.name, got[k], name)
			}
		}
		if len(got) != len(want) {
			f.t.Errorf("%d state events on %s, %d on %s", len(want), first.name, len(got), name)
		}
		if a, b := first.tips(room), n.tips(room); !slices.Equal(a, b) {
			f.t.Errorf("the extremities are %v on %s, %v on %s", first.describe(a), first.name, n.describe(b), name)
		}
	}
}

// describe says what events are.
func (n *node) describe(list []id.Event) []string {
	n.w.t.Helper()
	var out []string
	for _, i := range list {
		e := n.stored(i)
		out = append(out, fmt.Sprintf("%s %s/%s %s depth %d flags %d", i, e.Type, e.StateKey, e.Membership(), e.Depth, e.Flags))
	}
	return out
}

// wantCode demands an error with a code and a status.
func wantCode(t *testing.T, what string, err error, status int, code string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error, want %d %s", what, status, code)
		return
	}
	if e := merr.From(err); e.Status != status || e.Code != code {
		t.Errorf("%s: got %d %s (%v), want %d %s", what, e.Status, e.Code, err, status, code)
	}
}

const (
	bob2    id.User = "@bob2:b"
	carol   id.User = "@carol:c"
	alice2  id.User = "@alice2:a"
	nowhere id.Room = "!nowhere:a"
)
