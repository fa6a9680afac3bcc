// Package scenario holds what the load driver does to a homeserver. A scenario is a row of Table: its name, what it is, and a
// function that prepares the ground, measures windows of work, and then checks every answer: messages are in the history once and
// in order, waiting syncs got theirs, members are right. What was not as it must be counts as an error of the row.
//
// A window (Meter) holds nothing but the operations that it is named after. Registration, whose cost is a password hash, and
// checks stay outside. A window begins and ends when the server is quiet, so that work which an answer left behind counts where
// it belongs.
package scenario
