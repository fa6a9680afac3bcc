package clientevent

import (
	"strconv"

	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
)

// Format is the shape of an event.
type Format int

// The shapes.
const (
	// Client is the usual form.
	Client Format = iota
	// Sync is Client without room_id, which stands above the events in /sync.
	Sync
	// Federation is the event as servers exchange it, with unsigned.
	Federation
)

// Options say what stands beside an event. The zero value gives the event alone.
type Options struct {
	Format Format
	// Now, in milliseconds, gives unsigned.age; 0: no age.
	Now int64
	// TxnID is the asking device's transaction ID, where it sent the event.
	TxnID string
	// Membership is the asking user's at the event; empty: not told.
	Membership string
	// Replaced is the state event that this one took the place of, or nil.
	Replaced *eventstore.Event
	// Redaction is the event that redacted this one, or nil.
	Redaction *eventstore.Event
	// Relations is the object of unsigned.m.relations, or nil.
	Relations []byte
}

// Make is Append to nothing.
func Make(e *eventstore.Event, o Options) []byte {
	return Append(make([]byte, 0, len(e.Content())+512), e, o)
}

// Append appends an event's JSON to dst.
//
// spec: client-server §6.3.1 (ClientEvent, ClientEventWithoutRoomID)
func Append(dst []byte, e *eventstore.Event, o Options) []byte {
	if o.Format == Federation {
		raw := e.JSON()
		dst = append(dst, raw[:len(raw)-1]...)
		dst = append(dst, ',')
		return append(appendUnsigned(dst, e, o), '}')
	}
	dst = append(dst, `{"content":`...)
	dst = appendContent(dst, e)
	dst = append(dst, `,"event_id":`...)
	dst = gjson.AppendJSONString(dst, string(e.ID))
	dst = append(dst, `,"origin_server_ts":`...)
	dst = strconv.AppendInt(dst, e.OriginServerTS, 10)
	if e.Redacts != "" {
		dst = append(dst, `,"redacts":`...)
		dst = gjson.AppendJSONString(dst, string(e.Redacts))
	}
	if o.Format != Sync {
		dst = append(dst, `,"room_id":`...)
		dst = gjson.AppendJSONString(dst, string(e.RoomID))
	}
	dst = append(dst, `,"sender":`...)
	dst = gjson.AppendJSONString(dst, string(e.Sender))
	if e.IsState {
		dst = append(dst, `,"state_key":`...)
		dst = gjson.AppendJSONString(dst, e.StateKey)
	}
	dst = append(dst, `,"type":`...)
	dst = gjson.AppendJSONString(dst, e.Type)
	dst = append(dst, ',')
	return append(appendUnsigned(dst, e, o), '}')
}

// appendContent writes the content; a redaction's target is in it whatever the
// room version.
//
// spec: client-server §6.3 (m.room.redaction): "servers SHOULD add the redacts
// property to the content of m.room.redaction events in older room versions"
func appendContent(dst []byte, e *eventstore.Event) []byte {
	content := e.Content()
	if e.Redacts == "" || gjson.GetBytes(content, "redacts").Exists() || len(content) < 2 {
		return append(dst, content...)
	}
	dst = append(dst, content[:len(content)-1]...)
	if len(content) > 2 {
		dst = append(dst, ',')
	}
	dst = append(dst, `"redacts":`...)
	dst = gjson.AppendJSONString(dst, string(e.Redacts))
	return append(dst, '}')
}

// appendUnsigned writes "unsigned":{…}.
//
// spec: client-server §6.3.1 (UnsignedData)
func appendUnsigned(dst []byte, e *eventstore.Event, o Options) []byte {
	dst = append(dst, `"unsigned":{`...)
	start := len(dst)
	key := func(name string) {
		if len(dst) > start {
			dst = append(dst, ',')
		}
		dst = append(dst, '"')
		dst = append(dst, name...)
		dst = append(dst, '"', ':')
	}
	if o.Now != 0 {
		key("age")
		dst = strconv.AppendInt(dst, max(0, o.Now-e.OriginServerTS), 10)
	}
	if len(o.Relations) > 0 {
		key("m.relations")
		dst = append(dst, o.Relations...)
	}
	if o.Membership != "" {
		key("membership")
		dst = gjson.AppendJSONString(dst, o.Membership)
	}
	if p := o.Replaced; p != nil {
		key("prev_content")
		dst = append(dst, p.Content()...)
		key("prev_sender")
		dst = gjson.AppendJSONString(dst, string(p.Sender))
		key("replaces_state")
		dst = gjson.AppendJSONString(dst, string(p.ID))
	}
	if o.Redaction != nil {
		key("redacted_because")
		dst = Append(dst, o.Redaction, Options{Now: o.Now})
	}
	if o.TxnID != "" {
		key("transaction_id")
		dst = gjson.AppendJSONString(dst, o.TxnID)
	}
	return append(dst, '}')
}

// AppendStripped appends what stripped state shows of an event.
//
// spec: client-server §6.2.1 (Stripped state)
func AppendStripped(dst []byte, e *eventstore.Event) []byte {
	dst = append(dst, `{"content":`...)
	dst = append(dst, e.Content()...)
	dst = append(dst, `,"sender":`...)
	dst = gjson.AppendJSONString(dst, string(e.Sender))
	dst = append(dst, `,"state_key":`...)
	dst = gjson.AppendJSONString(dst, e.StateKey)
	dst = append(dst, `,"type":`...)
	dst = gjson.AppendJSONString(dst, e.Type)
	return append(dst, '}')
}

// AppendStrippedJSON appends what stripped state shows of an event that came as
// JSON: as a stripped event, or (since v1.16) as a whole PDU. It reports false,
// and appends nothing, for what is no state event.
func AppendStrippedJSON(dst, raw []byte) ([]byte, bool) {
	if !gjson.ValidBytes(raw) {
		return dst, false
	}
	f := gjson.GetManyBytes(raw, "content", "sender", "state_key", "type")
	if !f[0].IsObject() || f[1].Type != gjson.String || f[2].Type != gjson.String || f[3].Type != gjson.String {
		return dst, false
	}
	for i, name := range []string{`{"content":`, `,"sender":`, `,"state_key":`, `,"type":`} {
		dst = append(dst, name...)
		dst = append(dst, f[i].Raw...)
	}
	return append(dst, '}'), true
}
