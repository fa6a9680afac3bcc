package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

// SendMembership implements api.Federation: send_join, send_knock and send_leave.
//
//  1. the event is what the endpoint is for
//  2. a restricted join is authorised: this server signs it
//  3. its signatures
//  4. it becomes part of the room, and goes to the other servers
//  5. the state and auth chain to answer with
//
// spec: server-server §12 (send_join), §13 (send_knock), §15 (send_leave)
func (s *Server) SendMembership(ctx context.Context, req api.SendMembership) (api.SentMembership, error) {
	var out api.SentMembership
	room, err := s.residentRoom(ctx, req.Room, req.Membership)
	if err != nil {
		return out, err
	}
	allowed, err := s.allowedByACL(ctx, room, req.Origin)
	if err != nil {
		return out, err
	}
	if !allowed {
		return out, merr.Forbidden("%s is not allowed in this room", req.Origin)
	}
	ev, err := checkMembershipEvent(room, req)
	if err != nil {
		return out, err
	}
	if ev, err = s.authoriseJoin(ctx, ev); err != nil {
		return out, err
	}
	if err := s.checkSignatures(ctx, []*event.Event{ev})[0]; err != nil {
		return out, fmt.Errorf("%w: %w", merr.InvalidParam("the event is not signed as it must be"), err)
	}
	if err := s.input(ctx, req.Origin, []*event.Event{ev}, inputMembership)[ev.ID]; err != nil {
		return out, err
	}
	out.Event, out.Version = ev.JSON(), room.Version
	stored, err := s.store.EventByID(ctx, ev.ID)
	if err != nil {
		return out, err
	}
	switch req.Membership {
	case "join":
		out.State, out.AuthChain, err = s.stateFor(ctx, stored)
	case "knock":
		err = s.inRoom(ctx, req.Room, func(ctx context.Context, v *roomView) error {
			out.Stripped, err = v.stripped(ctx, "")
			return err
		})
	}
	return out, err
}

// checkMembershipEvent is step 1.
//
// spec: server-server §12 (PUT /v2/send_join, validation), and the same of send_knock and send_leave
func checkMembershipEvent(room *eventstore.Room, req api.SendMembership) (*event.Event, error) {
	ev, err := event.Parse(req.Event, room.Rules)
	if err != nil {
		return nil, err
	}
	wrong := ""
	switch {
	case req.Membership != "join" && req.Membership != "knock" && req.Membership != "leave":
		wrong = "the endpoint"
	case ev.ID != req.EventID:
		wrong = "the event ID"
	case ev.RoomID != req.Room:
		wrong = "the room"
	case ev.Type != eventauth.TypeMember:
		wrong = "the type"
	case !ev.IsState:
		wrong = "that there is no state key"
	case ev.Membership() != req.Membership:
		wrong = "the membership"
	case ev.StateKey != string(ev.Sender):
		wrong = "the state key"
	case ev.Redacted():
		wrong = "the content hash"
	case ev.Sender.Server() != req.Origin:
		wrong = "the sender"
	}
	if wrong != "" {
		return nil, merr.InvalidParam("this is no %s event of %s: %s is wrong", req.Membership, req.Origin, wrong)
	}
	return ev, nil
}

// authoriseJoin is step 2. It looks at the conditions again: the template may be old, or
// never have been given.
//
// spec: server-server §12.1 (Restricted rooms)
func (s *Server) authoriseJoin(ctx context.Context, ev *event.Event) (*event.Event, error) {
	if !ev.Rules.RestrictedJoin || ev.Membership() != "join" {
		return ev, nil
	}
	via := id.User(gjson.GetBytes(ev.Content(), "join_authorised_via_users_server").Str)
	if via == "" || via.Server() != s.cfg.ServerName {
		return ev, nil
	}
	err := s.inRoom(ctx, ev.RoomID, func(ctx context.Context, v *roomView) error {
		_, err := s.authoriser(ctx, v, ev.Sender)
		return err
	})
	if err != nil {
		return nil, err
	}
	// Whether that user can authorise the join is for the rules to say.
	return ev.Sign(s.cfg.ServerName, s.cfg.Key.ID, s.cfg.Key.Private)
}

// stateFor is step 5: the state before an event, and the auth chain of the event and of
// that state.
//
// spec: server-server §12 (send_join: "All events in the auth chain for the new join event, as
// well as those of any events returned in state")
func (s *Server) stateFor(ctx context.Context, e *eventstore.Event) (state, chain []nid.Event, err error) {
	before, err := s.store.StateBefore(e)
	if err != nil {
		return nil, nil, err
	}
	entries, err := before.All(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("the state before %s: %w", e.ID, err)
	}
	state = make([]nid.Event, len(entries))
	for i, en := range entries {
		state[i] = en.Event
	}
	from := append(slices.Clone(state), e.NID)
	err = s.store.AuthChain(ctx, from, func(n nid.Event) error {
		if n != e.NID {
			chain = append(chain, n)
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("the auth chain of %s: %w", e.ID, err)
	}
	return state, chain, nil
}

// ReceiveInvite implements api.Federation.
//
//  1. the event is an invite by a user of the server that sends it, for a user of ours
//  2. the room: version, ACL
//  3. signatures, of the event and of what shows the room
//  4. this server signs it
//  5. it is stored: as an event of the room if we are in it, otherwise beside it
//
// spec: server-server §14 (PUT /v2/invite)
func (s *Server) ReceiveInvite(ctx context.Context, req api.ReceiveInvite) (json.RawMessage, error) {
	rules, err := event.Version(req.Version)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", merr.IncompatibleRoomVersion("rooms of version %s are not supported here", req.Version).
			With("room_version", string(req.Version)), err)
	}
	ev, err := event.Parse(req.Event, rules)
	if err != nil {
		return nil, err
	}
	if err := s.checkInvite(ctx, req, ev); err != nil {
		return nil, err
	}
	room, resident, err := s.residence(ctx, req.Room)
	if err != nil {
		return nil, err
	}
	if room != nil && !room.Stub && room.Version != req.Version {
		return nil, merr.InvalidParam("the room has version %s, not %s", room.Version, req.Version)
	}
	if resident {
		allowed, err := s.allowedByACL(ctx, room, req.Origin)
		if err != nil {
			return nil, err
		}
		if !allowed {
			return nil, merr.Forbidden("%s is not allowed in this room", req.Origin)
		}
	}
	if err := s.checkSignatures(ctx, []*event.Event{ev})[0]; err != nil {
		return nil, fmt.Errorf("%w: %w", merr.InvalidParam("the invite is not signed as it must be"), err)
	}
	if err := s.checkStripped(ctx, rules, req.Room, req.Stripped); err != nil {
		return nil, err
	}
	signed, err := ev.Sign(s.cfg.ServerName, s.cfg.Key.ID, s.cfg.Key.Private)
	if err != nil {
		return nil, err
	}
	if !resident {
		if _, err := s.storeOutlierMembership(ctx, rules, req.Room, signed, shownStripped(req.Stripped)); err != nil {
			return nil, fmt.Errorf("storing the invite to %s: %w", req.Room, err)
		}
		return signed.JSON(), nil
	}
	err = s.input(ctx, req.Origin, []*event.Event{signed}, inputPushed)[signed.ID]
	if errors.Is(err, merr.ErrForbidden) && !isError(err, errMissingPrev) {
		return nil, err
	}
	if err != nil {
		// The inviting server sends it again with its next transaction.
		s.log.WithError(err).WithField("event", signed.ID).Info("an invite to a room that we are in has to wait")
	}
	return signed.JSON(), nil
}

// checkInvite is step 1.
//
// spec: server-server §14 (PUT /v2/invite: "Servers MUST apply certain validation to ensure they
// don't accidentally sign non-invite events from a malicious server.")
func (s *Server) checkInvite(ctx context.Context, req api.ReceiveInvite, ev *event.Event) error {
	wrong := ""
	switch {
	case ev.ID != req.EventID:
		wrong = "the event ID"
	case ev.RoomID != req.Room:
		wrong = "the room"
	case ev.Type != eventauth.TypeMember || !ev.IsState:
		wrong = "the type"
	case ev.Membership() != "invite":
		wrong = "the membership"
	case ev.Redacted():
		wrong = "the content hash"
	case ev.Sender.Server() != req.Origin:
		wrong = "the sender"
	}
	user, err := id.ParseUser(ev.StateKey)
	if wrong == "" && (err != nil || !s.local(user)) {
		wrong = "the state key"
	}
	if wrong != "" {
		return merr.InvalidParam("this is no invite by %s to this server: %s is wrong", req.Origin, wrong)
	}
	if s.cfg.UserExists == nil {
		return nil
	}
	ok, err := s.cfg.UserExists(ctx, user)
	if err != nil {
		return fmt.Errorf("looking up %s: %w", user, err)
	}
	if !ok {
		return merr.Forbidden("there is no user %s who could be invited", user)
	}
	return nil
}
