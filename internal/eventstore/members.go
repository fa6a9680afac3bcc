package eventstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"weft/internal/nid"
	"weft/matrix/id"
)

const (
	memberSQL = `SELECT membership, event_nid, stream_pos, local, forgotten FROM room_members WHERE room_nid = $1 AND user_nid = $2`

	memberColumns = `SELECT m.user_nid, m.membership, m.event_nid, m.stream_pos, m.local, m.forgotten, k.state_key
		FROM room_members m JOIN state_keys k ON k.state_key_nid = m.user_nid WHERE m.room_nid = $1 `
	membersSQL   = memberColumns + `AND m.user_nid > $2 AND m.membership IN ($3, $4, $5, $6, $7) ORDER BY m.user_nid LIMIT $8`
	heroesSQL    = memberColumns + `AND m.membership = $2 AND m.user_nid <> $3 ORDER BY m.stream_pos, m.user_nid LIMIT $4`
	localSQL     = memberColumns + `AND m.local = 1 AND m.membership IN ($2, $3, $4, $5, $6) ORDER BY m.user_nid`
	membersOfSQL = memberColumns + `AND m.user_nid IN `
	roomsOfSQL   = `SELECT m.room_nid, r.room_id, r.stub, m.membership, m.event_nid, m.stream_pos, m.forgotten
		FROM room_members m JOIN rooms r ON r.room_nid = m.room_nid
		WHERE m.user_nid = $1 AND m.membership IN ($2, $3, $4, $5, $6) ORDER BY m.room_nid`
	changesSQL = `SELECT c.stream_pos, c.room_nid, r.room_id, c.event_nid, c.membership, c.prev_membership
		FROM membership_changes c JOIN rooms r ON r.room_nid = c.room_nid
		WHERE c.user_nid = $1 AND c.stream_pos > $2 AND c.stream_pos <= $3 ORDER BY c.stream_pos, c.room_nid`
)

// Member gives a user's membership in the current state of a room. One without any
// has membership None.
func (r *Reader) Member(ctx context.Context, room nid.Room, user id.User) (Member, error) {
	m := Member{User: user}
	var err error
	if m.UserNID, err = r.UserNID(ctx, user); err != nil || m.UserNID == 0 {
		return m, err
	}
	var local, forgotten int64
	err = r.q.QueryRow(ctx, memberSQL, int64(room), int64(m.UserNID)).Scan(&m.Membership, &m.Event, &m.StreamPos, &local, &forgotten)
	if errors.Is(err, sql.ErrNoRows) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("eventstore: member: %w", err)
	}
	m.Local, m.Forgotten = local != 0, forgotten != 0
	return m, nil
}

// Membership is Member reduced to the membership and its event.
func (r *Reader) Membership(ctx context.Context, room nid.Room, user id.User) (Membership, nid.Event, error) {
	m, err := r.Member(ctx, room, user)
	return m.Membership, m.Event, err
}

// MembersOf gives the memberships of some users in a room. Users without any are
// missing in the result.
func (r *Reader) MembersOf(ctx context.Context, room nid.Room, users []nid.StateKey) (map[nid.StateKey]Member, error) {
	out := make(map[nid.StateKey]Member, len(users))
	err := r.chunked(ctx, membersOfSQL, []any{int64(room)}, anys(users), func(row func(...any) error) error {
		m, err := scanMember(row)
		out[m.UserNID] = m
		return err
	})
	return out, err
}

func scanMember(row func(...any) error) (Member, error) {
	var m Member
	var local, forgotten int64
	var user []byte
	err := row(&m.UserNID, &m.Membership, &m.Event, &m.StreamPos, &local, &forgotten, &user)
	m.User, m.Local, m.Forgotten = id.User(user), local != 0, forgotten != 0
	return m, err
}

// fiveMemberships fills a list of memberships up to the five that a statement
// takes. An empty list stands for all.
func fiveMemberships(list []Membership) []any {
	if len(list) == 0 {
		list = []Membership{Join, Invite, Leave, Ban, Knock}
	}
	out := make([]any, 5)
	for i := range out {
		out[i] = int64(list[min(i, len(list)-1)])
	}
	return out
}

// MemberCounts gives the numbers of joined and of invited members of a room.
func (r *Reader) MemberCounts(ctx context.Context, room nid.Room) (joined, invited int64, err error) {
	row, err := r.RoomByNID(ctx, room)
	if err != nil {
		return 0, 0, err
	}
	return row.Joined, row.Invited, nil
}

// Members gives a page of the members of a room's current state with one of some
// memberships (none named: any), in the order of the users' numbers, beginning after one.
func (r *Reader) Members(ctx context.Context, room nid.Room, after nid.StateKey, limit int, memberships ...Membership) ([]Member, error) {
	args := append([]any{int64(room), int64(after)}, fiveMemberships(memberships)...)
	return r.memberList(ctx, membersSQL, append(args, limit))
}

func (r *Reader) memberList(ctx context.Context, q string, args []any) ([]Member, error) {
	var out []Member
	err := r.rows(ctx, q, args, func(row func(...any) error) error {
		m, err := scanMember(row)
		out = append(out, m)
		return err
	})
	return out, err
}

// EachMember calls fn for every member of a room with one of some memberships
// (none named: any), in pages.
func (r *Reader) EachMember(ctx context.Context, room nid.Room, fn func(Member) error, memberships ...Membership) error {
	after := nid.StateKey(0)
	for {
		page, err := r.Members(ctx, room, after, pageSize, memberships...)
		if err != nil {
			return err
		}
		for _, m := range page {
			if err := fn(m); err != nil {
				return err
			}
		}
		if len(page) < pageSize {
			return nil
		}
		after = page[len(page)-1].UserNID
	}
}

// LocalMembers gives the members of a room that are this server's users, with one
// of some memberships (none named: joined).
func (r *Reader) LocalMembers(ctx context.Context, room nid.Room, memberships ...Membership) ([]Member, error) {
	if len(memberships) == 0 {
		memberships = []Membership{Join}
	}
	return r.memberList(ctx, localSQL, append([]any{int64(room)}, fiveMemberships(memberships)...))
}

// heroCount is how many heroes a summary has.
const heroCount = 5

// Heroes gives the members that name a room which has no name, for one of its
// members: the first five others who are joined or invited, or else who left or
// were banned.
//
// spec: client-server §6.4.4 (m.heroes of RoomSummary)
func (r *Reader) Heroes(ctx context.Context, room nid.Room, user id.User) ([]id.User, error) {
	me, err := r.UserNID(ctx, user)
	if err != nil {
		return nil, err
	}
	for _, group := range [][]Membership{{Join, Invite}, {Leave, Ban}} {
		var out []id.User
		for _, m := range group {
			list, err := r.memberList(ctx, heroesSQL, []any{int64(room), int64(m), int64(me), heroCount - len(out)})
			if err != nil {
				return nil, err
			}
			for _, h := range list {
				out = append(out, h.User)
			}
			if len(out) == heroCount {
				break
			}
		}
		if len(out) > 0 {
			return out, nil
		}
	}
	return nil, nil
}

// RoomsOf gives the rooms in which a user has one of some memberships (none named: any),
// forgotten ones included.
func (r *Reader) RoomsOf(ctx context.Context, user id.User, memberships ...Membership) ([]MemberRoom, error) {
	n, err := r.UserNID(ctx, user)
	if err != nil || n == 0 {
		return nil, err
	}
	var out []MemberRoom
	err = r.rows(ctx, roomsOfSQL, append([]any{int64(n)}, fiveMemberships(memberships)...), func(row func(...any) error) error {
		var m MemberRoom
		var stub, forgotten int64
		err := row(&m.Room, &m.RoomID, &stub, &m.Membership, &m.Event, &m.StreamPos, &forgotten)
		m.Stub, m.Forgotten = stub != 0, forgotten != 0
		out = append(out, m)
		return err
	})
	return out, err
}

// MembershipChanges gives what happened to a local user's memberships at the stream
// positions from < pos ≤ to, in order.
func (r *Reader) MembershipChanges(ctx context.Context, user id.User, from, to int64) ([]MembershipChange, error) {
	n, err := r.UserNID(ctx, user)
	if err != nil || n == 0 {
		return nil, err
	}
	var out []MembershipChange
	err = r.rows(ctx, changesSQL, []any{int64(n), from, to}, func(row func(...any) error) error {
		var c MembershipChange
		err := row(&c.Pos, &c.Room, &c.RoomID, &c.Event, &c.Membership, &c.Prev)
		out = append(out, c)
		return err
	})
	return out, err
}

const joinedRoomsSQL = `SELECT room_nid FROM room_members WHERE user_nid = $1 AND membership = $2 ORDER BY room_nid`

// JoinedRooms gives the rooms in which a user is joined, in ascending order.
func (r *Reader) JoinedRooms(ctx context.Context, user nid.StateKey) ([]nid.Room, error) {
	return numbers[nid.Room](ctx, r, joinedRoomsSQL, int64(user), int64(Join))
}
