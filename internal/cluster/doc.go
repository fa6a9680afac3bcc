// Package cluster knows which nodes there are, and which of them owns what.
//
// All nodes of a cluster share one database, and each has a row in it that it rewrites every Beat with a higher
// number (its heartbeat), after which it reads the rows of all. Nothing else is needed to join.
// The database should be a handle with a connection of its own (sqldb.DB.Apart): a heartbeat that waits until others have
// done their work with theirs says that a node is dead which is busy.
//
// # Time
//
// No two clocks are compared. An observer remembers, by its own monotonic clock, when it last saw the number of
// another node change; when that is longer ago than DeadAfter, the node is dead to this observer. A row that is new to
// it has the benefit of the doubt, and so have all rows when it has not looked for longer than LeaseTime:
// after an outage of the database nobody has seen anybody, and that says nothing.
//
// A node holds a lease for LeaseTime, counted from the start of its last heartbeat that was written and read
// to the end. Without it the node owns nothing, and it finds out in the call of Owns itself, so a process that
// was frozen does not act on what it knew before. LeaseTime is shorter than DeadAfter: the lease of a node is over
// before another counts it out. A monotonic clock that stops while a machine is suspended hides that time.
//
// # Ownership
//
// Each key of a component belongs to one of the live nodes that run the component and are not leaving, found by
// rendezvous hashing: the node for which a hash of component, key and node is highest. Who joins or leaves moves only
// its own share. A node that joins, or was away for longer than DeadAfter, owns nothing for another LeaseTime: by then each
// other node has read its row or has lost its own lease. So of two nodes that own something, each sees the other, and
// they do not both own one key while their clocks run at the same rate. Meanwhile nobody owns the share that moves, but
// Owner names its new owner already.
//
// Rooms are owned in RoomShares shares (RoomShare, ShareKey), which are dealt out so that no node has more than its part: chance
// would give one of four a quarter more than it should have. Two nodes that do not know yet of the same
// others can both believe to own a share, until their next heartbeat.
//
// Ownership saves work, it does not guard data. A process can be stopped between asking and acting; what
// must not happen twice is decided by the database.
package cluster
