package event

import (
	"crypto/sha256"
	"crypto/subtle"

	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// Limits of events.
const (
	// MaxSize is the size of the largest event in bytes, in canonical form, with its
	// signatures.
	//
	// spec: client-server §9.6 (Size limits)
	// spec?: "complete event" could include `unsigned`, which anybody on the way may
	// change; it is not counted, so that no third party can make an event too large.
	MaxSize = 65536
	// MaxFieldSize bounds type and state_key in bytes; identifiers have the same bound.
	//
	// spec: client-server §9.6 (Size limits): "MUST NOT exceed 255 bytes", for every room version
	// spec?: servers counted code points when they made rooms of versions 1 to 10, whose graphs
	// have such events; see Rules.KeepsWideFields.
	MaxFieldSize = 255
	// MaxPrevEvents and MaxAuthEvents bound the lists of parents.
	//
	// spec: rooms (Event format): "less than or equal to 20 events", "… 10 events"
	MaxPrevEvents = 20
	MaxAuthEvents = 10
	// maxRaw bounds what Parse looks at, before spaces and `unsigned` are taken away.
	maxRaw = 16 * MaxSize
)

// Parse reads an event that came from the network. It brings it into canonical
// form, checks the format of the room version and the size limits, and computes
// the event ID. When the content hash does not match, the event is redacted (see
// Redacted); that is no error. Signatures are not checked: see VerifySignatures.
//
// raw is not kept. The errors are M_NOT_JSON, M_BAD_JSON and M_TOO_LARGE; the
// message names the field.
//
//  1. canonical form, without the members that servers add for themselves
//  2. size of the whole
//  3. fields, grammar, limits
//  4. content hash, else redact
//  5. event ID
//
// spec: server-server §5.1 (Checks performed on receipt of a PDU, 1 and 3)
func Parse(raw []byte, r *Rules) (*Event, error) {
	if len(raw) > maxRaw {
		return nil, merr.TooLarge("the event has %d bytes, more than %d", len(raw), MaxSize)
	}
	whole, err := canonicalise(raw, r)
	if err != nil {
		return nil, err
	}
	var backing [24]member
	l := layout{members: backing[:0]}
	json := l.copyWithout(whole, r.stripped)
	if len(json) > MaxSize {
		return nil, merr.TooLarge("the event has %d bytes, more than %d", len(json), MaxSize)
	}
	e, err := l.read(json, r)
	if err != nil {
		return nil, err
	}
	h := newHasher()
	matches, err := l.contentHashMatches(h, json)
	if err != nil {
		return nil, err
	}
	if !matches {
		json = redactJSON(&l, json, r)
		l.index(json)
		e = &Event{Rules: r, json: json, redacted: true}
		if err := e.fill(&l); err != nil {
			return nil, err
		}
	}
	e.identify(&l, h)
	if u := l.unsigned.of(whole); len(u) > 2 && u[0] == '{' {
		e.unsigned = append([]byte(nil), u...)
	}
	return e, nil
}

// read reads and checks the fields of an event.
func (l *layout) read(json []byte, r *Rules) (*Event, error) {
	e := &Event{Rules: r, json: json}
	if err := e.fill(l); err != nil {
		return nil, err
	}
	if err := e.checkFormat(l); err != nil {
		return nil, err
	}
	return e, nil
}

// identify computes the event ID, and the room ID where that follows from it.
func (e *Event) identify(l *layout, h *sink) {
	if e.Rules.EventIDFormat != EventIDInBody {
		e.ID = eventID(l.referenceHash(h, e.json, e.Rules), e.Rules.EventIDFormat)
	}
	e.deriveRoomID()
}

func (e *Event) deriveRoomID() {
	if e.Rules.RoomIDIsCreateHash && e.Type == typeCreate {
		e.RoomID = roomIDOfCreate(e.ID)
	}
}

// contentHashMatches compares the hash in the event with the computed one.
//
// spec: server-server §27.2 (Validating hashes and signatures on received events)
func (l *layout) contentHashMatches(h *sink, json []byte) (bool, error) {
	text, ok := canonical.String(canonical.Get(l.at[fieldHashes].of(json), "sha256"))
	if !ok {
		return false, merr.BadJSON("hashes.sha256 must be a string")
	}
	want, err := canonical.DecodeBase64(text)
	if err != nil {
		return false, merr.BadJSON("hashes.sha256 is no valid Base64")
	}
	got := l.contentHash(h, json)
	return len(want) == sha256.Size && subtle.ConstantTimeCompare(want, got[:]) == 1, nil
}

// ParseStored reads an event that this server checked before and kept: the JSON of
// an Event and its ID. Nothing is checked again and nothing is hashed. The event
// takes raw over: the caller must not write to it any more. The error says that
// raw is no event at all.
func ParseStored(raw []byte, eventID id.Event, r *Rules) (*Event, error) {
	return build(raw, eventID, r)
}

func build(json []byte, eventID id.Event, r *Rules) (*Event, error) {
	var backing [24]member
	l := layout{members: backing[:0]}
	l.index(json)
	e := &Event{ID: eventID, Rules: r, json: json}
	if err := e.fill(&l); err != nil {
		return nil, err
	}
	e.deriveRoomID()
	return e, nil
}

// fill sets the fields of the event from its JSON. It checks only what it needs
// to read them.
func (e *Event) fill(l *layout) error {
	json, r := e.json, e.Rules
	e.content, e.signatures = l.at[fieldContent], l.at[fieldSignatures]
	var err error
	if e.Type, err = l.typeName(json); err != nil {
		return err
	}
	sender, ok := canonical.String(l.at[fieldSender].of(json))
	if !ok || !e.content.present() {
		return merr.BadJSON("sender must be a string, and content must be there")
	}
	e.Sender = id.User(sender)
	if k := l.at[fieldStateKey]; k.present() {
		e.IsState = true
		// A member event mostly speaks of its sender: the two share their memory.
		if own := l.at[fieldSender]; string(k.of(json)) == string(own.of(json)) {
			e.StateKey = sender
		} else if e.StateKey, ok = canonical.String(k.of(json)); !ok {
			return mustBe("state_key", "a string")
		}
	}
	if e.Depth, err = l.integer(json, fieldDepth, "depth"); err != nil {
		return err
	}
	if e.OriginServerTS, err = l.integer(json, fieldOriginServerTS, "origin_server_ts"); err != nil {
		return err
	}
	if err := e.fillIDs(l); err != nil {
		return err
	}
	if e.Type == typeMember {
		e.membership = membershipOf(canonical.Get(e.Content(), "membership"))
	}
	if e.Type == typeRedaction {
		target := l.at[fieldRedacts].of(json)
		if r.RedactsInContent {
			target = canonical.Get(e.Content(), "redacts")
		}
		s, _ := canonical.String(target)
		e.Redacts = id.Event(s)
	}
	return nil
}

// fillIDs sets what identifies the event, its room and its parents.
func (e *Event) fillIDs(l *layout) error {
	json, r := e.json, e.Rules
	if v := l.at[fieldEventID]; r.EventIDFormat == EventIDInBody && v.present() {
		s, ok := canonical.String(v.of(json))
		if !ok {
			return mustBe("event_id", "a string")
		}
		e.ID = id.Event(s)
	}
	if v := l.at[fieldRoomID]; v.present() {
		room, ok := canonical.String(v.of(json))
		if !ok {
			return mustBe("room_id", "a string")
		}
		e.RoomID, e.hasRoomID = id.Room(room), true
	}
	prev, auth := l.at[fieldPrevEvents].of(json), l.at[fieldAuthEvents].of(json)
	n := countIDs(prev)
	list := make([]id.Event, 0, n+countIDs(auth))
	list, okPrev := appendIDs(list, prev, r.EventFormat)
	n = len(list)
	list, okAuth := appendIDs(list, auth, r.EventFormat)
	if !okPrev {
		return mustBe("prev_events", "a list of event IDs in the room version's form")
	}
	if !okAuth {
		return mustBe("auth_events", "a list of event IDs in the room version's form")
	}
	e.PrevEvents, e.AuthEvents = list[:n:n], list[n:]
	return nil
}

func countIDs(array []byte) int {
	n := 0
	for c := canonical.Array(array); c.Next(); {
		n++
	}
	return n
}

// appendIDs appends the event IDs of a list of parents. All of them share one
// piece of memory.
func appendIDs(list []id.Event, array []byte, f EventFormat) ([]id.Event, bool) {
	if len(array) < 2 || array[0] != '[' {
		return list, false
	}
	shared := string(array)
	for c := canonical.Array(array); c.Next(); {
		start, end := c.ValueStart, c.End
		if f == FormatPairs {
			// [event ID, {"sha256": reference hash}]
			pair := canonical.Array(c.Value())
			if !pair.Next() {
				return list, false
			}
			start, end = start+pair.ValueStart, start+pair.End
			if !pair.Next() || pair.Value()[0] != '{' || pair.Next() {
				return list, false
			}
		}
		text, ok := stringWithin(shared[start:end])
		if !ok {
			return list, false
		}
		list = append(list, id.Event(text))
	}
	return list, true
}

// stringWithin is canonical.String for text that is a string already: it gives a
// part of it when there are no escapes.
func stringWithin(text string) (string, bool) {
	if len(text) < 2 || text[0] != '"' {
		return "", false
	}
	for i := range len(text) {
		if text[i] == '\\' {
			return canonical.String([]byte(text))
		}
	}
	return text[1 : len(text)-1], true
}

// typeName reads the type. The usual types cost no memory.
func (l *layout) typeName(json []byte) (string, error) {
	raw := l.at[fieldType].of(json)
	switch string(raw) {
	case `"m.room.message"`:
		return "m.room.message", nil
	case `"m.room.encrypted"`:
		return "m.room.encrypted", nil
	case `"m.room.member"`:
		return typeMember, nil
	case `"m.reaction"`:
		return "m.reaction", nil
	case `"m.room.redaction"`:
		return typeRedaction, nil
	case `"m.room.create"`:
		return typeCreate, nil
	case `"m.room.power_levels"`:
		return "m.room.power_levels", nil
	case `"m.room.join_rules"`:
		return "m.room.join_rules", nil
	case `"m.room.history_visibility"`:
		return "m.room.history_visibility", nil
	}
	s, ok := canonical.String(raw)
	if !ok {
		return "", mustBe("type", "a string")
	}
	return s, nil
}

func membershipOf(raw []byte) string {
	switch string(raw) {
	case `"join"`:
		return "join"
	case `"leave"`:
		return "leave"
	case `"invite"`:
		return "invite"
	case `"ban"`:
		return "ban"
	case `"knock"`:
		return "knock"
	}
	s, _ := canonical.String(raw)
	return s
}

// integer reads a member that must be an integer. In rooms that allow any number
// it may be spelled as a float.
func (l *layout) integer(json []byte, f field, name string) (int64, error) {
	n, ok := canonical.Integer(l.at[f].of(json))
	if !ok {
		return 0, mustBe(name, "an integer")
	}
	return n, nil
}

func mustBe(field, what string) error { return merr.BadJSON("%s must be %s", field, what) }
