package eventstore_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"testing"

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

// world is a store and a writer for tests. It judges nothing: every event is accepted
// as it is told.
type world struct {
	t   testing.TB
	db  *sqldb.DB
	r   *eventstore.Reader
	w   *write.Writer
	ts  int64
	key ed25519.PrivateKey
}

// onBoth runs a test on both databases, on a migrated store.
func onBoth(t *testing.T, test func(t *testing.T, w *world)) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) { test(t, newWorld(t, open())) })
}

func newWorld(t testing.TB, db *sqldb.DB) *world {
	t.Helper()
	w := &world{t: t, db: db, key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}
	w.ok(stream.Migrate(t.Context(), db))
	w.ok(eventstore.Migrate(t.Context(), db))
	var err error
	w.r, err = eventstore.Open(db, eventstore.Options{})
	w.ok(err)
	w.w, err = write.New(t.Context(), db, w.r)
	w.ok(err)
	return w
}

// fresh gives a reader with empty caches.
func (w *world) fresh() *eventstore.Reader {
	w.t.Helper()
	r, err := eventstore.Open(w.db, eventstore.Options{})
	w.ok(err)
	return r
}

func (w *world) ctx() context.Context { return w.t.Context() }

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) update(fn func(ctx context.Context, tx *sqldb.Tx) error) {
	w.t.Helper()
	w.ok(w.db.Update(w.ctx(), func(tx *sqldb.Tx) error { return fn(w.ctx(), tx) }))
}

// room is a room as the test sees it.
type room struct {
	*world
	nid     nid.Room
	id      id.Room
	version event.RoomVersion
	state   statetree.Root
	tips    []*eventstore.Event
	depth   int64
	last    *eventstore.Event
}

const (
	alice = id.User("@alice:home")
	bob   = id.User("@bob:home")
	carol = id.User("@carol:away")
	dave  = id.User("@dave:third")
)

// newRoom makes a room with a create event and its creator in it.
func (w *world) newRoom(version event.RoomVersion, creator id.User) *room {
	w.t.Helper()
	r := &room{world: w, version: version}
	rules, err := event.Version(version)
	w.ok(err)
	content := map[string]any{"room_version": version}
	if rules.CreatorInContent {
		content["creator"] = creator
	}
	n, err := w.w.RoomNID(w.ctx())
	w.ok(err)
	if !rules.RoomIDIsCreateHash {
		r.id = id.Room(fmt.Sprintf("!room%d:home", n))
	}
	create := r.build(creator, "m.room.create", ptr(""), content)
	r.id = create.RoomID
	r.nid = n
	w.update(func(ctx context.Context, tx *sqldb.Tx) error {
		inserted, err := w.w.InsertRoom(ctx, tx, r.nid, r.id, version)
		if err == nil && !inserted {
			err = fmt.Errorf("the room is there already")
		}
		return err
	})
	r.put(create, option{})
	r.member(creator, "join")
	return r
}

func ptr(s string) *string { return &s }

func (r *room) build(sender id.User, typ string, stateKey *string, content any) *event.Event {
	r.t.Helper()
	raw, err := json.Marshal(content)
	r.ok(err)
	rules, err := event.Version(r.version)
	r.ok(err)
	r.ts++
	b := event.Builder{
		Rules: rules, RoomID: r.id, Sender: sender, Type: typ, StateKey: stateKey, Content: raw,
		PrevEvents: []id.Event{}, AuthEvents: []id.Event{}, Depth: r.depth + 1, OriginServerTS: r.ts,
	}
	for _, t := range r.tips {
		b.PrevEvents = append(b.PrevEvents, t.ID)
		b.Depth = max(b.Depth, t.Depth+1)
	}
	if typ != "m.room.create" && r.nid != 0 {
		for _, k := range []eventauth.Key{{Type: "m.room.create"}, {Type: "m.room.power_levels"}, {Type: "m.room.member", StateKey: string(sender)}} {
			if k.Type == "m.room.create" && rules.RoomIDIsCreateHash {
				continue
			}
			e, err := r.r.State(r.state).Get(r.ctx(), k.Type, k.StateKey)
			r.ok(err)
			if e != nil {
				b.AuthEvents = append(b.AuthEvents, e.ID)
			}
		}
	}
	e, err := b.Build(sender.Server(), "ed25519:1", r.key)
	r.ok(err)
	return e
}

// option says how an event is stored.
type option struct {
	flags eventstore.Flags
	txn   *write.Txn
	// backfill gives the event a negative position and leaves the room as it is.
	backfill bool
	// before overrides the state before the event.
	before *statetree.Root
}

// put stores an event as the next of the room.
func (r *room) put(ev *event.Event, o option) *eventstore.Event {
	r.t.Helper()
	ctx := r.ctx()
	e := &eventstore.Event{Event: ev, RoomNID: r.nid, Flags: o.flags}
	first, err := r.w.EventNIDs(ctx, 1, 0)
	r.ok(err)
	e.NID = first
	types, keys, err := r.w.Intern(ctx, []string{ev.Type}, []string{string(ev.Sender), ev.StateKey})
	r.ok(err)
	e.TypeNID = types[ev.Type]
	if ev.IsState {
		e.StateKeyNID = keys[ev.StateKey]
	}
	auth, err := r.r.NIDs(ctx, ev.AuthEvents)
	r.ok(err)
	for _, a := range ev.AuthEvents {
		if n, ok := auth[a]; ok {
			e.AuthNIDs = append(e.AuthNIDs, n)
		}
	}
	if o.flags&eventstore.Outlier == 0 {
		e.HasState, e.StateBefore = true, r.state
		if o.before != nil {
			e.StateBefore = *o.before
		}
	}
	live := e.HasState && !o.backfill && o.flags&(eventstore.Rejected|eventstore.SoftFailed) == 0
	batch := statetree.NewBatch(r.r)
	after := r.state
	if live && ev.IsState {
		after, err = statetree.Apply(ctx, batch, r.state, []statetree.Change{{Key: e.Key(), Event: e.NID}}, batch)
		r.ok(err)
	}
	row := r.w.Row(e, eventstore.Parents{Auth: auth})
	r.update(func(ctx context.Context, tx *sqldb.Tx) error {
		current, err := r.r.Uncommitted(tx).RoomByNID(ctx, r.nid)
		if err != nil {
			return err
		}
		if live {
			err := r.w.UpdateRoom(ctx, tx, write.RoomUpdate{
				NID: r.nid, Revision: current.Revision, CurrentState: after, Extremities: []nid.Event{e.NID},
				Depth: max(e.Depth, current.Depth), Version: r.version,
			})
			if err != nil {
				return err
			}
		}
		if err := r.w.InsertNodes(ctx, tx, batch); err != nil {
			return err
		}
		switch {
		case o.backfill:
			if e.StreamPos, err = r.w.BackfillPositions(ctx, tx, 1); err != nil {
				return err
			}
		case e.HasState:
			if e.StreamPos, err = stream.Advance(ctx, tx, stream.Events, 1); err != nil {
				return err
			}
		}
		if err := r.w.InsertEvents(ctx, tx, []write.Row{row}); err != nil {
			return err
		}
		if o.txn != nil {
			o.txn.Event = e.NID
			if _, err := r.w.PutTxn(ctx, tx, *o.txn); err != nil {
				return err
			}
		}
		if !live || ev.Type != "m.room.member" {
			return nil
		}
		user := id.User(ev.StateKey)
		_, err = r.w.SetMembers(ctx, tx, r.nid, []write.MemberChange{{
			User: user, UserNID: e.StateKeyNID, Membership: eventstore.ParseMembership(ev.Membership()), Event: e.NID,
			StreamPos: e.StreamPos, Local: user.Server() == "home",
		}})
		return err
	})
	if live {
		r.tips, r.state, r.depth = []*eventstore.Event{e}, after, max(r.depth, e.Depth)
	}
	r.last = e
	return e
}

func (r *room) send(sender id.User, typ string, stateKey *string, content any) *eventstore.Event {
	r.t.Helper()
	return r.put(r.build(sender, typ, stateKey, content), option{})
}

func (r *room) say(sender id.User, text string) *eventstore.Event {
	r.t.Helper()
	return r.send(sender, "m.room.message", nil, map[string]any{"msgtype": "m.text", "body": text})
}

// member changes a membership, by the user itself.
func (r *room) member(user id.User, membership string) *eventstore.Event {
	r.t.Helper()
	return r.send(user, "m.room.member", ptr(string(user)), map[string]any{"membership": membership})
}

func (r *room) visibility(v string) *eventstore.Event {
	r.t.Helper()
	return r.send(alice, "m.room.history_visibility", ptr(""), map[string]any{"history_visibility": v})
}

// row reads the room.
func (r *room) row() *eventstore.Room {
	r.t.Helper()
	out, err := r.r.RoomByNID(r.ctx(), r.nid)
	r.ok(err)
	return out
}

func ids(events []*eventstore.Event) []id.Event {
	out := make([]id.Event, len(events))
	for i, e := range events {
		out[i] = e.ID
	}
	return out
}
