// Package federationapi speaks to other servers: it answers their requests and
// sends them what happens here.
//
// # Inbound
//
// Every request is signed; httpapi has checked that before a handler runs. A
// request about a room is answered only for a server that is in the room and
// that the room's ACL lets in. Events are read straight from the event store
// and streamed: an answer with 100,000 members is never held in memory.
//
// # Outbound
//
// Events are not copied into queues. A follower reads the event stream from a
// durable cursor and works out, for each event that this server has to send,
// where it goes: to the servers that were in the room at that event, not to those
// that are there by the time the stream is read. A destination that keeps up
// holds a short list of event numbers in memory. One that does not holds nothing
// but its place in the stream: a row with a cursor, from which it is caught up
// when it is back.
//
// What must not be lost is arranged so:
//
//   - The follower's cursor moves only over events that were handed to their
//     destinations and delivered, or for which the destination's row says where
//     to begin again. After a crash it reads some events again and sends them
//     twice, which receivers ignore; it never skips one.
//   - EDUs that matter (to-device messages, device lists) are rows until the
//     destination has answered 200, up to a bound for each.
//   - A transaction that is refused as such (too large, not understood) is sent
//     again in halves, down to the one event or EDU that is to blame. Only that
//     one is dropped, and only where the refusal says that it is about the content.
//
// Destinations are independent: each has its own queue, backoff and at most one
// request under way, and a goroutine only while there is something to send. One
// that keeps up and has nothing to be sent takes no memory and no row. One that
// failed is remembered even when nothing waits for it, so that the next EDU does
// not begin at the shortest pause again; it is probed with the first few events
// that it lacks, so that a server that is gone for good costs one page of the
// stream for each attempt, not all that happened since.
//
// # Several processes
//
// Processes that share a database share the destinations: 16 shards, by the
// server's name, each with a cursor. Shares says whose a shard is, and may be wrong
// for a while. So whoever takes a shard writes a number of its own into the row of the cursor,
// and reads the cursor, the destinations that are behind and those for which EDUs
// wait in the same transaction. From then on the process before it, if it still
// believes or was frozen, cannot move the cursor or touch those rows; when it tries, it finds out, and leaves
// the shard alone for a while. What both sent meanwhile arrived twice, which
// receivers ignore.
//
// A process follows the stream once for all its shards. One that it took at an
// earlier place is read for separately, a page at a time, until it is where the
// others are. One that it gives up has its cursor written at once; a transaction
// that is on its way then may end, and is sent again by the next owner.
//
// The bus carries what saves time: that durable EDUs were stored for another
// process's destination (it also polls), EDUs that may be lost, and that a server that
// fails was heard from.
package federationapi
