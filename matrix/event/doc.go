// Package event holds the events of Matrix rooms as servers exchange them
// (PDUs): their formats in room versions 1 to 12, identifiers, content and
// reference hashes, signatures and redaction.
//
// A room version is a row of Rules that states what changed since the version
// before it (rules.go, redaction_rules.go); the algorithms ask a rule, never a
// version number.
//
// An Event is immutable: it is checked once, when it is parsed, and then shared
// between goroutines without locks. It keeps its JSON as one buffer in canonical
// form. Because the members of a canonical object are sorted, everything that
// is hashed or signed is a few segments of that buffer: the content hash, the
// reference hash and the redacted form are computed by running over the
// segments, and nothing is serialised a second time.
//
// The package does no I/O: keys come from a function, and time is a number.
package event
