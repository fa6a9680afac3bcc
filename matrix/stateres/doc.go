// Package stateres resolves the states of a room's branches into one: the
// algorithms of room version 1, of versions 2 to 11, and of version 12 (2.1).
//
// Cost. A room's state may have 100,000 entries of which two branches differ in
// three. So the entry that matters, ResolveConflicted, is given what differs, and
// a function that looks up single keys of what does not; it never sees the
// unconflicted state as a whole. Resolve takes whole maps, for tests and small
// callers.
//
// The auth difference is the costly part. By its definition it needs the auth
// chains of every event of every state. Three observations make it small:
//
//  1. The chains of unconflicted events are in all states' chains. So only chains
//     of conflicted events are walked, and when the walk comes to an unconflicted
//     event, that event and all its ancestors are known to be common.
//  2. An event that was reached from all sides is common, and so are its ancestors.
//  3. If events are taken in an order in which no event comes before those that
//     name it, then the walk can stop as soon as all events that wait are common:
//     nothing below them can be part of the difference.
//
// The depth field of events would give such an order if it were true, but whoever
// writes an event chooses its depth. So it is not used at all, except where the
// algorithm of version 1 says so. The order comes from the caller (Input.Order): a
// server that stores an event only after its auth events knows one. Each edge that
// is walked is held against the order, and when one contradicts it, or there is no
// order, the chains of the conflicted events are walked to their ends, which needs
// no order, costs more and gives the same.
//
// What remains is an event that is part of the chain of an unconflicted event
// which the walk did not meet. In a room whose branches fork from one history this
// does not happen: state events of the same key name their predecessors, except
// for join rules and third-party invites, of which the unconflicted join rules are
// walked too. It takes a branch that was resolved away before, and then named by
// events on the other side. To be exact also then the caller can answer for these
// few candidates (Input.InUnconflictedChain); Resolve does.
//
// Three doubts about the text, decided as all known servers decide them, because
// another reading splits rooms: unconflicted events are never part of the auth
// difference, though the auth chain of a single event does not hold the event
// itself; the auth chain of a power event is followed within the full conflicted
// set only; power levels and join rules are power events only with an empty state
// key. In version 2.1 unconflicted events do belong to the conflicted state
// subgraph, as its definition and purpose say.
//
// Resolution is a pure function of the states: neither the order of sides nor that
// of arrival matters, and tests try permutations of both.
package stateres
