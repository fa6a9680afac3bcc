// Package api is the contract of the key server: device lists, one-time and
// fallback keys, cross-signing, key backup and to-device messages.
package api
