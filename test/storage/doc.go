// Package storage measures what a server keeps on disk. It fills the database of a whole
// server through its HTTP interfaces, as clients and other servers do, and prints what
// each table takes, for a message and for a membership change, before and after the
// upkeep. A small load is a test and holds the limits; `make storage` measures the
// large one, whose figures stand in docs/storage.md.
package storage
