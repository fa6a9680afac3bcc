package eventstore

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/tidwall/gjson"

	"weft/internal/nid"
	"weft/internal/statetree"
	"weft/matrix/id"
)

// The values of m.room.history_visibility.
const (
	worldReadable     = "world_readable"
	shared            = "shared"
	invited           = "invited"
	joined            = "joined"
	defaultVisibility = shared
)

// visibilityOf reads content.history_visibility.
//
// spec: client-server §11.11 ("if no history_visibility is set, or if the value is
// not understood, the visibility is assumed to be shared")
func visibilityOf(content []byte) string {
	switch v := gjson.GetBytes(content, "history_visibility"); v.Str {
	case worldReadable, shared, invited, joined:
		return v.Str
	}
	return defaultVisibility
}

// HistoryVisibility gives the history visibility in a state.
func (s *State) HistoryVisibility(ctx context.Context) (string, error) {
	found, err := s.NIDs(ctx, []statetree.Key{visibilityKey()})
	if err != nil || found[0] == 0 {
		return defaultVisibility, err
	}
	events, err := s.r.Unredacted(ctx, found)
	if err != nil {
		return "", err
	}
	return visibilityOf(events[0].Content()), nil
}

func visibilityKey() statetree.Key {
	return statetree.Key{Type: nid.TypeHistoryVisibility, StateKey: nid.EmptyStateKey}
}

// CanSee tells whether a user may get an event.
func (r *Reader) CanSee(ctx context.Context, user id.User, e *Event) (bool, error) {
	ok, err := r.CanSeeMany(ctx, user, []*Event{e})
	if err != nil {
		return false, err
	}
	return ok[0], nil
}

// CanSeeMany is CanSee for a page of events, of one or several rooms. States that
// the events share are looked into once; the number of queries does not grow with the page.
//
// Rejected and soft-failed events, and outliers, whose state is not known, are seen by nobody,
// but for a user's own membership.
//
// spec: client-server §11.11.2 (Server behaviour)
func (r *Reader) CanSeeMany(ctx context.Context, user id.User, events []*Event) ([]bool, error) {
	out := make([]bool, len(events))
	me, err := r.UserNID(ctx, user)
	if err != nil {
		return nil, err
	}
	states, err := r.viewStates(ctx, events, []nid.StateKey{me})
	if err != nil {
		return nil, err
	}
	later := make(map[nid.Room]int64) // the last position at which the user joined
	for i, e := range events {
		switch {
		case e.Flags&(Rejected|SoftFailed) != 0:
			continue
		case !e.HasState:
			out[i] = e.TypeNID == nid.TypeMember && me != 0 && e.StateKeyNID == me
			continue
		}
		v := states.at(e, me)
		if own(e, me, v.memberships) {
			out[i] = true
			continue
		}
		if out[i] = v.allowed(false); out[i] || me == 0 {
			continue
		}
		if v.allowed(true) {
			last, ok := later[e.RoomNID]
			if !ok {
				if last, err = r.lastJoin(ctx, e.RoomNID, me); err != nil {
					return nil, err
				}
				later[e.RoomNID] = last
			}
			out[i] = last > e.StreamPos
		}
	}
	return out, nil
}

// own tells whether an event is a step of the user's own membership between states
// in which the user has to do with the room.
//
// spec?: §11.11.2 judges a user's own member events by the membership before or after.
// With visibility "shared" that would hide an invite, and its rejection, from the very
// user it is about, who gets both in /sync anyway. So invites and knocks count
// like joins here; nothing is told that the user was not told before.
func own(e *Event, me nid.StateKey, memberships []Membership) bool {
	if me == 0 || e.TypeNID != nid.TypeMember || e.StateKeyNID != me {
		return false
	}
	for _, m := range memberships {
		if m == Join || m == Invite || m == Knock {
			return true
		}
	}
	return false
}

// view is what the rules look at: the visibility and the membership at an event,
// before and, where the event changes it, after.
type view struct {
	visibilities []string
	memberships  []Membership
}

// allowed applies the five rules; joinedLater says that the user joined after the event.
func (v view) allowed(joinedLater bool) bool {
	for _, vis := range v.visibilities {
		if vis == worldReadable { // rule 1
			return true
		}
		for _, m := range v.memberships {
			switch {
			case m == Join: // rule 2
				return true
			case vis == shared && joinedLater: // rule 3
				return true
			case vis == invited && m == Invite: // rule 4
				return true
			}
		}
	}
	return false // rule 5
}

// viewStates holds the entries that the rules need, of all states of a page.
type viewStates struct {
	found  map[statetree.Lookup]nid.Event
	events map[nid.Event]*record
}

// viewStates looks up the visibility, and the memberships of some users, before each event.
func (r *Reader) viewStates(ctx context.Context, events []*Event, users []nid.StateKey) (*viewStates, error) {
	s := &viewStates{found: make(map[statetree.Lookup]nid.Event)}
	var lookups []statetree.Lookup
	add := func(q statetree.Lookup) {
		if _, ok := s.found[q]; !ok {
			s.found[q] = 0
			lookups = append(lookups, q)
		}
	}
	for _, e := range events {
		if !e.HasState {
			continue
		}
		add(statetree.Lookup{Root: e.StateBefore, Key: visibilityKey()})
		for _, u := range users {
			if u != 0 {
				add(statetree.Lookup{Root: e.StateBefore, Key: statetree.Key{Type: nid.TypeMember, StateKey: u}})
			}
		}
	}
	nids, err := statetree.GetEach(ctx, r, lookups)
	if err != nil {
		return nil, err
	}
	for i, q := range lookups {
		s.found[q] = nids[i]
	}
	// What counts survives redaction, so the columns that can change need not be read.
	s.events, err = r.records(ctx, present(nids))
	return s, err
}

func (s *viewStates) visibility(root statetree.Root) string {
	if rec := s.events[s.found[statetree.Lookup{Root: root, Key: visibilityKey()}]]; rec != nil {
		return visibilityOf(rec.Content())
	}
	return defaultVisibility
}

func (s *viewStates) membership(root statetree.Root, user nid.StateKey) Membership {
	q := statetree.Lookup{Root: root, Key: statetree.Key{Type: nid.TypeMember, StateKey: user}}
	if rec := s.events[s.found[q]]; rec != nil {
		return ParseMembership(rec.Membership())
	}
	return None
}

// at gives the view of a user on an event.
func (s *viewStates) at(e *Event, user nid.StateKey) view {
	v := view{
		visibilities: []string{s.visibility(e.StateBefore)},
		memberships:  []Membership{s.membership(e.StateBefore, user)},
	}
	switch {
	case e.TypeNID == nid.TypeHistoryVisibility && e.StateKeyNID == nid.EmptyStateKey:
		v.visibilities = append(v.visibilities, visibilityOf(e.Content()))
	case e.TypeNID == nid.TypeMember && user != 0 && e.StateKeyNID == user:
		v.memberships = append(v.memberships, ParseMembership(e.Membership()))
	}
	return v
}

const lastJoinSQL = `SELECT MAX(stream_pos) FROM membership_changes WHERE user_nid = $1 AND room_nid = $2 AND membership = 1`

// lastJoin gives the last stream position at which a user was or became joined:
// beyond all positions when joined now, the least when never.
func (r *Reader) lastJoin(ctx context.Context, room nid.Room, user nid.StateKey) (int64, error) {
	const never, now = -1 << 63, 1<<63 - 1
	members, err := r.MembersOf(ctx, room, []nid.StateKey{user})
	if err != nil {
		return 0, err
	}
	if members[user].Membership == Join {
		return now, nil
	}
	var pos sql.NullInt64
	if err := r.q.QueryRow(ctx, lastJoinSQL, int64(user), int64(room)).Scan(&pos); err != nil {
		return 0, fmt.Errorf("eventstore: last join: %w", err)
	}
	if !pos.Valid {
		return never, nil
	}
	return pos.Int64, nil
}

// CanServerSee tells whether another server may get an event.
func (r *Reader) CanServerSee(ctx context.Context, server id.Server, e *Event) (bool, error) {
	ok, err := r.CanServerSeeMany(ctx, server, []*Event{e})
	if err != nil {
		return false, err
	}
	return ok[0], nil
}

// CanServerSeeMany tells which events a server may get: those that any of its users
// may see.
//
// spec?: the server-server API asks for the history visibility rules without saying how
// they apply to a server. A server may see what one of its users may, since it
// has to serve them.
func (r *Reader) CanServerSeeMany(ctx context.Context, server id.Server, events []*Event) ([]bool, error) {
	out := make([]bool, len(events))
	rooms := make(map[nid.Room][]int)
	for i, e := range events {
		if e.HasState && e.Flags&(Rejected|SoftFailed) == 0 {
			rooms[e.RoomNID] = append(rooms[e.RoomNID], i)
		}
	}
	for room, places := range rooms {
		page := make([]*Event, len(places))
		for i, p := range places {
			page[i] = events[p]
		}
		seen, err := r.serverPage(ctx, server, room, page)
		if err != nil {
			return nil, err
		}
		for i, p := range places {
			out[p] = seen[i]
		}
	}
	return out, nil
}

// serverPage judges events of one room.
func (r *Reader) serverPage(ctx context.Context, server id.Server, room nid.Room, events []*Event) ([]bool, error) {
	out := make([]bool, len(events))
	inRoom, err := r.ServerInRoom(ctx, room, server)
	if err != nil {
		return nil, err
	}
	states, err := r.viewStates(ctx, events, nil)
	if err != nil {
		return nil, err
	}
	var open []int
	for i, e := range events {
		v := states.at(e, 0)
		if e.TypeNID == nid.TypeMember && id.User(e.StateKey).Server() == server {
			v.memberships = append(v.memberships, ParseMembership(e.Membership()))
		}
		if out[i] = v.allowed(inRoom); !out[i] {
			open = append(open, i)
		}
	}
	// What is left depends on the server's users at the time. Whoever ever was one of
	// them still has a row, so the few candidates are asked about, not whole states.
	err = r.candidates(ctx, room, server, func(users []nid.StateKey) (more bool, err error) {
		page := make([]*Event, len(open))
		for i, p := range open {
			page[i] = events[p]
		}
		if states, err = r.viewStates(ctx, page, users); err != nil {
			return false, err
		}
		var still []int
		for _, p := range open {
			for _, u := range users {
				if out[p] = states.at(events[p], u).allowed(inRoom); out[p] {
					break
				}
			}
			if !out[p] {
				still = append(still, p)
			}
		}
		open = still
		return len(open) > 0, nil
	}, len(open) > 0)
	return out, err
}

// candidatePage is how many users are looked up in the states of a page at once.
const candidatePage = 50

// candidates calls fn with a server's users who have a membership in a room, joined
// ones first, a few at a time, as long as it wants more.
func (r *Reader) candidates(ctx context.Context, room nid.Room, server id.Server, fn func([]nid.StateKey) (bool, error), more bool) error {
	for _, memberships := range [][]Membership{{Join}, {Leave, Ban, Invite, Knock}} {
		after := nid.StateKey(0)
		var users []nid.StateKey
		for more {
			page, err := r.Members(ctx, room, after, pageSize, memberships...)
			if err != nil {
				return err
			}
			for _, m := range page {
				if m.User.Server() == server {
					users = append(users, m.UserNID)
				}
			}
			last := len(page) < pageSize
			for more && len(users) > 0 && (last || len(users) >= candidatePage) {
				n := min(candidatePage, len(users))
				if more, err = fn(users[:n]); err != nil {
					return err
				}
				users = users[n:]
			}
			if last {
				break
			}
			after = page[len(page)-1].UserNID
		}
	}
	return nil
}
