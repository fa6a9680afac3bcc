// Package api is the contract of the federation API towards other components:
// what is to be sent to other servers beside events, which its sender finds in
// the event stream by itself.
package api
