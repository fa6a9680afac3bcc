// Package contract tests what components promise each other: that everything which their interfaces take and return
// arrives unchanged where the component runs in another process.
package contract
