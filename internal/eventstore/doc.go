// Package eventstore holds the events and the state of rooms: the tables, and a
// library that reads them.
//
// # Who may do what
//
// Any component reads through a Reader, straight from the database: events and
// state are immutable, so no component needs a copy of them or a call to their
// owner. Only the room server writes, through the
// package eventstore/write below this one.
//
// # What is stored
//
// One row per event: its JSON, compressed with a dictionary (codec.go); its place
// in the room (depth, stream position); the root of the state before it; the numbers of its
// auth events, so that auth chains are walked without decoding JSON. Strings
// that repeat are numbers (package nid). State is a tree whose nodes are rows
// (package statetree). Beside that stand tables that answer in one lookup what could be
// derived: the members of the current state, the servers in a room, the history of
// local users' memberships.
//
// Stream positions come from the stream "events"; what backfill brings in
// has negative positions from a counter of its own, so that no sync takes it for new.
// Outliers (events of which we know no place in the room) have none.
//
// # What may be cached
//
// The Reader caches what can never change: what a NID stands for, the parsed
// event (its JSON never changes), its redacted form, and tree nodes. The columns
// that can change are read each time: flags (a rejected event may later be
// accepted), the stream position and the state before (an outlier may find its place), and
// redacted_by. They are small, and one query fetches them for a whole page. A room's row is
// never cached either; of a room only its ID and version are, and those not while
// it is a stub (a room known from an invite alone), whose version rests on
// what another server said.
//
// Nothing that a rolled-back transaction wrote can reach the caches: NIDs are
// reserved in transactions of their own and never handed out twice, and a Reader
// that looks into an unfinished transaction (see Uncommitted) fills no cache.
//
// # What read replicas serve
//
// Of what may be cached, that which is named by what it holds or by a number that is never given twice, and by no statement
// updated (replicas.go): the JSON of events, state nodes, and the text of event types and state keys. It does not matter then how
// old the replica is, and what it lacks is asked of the primary.
//
//   - Of an event's row only the JSON is taken, which is most of it. The other columns come from the primary, at the same time, auth_nids too: those of
//     an event that was stored before some of its auth events are completed later (see Forget), and the old list would
//     stay in the cache. So an event that was deleted does not come back, and the ID must be the same in both.
//   - A state node that a sweep removed may be read from a replica, as from the cache of a process: the roots come from rows of the primary or from
//     a writer's memory, which the sweep respects (package write). Written again, it is the same node under the same hash.
//   - Event types and state keys are never removed. Numbers are asked for only by who has read them in a row of the primary or in a state node.
//   - That there is no such row is never learned from a replica. Nor are numbers looked up there by text or ID.
//
// Events that came within the last second or two are not asked of a replica at all, so that nobody asks in vain for what another process has just
// written. Snapshot, Uncommitted and Primary give Readers that use none.
//
// # Every list in batches
//
// Methods that take many NIDs make one query per 500 of them. Methods that could
// return a whole room's members call a function or take a page size instead.
package eventstore
