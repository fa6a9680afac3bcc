package spaces

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
	"weft/matrix/id"
)

// MaxChildren bounds the children of a space that are looked at, the first ones in
// their order.
const MaxChildren = 1000

// maxChildrenBytes bounds what the events of a space's children hold together.
const maxChildrenBytes = 1 << 20

const typeChild = "m.space.child"

// Child is an m.space.child event: stripped state with its time.
//
// spec: client-server §11.37 (StrippedChildStateEvent)
type Child struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
	Sender   id.User         `json:"sender"`
	TS       int64           `json:"origin_server_ts"`
}

// Room is the child's ID.
func (c *Child) Room() id.Room { return id.Room(c.StateKey) }

// Suggested tells whether the space suggests the room to its members.
func (c *Child) Suggested() bool { return gjson.GetBytes(c.Content, "suggested").Type == gjson.True }

// Via gives the servers over which the child can be reached, at most limit, without one
// of them: this server itself.
func (c *Child) Via(not id.Server, limit int) []id.Server {
	var out []id.Server
	for _, v := range gjson.GetBytes(c.Content, "via").Array() {
		server, err := id.ParseServer(v.Str)
		if err != nil || server == not || slices.Contains(out, server) {
			continue
		}
		if out = append(out, server); len(out) == limit {
			break
		}
	}
	return out
}

// valid tells whether the event makes its room a child.
//
// spec: m.space.child (via: "When not present or invalid, the child room is not considered to
// be part of the space")
func (c *Child) valid() bool {
	if _, err := id.ParseRoom(c.StateKey); err != nil || c.Type != typeChild {
		return false
	}
	via := gjson.GetBytes(c.Content, "via")
	if !via.IsArray() {
		return false
	}
	list := via.Array()
	for _, v := range list {
		if v.Type != gjson.String {
			return false
		}
	}
	return len(list) > 0
}

// order gives the child's order key, "" where it has no valid one.
//
// spec: m.space.child (order: at most 50 characters from \x20 to \x7E, at least one)
func (c *Child) order() string {
	v := gjson.GetBytes(c.Content, "order")
	if v.Type != gjson.String || len(v.Str) > 50 {
		return ""
	}
	for i := range len(v.Str) {
		if v.Str[i] < 0x20 || v.Str[i] > 0x7e {
			return ""
		}
	}
	return v.Str
}

// Children lists the children of a space, in their order, from its current state.
func Children(ctx context.Context, r *eventstore.Reader, room *eventstore.Room) ([]Child, error) {
	var out []Child
	err := r.CurrentState(room).List(ctx, func(e *eventstore.Event) error {
		c := Child{Type: e.Type, StateKey: e.StateKey, Content: e.Content(), Sender: e.Sender, TS: e.OriginServerTS}
		if c.valid() {
			out = append(out, c)
		}
		if len(out) == 4*MaxChildren {
			out = first(out) // so that memory is bounded, whatever the room holds
		}
		return nil
	}, typeChild)
	if err != nil {
		return nil, err
	}
	return first(out), nil
}

// first puts children into their order and cuts them to the bounds.
//
// spec: client-server §11.37 (Ordering of children within a space)
func first(list []Child) []Child {
	type keyed struct {
		order string
		Child
	}
	sorted := make([]keyed, len(list))
	for i := range list {
		sorted[i] = keyed{list[i].order(), list[i]}
	}
	slices.SortFunc(sorted, func(a, b keyed) int {
		switch {
		case a.order == b.order:
			return cmp.Or(cmp.Compare(a.TS, b.TS), strings.Compare(a.StateKey, b.StateKey))
		case a.order == "":
			return 1
		case b.order == "":
			return -1
		}
		return strings.Compare(a.order, b.order)
	})
	out := make([]Child, 0, min(len(sorted), MaxChildren))
	size := 0
	for _, c := range sorted {
		if size += len(c.Content); len(out) == MaxChildren || size > maxChildrenBytes {
			break
		}
		out = append(out, c.Child)
	}
	return out
}

// OnlySuggested drops the children that are not suggested; the list that is given
// stays as it is.
func OnlySuggested(list []Child) []Child {
	out := make([]Child, 0, len(list))
	for _, c := range list {
		if c.Suggested() {
			out = append(out, c)
		}
	}
	return out
}
