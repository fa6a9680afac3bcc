// Package api is the contract of the client API towards other components:
// accounts, sessions, profiles, devices and account data.
package api
