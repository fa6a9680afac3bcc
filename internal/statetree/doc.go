// Package statetree keeps the state of rooms: maps from (event type, state key)
// to event, as persistent, content-addressed radix trees.
//
// # Why a tree
//
// Every event of a room has a state before it, and most differ from their
// neighbour's in one entry or none. Storing each as a list costs O(members) per
// change; storing chains of deltas makes reading slow and comparing slower. A
// persistent tree shares everything that did not change: a change writes one
// leaf and its few ancestors.
//
// # Why canonical
//
// The shape of the tree is a function of the map alone, never of the order of
// changes. So equal maps have equal root hashes, whichever branch of the event
// graph they came from: equality is a comparison of 16 bytes, Diff and
// Conflicts descend only where hashes differ, and the same node is stored once
// for all rooms' histories.
//
// # Shape
//
// A key is 128 bits, the type's number and then the state key's, read as 32
// nibbles. A set of entries is drawn as follows, and in no other way:
//
//   - at most LeafMax entries: one leaf node;
//   - more: one branch node, at the first nibble in which the keys differ (all
//     nibbles before are the branch's prefix), with one child for each nibble
//     that occurs. A child of at most InlineMax entries is written into the branch
//     itself, because a node of its own costs more than the entries do; a greater child
//     is named by its hash and its number of entries.
//
// The count in the branch gives Count without reading, and tells a deletion
// whether what is left must become a leaf again.
//
// Nodes are a versioned compact binary (see codec.go); the name of a node is the
// first 16 bytes of its SHA-256. That is enough against accidents, and the
// numbers inside are chosen by this server, not by an attacker. No node is greater
// than MaxNode bytes.
//
// The package does no I/O: nodes come from a Loader, new nodes are collected in
// a Batch which the caller stores in the same transaction as the root. Roots
// that are empty are the zero Root, which is never stored.
//
// # Collecting garbage
//
// Marker walks from the roots that are in use and remembers the nodes it met in
// a Bloom filter: memory is bounded whatever the number of nodes, and a false
// positive keeps a dead node a little longer, which is harmless. It is not used
// to prune the walk, where a false positive would lose live nodes: pruning
// compares each root with one like it that was marked before, and asks a small exact cache.
package statetree
