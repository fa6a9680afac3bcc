// Package upkeep keeps the database from growing: it runs, in the background, the
// tasks by which components remove what has had its time.
//
// A component says what goes and after how long (a Task); the Keeper of the process runs
// the tasks one at a time, each when it is due, counts what they removed, and gives the
// free pages of a SQLite file back. One at a time, because there is no hurry,
// and because the one writer of SQLite belongs to clients.
//
// # Rules for tasks
//
// A task works in short transactions (Delete and Each cut the work up and leave pauses) and
// removes only what no client can still see, so that nobody notices when it runs. It may be
// interrupted anywhere; the next run does what is left. Several nodes may run the same
// task at the same time. Time comes from the component's clock.
package upkeep
