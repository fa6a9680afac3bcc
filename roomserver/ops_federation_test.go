package roomserver

import (
	"fmt"
	"testing"

	"weft/matrix/event"
	"weft/matrix/id"
	"weft/roomserver/api"
)

func TestTwoServersInEveryVersion(t *testing.T) {
	federated(t, []id.Server{"a", "b"}, func(t *testing.T, f *federation) {
		a, b := f.nodes["a"], f.nodes["b"]
		for _, v := range event.Versions() {
			t.Run(string(v), func(t *testing.T) {
				f.t = t
				room := a.createRoomAs(alice, api.CreateRoom{RoomVersion: v, Preset: "public_chat", Name: "versions"})
				b.mustSet("join", room, bob, "", through("a"), withContent(`{"displayname":"Bob"}`))
				f.deliver()
				a.mustSendAs(alice, room, "m.room.message", nil, `{"body":"hello","msgtype":"m.text"}`)
				f.deliver()
				b.mustSendAs(bob, room, "m.room.message", nil, `{"body":"hello yourself","msgtype":"m.text"}`)
				b.mustSet("join", room, bob2, "")
				f.deliver()
				f.agree(room, "a", "b")
				if got := a.content(room, "m.room.member", string(bob), "displayname"); got != "Bob" {
					t.Errorf("bob is called %q", got)
				}
				if got := b.content(room, "m.room.create", "", "room_version"); got != string(v) {
					t.Errorf("the version is %q", got)
				}
				b.mustSet("leave", room, bob, "")
				f.deliver()
				f.agree(room, "a", "b")
				if got := a.membership(room, bob); got != "leave" {
					t.Errorf("bob's membership on a is %q", got)
				}
			})
		}
	})
}

func TestSecondLocalUserJoinsWithoutFederation(t *testing.T) {
	federated(t, []id.Server{"a", "b"}, func(t *testing.T, f *federation) {
		a, b := f.nodes["a"], f.nodes["b"]
		room := a.createRoomAs(alice, api.CreateRoom{Preset: "public_chat"})
		done := make(chan error, 8)
		for i := range cap(done) {
			go func() { done <- b.set("join", room, id.User(fmt.Sprintf("@user%d:b", i)), "", through("a")) }()
		}
		for range cap(done) {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if told := b.told(); len(told) != 2 {
			t.Errorf("eight users joined by %v", told)
		}
		f.deliver()
		f.agree(room, "a", "b")
		if got := a.row(room).Joined; got != 9 {
			t.Errorf("%d are joined", got)
		}
	})
}
