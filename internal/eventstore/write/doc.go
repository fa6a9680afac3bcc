// Package write holds the statements that change the event store. Only the room
// server may import it (a test says so): everyone else reads.
//
// These are primitives. Each does one thing to the tables and keeps what is
// derived in step (counts of members, servers in a room); what belongs together is put
// together by the room server, in one transaction that begins with UpdateRoom,
// the fence of the room.
//
// # Numbers before transactions
//
// A state tree needs the number of an event before the event is stored. So numbers are
// reserved first, in transactions of their own: EventNIDs and RoomNID take
// them from blocks, Intern stores the strings. A number that is reserved and then not
// used is lost, and never handed out a second time; that is what lets readers
// cache what a number stands for.
//
// # Nodes and the sweep
//
// Sweep deletes nodes that no room and no event uses. A writer may use a node that
// it did not write itself, so three things keep the sweep from deleting what a
// commit is about to need:
//
//   - A new root is made by changing a root that is in use, and all nodes that differ
//     are in its batch; InsertNodes marks them with the current epoch even if they were
//     there before. A sweep deletes only nodes older than the epoch before its own.
//   - The sweep raises the epoch first, then marks the current states of all rooms, then
//     the states of all events. A root leaves use only when a room's current state
//     moves on; whoever was computing with it loses the fence, or has stored
//     an event with it before.
//   - The deletion names the epoch again, so a node written in the meantime stays.
//
// What the room server remembers between transactions must obey the same rule: a root
// that no row refers to may be remembered for less than the shortest time between
// sweeps, or its batch must be inserted again.
//
// # Outliers
//
// The same sweep finds outliers that nothing refers to: no state, no auth events, no membership.
// They are what other servers sent of states and auth chains that then led to nothing. An
// outlier is stored ahead of what needs it, and found again by its ID, so it is deleted in two
// steps: the first sweep that finds it unreferenced gives it a flag, the next one deletes it if
// it still has the flag. Who finds an outlier with the flag and may refer to it takes the flag away
// first (Spare), and from all of its auth events; who found it before it had the flag refers to
// it long before the next sweep. An event can be read only as long as its auth events are here
// (eventstore.Parents), so what is kept keeps them, and what goes, goes before them.
package write
