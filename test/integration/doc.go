// Package integration starts real servers, as processes with TLS and a
// certificate authority of their own, and drives them with a real client that
// encrypts (mautrix-go with its Go implementation of Olm, build tag goolm).
//
// It is a module of its own, so that the server's go.mod does not name what
// only its tests need.
package integration
