package event

import (
	"maps"
	"slices"
)

// Redaction says which keys survive a redaction. Values are immutable: the
// methods that change one return a copy.
type Redaction struct {
	// TopLevel holds the top-level keys that survive.
	TopLevel []string
	// Content says for each event type what of its content survives. The content
	// of all other types becomes empty.
	Content map[string]ContentRedaction
}

// ContentRedaction says which keys of a content object survive.
type ContentRedaction struct {
	// All: everything survives.
	All bool
	// Keys survive with their whole value.
	Keys []string
	// Nested survive as objects that hold only the named keys.
	Nested map[string][]string
}

// redactionV1 is the algorithm of room version 1.
//
// spec: rooms/v1 (Redactions)
func redactionV1() Redaction {
	return Redaction{
		TopLevel: []string{
			"event_id", "type", "room_id", "sender", "state_key", "content", "hashes", "signatures",
			"depth", "prev_events", "prev_state", "auth_events", "origin", "origin_server_ts", "membership",
		},
		Content: map[string]ContentRedaction{
			"m.room.member":     {Keys: []string{"membership"}},
			"m.room.create":     {Keys: []string{"creator"}},
			"m.room.join_rules": {Keys: []string{"join_rule"}},
			"m.room.power_levels": {Keys: []string{
				"ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default",
			}},
			"m.room.aliases":            {Keys: []string{"aliases"}},
			"m.room.history_visibility": {Keys: []string{"history_visibility"}},
		},
	}
}

func (r Redaction) with(eventType string, c ContentRedaction) Redaction {
	r.Content = maps.Clone(r.Content)
	r.Content[eventType] = c
	return r
}

// without forgets what is special about a type.
func (r Redaction) without(eventType string) Redaction {
	r.Content = maps.Clone(r.Content)
	delete(r.Content, eventType)
	return r
}

func (r Redaction) withoutTopLevel(keys ...string) Redaction {
	r.TopLevel = slices.DeleteFunc(slices.Clone(r.TopLevel), func(k string) bool {
		return slices.Contains(keys, k)
	})
	return r
}

func (r Redaction) keeping(eventType string, keys ...string) Redaction {
	c := r.Content[eventType]
	c.Keys = append(slices.Clone(c.Keys), keys...)
	return r.with(eventType, c)
}

func (r Redaction) keepingAll(eventType string) Redaction {
	return r.with(eventType, ContentRedaction{All: true})
}

func (r Redaction) keepingNested(eventType, key string, inner ...string) Redaction {
	c := r.Content[eventType]
	c.Nested = maps.Clone(c.Nested)
	if c.Nested == nil {
		c.Nested = make(map[string][]string)
	}
	c.Nested[key] = inner
	return r.with(eventType, c)
}
