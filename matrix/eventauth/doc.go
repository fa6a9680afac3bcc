// Package eventauth decides whether an event is allowed: the authorization rules
// of room versions 1 to 12, one readable step per numbered rule.
//
// The numbers of the rules differ between room versions, because a version that
// adds or removes a rule moves those after it. So a rule has a name here (a Step),
// and its number is found in the outline of the version (outline.go), which is
// built in the order of the prose from what event.Rules says. A decision names
// the step that made it, whether it allowed or rejected; RuleError carries the
// number, and so do the tests.
//
// The numbers are those of the rendered lists. In the text of version 12 two
// numbers are written by hand and jump (3.5 after 3.3, a second 10.10); rendered,
// and here, they are 3.4 and 10.11.
//
// Check decides against a state, CheckAuthEvents the rule about the event's own
// auth_events; receiving a PDU needs both. Everything is pure: signatures of
// events are verified by matrix/event before, only those of third-party invites,
// which are part of the rules, are verified here.
//
// Where the prose leaves a choice the code says "spec?" and takes what the
// servers of the federation do, because a verdict that only one server holds
// splits rooms.
package eventauth
