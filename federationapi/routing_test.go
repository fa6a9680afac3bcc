package federationapi

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/matrix/event"
	"weft/matrix/id"
)

// destinations gives where an event goes.
func (w *world) destinations(only id.Server, e *eventstore.Event) []id.Server {
	w.t.Helper()
	stored, err := w.r.Event(w.ctx(), e.NID)
	w.ok(err)
	list, err := newRoutes(w.r, home, only).page(w.ctx(), []*eventstore.Event{stored})
	w.ok(err)
	servers := slices.Clone(list[0].servers)
	slices.Sort(servers)
	return servers
}

func TestRouting(t *testing.T) {
	kicked, outsider := id.User("@kicked:three.example"), id.User("@x:four.example")
	cases := []struct {
		name string
		// run returns the event whose destinations are asked for, after whatever
		// happened since.
		run  func(r *room) *eventstore.Event
		want []id.Server
	}{
		{"everybody in the room", func(r *room) *eventstore.Event { return r.say(alice, "hi") }, []id.Server{one, two}},
		{"a server that is denied but resident", func(r *room) *eventstore.Event { return r.acl(two) }, []id.Server{one, two}},
		{"a message before a kick", func(r *room) *eventstore.Event {
			e := r.say(alice, "hi")
			r.member(alice, tina, "leave")
			return e
		}, []id.Server{one, two}},
		{"a message after a kick", func(r *room) *eventstore.Event {
			r.member(alice, tina, "leave")
			return r.say(alice, "hi")
		}, []id.Server{one}},
		{"the kick", func(r *room) *eventstore.Event { return r.member(alice, tina, "leave") }, []id.Server{one, two}},
		{"the ban", func(r *room) *eventstore.Event { return r.member(alice, tina, "ban") }, []id.Server{one, two}},
		{"an invite is brought otherwise", func(r *room) *eventstore.Event { return r.member(alice, kicked, "invite") }, []id.Server{one, two}},
		{"an invite taken back", func(r *room) *eventstore.Event {
			r.member(alice, kicked, "invite")
			return r.member(alice, kicked, "leave")
		}, []id.Server{one, three, two}},
		{"a knock refused", func(r *room) *eventstore.Event {
			r.member(kicked, kicked, "knock")
			return r.member(alice, kicked, "leave")
		}, []id.Server{one, three, two}},
		{"a ban of somebody who was never there", func(r *room) *eventstore.Event { return r.member(alice, outsider, "ban") }, []id.Server{one, two}},
		{"one of a server's two users was kicked", func(r *room) *eventstore.Event {
			other := id.User("@other:two.example")
			r.member(other, other, "join")
			e := r.say(alice, "hi")
			r.member(alice, tina, "leave")
			return e
		}, []id.Server{one, two}},
		{"a message before a join, hidden from the newcomer", func(r *room) *eventstore.Event {
			r.send(alice, "m.room.history_visibility", ptr(""), map[string]any{"history_visibility": "joined"})
			e := r.say(alice, "hi")
			r.member(theo, theo, "join")
			return e
		}, []id.Server{one, two}},
		{"a message before a join, that the newcomer may see", func(r *room) *eventstore.Event {
			e := r.say(alice, "hi")
			r.member(theo, theo, "join")
			return e
		}, []id.Server{one, two}},
		{"an invite for a second user declined since", func(r *room) *eventstore.Event {
			other := id.User("@other:two.example")
			r.member(alice, other, "invite")
			e := r.say(alice, "hi")
			r.member(other, other, "leave")
			return e
		}, []id.Server{one, two}},
		{"a second user joined since", func(r *room) *eventstore.Event {
			r.send(alice, "m.room.history_visibility", ptr(""), map[string]any{"history_visibility": "joined"})
			e := r.say(alice, "hi")
			other := id.User("@other:two.example")
			r.member(other, other, "join")
			return e
		}, []id.Server{one, two}},
		{"left and came back since", func(r *room) *eventstore.Event {
			e := r.say(alice, "hi")
			r.member(tina, tina, "leave")
			r.member(tina, tina, "join")
			return e
		}, []id.Server{one, two}},
		{"somebody else's event that we hand on", func(r *room) *eventstore.Event {
			r.flags = func(*event.Event) eventstore.Flags { return eventstore.SendOut }
			return r.member(theo, theo, "join")
		}, []id.Server{one, two}},
		{"a user of another server leaves through us", func(r *room) *eventstore.Event {
			return r.member(tina, tina, "leave")
		}, []id.Server{one}},
	}
	onBoth(t, func(t *testing.T, w *world) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				w.t = t
				e := c.run(w.newRoom(alice, bob, oscar, tina))
				if got := w.destinations("", e); !slices.Equal(got, c.want) {
					t.Errorf("to all: got %v, want %v", got, c.want)
				}
				for _, s := range []id.Server{one, two, three, "four.example"} {
					in := slices.Contains(c.want, s)
					if got := w.destinations(s, e); slices.Contains(got, s) != in || len(got) > 1 {
						t.Errorf("to %s alone: got %v, want %t", s, got, in)
					}
				}
			})
		}
	})
}

func TestKickReachesAServerBehind(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar, tina)
		net := newNetwork()
		net.fails(one)
		w.start(w.server(net, quickLimits()))
		said := room.say(alice, "you will be kicked")
		kick := room.member(alice, oscar, "leave")
		after := room.say(alice, "gone")
		net.waitGot(t, two, ids(said, kick, after)...)
		net.wait(t, "it failed", func() bool { return len(net.to(one, false)) > 2 })
		net.fails()
		net.waitGot(t, one, said.ID, kick.ID)
		checkOrder(t, net.got(one), said.ID, kick.ID)
		next := room.say(alice, "really gone")
		net.waitGot(t, two, next.ID)
		if got := net.got(one); slices.Contains(got, after.ID) || slices.Contains(got, next.ID) {
			t.Error("a server that is no longer in the room got what came after")
		}
	})
}

// However many have moved since, an event goes to the servers that were in the room, and to no others.
func TestManyChangesAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		for _, servers := range []int{1, maxAsked + 5} {
			kicked := id.User("@kicked:four.example")
			r := w.newRoom(alice, oscar, tina, kicked)
			e := r.say(alice, "hi")
			r.member(alice, kicked, "leave")
			var events []*event.Event
			tips, depth := r.tips, r.depth
			for i := range movedChunk + 1 {
				server := fmt.Sprintf("s%d.example", i%servers)
				if i%3 == 0 {
					server = string(two) // where tina stayed
				}
				u := id.User(fmt.Sprintf("@u%d:%s", i, server))
				ev := r.build(u, "m.room.member", ptr(string(u)), map[string]any{"membership": "join"})
				r.tips, r.depth = []*event.Event{ev}, ev.Depth
				events = append(events, ev)
			}
			r.tips, r.depth = tips, depth
			r.putAs(0, events...)
			if got := w.destinations("", e); !slices.Equal(got, []id.Server{"four.example", one, two}) {
				t.Errorf("with %d servers more: got %v", servers, got)
			}
			for s, want := range map[id.Server]bool{one: true, two: true, "four.example": true, "s0.example": false} {
				if got := w.destinations(s, e); slices.Contains(got, s) != want {
					t.Errorf("to %s alone, with %d servers more: got %v", s, servers, got)
				}
			}
		}
	})
}

// Who stayed until the room was read, and leaves while it is found out who stayed, was in the room.
func TestLeaveWhileAnEventIsRouted(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom(alice, oscar, tina)
		e := r.say(alice, "hi")
		other := id.User("@other:two.example")
		r.member(other, other, "join")
		stored, err := w.r.Event(w.ctx(), e.NID)
		w.ok(err)
		to := newRoutes(w.r, home, "")
		w.ok(to.load(w.ctx(), []nid.Room{stored.RoomNID}, stored.StreamPos-1))
		r.member(tina, tina, "leave")
		list, err := to.route(w.ctx(), []*eventstore.Event{stored})
		w.ok(err)
		got := slices.Sorted(slices.Values(list[0].servers))
		if !slices.Equal(got, []id.Server{one, two}) {
			t.Errorf("got %v", got)
		}
	})
}

// What is remembered of rooms from page to page never says another thing than what is read anew.
func TestRoutesThatAreRemembered(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		rng := rand.New(rand.NewPCG(1, 2))
		rooms := []*room{w.newRoom(alice, oscar), w.newRoom(alice, tina), w.newRoom(alice)}
		users := []id.User{oscar, tina, theo, bob, "@other:two.example"}
		all, alone := newRoutes(w.r, home, ""), newRoutes(w.r, home, two)
		var pending []*eventstore.Event
		compare := func(what string, r *routes, only id.Server) {
			t.Helper()
			got, err := r.page(w.ctx(), pending)
			w.ok(err)
			want, err := newRoutes(w.r, home, only).page(w.ctx(), pending)
			w.ok(err)
			for i := range want {
				slices.Sort(want[i].servers)
				have := slices.Sorted(slices.Values(got[i].servers))
				if !slices.Equal(have, want[i].servers) {
					t.Fatalf("%s: the event at %d goes to %v, want %v", what, want[i].event.StreamPos, have, want[i].servers)
				}
			}
		}
		for range 150 {
			r, u := rooms[rng.IntN(len(rooms))], users[rng.IntN(len(users))]
			var e *eventstore.Event
			switch n := rng.IntN(10); {
			case n < 6:
				e = r.say(alice, "hi")
			case n < 8:
				e = r.member(u, u, "join")
			default:
				e = r.member(alice, u, "leave")
			}
			stored, err := w.r.Event(w.ctx(), e.NID)
			w.ok(err)
			if pending = append(pending, stored); rng.IntN(3) == 0 {
				compare("to all", all, "")
				compare("to one alone", alone, two)
				pending = pending[:0]
			}
		}
	})
}
