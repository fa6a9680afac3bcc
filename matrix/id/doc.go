// Package id holds Matrix identifiers: users, rooms, room aliases, events,
// servers, devices and signing keys, with their grammars.
//
// Each kind is a string type of its own, so that a room ID cannot be passed
// where a user ID is meant, and so that it costs nothing to store or compare.
// A value of one of these types is not checked by its type: text that comes
// from outside goes through the Parse function of its kind once, at the door,
// and is trusted from there on. The accessors (Localpart, Server) therefore
// never fail; on text that was not checked they return what stands there, or
// nothing.
//
// Two grammars exist for user IDs. ParseUser accepts the historical one, which
// every server must accept from elsewhere; NewUser insists on the current one,
// which every server must follow when it makes an ID.
//
// spec: appendices §4 (Identifier Grammar)
package id
