package syncapi

import (
	"encoding/json"
	"fmt"
	"strings"
)

// fieldFilter keeps the named fields of events.
//
// spec: client-server §6.4.2 (event_fields)
type fieldFilter [][]string

// newFieldFilter parses paths like "content.body"; a dot or backslash within a key is
// escaped by a backslash. It is nil where nothing is to be dropped.
func newFieldFilter(fields []string) fieldFilter {
	if fields == nil {
		return nil
	}
	out := make(fieldFilter, 0, len(fields))
	for _, f := range fields {
		var path []string
		var part strings.Builder
		for i := 0; i < len(f); i++ {
			switch {
			case f[i] == '\\' && i+1 < len(f) && (f[i+1] == '.' || f[i+1] == '\\'):
				i++
				part.WriteByte(f[i])
			case f[i] == '.':
				path = append(path, part.String())
				part.Reset()
			default:
				part.WriteByte(f[i])
			}
		}
		out = append(out, append(path, part.String()))
	}
	return out
}

// apply drops everything else from an event.
func (f fieldFilter) apply(event []byte) ([]byte, error) {
	out := make(map[string]any)
	for _, path := range f {
		if err := pick(event, path, out); err != nil {
			return nil, fmt.Errorf("event_fields: %w", err)
		}
	}
	return json.Marshal(out)
}

// pick copies what a path leads to.
func pick(from json.RawMessage, path []string, to map[string]any) error {
	if len(from) == 0 || from[0] != '{' {
		return nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(from, &fields); err != nil {
		return err
	}
	value, ok := fields[path[0]]
	if !ok {
		return nil
	}
	if len(path) == 1 {
		to[path[0]] = value
		return nil
	}
	inner := make(map[string]any)
	switch have := to[path[0]].(type) {
	case json.RawMessage:
		return nil // all of it is there already
	case map[string]any:
		inner = have
	}
	if err := pick(value, path[1:], inner); err != nil {
		return err
	}
	if len(inner) > 0 {
		to[path[0]] = inner
	}
	return nil
}
