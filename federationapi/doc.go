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
package federationapi
