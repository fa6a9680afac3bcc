// Package httpapi is the machinery under every HTTP endpoint: an endpoint is a
// table row (Route), its handler returns a value or an error, and one place
// reads bodies, authenticates, limits rates, writes answers and logs causes.
//
// Routing: gorilla/mux tries routes one after another, which costs more than
// the work of a cheap request when all of the spec's routes share a router. So
// rows are grouped by what is literal in their path, and each group is a small
// mux router of its own.
package httpapi
