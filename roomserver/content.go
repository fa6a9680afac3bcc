package roomserver

import (
	"bytes"
	"encoding/json"
	"fmt"

	"weft/matrix/merr"
)

// object is a JSON object whose members are not looked into.
type object map[string]json.RawMessage

// parseObject reads an object that a client sent; no text stands for an empty one.
// The error is M_BAD_JSON and names what was read.
func parseObject(what string, raw json.RawMessage) (object, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return object{}, nil
	}
	var o object
	if raw[0] != '{' {
		return nil, merr.BadJSON("%s must be an object", what)
	}
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, fmt.Errorf("%w: %w", merr.BadJSON("%s is no valid object", what), err)
	}
	return o, nil
}

// set puts a value that can always be encoded: strings, numbers, booleans, and lists and
// maps of them.
func (o object) set(key string, value any) {
	raw, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("roomserver: a value that is no JSON: %v", err))
	}
	o[key] = raw
}

// str reads a string member, empty if it is none.
func (o object) str(key string) string {
	var s string
	if json.Unmarshal(o[key], &s) != nil {
		return ""
	}
	return s
}

// raw gives the text.
func (o object) raw() json.RawMessage {
	raw, err := json.Marshal(map[string]json.RawMessage(o))
	if err != nil {
		panic(fmt.Sprintf("roomserver: an object that is no JSON: %v", err))
	}
	return raw
}

// contentOf makes content of a Go map that can always be encoded.
func contentOf(m map[string]any) json.RawMessage {
	o := make(object, len(m))
	for k, v := range m {
		o.set(k, v)
	}
	return o.raw()
}

// stateKey makes a state key for an event that is to be built.
func stateKey(s string) *string { return &s }
