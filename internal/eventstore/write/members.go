package write

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/matrix/id"
)

// MemberChange is a user's new membership in the current state of a room.
type MemberChange struct {
	User    id.User
	UserNID nid.StateKey
	// Membership None takes the user out: the state has no member event any more.
	Membership eventstore.Membership
	Event      nid.Event
	StreamPos  int64
	// Local: the user is this server's, and the change is kept in the user's history.
	Local bool
}

// Counts are those of a room's members.
type Counts struct{ Joined, Invited int64 }

const (
	insertMemberSQL = `INSERT INTO room_members (room_nid, user_nid, membership, event_nid, stream_pos, local, forgotten) VALUES `
	// A profile change (same membership) keeps the position at which the
	// membership began.
	insertMemberTail = ` ON CONFLICT (room_nid, user_nid) DO UPDATE SET event_nid = excluded.event_nid, local = excluded.local, forgotten = 0,
		stream_pos = CASE WHEN room_members.membership = excluded.membership THEN room_members.stream_pos ELSE excluded.stream_pos END,
		membership = excluded.membership`
	deleteMemberSQL  = `DELETE FROM room_members WHERE room_nid = $1 AND user_nid IN `
	insertChangeSQL  = `INSERT INTO membership_changes (user_nid, stream_pos, room_nid, event_nid, membership, prev_membership) VALUES `
	insertChangeTail = ` ON CONFLICT (user_nid, stream_pos, room_nid) DO UPDATE SET event_nid = excluded.event_nid, membership = excluded.membership`
	countServerSQL   = `INSERT INTO room_servers (room_nid, server, joined) VALUES ($1, $2, $3)
		ON CONFLICT (room_nid, server) DO UPDATE SET joined = room_servers.joined + excluded.joined`
	dropServersSQL  = `DELETE FROM room_servers WHERE room_nid = $1 AND joined <= 0`
	countMembersSQL = `UPDATE rooms SET joined = joined + $2, invited = invited + $3 WHERE room_nid = $1`
	forgetSQL       = `UPDATE room_members SET forgotten = 1 WHERE room_nid = $1 AND user_nid = $2 AND membership NOT IN (1, 2)`
)

// SetMembers changes members of the current state of a room, keeps the counts of
// members and servers in step, and the history of local users; the stripped state of an invite or a knock that is over
// goes. The room's row must be locked: call it after UpdateRoom or InsertRoom in the same transaction. When a user occurs
// twice, the last change counts. It says by how much the counts in the room's row changed.
func (w *Writer) SetMembers(ctx context.Context, tx *sqldb.Tx, room nid.Room, changes []MemberChange) (by Counts, err error) {
	if len(changes) == 0 {
		return by, nil
	}
	last := make(map[nid.StateKey]MemberChange, len(changes))
	for _, c := range changes {
		last[c.UserNID] = c
	}
	users := slices.Sorted(maps.Keys(last))
	before, err := w.r.Uncommitted(tx).MembersOf(ctx, room, users)
	if err != nil {
		return by, err
	}
	var set, history [][]any
	var gone, entered []any
	servers := make(map[id.Server]int64)
	for _, u := range users {
		c, old := last[u], before[u].Membership
		count := func(m eventstore.Membership, n int64) {
			switch m {
			case eventstore.Join:
				by.Joined += n
				servers[c.User.Server()] += n
			case eventstore.Invite:
				by.Invited += n
			}
		}
		count(old, -1)
		count(c.Membership, 1)
		now := c.Membership
		if now == eventstore.None {
			gone, now = append(gone, int64(u)), eventstore.Leave
		} else {
			set = append(set, []any{int64(room), int64(u), int64(c.Membership), int64(c.Event), c.StreamPos, c.Local, 0})
		}
		if c.Local && waiting(old) && !waiting(now) {
			entered = append(entered, int64(u))
		}
		if c.Local && old != now {
			history = append(history, []any{int64(u), c.StreamPos, int64(room), int64(c.Event), int64(now), int64(old)})
		}
	}
	steps := []func() error{
		func() error { return sqldb.Insert(ctx, tx, insertMemberSQL, set, insertMemberTail) },
		func() error { return execIn(ctx, tx, deleteMemberSQL, []any{int64(room)}, gone) },
		func() error { return sqldb.Insert(ctx, tx, insertChangeSQL, history, insertChangeTail) },
		func() error { return execIn(ctx, tx, deleteInviteSQL, []any{int64(room)}, entered) },
		func() error { return countServers(ctx, tx, room, servers) },
		func() error {
			if by == (Counts{}) {
				return nil
			}
			_, err := tx.Exec(ctx, countMembersSQL, int64(room), by.Joined, by.Invited)
			return err
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return by, fmt.Errorf("eventstore: members of room %d: %w", room, err)
		}
	}
	return by, nil
}

// waiting tells whether a user with a membership waits at the door.
func waiting(m eventstore.Membership) bool {
	return m == eventstore.Invite || m == eventstore.Knock
}

// countServers adds to the numbers of joined members of servers.
func countServers(ctx context.Context, tx *sqldb.Tx, room nid.Room, servers map[id.Server]int64) error {
	drop := false
	for _, s := range slices.Sorted(maps.Keys(servers)) {
		if servers[s] == 0 {
			continue
		}
		drop = drop || servers[s] < 0
		if _, err := tx.Exec(ctx, countServerSQL, int64(room), string(s), servers[s]); err != nil {
			return err
		}
	}
	if !drop {
		return nil
	}
	_, err := tx.Exec(ctx, dropServersSQL, int64(room))
	return err
}

// Forget hides a room that a user left. It reports false when the user is still
// joined or invited, or has no membership.
func (w *Writer) Forget(ctx context.Context, tx *sqldb.Tx, room nid.Room, user nid.StateKey) (bool, error) {
	res, err := tx.Exec(ctx, forgetSQL, int64(room), int64(user))
	if err != nil {
		return false, fmt.Errorf("eventstore: forgetting: %w", err)
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

const (
	setInviteSQL = `INSERT INTO invite_state (room_nid, user_nid, state) VALUES ($1, $2, $3)
		ON CONFLICT (room_nid, user_nid) DO UPDATE SET state = excluded.state`
	deleteInviteSQL = `DELETE FROM invite_state WHERE room_nid = $1 AND user_nid IN `
)

// SetInviteState stores the stripped state that came with an invite or a knock.
func (w *Writer) SetInviteState(ctx context.Context, tx *sqldb.Tx, room nid.Room, user nid.StateKey, stripped []json.RawMessage) error {
	if stripped == nil {
		stripped = []json.RawMessage{}
	}
	raw, err := json.Marshal(stripped)
	if err != nil {
		return fmt.Errorf("eventstore: stripped state: %w", err)
	}
	if _, err := tx.Exec(ctx, setInviteSQL, int64(room), int64(user), w.codec.Encode(raw)); err != nil {
		return fmt.Errorf("eventstore: stripped state: %w", err)
	}
	return nil
}
