package eventstore_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"weft/internal/eventstore"
	"weft/internal/eventstore/write"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/matrix/id"
)

func TestMembers(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := w.ctx()
		r := w.newRoom("11", alice)
		r.member(bob, "join")
		r.member(carol, "join")
		r.member(dave, "invite")
		other := w.newRoom("11", alice)
		other.member(carol, "join")
		left := r.member(bob, "leave")
		profile := r.member(carol, "join")

		m, err := w.r.Member(ctx, r.nid, bob)
		w.ok(err)
		if m.Membership != eventstore.Leave || m.Event != left.NID || m.StreamPos != left.StreamPos || !m.Local || m.Forgotten {
			t.Errorf("bob is %+v", m)
		}
		if m, e, err := w.r.Membership(ctx, r.nid, carol); m != eventstore.Join || e != profile.NID || err != nil {
			t.Errorf("carol: %v %d (%v)", m, e, err)
		}
		if m, err := w.r.Member(ctx, r.nid, "@nobody:home"); m.Membership != eventstore.None || err != nil {
			t.Errorf("nobody: %+v (%v)", m, err)
		}
		if j, i, err := w.r.MemberCounts(ctx, r.nid); j != 2 || i != 1 || err != nil {
			t.Errorf("%d joined, %d invited (%v)", j, i, err)
		}
		all, err := w.r.Members(ctx, r.nid, 0, 2)
		w.ok(err)
		rest, err := w.r.Members(ctx, r.nid, all[1].UserNID, 10)
		w.ok(err)
		if got := users(append(all, rest...)); !slices.Equal(got, []id.User{alice, bob, carol, dave}) {
			t.Errorf("members %v", got)
		}
		if list, err := w.r.LocalMembers(ctx, r.nid); err != nil || !slices.Equal(users(list), []id.User{alice}) {
			t.Errorf("local members %v (%v)", users(list), err)
		}
		var joined []id.User
		w.ok(w.r.EachMember(ctx, r.nid, func(m eventstore.Member) error { joined = append(joined, m.User); return nil }, eventstore.Join))
		if !slices.Equal(joined, []id.User{alice, carol}) {
			t.Errorf("joined %v", joined)
		}
		if s, err := w.r.Servers(ctx, r.nid); err != nil || !slices.Equal(s, []id.Server{"away", "home"}) {
			t.Errorf("servers %v (%v)", s, err)
		}
		for server, want := range map[id.Server]bool{"away": true, "third": false} {
			if got, err := w.r.ServerInRoom(ctx, r.nid, server); got != want || err != nil {
				t.Errorf("%s in the room: %v (%v)", server, got, err)
			}
		}
		if rooms, err := w.r.RoomsOfServer(ctx, "away"); err != nil || !slices.Equal(rooms, []nid.Room{r.nid, other.nid}) {
			t.Errorf("rooms of the server %v (%v)", rooms, err)
		}
		alone := w.newRoom("11", alice)
		some, err := w.r.RoomsWithServer(ctx, []id.Room{alone.id, other.id, "!unknown:home"}, "away")
		if err != nil || len(some) != 1 || some[other.id] == nil || some[other.id].NID != other.nid || some[other.id].Joined != 2 {
			t.Errorf("of some rooms, those with the server: %v (%v)", some, err)
		}
		if rooms, err := w.r.SharedRooms(ctx, alice, carol); err != nil || !slices.Equal(rooms, []nid.Room{r.nid, other.nid}) {
			t.Errorf("shared rooms %v (%v)", rooms, err)
		}
		if rooms, err := w.r.SharedRooms(ctx, alice, bob); err != nil || len(rooms) != 0 {
			t.Errorf("rooms shared with bob %v (%v)", rooms, err)
		}
		var sharers []id.User
		w.ok(w.r.UsersSharingRoomsWith(ctx, carol, func(u id.User) error { sharers = append(sharers, u); return nil }))
		if slices.Sort(sharers); !slices.Equal(sharers, []id.User{alice, carol}) {
			t.Errorf("sharers %v", sharers)
		}
		if list, err := w.r.LocalUsersSharingRoomsWith(ctx, carol); err != nil || !slices.Equal(list, []id.User{alice}) {
			t.Errorf("local sharers %v (%v)", list, err)
		}
		if list, err := w.r.ServersSharingRoomsWith(ctx, alice); err != nil || !slices.Equal(list, []id.Server{"away", "home"}) {
			t.Errorf("sharing servers %v (%v)", list, err)
		}
		for _, c := range []struct {
			user id.User
			room id.Room
			want []id.Server
		}{{alice, r.id, nil}, {bob, r.id, []id.Server{"away", "home"}}, {alice, "!none:home", nil}, {"@nobody:home", r.id, nil}} {
			if got, err := w.r.ServersNewTo(ctx, c.user, c.room); err != nil || !slices.Equal(got, c.want) {
				t.Errorf("servers of %s that are new to %s: %v (%v)", c.room, c.user, got, err)
			}
		}
		first := int64(-1)
		for _, room := range []nid.Room{r.nid, other.nid} {
			a, err := w.r.Member(ctx, room, alice)
			w.ok(err)
			c, err := w.r.Member(ctx, room, carol)
			w.ok(err)
			if pos := max(a.StreamPos, c.StreamPos); first < 0 || pos < first {
				first = pos
			}
		}
		if pos, ok, err := w.r.SharedSince(ctx, carol); pos != first || !ok || err != nil {
			t.Errorf("shared since %d %v (%v), want %d", pos, ok, err, first)
		}
		came := func(want bool) {
			t.Helper()
			if got, err := w.r.CameLast(ctx, carol); got != want || err != nil {
				t.Errorf("carol came last: %v (%v), want %v", got, err, want)
			}
		}
		for _, user := range []id.User{bob, "@nobody:away"} {
			if got, err := w.r.CameLast(ctx, user); got || err != nil {
				t.Errorf("%s came: %v (%v)", user, got, err)
			}
			if _, ok, err := w.r.SharedSince(ctx, user); ok || err != nil {
				t.Errorf("%s shares a room: %v", user, err)
			}
		}
		came(true)
		for _, room := range []*room{r, other} {
			room.member(alice, "leave")
			room.member(alice, "join")
		}
		came(false)
		w.ok(w.r.Verify(ctx))
	})
}

func users(list []eventstore.Member) []id.User {
	out := make([]id.User, len(list))
	for i, m := range list {
		out[i] = m.User
	}
	return out
}

func TestRoomsOfAndChanges(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ctx := w.ctx()
		a, b := w.newRoom("11", alice), w.newRoom("11", alice)
		join := a.member(bob, "join")
		a.member(bob, "join") // a profile change is no change of membership
		leave := a.member(bob, "leave")
		invite := b.member(bob, "invite")
		rooms, err := w.r.RoomsOf(ctx, bob)
		w.ok(err)
		want := []eventstore.MemberRoom{
			{Room: a.nid, RoomID: a.id, Membership: eventstore.Leave, Event: leave.NID, StreamPos: leave.StreamPos},
			{Room: b.nid, RoomID: b.id, Membership: eventstore.Invite, Event: invite.NID, StreamPos: invite.StreamPos},
		}
		if !slices.Equal(rooms, want) {
			t.Errorf("rooms %+v, want %+v", rooms, want)
		}
		if rooms, err = w.r.RoomsOf(ctx, bob, eventstore.Invite, eventstore.Join); err != nil || !slices.Equal(rooms, want[1:]) {
			t.Errorf("invites %+v (%v)", rooms, err)
		}
		changes, err := w.r.MembershipChanges(ctx, bob, 0, invite.StreamPos)
		w.ok(err)
		wantChanges := []eventstore.MembershipChange{
			{Pos: join.StreamPos, Room: a.nid, RoomID: a.id, Event: join.NID, Membership: eventstore.Join, Prev: eventstore.None},
			{Pos: leave.StreamPos, Room: a.nid, RoomID: a.id, Event: leave.NID, Membership: eventstore.Leave, Prev: eventstore.Join},
			{Pos: invite.StreamPos, Room: b.nid, RoomID: b.id, Event: invite.NID, Membership: eventstore.Invite, Prev: eventstore.None},
		}
		if !slices.Equal(changes, wantChanges) {
			t.Errorf("changes %+v, want %+v", changes, wantChanges)
		}
		if part, err := w.r.MembershipChanges(ctx, bob, join.StreamPos, leave.StreamPos); err != nil || !slices.Equal(part, wantChanges[1:2]) {
			t.Errorf("part %+v (%v)", part, err)
		}
		n, err := w.r.UserNID(ctx, bob)
		w.ok(err)
		for _, c := range []struct {
			room nid.Room
			want bool
		}{{a.nid, true}, {b.nid, false}} {
			w.update(func(ctx context.Context, tx *sqldb.Tx) error {
				got, err := w.w.Forget(ctx, tx, c.room, n)
				if got != c.want {
					t.Errorf("forgetting room %d: %v, want %v", c.room, got, c.want)
				}
				return err
			})
		}
		if m, err := w.r.Member(ctx, a.nid, bob); err != nil || !m.Forgotten {
			t.Errorf("after forgetting: %+v (%v)", m, err)
		}
		a.member(bob, "join")
		if m, err := w.r.Member(ctx, a.nid, bob); err != nil || m.Forgotten {
			t.Errorf("after coming back: %+v (%v)", m, err)
		}
	})
}

func TestHeroes(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("11", alice)
		heroes := func() []id.User {
			t.Helper()
			h, err := w.r.Heroes(w.ctx(), r.nid, alice)
			w.ok(err)
			return h
		}
		if got := heroes(); len(got) != 0 {
			t.Errorf("alone: %v", got)
		}
		var all []id.User
		for i := range 7 {
			u := id.User(fmt.Sprintf("@%c:home", 'z'-i)) // not in the order of the alphabet
			all = append(all, u)
			r.member(u, "join")
		}
		if got := heroes(); !slices.Equal(got, all[:5]) {
			t.Errorf("heroes %v, want %v", got, all[:5])
		}
		for _, u := range all[1:] {
			r.member(u, "leave")
		}
		r.member(bob, "invite")
		if got := heroes(); !slices.Equal(got, []id.User{all[0], bob}) {
			t.Errorf("with an invite: %v", got)
		}
		r.member(bob, "leave")
		r.member(all[0], "leave")
		if got := heroes(); len(got) != 5 || slices.Contains(got, alice) {
			t.Errorf("all gone: %v", got)
		}
	})
}

// TestSetMembersKeepsCount applies random changes and compares the counts that are kept
// with those that are counted.
func TestSetMembersKeepsCount(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		r := w.newRoom("11", alice)
		rng := rand.New(rand.NewPCG(1, 2))
		names := make([]string, 30)
		for i := range names {
			names[i] = fmt.Sprintf("@u%d:s%d", i, i%4)
		}
		_, nids, err := w.w.Intern(w.ctx(), nil, names)
		w.ok(err)
		want := map[string]eventstore.Membership{string(alice): eventstore.Join}
		for step := range 30 {
			changes := make([]write.MemberChange, rng.IntN(15))
			for i := range changes {
				u := names[rng.IntN(len(names))]
				changes[i] = write.MemberChange{
					User: id.User(u), UserNID: nids[u], Membership: eventstore.Membership(rng.IntN(6)), Event: nid.Event(step + 1),
					StreamPos: int64(step + 100), Local: id.User(u).Server() == "s0",
				}
				want[u] = changes[i].Membership
			}
			before, err := w.r.RoomByNID(w.ctx(), r.nid)
			w.ok(err)
			var by write.Counts
			w.update(func(ctx context.Context, tx *sqldb.Tx) error {
				by, err = w.w.SetMembers(ctx, tx, r.nid, changes)
				return err
			})
			after, err := w.r.RoomByNID(w.ctx(), r.nid)
			w.ok(err)
			if by.Joined != after.Joined-before.Joined || by.Invited != after.Invited-before.Invited {
				t.Errorf("the counts changed by %+v, from %+v to %+v", by, before, after)
			}
		}
		var joined, invited int64
		servers := map[id.Server]bool{}
		for u, m := range want {
			switch m {
			case eventstore.Join:
				joined++
				servers[id.User(u).Server()] = true
			case eventstore.Invite:
				invited++
			}
			got, err := w.r.Member(w.ctx(), r.nid, id.User(u))
			w.ok(err)
			if got.Membership != m {
				t.Errorf("%s is %v, want %v", u, got.Membership, m)
			}
		}
		if row := r.row(); row.Joined != joined || row.Invited != invited {
			t.Errorf("counted %d and %d, want %d and %d", row.Joined, row.Invited, joined, invited)
		}
		got, err := w.r.Servers(w.ctx(), r.nid)
		w.ok(err)
		if len(got) != len(servers) {
			t.Errorf("servers %v, want %v", got, servers)
		}
		// The history of a local user leads from each membership to the next.
		changes, err := w.r.MembershipChanges(w.ctx(), id.User(names[0]), 0, 1000)
		w.ok(err)
		prev := eventstore.None
		for _, c := range changes {
			if prev != c.Prev && (prev != eventstore.Leave || c.Prev != eventstore.None) {
				t.Errorf("a change from %v follows %v", c.Prev, prev)
			}
			prev = c.Membership
		}
		if len(changes) < 3 {
			t.Errorf("only %d changes", len(changes))
		}
	})
}

func TestInviteState(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room, err := w.w.RoomNID(w.ctx())
		w.ok(err)
		_, nids, err := w.w.Intern(w.ctx(), nil, []string{string(bob)})
		w.ok(err)
		stripped := []json.RawMessage{[]byte(`{"type":"m.room.name","state_key":"","content":{"name":"x"},"sender":"@a:b"}`), []byte(`{"type":"m.room.create"}`)}
		w.update(func(ctx context.Context, tx *sqldb.Tx) error {
			if _, err := w.w.InsertRoom(ctx, tx, room, "!there:away", "10"); err != nil {
				return err
			}
			return w.w.SetInviteState(ctx, tx, room, nids[string(bob)], stripped)
		})
		got, err := w.r.InviteState(w.ctx(), room, bob)
		w.ok(err)
		if len(got) != 2 || string(got[0]) != string(stripped[0]) || string(got[1]) != string(stripped[1]) {
			t.Errorf("got %s", got)
		}
		if row, err := w.r.Room(w.ctx(), "!there:away"); err != nil || !row.Stub || row.Version != "10" || !row.CurrentState.Empty() {
			t.Errorf("the room is %+v (%v)", row, err)
		}
		w.update(func(ctx context.Context, tx *sqldb.Tx) error {
			return w.w.SetInviteState(ctx, tx, room, nids[string(bob)], nil)
		})
		if got, err := w.r.InviteState(w.ctx(), room, bob); err != nil || got == nil || len(got) != 0 {
			t.Errorf("replaced by nothing: %v (%v)", got, err)
		}
		// It stays with each further invite or knock, and goes when that is over.
		for i, m := range []eventstore.Membership{eventstore.Knock, eventstore.Invite, eventstore.Join} {
			w.update(func(ctx context.Context, tx *sqldb.Tx) error {
				_, err := w.w.SetMembers(ctx, tx, room, []write.MemberChange{{User: bob, UserNID: nids[string(bob)], Membership: m,
					Event: nid.Event(i + 1), StreamPos: int64(i + 100), Local: true}})
				return err
			})
			if got, err := w.r.InviteState(w.ctx(), room, bob); err != nil || (got == nil) != (m == eventstore.Join) {
				t.Errorf("after %v: %v (%v)", m, got, err)
			}
		}
		for _, u := range []id.User{bob, "@nobody:x"} {
			if got, err := w.r.InviteState(w.ctx(), room, u); err != nil || got != nil {
				t.Errorf("%s has %v (%v)", u, got, err)
			}
		}
	})
}
