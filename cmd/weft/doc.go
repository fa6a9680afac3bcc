// Command weft is a Matrix homeserver and the tools of its operator.
//
// It holds no logic of its own: flags become a configuration, and package
// setup does the rest.
package main
