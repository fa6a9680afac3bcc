package federationapi

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"testing"

	"github.com/sirupsen/logrus"

	"weft/internal/bus"
	"weft/internal/eventstore"
	"weft/internal/eventstore/write"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/internal/statetree"
	"weft/internal/stream"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
)

const (
	home  = id.Server("home.example")
	one   = id.Server("one.example")
	two   = id.Server("two.example")
	three = id.Server("three.example")

	alice = id.User("@alice:home.example")
	bob   = id.User("@bob:home.example")
	oscar = id.User("@oscar:one.example")
	tina  = id.User("@tina:two.example")
	theo  = id.User("@theo:three.example")
)

// world is a store and a writer for tests. It judges nothing: every event is
// accepted as it is told.
type world struct {
	t   testing.TB
	db  *sqldb.DB
	r   *eventstore.Reader
	w   *write.Writer
	bus *bus.Local
	log *logrus.Entry
	key ed25519.PrivateKey
	ts  int64
}

// onBoth runs a test on both databases.
func onBoth(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) { test(t, newWorld(t, open())) })
}

func newWorld(t testing.TB, db *sqldb.DB) *world {
	t.Helper()
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	w := &world{
		t: t, db: db, bus: bus.NewLocal(), log: logrus.NewEntry(quiet), ts: 1_000_000,
		key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)),
	}
	w.ok(stream.Migrate(t.Context(), db))
	w.ok(eventstore.Migrate(t.Context(), db))
	var err error
	w.r, err = eventstore.Open(db, eventstore.Options{})
	w.ok(err)
	w.w, err = write.New(t.Context(), db, w.r)
	w.ok(err)
	return w
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) ctx() context.Context { return w.t.Context() }

// room is a room as the test sees it.
type room struct {
	*world
	nid     nid.Room
	id      id.Room
	version event.RoomVersion
	state   statetree.Root
	tips    []*event.Event
	depth   int64
	// sendOut: what local users do is to be sent to other servers.
	flags func(*event.Event) eventstore.Flags
}

func sendOutLocal(e *event.Event) eventstore.Flags {
	if e.Sender.Server() == home {
		return eventstore.SendOut
	}
	return 0
}

// newRoom makes a room with its creator and others in it.
func (w *world) newRoom(creator id.User, others ...id.User) *room {
	w.t.Helper()
	r := w.stubRoom(creator)
	create := r.build(creator, "m.room.create", ptr(""), map[string]any{"room_version": r.version, "creator": creator})
	r.put(create)
	r.member(creator, creator, "join")
	for _, u := range others {
		r.member(u, u, "join")
	}
	return r
}

func (w *world) stubRoom(creator id.User) *room {
	w.t.Helper()
	n, err := w.w.RoomNID(w.ctx())
	w.ok(err)
	r := &room{world: w, nid: n, version: "10", id: id.Room(fmt.Sprintf("!room%d:%s", n, creator.Server())), flags: sendOutLocal}
	w.ok(w.db.Update(w.ctx(), func(tx *sqldb.Tx) error {
		_, err := w.w.InsertRoom(w.ctx(), tx, r.nid, r.id, r.version)
		return err
	}))
	return r
}

func ptr(s string) *string { return &s }

// build makes an event on top of the room's tips.
func (r *room) build(sender id.User, typ string, stateKey *string, content any) *event.Event {
	r.t.Helper()
	raw, err := json.Marshal(content)
	r.ok(err)
	rules, err := event.Version(r.version)
	r.ok(err)
	r.ts += 1000
	b := event.Builder{
		Rules: rules, RoomID: r.id, Sender: sender, Type: typ, StateKey: stateKey, Content: raw,
		PrevEvents: []id.Event{}, AuthEvents: []id.Event{}, Depth: r.depth + 1, OriginServerTS: r.ts,
	}
	for _, t := range r.tips {
		b.PrevEvents = append(b.PrevEvents, t.ID)
	}
	keys := []eventauth.Key{{Type: "m.room.create"}, {Type: "m.room.power_levels"}, {Type: "m.room.member", StateKey: string(sender)}}
	found, err := r.r.State(r.state).GetMany(r.ctx(), keys)
	r.ok(err)
	for _, k := range keys {
		if e := found[k]; e != nil {
			b.AuthEvents = append(b.AuthEvents, e.ID)
		}
	}
	e, err := b.Build(sender.Server(), "ed25519:1", r.key)
	r.ok(err)
	return e
}

// put stores an event as the next of the room.
func (r *room) put(ev *event.Event) *eventstore.Event {
	r.t.Helper()
	return r.putAs(r.flags(ev), ev)[0]
}

// putAs stores events, one after another, in one transaction. Rejected ones and
// outliers leave the room as it is.
func (r *room) putAs(flags eventstore.Flags, events ...*event.Event) []*eventstore.Event {
	r.t.Helper()
	ctx := r.ctx()
	first, err := r.w.EventNIDs(ctx, len(events), 0)
	r.ok(err)
	batch := statetree.NewBatch(r.r)
	out := make([]*eventstore.Event, len(events))
	rows := make([]write.Row, len(events))
	state, depth := r.state, r.depth
	live := flags&(eventstore.Outlier|eventstore.Rejected|eventstore.SoftFailed) == 0
	mine := map[id.Event]nid.Event{}
	for i, ev := range events {
		e := &eventstore.Event{Event: ev, RoomNID: r.nid, Flags: flags, NID: first + nid.Event(i)}
		mine[ev.ID] = e.NID
		types, keys, err := r.w.Intern(ctx, []string{ev.Type}, []string{string(ev.Sender), ev.StateKey})
		r.ok(err)
		e.TypeNID = types[ev.Type]
		if ev.IsState {
			e.StateKeyNID = keys[ev.StateKey]
		}
		auth, err := r.r.NIDs(ctx, ev.AuthEvents)
		r.ok(err)
		for _, a := range ev.AuthEvents {
			if auth[a] == 0 {
				auth[a] = mine[a]
			}
			e.AuthNIDs = append(e.AuthNIDs, auth[a])
		}
		if flags&eventstore.Outlier == 0 {
			e.HasState, e.StateBefore = true, state
		}
		if live && ev.IsState {
			state, err = statetree.Apply(ctx, batch, state, []statetree.Change{{Key: e.Key(), Event: e.NID}}, batch)
			r.ok(err)
		}
		depth = max(depth, ev.Depth)
		out[i], rows[i] = e, r.w.Row(e, eventstore.Parents{})
	}
	r.ok(r.db.Update(ctx, func(tx *sqldb.Tx) error { return r.commit(ctx, tx, out, rows, batch, state, depth, live) }))
	if live {
		r.state, r.depth, r.tips = state, depth, events[len(events)-1:]
	}
	return out
}

func (r *room) commit(ctx context.Context, tx *sqldb.Tx, out []*eventstore.Event, rows []write.Row, batch *statetree.Batch, state statetree.Root, depth int64, live bool) error {
	current, err := r.r.Uncommitted(tx).RoomByNID(ctx, r.nid)
	if err != nil {
		return err
	}
	if live {
		err := r.w.UpdateRoom(ctx, tx, write.RoomUpdate{
			NID: r.nid, Revision: current.Revision, CurrentState: state, Extremities: []nid.Event{out[len(out)-1].NID},
			Depth: depth, Version: r.version,
		})
		if err != nil {
			return err
		}
	}
	if err := r.w.InsertNodes(ctx, tx, batch); err != nil {
		return err
	}
	if out[0].HasState {
		pos, err := stream.Advance(ctx, tx, stream.Events, int64(len(out)))
		if err != nil {
			return err
		}
		for i, e := range out {
			e.StreamPos = pos + int64(i)
		}
		tx.OnCommit(func() { bus.PublishUpdate(r.bus, bus.Update{Stream: stream.Events, Pos: out[len(out)-1].StreamPos}) })
	}
	if err := r.w.InsertEvents(ctx, tx, rows); err != nil {
		return err
	}
	var changes []write.MemberChange
	for _, e := range out {
		if !live || e.Type != "m.room.member" {
			continue
		}
		user := id.User(e.StateKey)
		changes = append(changes, write.MemberChange{
			User: user, UserNID: e.StateKeyNID, Membership: eventstore.ParseMembership(e.Membership()), Event: e.NID,
			StreamPos: e.StreamPos, Local: user.Server() == home,
		})
	}
	_, err = r.w.SetMembers(ctx, tx, r.nid, changes)
	return err
}

func (r *room) send(sender id.User, typ string, stateKey *string, content any) *eventstore.Event {
	r.t.Helper()
	return r.put(r.build(sender, typ, stateKey, content))
}

func message(text string) map[string]any { return map[string]any{"msgtype": "m.text", "body": text} }

func (r *room) say(sender id.User, text string) *eventstore.Event {
	r.t.Helper()
	return r.send(sender, "m.room.message", nil, message(text))
}

// talk makes n messages of a local user, in one transaction.
func (r *room) talk(n int) []id.Event {
	r.t.Helper()
	tips, depth := r.tips, r.depth
	var events []*event.Event
	var ids []id.Event
	for i := range n {
		e := r.build(alice, "m.room.message", nil, message(fmt.Sprint("message ", i)))
		r.tips, r.depth = []*event.Event{e}, e.Depth
		events, ids = append(events, e), append(ids, e.ID)
	}
	r.tips, r.depth = tips, depth
	r.putAs(eventstore.SendOut, events...)
	return ids
}

// member changes a user's membership.
func (r *room) member(by, user id.User, membership string) *eventstore.Event {
	r.t.Helper()
	return r.send(by, "m.room.member", ptr(string(user)), map[string]any{"membership": membership})
}

func (r *room) acl(deny ...id.Server) *eventstore.Event {
	r.t.Helper()
	return r.send(alice, "m.room.server_acl", ptr(""), map[string]any{"allow": []string{"*"}, "deny": deny})
}

func ids(events ...*eventstore.Event) []id.Event {
	out := make([]id.Event, len(events))
	for i, e := range events {
		out[i] = e.ID
	}
	return out
}
