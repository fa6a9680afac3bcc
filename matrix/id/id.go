package id

import (
	"strings"
	"unicode/utf8"

	"weft/matrix/merr"
)

// MaxLength is the longest identifier in bytes, sigil and domain included.
//
// spec: appendices §4.3 (user IDs, room IDs, aliases, event IDs: 255 bytes)
const MaxLength = 255

type (
	// User is a user ID: "@localpart:server".
	User string
	// Room is a room ID: "!opaque:server", or "!hash" from room version 12 on.
	Room string
	// RoomAlias is a room alias: "#localpart:server".
	RoomAlias string
	// Event is an event ID: "$opaque:server" in room versions 1 and 2, "$hash" later.
	Event string
	// Device is a device ID: opaque text chosen by a client or server.
	Device string
)

// Localpart is the text between the sigil and the first colon.
func (u User) Localpart() string { return localpart(string(u)) }

// Server is the text after the first colon: the server that the user belongs to.
func (u User) Server() Server { return Server(domain(string(u))) }

// IsCompliant reports whether the localpart has no characters outside U+0021 to
// U+007E and is not empty. IDs that are not compliant must be accepted in events
// but should not be given to clients outside of one.
//
// spec: appendices §4.3.1 (Historical User IDs)
func (u User) IsCompliant() bool {
	l := u.Localpart()
	for i := range len(l) {
		if l[i] < 0x21 || l[i] > 0x7e {
			return false
		}
	}
	return l != ""
}

// Server is the text after the first colon: the server that made the room. It is
// empty for rooms of version 12 and later.
func (r Room) Server() Server { return Server(domain(string(r))) }

// Localpart is the text between the sigil and the first colon.
func (a RoomAlias) Localpart() string { return localpart(string(a)) }

// Server is the text after the first colon: the server that owns the alias.
func (a RoomAlias) Server() Server { return Server(domain(string(a))) }

// Server is the text after the first colon: the server that made the event. It
// is empty for events of room version 3 and later.
func (e Event) Server() Server { return Server(domain(string(e))) }

func localpart(s string) string {
	if s == "" {
		return ""
	}
	if i := strings.IndexByte(s, ':'); i > 0 {
		return s[1:i]
	}
	return s[1:]
}

func domain(s string) string {
	if i := strings.IndexByte(s, ':'); i >= 0 {
		return s[i+1:]
	}
	return ""
}

// ParseUser checks a user ID by the historical grammar: the localpart may hold
// any code points but ':' and NUL, and may be empty.
//
// spec: appendices §4.3.1 (Historical User IDs)
func ParseUser(s string) (User, error) {
	if err := check("user ID", s, '@'); err != nil {
		return "", err
	}
	if err := checkDomain("user ID", s); err != nil {
		return "", err
	}
	return User(s), nil
}

// NewUser makes a user ID by the current grammar: a localpart of one or more of
// a-z, 0-9 and ._=-/+. The error is M_INVALID_USERNAME.
//
// spec: appendices §4.3.1 (User Identifiers)
func NewUser(localpart string, server Server) (User, error) {
	if localpart == "" {
		return "", merr.InvalidUsername("a user ID's localpart must not be empty")
	}
	for i := range len(localpart) {
		if !isUserChar(localpart[i]) {
			return "", merr.InvalidUsername("a user ID's localpart may only hold a-z, 0-9 and ._=-/+, not %q", localpart)
		}
	}
	s := "@" + localpart + ":" + string(server)
	if len(s) > MaxLength {
		return "", merr.InvalidUsername("the user ID has %d bytes, more than %d", len(s), MaxLength)
	}
	return User(s), nil
}

func isUserChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("._=-/+", c) >= 0
}

// ParseRoom checks a room ID of any room version: with a domain, or without one.
//
// spec: appendices §4.3.2 (Room IDs)
func ParseRoom(s string) (Room, error) {
	if err := check("room ID", s, '!'); err != nil {
		return "", err
	}
	if err := checkOpaque("room ID", s); err != nil {
		return "", err
	}
	return Room(s), nil
}

// ParseRoomAlias checks a room alias.
//
// spec: appendices §4.3.3 (Room Aliases)
func ParseRoomAlias(s string) (RoomAlias, error) {
	if err := check("room alias", s, '#'); err != nil {
		return "", err
	}
	if err := checkDomain("room alias", s); err != nil {
		return "", err
	}
	// spec?: the grammar does not say that an alias must have a localpart; "#:server"
	// names nothing a person could type, so it is refused.
	if s[1] == ':' {
		return "", merr.InvalidParam("a room alias must have a localpart: %q", s)
	}
	return RoomAlias(s), nil
}

// ParseEvent checks an event ID of any room version: with a domain, or without
// one. Whether the opaque part is a hash is the business of the room version.
//
// spec: appendices §4.3.4 (Event IDs)
func ParseEvent(s string) (Event, error) {
	if err := check("event ID", s, '$'); err != nil {
		return "", err
	}
	if err := checkOpaque("event ID", s); err != nil {
		return "", err
	}
	return Event(s), nil
}

// check tests what all identifiers with a sigil have in common.
func check(kind, s string, sigil byte) error {
	switch {
	case s == "" || s[0] != sigil:
		return merr.InvalidParam("a %s must start with %q: %q", kind, sigil, shorten(s))
	case len(s) > MaxLength:
		return merr.InvalidParam("a %s must not have more than %d bytes, this one has %d", kind, MaxLength, len(s))
	case strings.IndexByte(s, 0) >= 0:
		return merr.InvalidParam("a %s must not hold NUL", kind)
	case !utf8.ValidString(s):
		return merr.InvalidParam("a %s must be valid UTF-8: %q", kind, s)
	}
	return nil
}

// checkDomain demands a valid server name after the first colon.
func checkDomain(kind, s string) error {
	i := strings.IndexByte(s, ':')
	if i < 0 {
		return merr.InvalidParam("a %s must have a domain: %q", kind, s)
	}
	if _, err := ParseServer(s[i+1:]); err != nil {
		return merr.InvalidParam("the domain of the %s %q is no valid server name", kind, s)
	}
	return nil
}

// checkOpaque demands something before the first colon, and a valid server name
// after it if there is one.
func checkOpaque(kind, s string) error {
	if len(s) == 1 || s[1] == ':' {
		return merr.InvalidParam("a %s must not be empty: %q", kind, s)
	}
	if strings.IndexByte(s, ':') >= 0 {
		return checkDomain(kind, s)
	}
	return nil
}

// shorten bounds what an error message repeats of a text of any length.
func shorten(s string) string {
	if len(s) > MaxLength {
		return strings.ToValidUTF8(s[:MaxLength], "") + "…"
	}
	return s
}
