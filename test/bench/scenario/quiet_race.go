//go:build race

package scenario

// settleShare is the share of one CPU below which a server counts as quiet: with the race detector, in the process of the test
// itself, what a server does while nobody asks is ten times as loud.
const settleShare = 0.4
