// Package clientapi is the client–server HTTP surface apart from what shows a
// user their rooms (syncapi): accounts, devices, access tokens, account data,
// push rules, profiles, room commands, the directory, and the doors to keys,
// key backup and to-device messages.
//
// Who a request comes from is asked on every request, so it is answered from a
// bounded cache of access tokens. Tokens are random and only their SHA-256 is
// kept. A token that ends is taken out of the cache after the commit that ended
// it, here and by the bus on every other node; entries also end by themselves,
// because a bus may lose a message.
//
// Room commands check the shape of a request (the spec's errcodes are about
// shape for the most part) and hand it to the room server, which alone decides
// whether it is allowed. State is read straight from the event store.
package clientapi
