// Package deploy tests what operators start Weft with: the Helm chart, the Compose file, and the commands and options that they and
// docs/deploy.md name.
//
// Nothing is deployed. The chart is linted and rendered with Helm's own engine and decoded strictly into the types of Kubernetes, the
// Compose file is loaded by Compose's own loader, and the configuration that each container would have is given to the built binary,
// which refuses what it does not know. It is a module of its own, so that Helm and Kubernetes never become dependencies of the
// server.
package deploy
