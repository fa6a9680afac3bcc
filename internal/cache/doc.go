// Package cache keeps what is read from the database again and again, and can change there.
//
// Immutable data needs no more than a bounded map. What can change needs care at one point: a reader that read
// the old value must not put it in after the writer has taken it out. So a reader announces itself
// (Load does that), and a change that comes before it is done takes the announcement away.
//
// Writers in this process change or drop entries after their commit. What other processes change is told by the bus, to the
// owner of the cache; an entry lives only for a bounded time, so a lost message costs no more than that.
package cache
