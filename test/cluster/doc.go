// Package cluster runs several real processes of the server on one PostgreSQL database, gives them a load and bad weather,
// and checks afterwards every operation that was acknowledged, in the manner of Jepsen: no event lost, doubled or out of
// order, one transaction ID applied once, no to-device message lost or given twice, one-time keys handed out once, a user name
// given once, /sync without gap or repetition while each request goes to another node.
//
// make test runs what is short. The flag -weather, or make test-cluster, adds each kind of bad weather, and -chaos, or make
// chaos, a run with random faults; docs/reliability.md says what they found. TCP proxies make the faults of networks, signals those
// of processes, and the program in the folder node those that only a process can make itself.
//
// The tests need the installed programs of PostgreSQL and are skipped where there are none.
package cluster
