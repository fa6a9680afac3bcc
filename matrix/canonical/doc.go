// Package canonical reads and writes Matrix's canonical JSON, and signs JSON
// objects with it.
//
// Nearly everything that arrives is canonical already, or nearly so. So the
// package first runs over the bytes once and only asks "is this canonical?":
// no allocation, no copy, eight bytes of a string at a time. Text that passes is
// returned as it came. Only text that does not is read again by the writer
// (rewrite.go), which sorts the members and reports errors. The writer is slower
// and holds all the knowledge of what is wrong; the scanner (scan.go) holds none.
//
// Room versions before 6 allowed what canonical JSON forbids: floats, big
// integers, repeated keys. CanonicalLenient keeps numbers in the form received,
// because hashes were made over that form.
//
// Cursor walks over the members of a canonical object in place; it is what the
// event package builds its hashing on.
//
// spec: appendices §3.1 (Canonical JSON)
package canonical
