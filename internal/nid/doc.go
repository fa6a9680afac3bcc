// Package nid names the integers that stand for long strings in the database.
//
// An event ID is 44 bytes of text, a room ID and a user ID up to 255; they occur
// in every row, index, cache and state map. Each is stored once and replaced by
// a 64-bit number, its NID. The kinds are distinct Go types, so that a room's
// number cannot be passed where an event's is expected.
//
// NIDs are local to one database: they never leave the server, and no meaning
// hangs on their order. Zero is never a NID; it means "none".
//
// The numbers of the event types that the protocol itself knows are fixed here,
// so that code can name them without a lookup; the first migration of the event
// store inserts the same list, and a test compares the two.
package nid
