package event

import (
	"encoding/base64"
	"unicode/utf8"

	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// checkFormat checks an event against the format of its room version: which
// members must be there, of which type, within which limits. What the content
// must hold is the business of the authorisation rules.
//
// spec: rooms/v1, v3, v4, v6, v11, v12 (Event format)
func (l *layout) checkFormat(json []byte, r *Rules) error {
	if err := l.checkObjects(json); err != nil {
		return err
	}
	if err := l.checkText(json, r); err != nil {
		return err
	}
	if err := l.checkRoomID(json, r); err != nil {
		return err
	}
	if r.EventIDFormat == EventIDInBody {
		if err := l.checkEventID(json); err != nil {
			return err
		}
	}
	depth, err := l.integer(json, fieldDepth, "depth")
	if err != nil {
		return err
	}
	if depth < 0 || depth > r.MaxDepth {
		return merr.BadJSON("depth must be between 0 and %d, not %d", r.MaxDepth, depth)
	}
	if _, err := l.integer(json, fieldOriginServerTS, "origin_server_ts"); err != nil {
		return err
	}
	if err := checkParents("prev_events", l.at[fieldPrevEvents].of(json), MaxPrevEvents, r.EventFormat); err != nil {
		return err
	}
	return checkParents("auth_events", l.at[fieldAuthEvents].of(json), MaxAuthEvents, r.EventFormat)
}

// checkObjects checks content, hashes and signatures.
func (l *layout) checkObjects(json []byte) error {
	for _, o := range [...]struct {
		field field
		name  string
	}{{fieldContent, "content"}, {fieldHashes, "hashes"}, {fieldSignatures, "signatures"}} {
		if v := l.at[o.field]; !v.present() || json[v.start] != '{' {
			return mustBe(o.name, "an object")
		}
	}
	for c := canonical.Object(l.at[fieldSignatures].of(json)); c.Next(); {
		if c.Value()[0] != '{' {
			return mustBe("each member of signatures", "an object")
		}
		for k := canonical.Object(c.Value()); k.Next(); {
			if k.Value()[0] != '"' {
				return mustBe("each signature", "a string")
			}
		}
	}
	return nil
}

// checkText checks type, state_key, sender and redacts.
func (l *layout) checkText(json []byte, r *Rules) error {
	if err := l.checkString(json, fieldType, "type", true); err != nil {
		return err
	}
	if err := l.checkString(json, fieldStateKey, "state_key", false); err != nil {
		return err
	}
	if err := l.checkString(json, fieldSender, "sender", true); err != nil {
		return err
	}
	sender, _ := canonical.String(l.at[fieldSender].of(json))
	if _, err := id.ParseUser(sender); err != nil {
		return merr.BadJSON("sender: %v", err)
	}
	if r.RedactsInContent {
		return nil
	}
	return l.checkString(json, fieldRedacts, "redacts", false)
}

// checkString checks that a member is a string of at most MaxFieldSize bytes.
func (l *layout) checkString(json []byte, f field, name string, required bool) error {
	v := l.at[f]
	if !v.present() {
		if required {
			return merr.BadJSON("%s is missing", name)
		}
		return nil
	}
	s, ok := stringBytes(v.of(json))
	if !ok {
		return mustBe(name, "a string")
	}
	if s > MaxFieldSize {
		return merr.TooLarge("%s has %d bytes, more than %d", name, s, MaxFieldSize)
	}
	return nil
}

// stringBytes is how many bytes a canonical string stands for.
func stringBytes(value []byte) (int, bool) {
	if len(value) < 2 || value[0] != '"' {
		return 0, false
	}
	n := 0
	for i := 1; i < len(value)-1; n++ {
		switch {
		case value[i] != '\\':
			i++
		case value[i+1] == 'u':
			i += 6
		default:
			i += 2
		}
	}
	return n, true
}

// checkRoomID checks the room ID against what the version says of its form.
//
// spec: appendices §4.3.2 (Room IDs); rooms/v12 (Event format)
func (l *layout) checkRoomID(json []byte, r *Rules) error {
	v := l.at[fieldRoomID]
	if !v.present() {
		if typ := l.at[fieldType].of(json); r.RoomIDIsCreateHash && string(typ) == `"`+typeCreate+`"` {
			return nil
		}
		return merr.BadJSON("room_id is missing")
	}
	if err := l.checkString(json, fieldRoomID, "room_id", true); err != nil {
		return err
	}
	s, _ := canonical.String(v.of(json))
	room, err := id.ParseRoom(s)
	if err != nil {
		return merr.BadJSON("room_id: %v", err)
	}
	// A create event of version 12 with a room_id is of the right format and is
	// rejected by authorisation rule 1.2.
	switch {
	case !r.RoomIDIsCreateHash && room.Server() == "":
		return merr.BadJSON("room_id must have a domain in this room version: %q", s)
	case r.RoomIDIsCreateHash && !isHash(s[1:]):
		return merr.BadJSON("room_id must be the hash of the create event in this room version: %q", s)
	}
	return nil
}

// isHash reports whether s is a SHA-256 hash in URL-safe unpadded Base64.
func isHash(s string) bool {
	if len(s) != base64.RawURLEncoding.EncodedLen(32) {
		return false
	}
	var buf [33]byte
	_, err := base64.RawURLEncoding.Decode(buf[:], []byte(s))
	return err == nil
}

// checkEventID checks the event ID of versions 1 and 2.
//
// spec: rooms/v1 (Event IDs)
func (l *layout) checkEventID(json []byte) error {
	if err := l.checkString(json, fieldEventID, "event_id", true); err != nil {
		return err
	}
	s, _ := canonical.String(l.at[fieldEventID].of(json))
	eid, err := id.ParseEvent(s)
	if err != nil {
		return merr.BadJSON("event_id: %v", err)
	}
	if eid.Server() == "" {
		return merr.BadJSON("event_id must have a domain in this room version: %q", s)
	}
	return nil
}

// checkParents checks prev_events or auth_events.
func checkParents(name string, list []byte, most int, f EventFormat) error {
	if len(list) < 2 || list[0] != '[' {
		return mustBe(name, "a list")
	}
	n := 0
	for c := canonical.Array(list); c.Next(); n++ {
		if n >= most {
			return merr.BadJSON("%s must not have more than %d entries", name, most)
		}
		value := c.Value()
		if f == FormatPairs {
			var ok bool
			if value, ok = firstOfPair(value); !ok {
				return mustBe("each entry of "+name, "a pair of event ID and hashes")
			}
		}
		if !validEventID(value) {
			return mustBe("each entry of "+name, "an event ID")
		}
	}
	return nil
}

// firstOfPair takes the event ID out of an [event ID, {"sha256": …}] pair.
func firstOfPair(value []byte) ([]byte, bool) {
	c := canonical.Array(value)
	if !c.Next() {
		return nil, false
	}
	first := c.Value()
	if !c.Next() || c.Value()[0] != '{' {
		return nil, false
	}
	return first, !c.Next()
}

// validEventID is id.ParseEvent for a canonical string, without the copy for the
// usual form: a hash.
func validEventID(value []byte) bool {
	if len(value) == 2+1+43 && value[0] == '"' && value[1] == '$' && plainASCII(value[2:45]) {
		return true
	}
	s, ok := canonical.String(value)
	if !ok {
		return false
	}
	_, err := id.ParseEvent(s)
	return err == nil
}

// plainASCII reports whether s has only ASCII letters, digits and signs, and no
// backslash or colon.
func plainASCII(s []byte) bool {
	for _, c := range s {
		if c <= ' ' || c >= utf8.RuneSelf || c == '\\' || c == ':' {
			return false
		}
	}
	return true
}
