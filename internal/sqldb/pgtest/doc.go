// Package pgtest makes temporary PostgreSQL clusters for tests and measurements out of the installed programs.
//
// A cluster is reachable by a Unix socket only. It is a child of a small shell script that waits for the end of its
// standard input, a pipe that this process holds: however the process ends (return, panic, time limit, SIGKILL), the kernel
// closes the pipe, and the script stops the cluster and removes its files.
package pgtest
