package federationapi

import (
	"net/http"
	"slices"
	"testing"

	"weft/matrix/id"
)

func (r *room) rule(rule string, allowed ...id.Room) {
	r.t.Helper()
	content := map[string]any{"join_rule": rule}
	if len(allowed) > 0 {
		var list []map[string]any
		for _, a := range allowed {
			list = append(list, map[string]any{"type": "m.room_membership", "room_id": a})
		}
		content["allow"] = list
	}
	r.send(alice, "m.room.join_rules", ptr(""), content)
}

// newSpace makes a space.
func (w *world) newSpace(others ...id.User) *room {
	w.t.Helper()
	r := w.stubRoom(alice)
	r.put(r.build(alice, "m.room.create", ptr(""), map[string]any{"room_version": r.version, "creator": alice, "type": "m.space"}))
	for _, u := range append([]id.User{alice}, others...) {
		r.member(u, u, "join")
	}
	return r
}

type summary struct {
	ID       id.Room `json:"room_id"`
	Name     string
	Topic    string
	Avatar   string    `json:"avatar_url"`
	Alias    string    `json:"canonical_alias"`
	Type     string    `json:"room_type"`
	Rule     string    `json:"join_rule"`
	Joined   int       `json:"num_joined_members"`
	World    *bool     `json:"world_readable"`
	Guests   *bool     `json:"guest_can_join"`
	Allowed  []id.Room `json:"allowed_room_ids"`
	Version  string    `json:"room_version"`
	Crypto   string    `json:"encryption"`
	Children []struct {
		Type    string
		Key     id.Room `json:"state_key"`
		Sender  id.User
		TS      int64 `json:"origin_server_ts"`
		Content struct{ Via []string }
	} `json:"children_state"`
}

type hierarchy struct {
	Room         summary
	Children     []summary
	Inaccessible []id.Room `json:"inaccessible_children"`
}

func (h hierarchy) ids() []id.Room {
	out := []id.Room{}
	for _, c := range h.Children {
		out = append(out, c.ID)
	}
	return out
}

func TestHierarchy(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		space := s.newSpace(oscar)
		space.rule("public")
		space.send(alice, "m.room.name", ptr(""), map[string]any{"name": "Space"})
		child := func(of *room, r id.Room, content map[string]any) {
			of.send(alice, "m.space.child", ptr(string(r)), content)
		}
		via := func(more ...any) map[string]any {
			m := map[string]any{"via": []string{"home.example"}}
			for i := 0; i+1 < len(more); i += 2 {
				m[more[i].(string)] = more[i+1]
			}
			return m
		}
		public, private, shared, restricted, elsewhere := s.newRoom(alice), s.newRoom(alice), s.newRoom(alice, oscar), s.newRoom(alice), s.newRoom(alice)
		readable, knock, invited, denied, left, removed := s.newRoom(alice), s.newRoom(alice), s.newRoom(alice), s.newRoom(alice), s.newRoom(alice, theo), s.newRoom(alice)
		public.rule("public")
		public.send(alice, "m.room.name", ptr(""), map[string]any{"name": "Public"})
		public.send(alice, "m.room.topic", ptr(""), map[string]any{"topic": "Topic"})
		public.send(alice, "m.room.guest_access", ptr(""), map[string]any{"guest_access": "can_join"})
		public.send(alice, "m.room.encryption", ptr(""), map[string]any{"algorithm": "m.megolm.v1.aes-sha2"})
		restricted.rule("restricted", space.id)
		elsewhere.rule("restricted", private.id)
		knock.rule("knock")
		readable.send(alice, "m.room.history_visibility", ptr(""), map[string]any{"history_visibility": "world_readable"})
		invited.member(alice, oscar, "invite")
		denied.rule("public")
		denied.acl(one)
		left.rule("public")
		left.member(alice, alice, "leave")
		removed.rule("public")
		order := []*room{public, private, shared, restricted, elsewhere, readable, knock, invited, denied, left}
		// Stored in another order than the one that the children ask for.
		for i := len(order) - 1; i >= 0; i-- {
			child(space, order[i].id, via("order", string(rune('a'+i)), "suggested", i == 0))
		}
		child(space, removed.id, map[string]any{})
		child(space, "!unknown:one.example", via())
		child(space, "nonsense", via())

		var got hierarchy
		path := v1 + "/hierarchy/" + esc(space.id)
		s.get(one, path).into(&got)
		if want := []id.Room{public.id, shared.id, restricted.id, readable.id, knock.id, invited.id}; !slices.Equal(got.ids(), want) {
			t.Errorf("children %v, want %v", got.ids(), want)
		}
		if want := []id.Room{private.id, elsewhere.id, denied.id}; !slices.Equal(got.Inaccessible, want) {
			t.Errorf("inaccessible %v, want %v", got.Inaccessible, want)
		}
		if got.Room.ID != space.id || got.Room.Name != "Space" || got.Room.Type != "m.space" || got.Room.Joined != 2 || len(got.Room.Children) != len(order)+1 {
			t.Errorf("the space is %+v", got.Room)
		}
		if c := got.Room.Children[0]; c.Type != "m.space.child" || c.Key != public.id || c.Sender != alice || c.TS == 0 || len(c.Content.Via) != 1 {
			t.Errorf("the first child event is %+v", c)
		}
		if last := got.Room.Children[len(order)]; last.Key != "!unknown:one.example" {
			t.Errorf("a child without an order comes before one with: %+v", last)
		}
		c := got.Children[0]
		if c.Name != "Public" || c.Topic != "Topic" || c.Rule != "public" || c.Joined != 1 || c.World == nil || *c.World || c.Guests == nil || !*c.Guests ||
			c.Version != "10" || c.Crypto != "m.megolm.v1.aes-sha2" || c.Type != "" || c.Children != nil {
			t.Errorf("the first child is %+v", c)
		}
		if !slices.Equal(got.Children[2].Allowed, []id.Room{space.id}) {
			t.Errorf("allowed rooms %v", got.Children[2].Allowed)
		}
		if !*got.Children[3].World {
			t.Error("a world-readable room is not shown as one")
		}

		got = hierarchy{}
		s.get(one, path+"?suggested_only=true").into(&got)
		if !slices.Equal(got.ids(), []id.Room{public.id}) || len(got.Room.Children) != 1 {
			t.Errorf("suggested children %v", got.ids())
		}
		// Somebody who is in none of them.
		got = hierarchy{}
		s.get(three, path).into(&got)
		if want := []id.Room{public.id, readable.id, knock.id, denied.id}; !slices.Equal(got.ids(), want) {
			t.Errorf("children %v, want %v", got.ids(), want)
		}
		got = hierarchy{}
		s.get(three, v1+"/hierarchy/"+esc(public.id)).into(&got)
		if got.Room.ID != public.id || got.Room.Children == nil || got.Children == nil || got.Inaccessible == nil {
			t.Errorf("a room that is no space: %+v", got)
		}
		s.get(three, v1+"/hierarchy/"+esc(private.id)).fails(http.StatusNotFound, "M_NOT_FOUND")
		s.get(three, v1+"/hierarchy/"+esc(left.id)).fails(http.StatusNotFound, "M_NOT_FOUND") // what is known of it is old
		s.get(three, v1+"/hierarchy/"+esc("!unknown:home.example")).fails(http.StatusNotFound, "M_NOT_FOUND")
		s.get(one, v1+"/hierarchy/"+esc(denied.id)).fails(http.StatusForbidden, "M_FORBIDDEN")
		s.get(one, path+"?suggested_only=maybe").fails(http.StatusBadRequest, "M_INVALID_PARAM")
	})
}
