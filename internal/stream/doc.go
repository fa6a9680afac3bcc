// Package stream numbers what clients can see.
//
// Each kind of change (events, receipts, to-device messages, …) is a stream with one counter row. A writer
// takes its positions with Advance, inside the transaction that writes the rows, as its last act but the rows
// themselves: the counter row stays locked until the commit, so the next writer gets its positions only
// when the earlier ones are committed or rolled back (then they are given out again). That is the whole trick:
// position N visible means that all below N are visible, and the positions have no holes. A database
// sequence, or the row numbers of a table, would not give that: a transaction with a lower number may commit
// after one with a higher number, and a reader that has seen the higher would never see the lower.
//
// The lock makes the writers of one stream wait for each other's commits; so they go through a sqldb.Group,
// where those that wait share the next commit.
//
// A reader takes Position and its rows in one View, or takes Position first and then the rows up to it. Rows
// read outside of a View may already lie beyond the position that was read before: a bound in the query keeps
// the pages of a client consistent.
package stream
