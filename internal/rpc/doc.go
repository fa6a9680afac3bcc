// Package rpc calls a component wherever it runs: in this process, or in another one of the same server.
//
// A component's contract is a Go interface in its api package. There, beside it, stands a type of the same methods that
// is made of Invoke alone; who holds the interface cannot tell the two apart. A Router carries the calls out:
//
//   - a call with a key (a room) goes to the process that owns the key, one without stays in this process where it runs
//     the component, and goes to any that does where it does not
//   - within the process it is an ordinary call, without encoding
//   - between processes arguments and results are CBOR arrays in one message of the bus; what is larger than a message
//     goes through the database (Spill)
//   - an *merr.Error stays what it is, others keep their text
//   - a process that is gone, busy or leaving did not run the call: the next one is asked, until Patience is over.
//     So is one that lives by the database's word and does not answer to three pings: it gets no calls until it does.
//     One that died in the middle may have run it: that is repeated elsewhere only where the call says that twice is once
//   - a call that takes longer than a second is asked about once a second; one that the other process lacks twice in a row is
//     lost, or its answer is, as if the process had died with it
//
// Fields and arguments that the other side does not know are ignored and missing ones are zero, so that two versions
// can run at the same time as long as methods keep their meaning.
package rpc
