package roomserver

import (
	"context"

	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// maxAllowed bounds the conditions of a restricted room that are looked at.
const maxAllowed = 100

// authoriser finds the local user in whose name this server lets somebody into
// a restricted room. It is empty where nobody is needed: the room is not restricted, or
// the user is a member or invited already. The errors are
//
//   - M_FORBIDDEN: the user meets no condition, or is banned
//   - M_UNABLE_TO_AUTHORISE_JOIN: some condition cannot be judged here
//   - M_UNABLE_TO_GRANT_JOIN: the user may join, but no local user may invite
//
// spec: server-server §12.1 (Restricted rooms); client-server §11.27.3 (restricted rooms)
func (s *Server) authoriser(ctx context.Context, v *roomView, user id.User) (id.User, error) {
	rules, err := v.State(ctx, eventauth.TypeJoinRules, "")
	if err != nil || rules == nil || !restricted(v.Room(), rules) {
		return "", err
	}
	current, _, err := v.Membership(ctx, user)
	if err != nil || current == "join" || current == "invite" {
		return "", err
	}
	if current == "ban" {
		return "", merr.Forbidden("%s is banned from the room", user)
	}
	if err := s.meetsCondition(ctx, rules, user); err != nil {
		return "", err
	}
	return s.inviter(ctx, v)
}

// restricted tells whether a join rule lets in the members of other rooms.
func restricted(room *eventstore.Room, rules *eventstore.Event) bool {
	switch gjson.GetBytes(rules.Content(), "join_rule").Str {
	case "restricted":
		return room.Rules.RestrictedJoin
	case "knock_restricted":
		return room.Rules.KnockRestricted
	}
	return false
}

// meetsCondition tells whether a user is joined to one of the rooms that a join rule
// names. Conditions of another form than the known one are no conditions.
func (s *Server) meetsCondition(ctx context.Context, rules *eventstore.Event, user id.User) error {
	unknown := false
	for i, allow := range gjson.GetBytes(rules.Content(), "allow").Array() {
		if i == maxAllowed {
			break
		}
		// Arrays and other values of a wrong type have no such members.
		if allow.Get("type").Str != "m.room_membership" || allow.Get("room_id").Type != gjson.String {
			continue
		}
		room, resident, err := s.residence(ctx, id.Room(allow.Get("room_id").Str))
		if err != nil {
			return err
		}
		if room == nil || !resident {
			unknown = true
			continue
		}
		membership, _, err := s.store.Membership(ctx, room.NID, user)
		if err != nil {
			return err
		}
		if membership == eventstore.Join {
			return nil
		}
	}
	if unknown {
		return merr.UnableToAuthoriseJoin("this server is not in all rooms whose members may join")
	}
	return merr.Forbidden("%s is in none of the rooms whose members may join", user)
}

// inviter finds a local user who is joined and may invite.
func (s *Server) inviter(ctx context.Context, v *roomView) (id.User, error) {
	levels, err := v.levels(ctx)
	if err != nil {
		return "", err
	}
	members, err := s.store.LocalMembers(ctx, v.Room().NID)
	if err != nil {
		return "", err
	}
	for _, m := range members {
		if levels.User(m.User) < levels.Invite {
			continue
		}
		// The list is that of the last commit; a send before this one may have changed it.
		now, _, err := v.Membership(ctx, m.User)
		if err != nil {
			return "", err
		}
		if now == "join" {
			return m.User, nil
		}
	}
	return "", merr.UnableToGrantJoin("no user of this server may invite to the room")
}
