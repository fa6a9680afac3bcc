// Package natsbus spreads the messages of package bus between the processes of a cluster, and carries calls between
// them, over NATS. A process that is alone has a bus.Local and never starts this package.
//
// By default each node embeds a nats-server that has one port only, for routes to the other nodes. Routes are TLS
// with one certificate that all nodes share: it is the only one that either side accepts, so whoever lacks its key
// is no part of the cluster. The node's own client sits in the same process and needs no port. Alternatively the
// nodes share a NATS that the operator runs; then only the client is here, and the name of the cluster in every
// subject keeps clusters apart.
//
// NATS delivers over one hop: a message reaches the nodes that this node has a route to. SetPeers says which those
// should be, from the membership table; nodes also tell each other about nodes. A route that breaks is tried again
// each second for as long as its peer is named.
//
// A message of the bus goes to the local subscribers at once, and then into a bounded queue from which one goroutine
// feeds NATS. So a publisher never waits for a network, messages of one publisher keep their order, and what does
// not fit is lost and counted, the oldest first. That is the contract of package bus: nothing depends on a message.
//
// A call (Request, Handle) goes to one node by name. Deadlines travel as the time that is left, since clocks differ;
// a caller that gives up says so, and the handler's context ends. What cannot be served now is refused rather than
// kept: no such node, a full queue and too much data are errors of their own. A call is made at most once; whether
// it was carried out is unknown when it ends by its deadline. A connection that breaks loses what is on it, without a word: Check
// asks a node for the calls that it should have, and so finds those that are lost; and it tells the node that they are still wanted, so that
// a handler knows for how long it has not heard that (Wanted).
//
// What waits for the same place goes in one frame (frame.go), for a NATS message has its price; calls that are many and short
// wait for each other (Bus.Gather).
//
// Subjects:
//
//	weft.1.<cluster>.bus                  messages of the bus
//	weft.1.<cluster>.node.<node>          calls to a node
//	weft.1.<cluster>.reply.<random>.<n>   answers to a process
//
// where 1 is the version of the wire.
package natsbus
