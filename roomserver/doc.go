// Package roomserver owns the event graph: it is the only writer of events and
// of room state.
//
// # Two halves
//
// The core (this list) knows how events become part of a room. The operations
// (create, send, join, invite, upgrade, directory, the membership endpoints of the
// federation) are built on these functions of it and on nothing else that
// writes:
//
//	inRoom(ctx, room, fn func(ctx, *roomView) error) error
//	    runs fn alone in the room's queue on this node, with a fresh view.
//	sendLocal(ctx, room, opt sendOptions, build func(ctx, *roomView) ([]eventSpec, error)) ([]*eventstore.Event, error)
//	    builds, signs, authorises and stores events of local users.
//	createRoom(ctx, rules, room, specs []eventSpec, also) ([]*eventstore.Event, error)
//	    stores a brand-new room with all its events, or nothing.
//	newSpool(rules, room) / spool.AddState(raw) / spool.AddAuth(raw) / spool.Close()
//	    takes the lists of a send_join answer one event at a time.
//	storeJoinedRoom(ctx, rules, room, origin, join, spool) (*eventstore.Event, error)
//	    verifies and stores a room that another server let us into.
//	storeOutlierMembership(ctx, rules, room, ev, stripped) (*eventstore.Event, error)
//	    an invite, knock or leave in a room that we are not in.
//	input(ctx, origin, events, mode) map[id.Event]error
//	    events from other servers; see receive.go for the numbered steps.
//	roomView: Room, State(type, key), Membership(user), Template(spec), CheckAuth(ev),
//	    ServerAllowed(server)
//
// # Why drafts
//
// Whatever makes events — a client's send, a transaction, backfill — first
// computes a draft: new events, state roots and tree nodes on top of one revision
// of the room, in memory, without a transaction. Storing a draft is one short write set
// that begins with "UPDATE rooms … WHERE revision = the one I saw". A loser of that
// fence throws its draft away and computes again. So no transaction waits for
// signatures, the network or state resolution, two nodes may write the same
// room without harm, and a burst of sends in one room shares one draft.
//
// # Lock order
//
// A room's queue, then the group commit. Nothing waits for a room's queue while it
// is in a transaction, and nothing in a room's queue waits for another room or
// for the network.
package roomserver
