package roomserver

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"weft/matrix/id"
	"weft/roomserver/api"
)

func TestAliases(t *testing.T) {
	federated(t, []id.Server{"a", "b"}, func(t *testing.T, f *federation) {
		a, b := f.nodes["a"], f.nodes["b"]
		ctx := context.Background()
		room := a.createRoomAs(alice, api.CreateRoom{Preset: "public_chat"})
		other := a.createRoomAs(alice, api.CreateRoom{Preset: "public_chat"})
		a.mustSet("join", room, alice2, "")
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(a.CreateAlias(ctx, "#one:a", room, alice))
		must(a.CreateAlias(ctx, "#two:a", room, alice2))
		must(a.CreateAlias(ctx, "#老虎:a", room, alice2))
		if err := a.CreateAlias(ctx, "#one:a", other, alice); err == nil {
			t.Error("an alias was given twice")
		} else {
			wantCode(t, "an alias in use", err, 409, "M_UNKNOWN")
		}
		wantCode(t, "another server's alias", a.CreateAlias(ctx, "#one:b", room, alice), 400, "M_INVALID_PARAM")
		wantCode(t, "an unknown room", a.CreateAlias(ctx, "#three:a", nowhere, alice), 404, "M_NOT_FOUND")
		list, err := a.ListAliases(ctx, room)
		if err != nil || !slices.Equal(list, []id.RoomAlias{"#one:a", "#two:a", "#老虎:a"}) {
			t.Errorf("the aliases are %v, %v", list, err)
		}
		// From another server, and a join by it.
		found, err := b.ResolveAlias(ctx, "#two:a")
		if err != nil || found.Room != room || !slices.Equal(found.Servers, []id.Server{"a"}) {
			t.Fatalf("b finds %v, %v", found, err)
		}
		b.mustSet("join", found.Room, bob, "", through(found.Servers...))
		found, err = a.ResolveAlias(ctx, "#one:a")
		if err != nil || !slices.Equal(found.Servers, []id.Server{"a", "b"}) {
			t.Errorf("a finds %v, %v", found, err)
		}
		_, err = b.ResolveAlias(ctx, "#none:a")
		wantCode(t, "no such alias", err, 404, "M_NOT_FOUND")
		_, err = b.ResolveAlias(ctx, "#none:nowhere")
		wantCode(t, "no such server", err, 502, "M_CONNECTION_FAILED")
		// Canonical, and deleted again.
		a.mustSendAs(alice, room, "m.room.canonical_alias", stateKey(""), `{"alias":"#one:a","alt_aliases":["#two:a","#老虎:a"]}`)
		_, err = a.sendAs(alice, other, "m.room.canonical_alias", stateKey(""), `{"alias":"#one:a"}`)
		wantCode(t, "an alias of another room", err, 400, "M_BAD_ALIAS")
		wantCode(t, "another's alias without power", a.DeleteAlias(ctx, "#one:a", alice2), 403, "M_FORBIDDEN")
		wantCode(t, "another's alias from outside", a.DeleteAlias(ctx, "#one:a", "@x:a"), 403, "M_FORBIDDEN")
		wantCode(t, "an alias that is not there", a.DeleteAlias(ctx, "#none:a", alice), 404, "M_NOT_FOUND")
		must(a.DeleteAlias(ctx, "#two:a", alice))
		if got := string(a.stateEvent(room, "m.room.canonical_alias", "").Content()); got != `{"alias":"#one:a","alt_aliases":["#老虎:a"]}` {
			t.Errorf("the canonical alias is %s", got)
		}
		must(a.DeleteAlias(ctx, "#老虎:a", alice2)) // its creator, who may not touch the event
		if got := string(a.stateEvent(room, "m.room.canonical_alias", "").Content()); got != `{"alias":"#one:a","alt_aliases":["#老虎:a"]}` {
			t.Errorf("the canonical alias is %s", got)
		}
		// What was there before is not checked again.
		a.mustSendAs(alice, room, "m.room.canonical_alias", stateKey(""), `{"alt_aliases":["#老虎:a"]}`)
		a.mustSendAs(alice, room, "m.room.canonical_alias", stateKey(""), `{"alias":"#one:a"}`)
		must(a.DeleteAlias(ctx, "#one:a", alice))
		if got := string(a.stateEvent(room, "m.room.canonical_alias", "").Content()); got != `{}` {
			t.Errorf("the canonical alias is %s", got)
		}
	})
}

func TestPublicRooms(t *testing.T) {
	federated(t, []id.Server{"a"}, func(t *testing.T, f *federation) {
		a := f.nodes["a"]
		ctx := context.Background()
		var rooms []id.Room
		for i := range 7 {
			req := api.CreateRoom{Visibility: "public", Name: fmt.Sprintf("Room %d", i), Topic: "about nothing"}
			if i == 3 {
				req.Topic, req.AliasLocalpart = "about WOMBLES", "wombles"
				req.CreationContent = json.RawMessage(`{"type":"m.space"}`)
			}
			if i == 4 {
				req.InitialState = []api.StateEvent{{Type: "m.room.history_visibility", Content: json.RawMessage(`{"history_visibility":"world_readable"}`)},
					{Type: "m.room.guest_access", Content: json.RawMessage(`{"guest_access":"can_join"}`)},
					{Type: "m.room.avatar", Content: json.RawMessage(`{"url":"mxc://a/b"}`)}}
			}
			rooms = append(rooms, a.createRoomAs(alice, req))
		}
		a.createRoomAs(alice, api.CreateRoom{Preset: "public_chat", Name: "not listed"})
		a.mustSet("join", rooms[5], alice2, "")
		list := func(req api.ListPublicRooms) api.PublicRooms {
			t.Helper()
			out, err := a.ListPublicRooms(ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		all := list(api.ListPublicRooms{})
		if len(all.Chunk) != 7 || all.Total != 7 || all.NextBatch != "" || all.PrevBatch != "" || all.Chunk[0].RoomID != rooms[5] {
			t.Errorf("the list is %+v", all)
		}
		for _, want := range []api.PublicRoom{
			{RoomID: rooms[5], Name: "Room 5", Topic: "about nothing", NumJoinedMembers: 2, JoinRule: "public"},
			{RoomID: rooms[3], Name: "Room 3", Topic: "about WOMBLES", CanonicalAlias: "#wombles:a", NumJoinedMembers: 1, JoinRule: "public", RoomType: "m.space"},
			{RoomID: rooms[4], Name: "Room 4", Topic: "about nothing", AvatarURL: "mxc://a/b", NumJoinedMembers: 1, JoinRule: "public", WorldReadable: true, GuestCanJoin: true},
		} {
			if !slices.Contains(all.Chunk, want) {
				t.Errorf("%+v is not in %+v", want, all.Chunk)
			}
		}
		// Forward page by page, then back.
		var seen []id.Room
		since := ""
		for range 10 {
			page := list(api.ListPublicRooms{Limit: 3, Since: since})
			for _, r := range page.Chunk {
				seen = append(seen, r.RoomID)
			}
			if page.Total != 7 {
				t.Errorf("the total is %d", page.Total)
			}
			if since = page.NextBatch; since == "" {
				if page.PrevBatch == "" {
					t.Error("no way back from the last page")
				} else if back := list(api.ListPublicRooms{Limit: 3, Since: page.PrevBatch}); len(back.Chunk) != 3 || back.Chunk[0] != all.Chunk[3] {
					t.Errorf("the page before the last is %+v", back)
				}
				break
			}
		}
		want := make([]id.Room, len(all.Chunk))
		for i, r := range all.Chunk {
			want[i] = r.RoomID
		}
		if !slices.Equal(seen, want) {
			t.Errorf("page by page: %v, at once: %v", seen, want)
		}
		space := "m.space"
		for what, c := range map[string]struct {
			req  api.ListPublicRooms
			want int
		}{
			"a word of the topic":      {api.ListPublicRooms{SearchTerm: "wombles"}, 1},
			"a word of the name":       {api.ListPublicRooms{SearchTerm: "ROOM"}, 7},
			"an alias":                 {api.ListPublicRooms{SearchTerm: "#wombles:a"}, 1},
			"nothing":                  {api.ListPublicRooms{SearchTerm: "xyzzy"}, 0},
			"spaces":                   {api.ListPublicRooms{RoomTypes: []*string{&space}}, 1},
			"rooms":                    {api.ListPublicRooms{RoomTypes: []*string{nil}}, 6},
			"both":                     {api.ListPublicRooms{RoomTypes: []*string{nil, &space}}, 7},
			"spaces about nothing":     {api.ListPublicRooms{RoomTypes: []*string{&space}, SearchTerm: "nothing"}, 0},
			"rooms, with a small page": {api.ListPublicRooms{RoomTypes: []*string{nil}, Limit: 2}, 6},
		} {
			got := list(c.req)
			if got.Total != c.want || c.req.Limit == 0 && len(got.Chunk) != c.want || c.req.Limit > 0 && (len(got.Chunk) != c.req.Limit || got.NextBatch == "") {
				t.Errorf("%s: %+v, want %d", what, got, c.want)
			}
		}
		_, err := a.ListPublicRooms(ctx, api.ListPublicRooms{Since: "wrong"})
		wantCode(t, "a wrong token", err, 400, "M_INVALID_PARAM")
		if err := a.SetPublished(ctx, rooms[0], false); err != nil {
			t.Fatal(err)
		}
		if got := list(api.ListPublicRooms{}); len(got.Chunk) != 6 {
			t.Errorf("%d rooms are listed", len(got.Chunk))
		}
		wantCode(t, "publishing an unknown room", a.SetPublished(ctx, nowhere, true), 404, "M_NOT_FOUND")
	})
}
