// Package api is the contract of the sync API towards other components: the
// ephemeral and per-user things that other servers report.
package api
