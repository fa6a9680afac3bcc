// Package sqldbtest runs tests against fresh databases of both kinds.
//
// The first test of a test binary that asks for PostgreSQL makes a temporary cluster without durability (pgtest), which ends
// with the process, and each database is a new one in it. Where there is no PostgreSQL, the tests that need it are skipped
// and say so. NewReplicated gives a test a cluster of its own with a standby.
package sqldbtest
