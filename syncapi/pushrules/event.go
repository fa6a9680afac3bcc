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

	root *node // made when it is first asked
}

// node is a value of the event. What an object holds is found out once, for all rules of all users.
type node struct {
	gjson.Result
	fields map[string]*node
}

// field gives a member of an object, the first where there are several; nil: there is none.
func (n *node) field(key string) *node {
	if n.fields == nil {
		n.fields = make(map[string]*node)
		if n.IsObject() {
			n.ForEach(func(k, v gjson.Result) bool {
				if _, twice := n.fields[k.Str]; !twice {
					n.fields[k.Str] = &node{Result: v}
				}
				return true
			})
		}
	}
	return n.fields[key]
}

// User is what rules may ask about the user.
type User struct {
	// DisplayName gives the user's display name in the room; nil: has none.
	DisplayName func() string
}

// get looks up a path of keys.
func (e *Event) get(path []string) gjson.Result {
	if e.root == nil {
		e.root = &node{Result: gjson.ParseBytes(e.JSON)}
	}
	n := e.root
	for _, key := range path {
		if n = n.field(key); n == nil {
			return gjson.Result{}
		}
	}
	return n.Result
}

// splitPath splits a dotted path, in which \. is a dot within a key.
//
// spec: appendices §5.2 (Dot-separated property paths)
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
