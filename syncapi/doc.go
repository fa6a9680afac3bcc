// Package syncapi shows users what happens to them: /sync, timelines and single
// events, members, relations, receipts, typing, presence, notification counts.
//
// # A sync at one point
//
// A token is a vector of stream positions (token.go). A sync takes the newest
// vector, and which rooms it concerns, in one snapshot (plan.go); everything after that is read up
// to these positions, so the parts of an answer agree although no transaction is
// held while it is written. State is read from the tree root that the snapshot showed: roots
// never change. What a room's section holds follows from two states and the
// timeline between them (room.go, delta.go), by a comparison of trees that
// costs as much as they differ.
//
// Answers are written room by room, straight to the client. Only until it is known
// whether there is anything to tell is an incremental answer kept in
// memory; afterwards at most one room's page of it is.
//
// # Waking
//
// A request that has nothing to tell waits in the notifier (notifier.go) under its user's name. One
// goroutine turns the bus's wake-ups into users: the local members of rooms that got
// an event, those who share a room with somebody whose devices changed. A wake-up may be lost; so a
// sleeping request looks by itself from time to time, and where other processes write to the database a poller
// looks for all of them (poll.go).
//
// # Several nodes
//
// What a node keeps in memory is right at a position: of the event stream (its tail says what changed), or of another
// one (fence.go: what changed up to the position that a request answers from is forgotten first). The bus makes it
// quick; nothing is wrong when it loses a message.
//
// # What is derived from events
//
// Relations between events and notification counts are derived by a follower of the event
// stream (follower.go), each with a cursor that is stored in the transaction that stores what was
// derived. A sync first lets the follower catch up with the positions it is going to show,
// so that an event is never seen without its notification.
//
// # In memory
//
// Typing and presence are kept in memory, bounded, and spread by the bus. Their positions in
// a token are times, so those of an earlier process are simply old. Where there are several processes, a token
// also names the one that gave these two; another one tells all that it knows, and where typing ended
// (sync.go, foreign). A node says every 20 seconds who syncs there, and nobody else takes those for gone (presence.go).
package syncapi
