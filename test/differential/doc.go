// Package differential compares weft/matrix with a second implementation,
// github.com/matrix-org/gomatrixserverlib, on generated rooms: event IDs, content
// hashes, signatures, redactions, verdicts of the authorization rules, and resolved
// state. It is a module of its own, so that the server does not depend on the
// other implementation.
//
// Both are compared directly, and every difference must be one of those below, by
// a test that recognises it (verdicts, in deviations_test.go) or by a model that
// computes it (state, in model.go). So a new difference fails, also one that hides
// behind an old one. Where the two differ the specification (v1.19) wins.
//
// Verdicts, where gomatrixserverlib departs from the text:
//
//   - leaving a room that one is not in is allowed (rule 5.4.1 of version 1)
//   - under an unknown join rule, or "private", those who are invited or joined may
//     join; the text rejects (5.2.6)
//   - the join rule knock_restricted exists in versions 7 to 9 (4.6.1, 4.3.7)
//   - who has knocked may not join when the rule has become "public"; the text
//     allows (4.3.6)
//   - who has the ban level may unban; the text wants the kick level, and more power
//     than the target's, too (5.4.4)
//   - in power levels, changes of users_default are not checked (10.3), and an entry
//     that is absent from events, users or notifications counts as if it held the default
//     (10.4 to 10.7); so do absent single values
//
// State of versions 1 to 11, where gomatrixserverlib departs from the text:
//
//   - where the partial state lacks a key, the text takes the event's own auth event;
//     there the event itself is put under its own key instead
//   - the power ordering is built from its end, so that among events that do not
//     depend on each other another order comes out; events that are listed twice
//     are moved to the front
//   - only what is conflicted, not what is in the auth difference, is drawn in from
//     the auth chains of power events
//   - a sender in a room without power levels has level 0, also the creator
//   - events off the mainline count as if on its oldest event, and the number of
//     steps to the mainline decides before the time does
//   - the join rule that it looks at after a restricted join is the one it made up for
//     that join, as long as the next event is judged by the same join rules
//   - its verdicts, as above
//
// State of version 12: gomatrixserverlib starts from an empty state without the
// create event, which auth_events do not name there, and so fails (it panics, or
// drops what is conflicted; TestVersion12 shows both). There Weft is compared with
// the text, and a run of the text with gomatrixserverlib's verdicts is counted.
package differential
