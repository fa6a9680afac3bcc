// Package xmatrix writes and reads the X-Matrix authorization scheme by which
// servers sign their requests to each other.
//
// It is pure: no clock, no network, no key store. The client uses it to sign,
// the key ring uses it to verify, and both need the same idea of what is
// signed.
//
// The writer keeps to the narrow form that old servers understand (every value
// quoted, lower-case names, no spaces around commas, no backslashes); the
// reader takes the whole grammar of RFC 9110 and the deviations the
// specification asks for.
package xmatrix
