// Package discovery finds where a Matrix server is to be reached: it turns a
// server name into addresses to dial, the name its certificate must carry and
// the Host header to send.
//
// The order of the steps is the specification's, and each result says which
// step made it, so that tests and log lines can name it. Names are only resolved
// to IP addresses when a connection is dialled (the dialer checks each
// address against a guard.Policy), so a Result holds host names and ports.
//
// Two caches hold what the network said: one of .well-known answers (by their
// HTTP caching headers, within bounds; failures with growing pauses) and one of
// SRV answers (by their TTL, within bounds). A Result is put together from
// both on each call, so nothing is kept longer than its source allows.
//
// SRV lookups are made with miekg/dns because the standard library hides TTLs.
// Address lookups stay with the standard library: it reads the hosts file and
// the machine's search rules, which operators expect to work.
package discovery
