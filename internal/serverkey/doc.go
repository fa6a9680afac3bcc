// Package serverkey keeps the server's signing key in a file.
//
// The file holds one line for each key, "ed25519 VERSION SEED", where SEED is
// the 32 bytes of the private key in unpadded base64: the form that other
// homeservers use too, so that a server can move without losing its identity.
// The first line is the key that signs.
package serverkey
