// Package setup makes a running server out of a configuration: it opens the
// database, wires the components to each other, listens, and stops in order.
//
// The configuration is one struct (Config). Its tags hold every option's key,
// flag and meaning, so that the parser, `weft config print` and docs/config.md
// cannot disagree. Nothing in here is package state: Run boots a whole server,
// and tests boot many of them in one process.
package setup
