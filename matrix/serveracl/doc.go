// Package serveracl applies m.room.server_acl: which servers may take part in a
// room. It is a package of its own because both the room server (for events)
// and the federation API (for requests and EDUs) obey it.
package serveracl
