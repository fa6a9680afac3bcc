package pushrules

import (
	"strings"

	"github.com/tidwall/gjson"

	"weft/matrix/id"
)

// Event is an event that is judged for many users. It is not safe for concurrent use.
type Event struct {
	Room   id.Room
	Sender id.User
	// JSON is the event, with room_id, sender, type, content and, of state events, state_key.
	JSON []byte
	// Members gives the number of joined members of the room.
	Members func() int64
	// MayNotify tells whether the sender's power level suffices for a kind of notification.
	MayNotify func(key string) bool

	found map[string]gjson.Result
}

// User is what rules may ask about the user.
type User struct {
	// DisplayName gives the user's display name in the room; nil: has none.
	DisplayName func() string
}

// get looks up a dotted path, in which \. is a dot within a key.
//
// spec: appendices §5.2 (Dot-separated property paths)
func (e *Event) get(path string) gjson.Result {
	if v, ok := e.found[path]; ok {
		return v
	}
	if e.found == nil {
		e.found = make(map[string]gjson.Result)
	}
	v := gjson.ParseBytes(e.JSON)
	for _, key := range splitPath(path) {
		if !v.IsObject() {
			v = gjson.Result{}
			break
		}
		next := gjson.Result{}
		v.ForEach(func(k, value gjson.Result) bool {
			if k.Str == key {
				next = value
				return false
			}
			return true
		})
		v = next
	}
	e.found[path] = v
	return v
}

func splitPath(path string) []string {
	if !strings.Contains(path, `\`) {
		return strings.Split(path, ".")
	}
	var out []string
	var part strings.Builder
	for i := 0; i < len(path); i++ {
		switch {
		case path[i] == '\\' && i+1 < len(path) && (path[i+1] == '.' || path[i+1] == '\\'):
			i++
			part.WriteByte(path[i])
		case path[i] == '.':
			out = append(out, part.String())
			part.Reset()
		default:
			part.WriteByte(path[i])
		}
	}
	return append(out, part.String())
}
