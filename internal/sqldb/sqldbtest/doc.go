// Package sqldbtest runs tests against fresh databases of both kinds.
//
// PostgreSQL comes from the installed binaries: the first test of a test binary that asks for it makes a temporary
// cluster without durability (fsync=off), reachable by a Unix socket only, and each database is a new one in it.
// The cluster is a child of a small shell script that waits for the end of its standard input, a
// pipe that the test process holds: however that process ends (return, panic, time limit, SIGKILL), the kernel closes
// the pipe, and the script stops the cluster and removes its files. Where there is no PostgreSQL, the tests that
// need it are skipped and say so.
package sqldbtest
