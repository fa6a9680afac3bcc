// Package api is the contract of the room server: the only writer of events
// and room state.
//
// Requests and answers are plain values, so that the same interface works as a
// direct call and over a wire. Reading is not here: events and state are
// immutable and are read straight from the event store (internal/eventstore).
// Errors that a client may see are *merr.Error values.
package api
