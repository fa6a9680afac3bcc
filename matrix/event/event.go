package event

import (
	"crypto/sha256"
	"encoding/base64"

	"weft/matrix/canonical"
	"weft/matrix/id"
)

// Types of events that the core itself looks into.
const (
	typeMember    = "m.room.member"
	typeCreate    = "m.room.create"
	typeRedaction = "m.room.redaction"
)

// Event is one event of a room. It is immutable: its fields are for reading, and
// it is shared freely between goroutines. Byte slices that its methods return
// are parts of the event and must not be written to.
type Event struct {
	// ID is the event ID: the reference hash, or in versions 1 and 2 the one in the body.
	ID id.Event
	// RoomID is the room's ID. For a create event of version 12 it is derived from ID.
	RoomID id.Room
	// Sender is the user who sent the event.
	Sender id.User
	// Type is the event type, such as "m.room.message".
	Type string
	// StateKey is the state key; it means something only when IsState.
	StateKey string
	// IsState says whether the event has a state key.
	IsState bool
	// Depth is one more than the greatest depth of the previous events.
	Depth int64
	// OriginServerTS is when the event was made, in milliseconds since 1970, as its
	// server says.
	OriginServerTS int64
	// PrevEvents are the event's parents in the graph.
	PrevEvents []id.Event
	// AuthEvents are the events that allow this one.
	AuthEvents []id.Event
	// Redacts is the target of an m.room.redaction, from where the room version keeps
	// it; empty if there is none.
	Redacts id.Event
	// Rules are the rules of the room's version.
	Rules *Rules

	json       []byte
	unsigned   []byte
	content    span
	signatures span
	membership string
	redacted   bool
	hasRoomID  bool
}

// JSON is the whole PDU in canonical form: as it goes over federation, but without
// `unsigned`. From version 3 on it holds no event_id.
func (e *Event) JSON() []byte { return e.json }

// Content is the content object in canonical form.
func (e *Event) Content() []byte { return e.content.of(e.json) }

// Unsigned is the unsigned object that came with the event, or nil. Nobody vouches
// for it: any server on the way could have changed it. It is not part of JSON and
// is not there on events that come from ParseStored.
func (e *Event) Unsigned() []byte { return e.unsigned }

// StateKeyPtr is the state key, or nil when the event is no state event.
func (e *Event) StateKeyPtr() *string {
	if !e.IsState {
		return nil
	}
	return &e.StateKey
}

// Membership is content.membership of an m.room.member event, else "".
func (e *Event) Membership() string { return e.membership }

// Redacted reports whether Parse cut the event down because its content hash did
// not match, or whether it comes from Redact. What the store says of an event is
// not known here: it is false after ParseStored.
func (e *Event) Redacted() bool { return e.redacted }

// HasRoomID reports whether the JSON holds a room_id. From version 12 on a create
// event must not have one.
func (e *Event) HasRoomID() bool { return e.hasRoomID }

// ContentHash computes the content hash of an event in canonical form: of all but its
// signatures, unsigned and hashes.
//
// spec: server-server §27.4 (Calculating the content hash)
func ContentHash(json []byte) [sha256.Size]byte {
	var backing [24]member
	l := layout{members: backing[:0]}
	l.index(json)
	return l.contentHash(newHasher(), json)
}

// ReferenceHash is the hash that covers what survives a redaction. From version 3
// on it is the event ID; in versions 1 and 2 it stands beside the ID in the
// prev_events and auth_events of other events.
//
// spec: server-server §27.3 (Calculating the reference hash for an event)
func (e *Event) ReferenceHash() [sha256.Size]byte {
	var backing [24]member
	l := layout{members: backing[:0]}
	l.index(e.json)
	return l.referenceHash(newHasher(), e.json, e.Rules)
}

// Redact gives the redacted form of the event. It has the same ID.
//
// spec: rooms (Redactions)
func (e *Event) Redact() (*Event, error) {
	var backing [24]member
	l := layout{members: backing[:0]}
	l.index(e.json)
	out, err := build(redactJSON(&l, e.json, e.Rules), e.ID, e.Rules)
	if err != nil {
		return nil, err
	}
	out.redacted = true
	return out, nil
}

// RedactJSON gives the redacted form of a PDU in canonical form. `unsigned` is not
// part of it.
func RedactJSON(raw []byte, r *Rules) ([]byte, error) {
	json, err := canonicalise(raw, r)
	if err != nil {
		return nil, err
	}
	var l layout
	l.index(json)
	return redactJSON(&l, json, r), nil
}

func redactJSON(l *layout, json []byte, r *Rules) []byte {
	s := sink{buf: make([]byte, 0, len(json))}
	l.redacted(&s, json, r, allFields)
	return s.buf
}

// eventID makes the ID of an event from its reference hash.
//
// spec: rooms/v3, rooms/v4 (Event IDs)
func eventID(hash [sha256.Size]byte, format EventIDFormat) id.Event {
	enc := base64.RawURLEncoding
	if format == EventIDHash {
		enc = base64.RawStdEncoding
	}
	buf := make([]byte, 1, 1+43)
	buf[0] = '$'
	return id.Event(enc.AppendEncode(buf, hash[:]))
}

// roomIDOfCreate is the room ID that a create event makes in version 12.
//
// spec: rooms/v12 (Authorisation rules, 1.2)
func roomIDOfCreate(e id.Event) id.Room {
	if e == "" {
		return ""
	}
	return id.Room("!" + string(e[1:]))
}

// SignatureKeys lists the ed25519 keys with which the server signed the event.
func (e *Event) SignatureKeys(s id.Server) []id.KeyID {
	var out []id.KeyID
	for _, k := range canonical.SignatureKeys(e.signatures.of(e.json), string(s)) {
		if k.Algorithm() == id.Ed25519 {
			out = append(out, k)
		}
	}
	return out
}
