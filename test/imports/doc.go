// Package imports holds the rules of the repository that a compiler does not
// check: which package may import which, and that every package says why it is
// as it is. Each rule gives its reason when it fails.
package imports
