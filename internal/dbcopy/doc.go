// Package dbcopy copies all tables of one database into another one that has the same tables and nothing in them: from
// SQLite, which one process owns, to PostgreSQL, which several can share.
//
// Both schemas come from the same migrations, so the copy knows no table by name. It reads one snapshot, writes
// in batches, and then reads back what it wrote: the rows of both sides are counted and hashed. A copy that did not end
// leaves the target marked (Unfinished).
package dbcopy
