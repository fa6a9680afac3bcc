package event

import (
	"encoding/base64"
	"unicode/utf8"

	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// checkFormat checks an event, whose fields were read, against the format of its
// room version: which members must be there, of which type, within which limits.
// What the content must hold is the business of the authorisation rules.
//
// spec: rooms/v1, v3, v4, v6, v11, v12 (Event format)
func (e *Event) checkFormat(l *layout) error {
	if err := l.checkObjects(e.json); err != nil {
		return err
	}
	if err := e.CheckFieldSize(); err != nil {
		fits := func(s string) bool { return utf8.RuneCountInString(s) <= MaxFieldSize }
		if !e.Rules.KeepsWideFields || !fits(e.Type) || !fits(e.StateKey) {
			return err
		}
	}
	if len(e.Sender) > id.MaxLength {
		return tooLong("sender", len(e.Sender))
	}
	if _, err := id.ParseUser(string(e.Sender)); err != nil {
		return merr.BadJSON("sender: %v", err)
	}
	if err := e.checkRoomID(); err != nil {
		return err
	}
	if e.Rules.EventIDFormat == EventIDInBody {
		if err := e.checkEventID(); err != nil {
			return err
		}
	}
	if v := l.at[fieldRedacts]; v.present() && !e.Rules.RedactsInContent && e.json[v.start] != '"' {
		return mustBe("redacts", "a string")
	}
	if e.Depth < 0 || e.Depth > e.Rules.MaxDepth {
		return merr.BadJSON("depth must be between 0 and %d, not %d", e.Rules.MaxDepth, e.Depth)
	}
	if err := checkParents("prev_events", e.PrevEvents, MaxPrevEvents); err != nil {
		return err
	}
	return checkParents("auth_events", e.AuthEvents, MaxAuthEvents)
}

// CheckFieldSize checks the limits of type and state_key. Parse lets some longer ones pass in
// room versions 1 to 10 (Rules.KeepsWideFields); such an event must be rejected.
//
// spec: client-server §9.6 (Size limits)
func (e *Event) CheckFieldSize() error {
	if len(e.Type) > MaxFieldSize {
		return tooLong("type", len(e.Type))
	}
	if len(e.StateKey) > MaxFieldSize {
		return tooLong("state_key", len(e.StateKey))
	}
	return nil
}

func tooLong(field string, n int) error {
	return merr.TooLarge("%s has %d bytes, more than %d", field, n, MaxFieldSize)
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

// checkRoomID checks the room ID against what the version says of its form.
//
// spec: appendices §4.3.2 (Room IDs); rooms/v12 (Event format)
func (e *Event) checkRoomID() error {
	r := e.Rules
	if !e.hasRoomID {
		if r.RoomIDIsCreateHash && e.Type == typeCreate {
			return nil
		}
		return merr.BadJSON("room_id is missing")
	}
	if len(e.RoomID) > id.MaxLength {
		return tooLong("room_id", len(e.RoomID))
	}
	if _, err := id.ParseRoom(string(e.RoomID)); err != nil {
		return merr.BadJSON("room_id: %v", err)
	}
	// A create event of version 12 with a room_id is of the right format and is
	// rejected by authorisation rule 1.2.
	switch {
	case !r.RoomIDIsCreateHash && e.RoomID.Server() == "":
		return merr.BadJSON("room_id must have a domain in this room version: %q", string(e.RoomID))
	case r.RoomIDIsCreateHash && !isHash(string(e.RoomID[1:])):
		return merr.BadJSON("room_id must be the hash of the create event in this room version: %q", string(e.RoomID))
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
func (e *Event) checkEventID() error {
	if len(e.ID) > id.MaxLength {
		return tooLong("event_id", len(e.ID))
	}
	if _, err := id.ParseEvent(string(e.ID)); err != nil {
		return merr.BadJSON("event_id: %v", err)
	}
	if e.ID.Server() == "" {
		return merr.BadJSON("event_id must have a domain in this room version: %q", string(e.ID))
	}
	return nil
}

// checkParents checks prev_events or auth_events.
func checkParents(name string, list []id.Event, most int) error {
	if len(list) > most {
		return merr.BadJSON("%s must not have more than %d entries", name, most)
	}
	for _, e := range list {
		// A hash, the usual form, needs no second look.
		if len(e) == 1+43 && e[0] == '$' && plainASCII(string(e[1:])) {
			continue
		}
		if _, err := id.ParseEvent(string(e)); err != nil {
			return merr.BadJSON("%s: %v", name, err)
		}
	}
	return nil
}

// plainASCII reports whether s has only ASCII letters, digits and signs, and no
// colon.
func plainASCII(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= utf8.RuneSelf || c == ':' {
			return false
		}
	}
	return true
}
