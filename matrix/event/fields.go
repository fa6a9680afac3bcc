package event

import (
	"weft/matrix/canonical"
	"weft/matrix/merr"
)

// field numbers the top-level keys that mean something in a PDU, so that a set
// of keys is a bit mask.
type field uint8

const (
	fieldOther field = iota
	fieldAgeTS
	fieldAuthEvents
	fieldContent
	fieldDepth
	fieldDestinations
	fieldEventID
	fieldHashes
	fieldMembership
	fieldOrigin
	fieldOriginServerTS
	fieldOutlier
	fieldPrevEvents
	fieldPrevState
	fieldRedacts
	fieldRoomID
	fieldSender
	fieldSignatures
	fieldStateKey
	fieldType
	fieldUnsigned
	fieldCount
)

func fieldOf(key []byte) field {
	switch string(key) {
	case "age_ts":
		return fieldAgeTS
	case "auth_events":
		return fieldAuthEvents
	case "content":
		return fieldContent
	case "depth":
		return fieldDepth
	case "destinations":
		return fieldDestinations
	case "event_id":
		return fieldEventID
	case "hashes":
		return fieldHashes
	case "membership":
		return fieldMembership
	case "origin":
		return fieldOrigin
	case "origin_server_ts":
		return fieldOriginServerTS
	case "outlier":
		return fieldOutlier
	case "prev_events":
		return fieldPrevEvents
	case "prev_state":
		return fieldPrevState
	case "redacts":
		return fieldRedacts
	case "room_id":
		return fieldRoomID
	case "sender":
		return fieldSender
	case "signatures":
		return fieldSignatures
	case "state_key":
		return fieldStateKey
	case "type":
		return fieldType
	case "unsigned":
		return fieldUnsigned
	}
	return fieldOther
}

// fieldSet is a set of fields.
type fieldSet uint32

func (s fieldSet) has(f field) bool { return s&(1<<f) != 0 }

// Sets that do not depend on the room version.
const (
	allFields fieldSet = 1<<fieldCount - 1
	// hashedFields are what the content hash covers.
	//
	// spec: server-server §27.4 (Calculating the content hash)
	hashedFields = allFields &^ (1<<fieldUnsigned | 1<<fieldSignatures | 1<<fieldHashes)
	// strippedFields are what servers add for their own use and may send by
	// accident; they are no part of an event. Other servers leave age_ts, outlier
	// and destinations out of the content hash too.
	//
	// spec?: the spec only speaks of unsigned here; the others are what servers have
	// always removed, and an event that holds them would not verify otherwise.
	strippedFields fieldSet = 1<<fieldUnsigned | 1<<fieldAgeTS | 1<<fieldOutlier | 1<<fieldDestinations
)

// span is a part of a buffer. A span from 0 to 0 is absent: no value starts at 0.
type span struct{ start, end int32 }

func (s span) of(buf []byte) []byte { return buf[s.start:s.end] }

func (s span) present() bool { return s.end > 0 }

// member is a top-level member of an event: its key with quotes starts at key,
// its value is value.
type member struct {
	key   int32
	value span
	field field
}

// layout is where the members of an event stand in its JSON.
type layout struct {
	members []member
	at      [fieldCount]span
	// unsigned is where copyWithout found unsigned in the original.
	unsigned span
}

// index finds the members of a canonical object.
func (l *layout) index(json []byte) {
	l.at = [fieldCount]span{}
	l.members = l.members[:0]
	for c := canonical.Object(json); c.Next(); {
		l.add(fieldOf(c.Key()), c.KeyStart, c.ValueStart, c.End)
	}
}

func (l *layout) add(f field, key, start, end int) {
	m := member{key: int32(key), value: span{int32(start), int32(end)}, field: f}
	l.members = append(l.members, m)
	l.at[f] = m.value
}

// copyWithout copies a canonical object without some members and finds the rest
// in the copy.
func (l *layout) copyWithout(json []byte, drop fieldSet) []byte {
	l.at = [fieldCount]span{}
	l.members = l.members[:0]
	out := append(make([]byte, 0, len(json)), '{')
	for c := canonical.Object(json); c.Next(); {
		f := fieldOf(c.Key())
		if drop.has(f) {
			if f == fieldUnsigned {
				l.unsigned = span{int32(c.ValueStart), int32(c.End)}
			}
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		shift := len(out) - c.KeyStart
		out = append(out, json[c.KeyStart:c.End]...)
		l.add(f, c.KeyStart+shift, c.ValueStart+shift, c.End+shift)
	}
	return append(out, '}')
}

// canonicalise brings raw into canonical form as the room version demands.
func canonicalise(raw []byte, r *Rules) ([]byte, error) {
	form := canonical.CanonicalLenient
	if r.StrictCanonicalJSON {
		// spec: rooms/v6 (Canonical JSON)
		form = canonical.Canonical
	}
	out, err := form(raw)
	if err != nil {
		return nil, err
	}
	if out[0] != '{' {
		return nil, merr.BadJSON("an event must be an object")
	}
	return out, nil
}
