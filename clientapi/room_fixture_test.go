package clientapi

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
	"weft/internal/statetree"
	"weft/internal/stream"
	"weft/matrix/event"
	"weft/matrix/id"
)

// storedRoom is a room in the event store whose events the test chooses; nothing
// judges them.
type storedRoom struct {
	t     *testing.T
	e     *env
	w     *write.Writer
	nid   nid.Room
	id    id.Room
	rules *event.Rules
	state statetree.Root
	last  *event.Event
	depth int64
}

// newRoom stores a version 10 room with its creator in it.
func (e *env) newRoom(creator id.User) *storedRoom {
	e.t.Helper()
	return e.newRoomOf(creator, "")
}

// newRoomOf is newRoom with a room type.
func (e *env) newRoomOf(creator id.User, roomType string) *storedRoom {
	e.t.Helper()
	w, err := write.New(e.t.Context(), e.db, e.srv.cfg.Events)
	r := &storedRoom{t: e.t, e: e, w: w}
	r.ok(err)
	r.rules, err = event.Version("10")
	r.ok(err)
	r.nid, err = w.RoomNID(e.t.Context())
	r.ok(err)
	r.id = id.Room(fmt.Sprintf("!r%d:test", r.nid))
	r.ok(e.db.Update(e.t.Context(), func(tx *sqldb.Tx) error {
		_, err := w.InsertRoom(e.t.Context(), tx, r.nid, r.id, "10")
		return err
	}))
	create := obj{"creator": creator, "room_version": "10"}
	if roomType != "" {
		create["type"] = roomType
	}
	r.set(creator, "m.room.create", "", create)
	r.set(creator, "m.room.member", string(creator), obj{"membership": "join"})
	return r
}

func (r *storedRoom) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// set stores a state event and makes it part of the current state.
func (r *storedRoom) set(sender id.User, typ, key string, content any) *event.Event {
	r.t.Helper()
	ctx := r.t.Context()
	raw, err := json.Marshal(content)
	r.ok(err)
	r.depth++
	b := event.Builder{Rules: r.rules, RoomID: r.id, Sender: sender, Type: typ, StateKey: &key, Content: raw,
		PrevEvents: []id.Event{}, AuthEvents: []id.Event{}, Depth: r.depth, OriginServerTS: r.e.clock.Now().UnixMilli()}
	if r.last != nil {
		b.PrevEvents = []id.Event{r.last.ID}
	}
	ev, err := b.Build("test", "ed25519:1", ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	r.ok(err)
	n, err := r.w.EventNIDs(ctx, 1, 0)
	r.ok(err)
	types, keys, err := r.w.Intern(ctx, []string{typ}, []string{key, string(sender)})
	r.ok(err)
	stored := &eventstore.Event{Event: ev, NID: n, RoomNID: r.nid, TypeNID: types[typ], StateKeyNID: keys[key],
		HasState: true, StateBefore: r.state}
	batch := statetree.NewBatch(r.e.srv.cfg.Events)
	after, err := statetree.Apply(ctx, batch, r.state, []statetree.Change{{Key: stored.Key(), Event: n}}, batch)
	r.ok(err)
	r.ok(r.e.db.Update(ctx, func(tx *sqldb.Tx) error { return r.store(ctx, tx, stored, batch, after) }))
	r.state, r.last = after, ev
	return ev
}

func (r *storedRoom) store(ctx context.Context, tx *sqldb.Tx, e *eventstore.Event, batch *statetree.Batch, after statetree.Root) error {
	current, err := r.e.srv.cfg.Events.Uncommitted(tx).RoomByNID(ctx, r.nid)
	if err != nil {
		return err
	}
	err = r.w.UpdateRoom(ctx, tx, write.RoomUpdate{NID: r.nid, Revision: current.Revision, CurrentState: after,
		Extremities: []nid.Event{e.NID}, Depth: e.Depth, Version: "10"})
	if err != nil {
		return err
	}
	if err := r.w.InsertNodes(ctx, tx, batch); err != nil {
		return err
	}
	if e.StreamPos, err = stream.Advance(ctx, tx, stream.Events, 1); err != nil {
		return err
	}
	if err := r.w.InsertEvents(ctx, tx, []write.Row{r.w.Row(e, eventstore.Parents{})}); err != nil {
		return err
	}
	if e.Type != typeMember {
		return nil
	}
	user := id.User(e.StateKey)
	_, err = r.w.SetMembers(ctx, tx, r.nid, []write.MemberChange{{User: user, UserNID: e.StateKeyNID, Event: e.NID,
		Membership: eventstore.ParseMembership(e.Membership()), StreamPos: e.StreamPos, Local: user.Server() == "test"}})
	return err
}

func (r *storedRoom) member(user id.User, membership string) *event.Event {
	return r.set(user, "m.room.member", string(user), obj{"membership": membership})
}
