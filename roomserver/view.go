package roomserver

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/statetree"
	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/serveracl"
)

// eventSpec is an event of a local user that is to be built.
type eventSpec struct {
	Type     string
	StateKey *string
	Sender   id.User
	Content  json.RawMessage
	Redacts  id.Event
	// Timestamp is origin_server_ts; 0: now.
	Timestamp int64
}

// roomView is a room as it is while its queue is held: as stored, with what the
// draft at hand adds. It must not be kept.
type roomView struct{ d *draft }

// Room is the room's row, as it was when the draft began.
func (v *roomView) Room() *eventstore.Room { return v.d.room }

// Root is the current state.
func (v *roomView) Root() statetree.Root { return v.d.current }

// State gives an event of the current state, nil when there is none.
func (v *roomView) State(ctx context.Context, typ, stateKey string) (*eventstore.Event, error) {
	places, err := v.d.s.store.Keys(ctx, []eventauth.Key{{Type: typ, StateKey: stateKey}})
	if err != nil || len(places) == 0 {
		return nil, err
	}
	n, ok, err := statetree.Get(ctx, v.d.nodes, v.d.current, places[0])
	if err != nil || !ok {
		return nil, err
	}
	events, err := v.d.events(ctx, []nid.Event{n})
	if err != nil {
		return nil, err
	}
	return events[0], nil
}

// Membership gives a user's membership in the current state, "" when there is none,
// and the member event.
func (v *roomView) Membership(ctx context.Context, user id.User) (string, *eventstore.Event, error) {
	e, err := v.State(ctx, eventauth.TypeMember, string(user))
	if err != nil || e == nil {
		return "", nil, err
	}
	return e.Membership(), e, nil
}

// ServerAllowed tells whether the room's server ACL lets a server take part.
//
// spec: server-server §19 (Server Access Control Lists)
func (v *roomView) ServerAllowed(ctx context.Context, server id.Server) (bool, error) {
	acl, err := v.State(ctx, "m.room.server_acl", "")
	if err != nil || acl == nil {
		return err == nil, err
	}
	return serveracl.Allowed(acl.Content(), server), nil
}

// Template fills in what the graph gives to a new event: previous events, auth
// events, depth.
func (v *roomView) Template(ctx context.Context, spec eventSpec) (*event.Builder, error) {
	b, _, _, err := v.d.template(ctx, spec)
	return b, err
}

// CheckAuth tells whether an event would be allowed by the current state.
func (v *roomView) CheckAuth(ctx context.Context, ev *event.Event) error {
	state, err := v.d.authState(ctx, v.d.current, ev)
	if err != nil {
		return err
	}
	return v.d.auth.Check(ev, state)
}

// template gives a builder, the state before the event and what of it the auth
// rules may look at.
//
// spec: server-server §5.1 (Auth events selection)
func (d *draft) template(ctx context.Context, spec eventSpec) (*event.Builder, statetree.Root, eventauth.MapState, error) {
	fail := func(err error) (*event.Builder, statetree.Root, eventauth.MapState, error) {
		return nil, statetree.Root{}, nil, err
	}
	content, err := canonical.CanonicalLenient(spec.Content)
	if err != nil {
		return fail(fmt.Errorf("%w: %w", badContent, err))
	}
	prevs := d.parents()
	root, err := d.before(ctx, prevs)
	if err != nil {
		return fail(err)
	}
	rules := d.room.Rules
	keys := eventauth.NeededKeysFor(rules, spec.Type, spec.Sender, spec.StateKey, content)
	state, err := d.state(ctx, root, append(slices.Clone(keys), eventauth.Key{Type: eventauth.TypeCreate}))
	if err != nil {
		return fail(err)
	}
	b := &event.Builder{
		Rules: rules, RoomID: d.room.ID, Sender: spec.Sender, Type: spec.Type, StateKey: spec.StateKey,
		Content: spec.Content, Redacts: spec.Redacts, Depth: 1, OriginServerTS: spec.Timestamp,
	}
	if b.OriginServerTS == 0 {
		b.OriginServerTS = d.s.now()
	}
	if rules.EventFormat == event.FormatPairs {
		b.ParentHashes = make(map[id.Event][sha256.Size]byte)
	}
	parent := func(e *event.Event) id.Event {
		if b.ParentHashes != nil {
			b.ParentHashes[e.ID] = e.ReferenceHash()
		}
		return e.ID
	}
	for _, p := range prevs {
		b.PrevEvents = append(b.PrevEvents, parent(p.Event))
		b.Depth = max(b.Depth, p.Depth+1)
	}
	for _, k := range keys {
		if e := state.Get(k.Type, k.StateKey); e != nil {
			b.AuthEvents = append(b.AuthEvents, parent(e))
		}
	}
	return b, root, state, nil
}

// parents chooses the previous events of a new event: all forward extremities, or
// the deepest when they are too many.
func (d *draft) parents() []*eventstore.Event {
	if len(d.tips) <= maxPrevEvents {
		return d.tips
	}
	tips := slices.Clone(d.tips)
	slices.SortStableFunc(tips, func(a, b *eventstore.Event) int { return int(b.Depth - a.Depth) })
	return tips[:maxPrevEvents]
}
