// Package remote is the rest of the federation for a homeserver under test: a
// synthetic server, in the process of the load driver, that holds rooms of any
// size. The server under test joins them through it, and receives events from it.
//
// It is no homeserver. It has no users who log in, no database and no queues; what
// it does have is true to the letter, because a figure is worth nothing if the
// work that was measured was not done: every event is hashed, signed and allowed by
// the authorisation rules, every inbound request and event is verified, and the
// room's state is resolved by matrix/stateres, so that the server under test can
// be held against it.
//
// What costs is paid before the measurement begins. A room's events are made once
// and kept as the bytes that go over the wire; a send_join answer of 100,000
// members is those bytes in order, streamed. The state of a room is what it began
// with, which is computed from member numbers, and a small map of what changed
// since; so a room of 100,000 members costs its events' JSON and little else.
//
// # Names
//
// A real room's members are of many servers, each of which is asked for its keys
// and then told of every event. So one Server goes by several names, each a port of
// the loopback address with a signing key of its own. The first is the main
// one: its users make the rooms and send the events. All of them answer
// everything, as servers that are in the same rooms do, and each is a notary for
// the others.
//
// # The order of things
//
//  1. Serve, with an authority that the server under test trusts as well
//  2. Server.NewRoom
//  3. a client of the server under test joins Room.ID by way of Server.Name;
//     Room.AwaitJoin tells when and how
//  4. Room.Linear or Room.Branchy, Server.Send
//  5. Room.AwaitEvent, Room.CheckState and Room.CheckMessages
package remote
