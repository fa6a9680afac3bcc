package clientapi

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/matrix/id"
)

const c1 = "/_matrix/client/v1"

// tree is a hierarchy's answer as text: rooms by their names, each with its children.
func (e *env) tree(a answer) string {
	var out []string
	for _, r := range a.Get("rooms").Array() {
		s := r.Get("name").Str
		var links []string
		for _, c := range r.Get("children_state").Array() {
			links = append(links, e.names[id.Room(c.Get("state_key").Str)])
		}
		if len(links) > 0 {
			s += "(" + strings.Join(links, " ") + ")"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

// newNamed stores a room with a name and a join rule.
func (e *env) newNamed(name, roomType, rule string) *storedRoom {
	e.t.Helper()
	r := e.newRoomOf("@alice:test", roomType)
	r.set("@alice:test", "m.room.name", "", obj{"name": name})
	r.set("@alice:test", "m.room.join_rules", "", obj{"join_rule": rule})
	e.name(r.id, name)
	return r
}

func (e *env) name(room id.Room, name string) {
	if e.names == nil {
		e.names = map[id.Room]string{}
	}
	e.names[room] = name
}

// link makes a room the child of a space.
func (r *storedRoom) link(child id.Room, more ...any) {
	r.t.Helper()
	content := obj{"via": []string{"test"}}
	for i := 0; i+1 < len(more); i += 2 {
		content[more[i].(string)] = more[i+1]
	}
	r.e.clock.Advance(time.Millisecond)
	r.set("@alice:test", "m.space.child", string(child), content)
}

func (r *storedRoom) tree(params ...string) string {
	q := url.Values{}
	for i := 0; i < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	return c1 + "/rooms/" + string(r.id) + "/hierarchy?" + q.Encode()
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestHierarchyTree(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		root, a, b, inner := e.newNamed("root", "m.space", "public"), e.newNamed("a", "", "public"), e.newNamed("b", "", "public"), e.newNamed("inner", "m.space", "public")
		deep, c, d := e.newNamed("deep", "m.space", "public"), e.newNamed("c", "", "public"), e.newNamed("d", "", "public")
		root.link(b.id, "suggested", true)
		root.link(inner.id)
		root.link(a.id, "order", "!", "suggested", true)
		root.link("!gone:test", "via", nil)
		inner.link(deep.id)
		inner.link(root.id) // a loop
		inner.link(b.id)
		deep.link(c.id)
		deep.link(d.id)
		a.link(d.id) // a room that is no space has no children
		for _, x := range []struct{ what, params, want string }{
			{"all", "", "root(a b inner) a b inner(deep root b) deep(c d) c d"},
			{"depth 0", "max_depth=0", "root(a b inner)"},
			{"depth 1", "max_depth=1", "root(a b inner) a b inner(deep root b)"},
			{"depth 2", "max_depth=2", "root(a b inner) a b inner(deep root b) deep(c d)"},
			{"suggested", "suggested_only=true", "root(a b) a b"},
		} {
			got := e.ok("GET", root.tree()+x.params, token, nil)
			same(t, x.what, e.tree(got), x.want)
			same(t, x.what+", next page", got.Get("next_batch").Exists(), false)
		}
		top := e.ok("GET", root.tree("max_depth", "1"), token, nil).Get("rooms.0")
		link := top.Get("children_state.0")
		same(t, "child event", link.Get("type").Str+" "+link.Get("sender").Str+" "+link.Get("content.via.0").Str, "m.space.child @alice:test test")
		same(t, "its time", link.Get("origin_server_ts").Int() > 1_700_000_000_000, true)
		same(t, "the space", top.Get("room_type").Str+" "+top.Get("room_version").Str+" "+top.Get("join_rule").Str+" "+top.Get("num_joined_members").Raw, "m.space 10 public 1")
		same(t, "no children", e.ok("GET", root.tree(), token, nil).Get("rooms.1.children_state").Raw, "[]")
		same(t, "a room", e.tree(e.ok("GET", a.tree(), token, nil)), "a")

		for _, bad := range []string{"limit=0", "limit=x", "max_depth=-1", "max_depth=x", "suggested_only=x", "from=x"} {
			e.want(400, "M_INVALID_PARAM", "GET", root.tree()+bad, token, nil)
		}
		e.want(403, "M_FORBIDDEN", "GET", c1+"/rooms/!none:test/hierarchy", token, nil)
		e.want(401, "M_MISSING_TOKEN", "GET", root.tree(), "", nil)
	})
}

// A space that was met deep down is entered again where more of its children are within reach.
func TestHierarchyDepthOfSpacesMetTwice(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		root, inner, shared, leaf := e.newNamed("root", "m.space", "public"), e.newNamed("inner", "m.space", "public"), e.newNamed("shared", "m.space", "public"), e.newNamed("leaf", "", "public")
		root.link(inner.id)
		root.link(shared.id)
		inner.link(shared.id)
		shared.link(leaf.id)
		same(t, "tree", e.tree(e.ok("GET", root.tree("max_depth", "2"), token, nil)), "root(inner shared) inner(shared) shared(leaf) leaf")
	})
}

func TestHierarchyPages(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		bob, _ := e.register("bob")
		root, inner, deep := e.newNamed("root", "m.space", "public"), e.newNamed("inner", "m.space", "public"), e.newNamed("deep", "m.space", "public")
		a, b, c, d := e.newNamed("a", "", "public"), e.newNamed("b", "", "public"), e.newNamed("c", "", "public"), e.newNamed("d", "", "invite")
		root.link(a.id)
		root.link(inner.id)
		root.link(b.id)
		root.link(d.id)
		inner.link(deep.id)
		inner.link(b.id)
		deep.link(c.id)
		const want = "root(a inner b d) a inner(deep b) deep(c) c b"
		for limit := 1; limit <= 7; limit++ {
			var got []string
			pages := 0
			for next := ""; ; pages++ {
				page := e.ok("GET", root.tree("limit", fmt.Sprint(limit), "from", next), bob, nil)
				if n := len(page.Get("rooms").Array()); n > limit || n == 0 {
					t.Fatalf("a page of %d rooms", n)
				}
				got = append(got, e.tree(page))
				if next = page.Get("next_batch").Str; next == "" {
					break
				}
			}
			same(t, fmt.Sprintf("pages of %d", limit), strings.Join(got, " "), want)
			same(t, "pages", pages, (6-1)/limit) // the last room, which bob may not see, makes no page
		}
		from := func(token string, params ...string) string {
			first := e.ok("GET", root.tree(append([]string{"limit", "2"}, params...)...), token, nil)
			return first.Get("next_batch").Str
		}
		next := from(token, "max_depth", "2")
		for range 2 { // a page can be asked for again
			same(t, "second page", e.tree(e.ok("GET", root.tree("from", next, "max_depth", "2"), token, nil)), "inner(deep b) deep(c) b d")
		}
		e.want(400, "M_INVALID_PARAM", "GET", root.tree("from", next, "max_depth", "3"), token, nil)
		e.want(400, "M_INVALID_PARAM", "GET", root.tree("from", next, "suggested_only", "true"), token, nil)
		e.want(400, "M_INVALID_PARAM", "GET", inner.tree("from", next), token, nil)
		e.want(400, "M_INVALID_PARAM", "GET", root.tree("from", next), bob, nil)

		// The tree may change between pages.
		next = from(token)
		third := e.ok("GET", root.tree("from", next, "limit", "2"), token, nil)
		same(t, "inside", e.tree(third), "inner(deep b) deep(c)")
		inner.link(deep.id, "via", nil)
		same(t, "a space was taken out", e.tree(e.ok("GET", root.tree("from", third.Get("next_batch").Str), token, nil)), "b d")
		root.set("@alice:test", "m.room.join_rules", "", obj{"join_rule": "invite"})
		e.ok("GET", root.tree("from", next), token, nil)
		bobs := from(token)
		e.clock.Advance(walkLifetime)
		e.want(400, "M_INVALID_PARAM", "GET", root.tree("from", bobs), token, nil)
		e.runUpkeep()
		var rows int
		if err := e.db.QueryRow(t.Context(), `SELECT COUNT(*) FROM space_walks`).Scan(&rows); err != nil || rows != 0 {
			t.Errorf("%d walks are kept (%v)", rows, err)
		}
	})
}

// A user has so many tokens at a time, and none after the account is gone.
func TestHierarchyTokensAreBounded(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		root, a := e.newNamed("root", "m.space", "public"), e.newNamed("a", "", "public")
		root.link(a.id)
		var tokens []string
		for range maxWalks + 2 {
			e.clock.Advance(time.Second)
			tokens = append(tokens, e.ok("GET", root.tree("limit", "1"), token, nil).Get("next_batch").Str)
		}
		e.want(400, "M_INVALID_PARAM", "GET", root.tree("from", tokens[1]), token, nil)
		e.ok("GET", root.tree("from", tokens[2]), token, nil)
		if err := e.srv.Deactivate(t.Context(), "@alice:test", false); err != nil {
			t.Fatal(err)
		}
		var rows int
		if err := e.db.QueryRow(t.Context(), `SELECT COUNT(*) FROM space_walks`).Scan(&rows); err != nil || rows != 0 {
			t.Errorf("%d walks are kept (%v)", rows, err)
		}
	})
}

func TestHierarchyAccess(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		bob, _ := e.register("bob")
		const user = id.User("@bob:test")
		root := e.newNamed("root", "m.space", "public")
		room := func(name, rule string) *storedRoom {
			r := e.newNamed(name, "", rule)
			root.link(r.id)
			return r
		}
		room("public", "public")
		room("private", "invite")
		room("knock", "knock")
		room("both", "knock_restricted")
		readable := room("readable", "invite")
		readable.set("@alice:test", "m.room.history_visibility", "", obj{"history_visibility": "world_readable"})
		invited := room("invited", "invite")
		invited.member(user, "invite")
		joined := room("joined", "invite")
		joined.member(user, "join")
		left := room("left", "invite")
		left.member(user, "join")
		left.member(user, "leave")
		banned := room("banned", "public")
		banned.member(user, "ban")
		shut := room("shut", "knock")
		shut.set("@alice:test", "m.room.history_visibility", "", obj{"history_visibility": "world_readable"})
		shut.member(user, "ban")
		restricted := room("restricted", "restricted")
		allow := func(rooms ...id.Room) {
			var list []obj
			for _, r := range rooms {
				list = append(list, obj{"type": "m.room_membership", "room_id": r})
			}
			restricted.set("@alice:test", "m.room.join_rules", "", obj{"join_rule": "restricted", "allow": list})
		}
		shown := func() string {
			var out []string
			for _, r := range e.ok("GET", root.tree(), bob, nil).Get("rooms").Array()[1:] {
				out = append(out, r.Get("name").Str)
			}
			return strings.Join(out, " ")
		}
		const always = "public knock both readable invited joined shut"
		allow("!unknown:test", root.id)
		same(t, "in none of the allowed rooms", shown(), always)
		root.member(user, "join")
		same(t, "in an allowed room", shown(), always+" restricted")
		allow()
		same(t, "no room is allowed", shown(), always)
		root.member(user, "ban")
		e.want(403, "M_FORBIDDEN", "GET", root.tree(), bob, nil)
		root.set("@alice:test", "m.room.join_rules", "", obj{"join_rule": "invite"})
		root.member(user, "leave")
		e.want(403, "M_FORBIDDEN", "GET", root.tree(), bob, nil)
	})
}

// told makes another server's answer.
func told(room id.Room, name, roomType, rule string, children []obj, more obj) string {
	links := []obj{}
	for i, c := range children {
		links = append(links, obj{"type": "m.space.child", "state_key": c["room_id"], "content": c, "sender": "@x:away", "origin_server_ts": i})
	}
	answer := obj{"room": obj{"room_id": room, "name": name, "room_type": roomType, "join_rule": rule, "children_state": links},
		"children": []obj{}, "inaccessible_children": []string{}}
	for k, v := range more {
		answer[k] = v
	}
	raw, err := json.Marshal(answer)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

func TestHierarchyOverFederation(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		root, ours := e.newNamed("root", "m.space", "public"), e.newNamed("ours", "", "public")
		via := func(room id.Room, servers ...string) obj { return obj{"room_id": room, "via": servers} }
		for _, r := range []id.Room{"!space:away", "!inner:away", "!leaf:away", "!shut:away", "!dark:away", "!members:away", "!lost:away", "!known:away"} {
			e.name(r, string(r[1:strings.IndexByte(string(r), ':')]))
		}
		root.link("!space:away", "via", []string{"test", "down", "away"})
		e.fed.told = map[string]string{
			"away!space:away": told("!space:away", "space", "m.space", "public",
				[]obj{via(ours.id, "away"), via("!inner:away", "away"), via("!known:away", "away"), via("!shut:away", "away"), via("!dark:away", "away"), via("!members:away", "away"), via("!lost:away", "away")},
				obj{"children": []obj{{"room_id": ours.id, "name": "a lie", "join_rule": "public"}, {"room_id": "!inner:away", "name": "inner", "room_type": "m.space"},
					{"room_id": "!known:away", "name": "known", "join_rule": "public"}, {"room_id": "!dark:away", "name": "dark", "join_rule": "invite"},
					{"room_id": "!members:away", "name": "members", "join_rule": "restricted", "allowed_room_ids": []id.Room{ours.id}}},
					"inaccessible_children": []string{"!shut:away"}}),
			"away!inner:away": told("!inner:away", "inner", "m.space", "public", []obj{via("!leaf:away", "other")}, nil),
			"other!leaf:away": told("!leaf:away", "leaf", "", "public", nil, nil),
		}
		const want = "root(space) space(ours inner known shut dark members lost) ours inner(leaf) leaf known members"
		same(t, "tree", e.tree(e.ok("GET", root.tree(), token, nil)), want)
		asked := slices.Clone(e.fed.spaces)
		slices.Sort(asked)
		same(t, "asked", asked, "[away!inner:away away!lost:away away!space:away down!space:away other!leaf:away]")
		e.fed.spaces = nil
		same(t, "again", e.tree(e.ok("GET", root.tree(), token, nil)), want)
		same(t, "asked again", e.fed.spaces, "[down!space:away away!lost:away]")

		var got []string
		for next := ""; ; {
			page := e.ok("GET", root.tree("limit", "1", "from", next), token, nil)
			got = append(got, e.tree(page))
			if next = page.Get("next_batch").Str; next == "" {
				break
			}
		}
		same(t, "pages", strings.Join(got, " "), want)

		// A user of this server who is in no allowed room.
		bob, _ := e.register("bob")
		same(t, "for others", e.tree(e.ok("GET", root.tree(), bob, nil)), strings.TrimSuffix(want, " members"))
	})
}

// A space that this server is not in is asked for where its ID comes from.
func TestHierarchyOfARemoteRoot(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		e.name("!child:away", "child")
		e.fed.told = map[string]string{
			"away!space:away": told("!space:away", "space", "m.space", "public", []obj{{"room_id": "!child:away", "via": []string{"away"}}},
				obj{"children": []obj{{"room_id": "!child:away", "name": "child"}}}),
			"away!secret:away": told("!secret:away", "secret", "m.space", "invite", nil, nil),
			"away!liar:away":   told("!other:away", "liar", "m.space", "public", nil, nil),
		}
		same(t, "tree", e.tree(e.ok("GET", c1+"/rooms/!space:away/hierarchy", token, nil)), "space(child) child")
		for _, room := range []string{"!secret:away", "!liar:away", "!none:away", "!hash"} {
			e.want(403, "M_FORBIDDEN", "GET", c1+"/rooms/"+room+"/hierarchy", token, nil)
		}

		// Whoever is invited may see the room, and the server of whoever invited knows it.
		bob, _ := e.register("bob")
		invite := e.newRoom("@x:away")
		invite.set("@x:away", "m.room.member", "@bob:test", obj{"membership": "invite"})
		e.fed.told["away"+string(invite.id)] = told(invite.id, "party", "m.space", "invite", nil, nil)
		same(t, "invited", e.tree(e.ok("GET", invite.tree(), bob, nil)), "party")
		same(t, "membership", e.ok("GET", c1+"/room_summary/"+string(invite.id), bob, nil).Get("membership").Str, "invite")
		e.want(403, "M_FORBIDDEN", "GET", invite.tree(), token, nil)

		summary := c1 + "/room_summary/!space:away"
		if a := e.ok("GET", summary, token, nil); a.Get("name").Str != "space" || a.Get("children_state").Exists() || a.Get("membership").Exists() {
			t.Errorf("got %s", a.Raw)
		}
		e.want(404, "M_NOT_FOUND", "GET", c1+"/room_summary/!none:away", token, nil)
		e.want(404, "M_NOT_FOUND", "GET", summary, "", nil)
		e.fed.told["third!hash"] = told("!hash", "by via", "", "knock", nil, nil)
		same(t, "via", e.ok("GET", c1+"/room_summary/!hash?via=third", token, nil).Get("name").Str, "by via")
	})
}

// A page ends after so many questions to other servers, with nothing in it if need be, and the
// walk goes on from there.
func TestHierarchyWorkIsBounded(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		root, last := e.newNamed("root", "m.space", "public"), e.newNamed("last", "", "public")
		const dead = 3 * maxTreeAsks
		e.name(last.id, "last")
		for i := range dead {
			root.link(id.Room(fmt.Sprintf("!%d:dead", i)), "via", []string{"dead"})
		}
		root.link(last.id)
		var rooms []string
		pages := 0
		for next := ""; ; pages++ {
			e.fed.spaces = nil
			page := e.ok("GET", root.tree("from", next), token, nil)
			for _, r := range page.Get("rooms").Array() {
				rooms = append(rooms, r.Get("name").Str)
			}
			if n := len(e.fed.spaces); n > maxTreeAsks+lookTogether {
				t.Fatalf("%d questions", n)
			}
			if next = page.Get("next_batch").Str; next == "" {
				break
			}
		}
		same(t, "rooms", rooms, "[root last]")
		same(t, "pages", pages >= 2, true)
	})
}
