// Package pushrules decides what an event does for a user: notify, highlight, with
// which tweaks.
//
// A user's rules are compiled once (Compile) and then asked about many events. What a rule
// reads of an event is the same for all users, so an Event remembers what was looked up:
// a room's members are judged one after another, and the event is taken apart once. What
// differs from user to user (the display name) or costs queries (member
// count, power levels) comes from small functions that are called only when a rule asks.
//
// The package does no I/O.
package pushrules
