// Package merr holds the error that a Matrix client or server sees: an HTTP
// status together with an errcode and a message.
//
// It is one value because the two must agree: a status chosen in one place and
// an errcode in another drift apart. It lives at the bottom of the tree so that
// every layer, the pure protocol core included, can return such an error, and
// it is plain data so that it survives a trip between processes: errors.Is
// compares codes, not pointers.
package merr
