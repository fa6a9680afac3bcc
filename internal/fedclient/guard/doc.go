// Package guard decides which IP addresses this server connects to on behalf
// of others.
//
// Whoever names a server, a media redirect or a preview URL chooses what we
// connect to. Without a check at the moment of dialling they could make us
// speak to the loopback interface, to a cloud's metadata service or to the
// operator's own network. A check of the name beforehand does not help, since a
// name may resolve to something else a moment later; so the check sits in the
// dialer, on the address that the socket is about to be connected to.
package guard
