// Package graphtest makes small random rooms for tests: event graphs with forks and
// merges, changes of power, kicks, bans, restricted joins and conflicting state.
//
// The rooms are adversarial in what counts for authorization and state resolution
// (timestamps collide, depths lie, users without the power for it try everything)
// and honest in form: every event is built, hashed and signed as a server would,
// and names the auth events that its state asks for. All randomness comes from one
// function, so that a seed, or a property test that shrinks, makes the same room
// again.
package graphtest
