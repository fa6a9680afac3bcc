// Package clientevent makes the JSON of events as clients get them.
//
// A stored event is canonical JSON in the form that servers exchange. Clients
// get another one: without hashes, signatures and parents, but with an event
// ID, and with `unsigned`, which depends on who asks and when. Since nothing of
// an event's content changes on the way, the form is written by copying pieces
// of the stored bytes behind each other (Append); no event is taken apart and
// put together again, which matters because it is the innermost loop of every
// response of /sync and /messages.
//
// What `unsigned` needs from the database (the state that was replaced, the
// redaction, transaction IDs, the asking user's membership) is looked up for a
// whole page of events at once (Load).
package clientevent
