// Package keyring knows the signing keys of other servers: it fetches them,
// checks them, remembers them, and verifies requests and events with them.
//
// # Where a key comes from
//
// Memory, then the KeyStore, then the server itself, then the notaries. A
// response counts only when the server's own keys signed it; one from a notary
// must carry the notary's signature as well, so a notary can withhold keys but
// not invent them. (When an event needs the keys of very many servers at once,
// as in a join, the notaries are asked first, in bulk: most of those servers may
// be long gone, and waiting for each to time out would take an hour.)
//
// # Validity
//
// A current key is valid until the response's valid_until_ts, but never longer
// than seven days from when it was received; an old key until its expired_ts. A
// key that a later response no longer mentions keeps the validity it had. Where
// validity is asked for at a time that lies beyond what is known, the keys are
// fetched anew. Requests are verified with keys that are current now; old keys
// verify events only.
//
// # What an attacker can make us do
//
// Anybody can name a server and a key in a request, and every fetch is a
// request to somebody. So a server is asked at most once in a short while
// whether the answer helped or not, after failures with growing pauses (once a
// minute for requests that bear its name, so that one that is back is not refused
// for an hour), once at a time for all who wait, and everything is kept in bounded
// tables. Who comes during a pause is told how the last question ended.
package keyring
