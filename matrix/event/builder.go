package event

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"strconv"

	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// Builder holds what goes into a new event.
type Builder struct {
	// Rules are the rules of the room's version.
	Rules *Rules
	// RoomID is the room; it is left out of a create event of version 12.
	RoomID id.Room
	// Sender is the user who sends the event.
	Sender id.User
	// Type is the event type.
	Type string
	// StateKey makes the event a state event when it is not nil.
	StateKey *string
	// Content is the content object, in any JSON form.
	Content []byte
	// Redacts is the target of a redaction. It is put where the room version keeps it.
	Redacts id.Event
	// PrevEvents and AuthEvents are the parents.
	PrevEvents, AuthEvents []id.Event
	// ParentHashes are the reference hashes of the parents, which events of versions
	// 1 and 2 carry beside their IDs. A parent that is not in it gets an empty
	// object in place of its hash.
	ParentHashes map[id.Event][sha256.Size]byte
	// Depth is one more than the greatest depth of the previous events. It is capped
	// at the version's limit.
	Depth int64
	// OriginServerTS is the time in milliseconds since 1970.
	OriginServerTS int64
	// Unsigned is an object that the built event carries beside it (Event.Unsigned);
	// it is not part of the event.
	Unsigned []byte
}

// Proto gives the event as a template, such as make_join answers: without hashes,
// signatures and event ID.
//
// spec: server-server §12 (Joining Rooms)
func (b *Builder) Proto() ([]byte, error) {
	content, err := b.content()
	if err != nil {
		return nil, err
	}
	return b.assemble(content, parts{}), nil
}

// ParseProto reads a template that another server made. Nothing is checked but
// the form of what it reads: the caller compares the fields with what it asked for,
// and sets the time, which some servers leave out.
func ParseProto(raw []byte, r *Rules) (*Builder, error) {
	json, err := canonicalise(raw, r)
	if err != nil {
		return nil, err
	}
	if len(json) > len("{}") && canonical.Get(json, "origin_server_ts") == nil {
		json = append(json[:len(json)-1:len(json)-1], `,"origin_server_ts":0}`...)
	}
	e, err := build(json, "", r)
	if err != nil {
		return nil, err
	}
	if len(e.PrevEvents) > MaxPrevEvents || len(e.AuthEvents) > MaxAuthEvents {
		return nil, merr.BadJSON("the event has too many prev_events or auth_events")
	}
	b := &Builder{
		Rules: r, RoomID: e.RoomID, Sender: e.Sender, Type: e.Type, StateKey: e.StateKeyPtr(),
		Content: e.Content(), Redacts: e.Redacts, PrevEvents: e.PrevEvents, AuthEvents: e.AuthEvents,
		Depth: e.Depth, OriginServerTS: e.OriginServerTS,
	}
	if r.EventFormat == FormatPairs {
		b.ParentHashes = make(map[id.Event][sha256.Size]byte)
		addHashes(b.ParentHashes, canonical.Get(json, "prev_events"))
		addHashes(b.ParentHashes, canonical.Get(json, "auth_events"))
	}
	return b, nil
}

// addHashes collects the hashes of a list of [event ID, {"sha256": …}] pairs.
func addHashes(to map[id.Event][sha256.Size]byte, list []byte) {
	for c := canonical.Array(list); c.Next(); {
		pair := canonical.Array(c.Value())
		if !pair.Next() {
			continue
		}
		eid, _ := canonical.String(pair.Value())
		if !pair.Next() {
			continue
		}
		text, _ := canonical.String(canonical.Get(pair.Value(), "sha256"))
		if hash, err := canonical.DecodeBase64(text); err == nil && len(hash) == sha256.Size {
			to[id.Event(eid)] = [sha256.Size]byte(hash)
		}
	}
}

// Build makes the event: content hash, signature of the origin server, event ID.
// It checks what Parse checks, and CheckFieldSize. In versions 1 and 2 the event ID is "$", a hash of
// everything else in the event, and the origin.
//
//  1. assemble the event without hashes; content hash
//  2. with hashes: redacted form, which is what is signed and, from version 3 on,
//     what gives the event ID
//  3. with signatures: the event
//
// spec: server-server §27.1 (Adding hashes and signatures to outgoing events)
func (b *Builder) Build(origin id.Server, key id.KeyID, priv ed25519.PrivateKey) (*Event, error) {
	content, err := b.content()
	if err != nil {
		return nil, err
	}
	var p parts
	if b.Rules.EventIDFormat == EventIDInBody {
		hash := sha256.Sum256(b.assemble(content, p))
		p.eventID = id.Event("$" + base64.RawURLEncoding.EncodeToString(hash[:]) + ":" + string(origin))
	}
	hash := sha256.Sum256(b.assemble(content, p))
	p.hash = canonical.EncodeBase64(hash[:])

	var backing [24]member
	l := layout{members: backing[:0]}
	unsignedJSON := b.assemble(content, p)
	l.index(unsignedJSON)
	message := l.signedBytes(unsignedJSON, b.Rules)
	signature := ed25519.Sign(priv, message)
	json := canonical.WithSignature(unsignedJSON, string(origin), key, signature)
	if len(json) > MaxSize {
		return nil, merr.TooLarge("the event has %d bytes, more than %d", len(json), MaxSize)
	}
	l.index(json)
	e, err := l.read(json, b.Rules)
	if err != nil {
		return nil, err
	}
	if err := e.CheckFieldSize(); err != nil {
		return nil, err
	}
	e.identify(&l, newHasher())
	if len(b.Unsigned) > 0 {
		if e.unsigned, err = canonical.CanonicalLenient(b.Unsigned); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// content brings the content into canonical form, with redacts where it belongs
// there.
func (b *Builder) content() ([]byte, error) {
	content, err := canonicalise(b.Content, b.Rules)
	if err != nil {
		return nil, err
	}
	if b.Redacts != "" && b.Rules.RedactsInContent {
		return canonical.Set(content, "redacts", canonical.AppendString(nil, string(b.Redacts))), nil
	}
	return content, nil
}

// parts are the members that come one after another while an event is built.
type parts struct {
	eventID id.Event
	hash    string
}

// assemble writes the event in canonical form: the members in order.
func (b *Builder) assemble(content []byte, p parts) []byte {
	out := make([]byte, 0, len(content)+768)
	out = append(out, `{"auth_events":`...)
	out = b.appendParents(out, b.AuthEvents)
	out = append(append(out, `,"content":`...), content...)
	out = strconv.AppendInt(append(out, `,"depth":`...), min(b.Depth, b.Rules.MaxDepth), 10)
	if p.eventID != "" {
		out = canonical.AppendString(append(out, `,"event_id":`...), string(p.eventID))
	}
	if p.hash != "" {
		out = append(append(append(out, `,"hashes":{"sha256":"`...), p.hash...), `"}`...)
	}
	out = strconv.AppendInt(append(out, `,"origin_server_ts":`...), b.OriginServerTS, 10)
	out = b.appendParents(append(out, `,"prev_events":`...), b.PrevEvents)
	if b.Redacts != "" && !b.Rules.RedactsInContent {
		out = canonical.AppendString(append(out, `,"redacts":`...), string(b.Redacts))
	}
	if !(b.Rules.RoomIDIsCreateHash && b.Type == typeCreate) {
		out = canonical.AppendString(append(out, `,"room_id":`...), string(b.RoomID))
	}
	out = canonical.AppendString(append(out, `,"sender":`...), string(b.Sender))
	if b.StateKey != nil {
		out = canonical.AppendString(append(out, `,"state_key":`...), *b.StateKey)
	}
	out = canonical.AppendString(append(out, `,"type":`...), b.Type)
	return append(out, '}')
}

// appendParents writes prev_events or auth_events in the version's form.
//
// spec: rooms/v1, rooms/v3 (Event format)
func (b *Builder) appendParents(out []byte, list []id.Event) []byte {
	out = append(out, '[')
	for i, e := range list {
		if i > 0 {
			out = append(out, ',')
		}
		if b.Rules.EventFormat == FormatIDs {
			out = canonical.AppendString(out, string(e))
			continue
		}
		out = canonical.AppendString(append(out, '['), string(e))
		if hash, ok := b.ParentHashes[e]; ok {
			out = append(append(append(out, `,{"sha256":"`...), canonical.EncodeBase64(hash[:])...), `"}]`...)
		} else {
			out = append(out, `,{}]`...)
		}
	}
	return append(out, ']')
}
