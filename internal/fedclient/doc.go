// Package fedclient speaks to other Matrix servers: it finds them, dials them,
// signs requests to them and reads their answers.
//
// It is a library under internal, not part of a component, because several
// components need it (federationapi, roomserver and keyserver through
// interfaces of their own, mediaapi) and none of them may import another.
//
// # How a request goes
//
//  1. The circuit of the destination is asked: a server that has just been
//     found dead fails at once, so that a client's request does not wait for it.
//  2. The discovery subpackage turns the server name into endpoints.
//  3. The request is signed (subpackage xmatrix) for the server *name*, whatever
//     the endpoint is.
//  4. The endpoints are tried in order until one accepts a connection. One
//     http.Transport serves all: the pair of dial address and TLS name is spelt
//     in the URL's host part, so its connection pool keeps the pairs apart.
//     Every address is checked against the guard policy while it is dialled.
//  5. The answer is read up to an explicit bound. An answer that is no success
//     becomes a *RemoteError, no answer a *ConnError.
//
// # Bounds
//
// Whatever comes from the network is bounded: time (per request), bytes (per
// response and, in streamed lists, per element), elements, redirects, caches.
// Lists of events that grow with a room (send_join, state, event_auth) are
// handed to a callback one by one and never held as a whole.
//
// # Errors and clients
//
// What another server answers must not reach our own clients unfiltered: a 401
// from there would log them out here. See RemoteError.
package fedclient
