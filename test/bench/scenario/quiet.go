//go:build !race

package scenario

// settleShare is the share of one CPU below which a server counts as quiet.
const settleShare = 0.04
