// Package spaces describes rooms to those outside: a room's summary, and the
// children of a space in the order in which they are shown.
//
// Clients ask for it (room_summary, hierarchy), and so do other servers (hierarchy);
// what a client is told of a room that this server is not in comes from
// another server. So the forms are here once, with what reads them from the event store and
// what checks them when they come over the network. Who may see a room is not decided
// here: that depends on who asks.
package spaces
