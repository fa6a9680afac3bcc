package eventstore_test

import (
	"slices"
	"testing"

	"weft/internal/eventstore"
	"weft/matrix/id"
)

// TestVisibilityByRule plays one story under each visibility and checks who sees which
// part of it: carol is invited, joins, and leaves; dave joins at last; bob never comes.
//
// spec: client-server §11.11.2
func TestVisibilityByRule(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		for _, c := range []struct {
			visibility string
			// Which of the messages 0…5 they see:
			// 0 before all, 1 carol invited, 2 carol joined, 3 carol gone, 4 dave invited, 5 dave joined.
			carol, dave, bob []int
		}{
			{"world_readable", []int{0, 1, 2, 3, 4, 5}, []int{0, 1, 2, 3, 4, 5}, []int{0, 1, 2, 3, 4, 5}},
			{"shared", []int{0, 1, 2}, []int{0, 1, 2, 3, 4, 5}, nil},
			{"invited", []int{1, 2}, []int{4, 5}, nil},
			{"joined", []int{2}, []int{5}, nil},
			{"", []int{0, 1, 2}, []int{0, 1, 2, 3, 4, 5}, nil},         // rule: shared when not set
			{"nonsense", []int{0, 1, 2}, []int{0, 1, 2, 3, 4, 5}, nil}, // or not understood
		} {
			r := w.newRoom("11", alice)
			local := id.User("@carol:home") // the history of memberships is kept for local users
			if c.visibility != "" {
				r.visibility(c.visibility)
			}
			var said []*eventstore.Event
			say := func() { said = append(said, r.say(alice, "x")) }
			say()
			r.member(local, "invite")
			say()
			r.member(local, "join")
			say()
			r.member(local, "leave")
			say()
			r.member(dave, "invite")
			say()
			r.member(dave, "join")
			say()
			for user, want := range map[id.User][]int{local: c.carol, dave: c.dave, "@bob:home": c.bob, alice: {0, 1, 2, 3, 4, 5}} {
				seen, err := w.r.CanSeeMany(w.ctx(), user, said)
				w.ok(err)
				var got []int
				for i, ok := range seen {
					if ok {
						got = append(got, i)
					}
				}
				if !slices.Equal(got, want) {
					t.Errorf("%q: %s sees %v, want %v", c.visibility, user, got, want)
				}
				one, err := w.r.CanSee(w.ctx(), user, said[1])
				w.ok(err)
				if one != seen[1] {
					t.Errorf("%q: %s alone: %v, in a page: %v", c.visibility, user, one, seen[1])
				}
			}
			if v, err := w.r.State(r.state).HistoryVisibility(w.ctx()); err != nil || (c.visibility == "joined") != (v == "joined") {
				t.Errorf("%q is read as %q (%v)", c.visibility, v, err)
			}
		}
	})
}

// A user who came back sees, under "shared", what was said in between.
func TestSharedReachesBackFromALaterJoin(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("11", alice)
		r.member(bob, "join")
		r.member(bob, "leave")
		between := r.say(alice, "between")
		r.member(bob, "join")
		r.member(bob, "leave")
		after := r.say(alice, "after")
		seen, err := w.r.CanSeeMany(w.ctx(), bob, []*eventstore.Event{between, after})
		w.ok(err)
		if !slices.Equal(seen, []bool{true, false}) {
			t.Errorf("bob sees %v", seen)
		}
		old := r.put(r.build(alice, "m.room.message", nil, map[string]any{"body": "old"}), option{backfill: true})
		if ok, err := w.r.CanSee(w.ctx(), bob, old); !ok || err != nil {
			t.Errorf("backfilled: %v (%v)", ok, err)
		}
	})
}

func TestVisibilityOfVisibilityAndMemberEvents(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("11", alice)
		open := r.visibility("world_readable")
		closed := r.visibility("joined")
		again := r.visibility("joined")
		invite := r.member(bob, "invite")
		join := r.member(bob, "join")
		leave := r.member(bob, "leave")
		other := r.member(dave, "join")
		ban := r.send(alice, "m.room.member", ptr("@evil:x"), map[string]any{"membership": "ban"})
		for _, c := range []struct {
			what string
			user id.User
			e    *eventstore.Event
			want bool
		}{
			{"to world_readable", "@x:y", open, true},
			{"from world_readable", "@x:y", closed, true},
			{"from joined to joined", "@x:y", again, false},
			{"own invite", bob, invite, true},
			{"own join", bob, join, true},
			{"own leave", bob, leave, true},
			{"another's join after leaving", bob, other, false},
			{"another's leave", dave, leave, false},
			{"own ban, never in the room", "@evil:x", ban, false},
			{"unknown user", "@nobody:z", join, false},
		} {
			got, err := w.r.CanSee(w.ctx(), c.user, c.e)
			w.ok(err)
			if got != c.want {
				t.Errorf("%s: %v, want %v", c.what, got, c.want)
			}
		}
	})
}

func TestNobodySeesWhatIsHidden(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("11", alice)
		r.visibility("world_readable")
		for _, f := range []eventstore.Flags{eventstore.Rejected, eventstore.SoftFailed, eventstore.Outlier} {
			e := r.put(r.build(alice, "m.room.message", nil, map[string]any{"body": "x"}), option{flags: f})
			user, err := w.r.CanSee(w.ctx(), alice, e)
			w.ok(err)
			server, err := w.r.CanServerSee(w.ctx(), "home", e)
			w.ok(err)
			if user || server {
				t.Errorf("flags %d: user %v, server %v", f, user, server)
			}
		}
		invite := r.put(r.build(alice, "m.room.member", ptr(string(bob)), map[string]any{"membership": "invite"}), option{flags: eventstore.Outlier})
		for user, want := range map[id.User]bool{bob: true, alice: false} {
			if got, err := w.r.CanSee(w.ctx(), user, invite); got != want || err != nil {
				t.Errorf("an invite from elsewhere: %s sees it: %v (%v)", user, got, err)
			}
		}
	})
}

func TestVisibilityForServers(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		for _, c := range []struct {
			visibility        string
			away, third, none []int
		}{
			// Messages: 0 before, 1 carol:away invited, 2 joined, 3 gone, 4 dave:third joined.
			{"world_readable", []int{0, 1, 2, 3, 4}, []int{0, 1, 2, 3, 4}, []int{0, 1, 2, 3, 4}},
			{"shared", []int{2}, []int{0, 1, 2, 3, 4}, nil},
			{"invited", []int{1, 2}, []int{4}, nil},
			{"joined", []int{2}, []int{4}, nil},
		} {
			r := w.newRoom("11", alice)
			r.visibility(c.visibility)
			var said []*eventstore.Event
			say := func() { said = append(said, r.say(alice, "x")) }
			say()
			r.member(carol, "invite")
			say()
			r.member(carol, "join")
			say()
			r.member(carol, "leave")
			say()
			join := r.member(dave, "join")
			say()
			for server, want := range map[id.Server][]int{"away": c.away, "third": c.third, "never": c.none, "home": {0, 1, 2, 3, 4}} {
				seen, err := w.r.CanServerSeeMany(w.ctx(), server, said)
				w.ok(err)
				var got []int
				for i, ok := range seen {
					if ok {
						got = append(got, i)
					}
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s: %s sees %v, want %v", c.visibility, server, got, want)
				}
			}
			if ok, err := w.r.CanServerSee(w.ctx(), "third", join); !ok || err != nil {
				t.Errorf("%s: the server does not see its own user's join (%v)", c.visibility, err)
			}
		}
	})
}
