package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"weft/internal/fedclient"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

// invite invites a user. One who is invited by the same user with the same content is
// not invited again.
//
// spec: client-server §10.4.1 (Inviting users); server-server §14 (Inviting to a room)
func (s *Server) invite(ctx context.Context, req api.SetMembership) (id.Event, error) {
	_, resident, err := s.residence(ctx, req.Room)
	if err != nil {
		return "", err
	}
	if !resident {
		return "", notInRoom(req)
	}
	if s.local(req.Target) {
		return s.sendMembership(ctx, req, func(context.Context, *roomView, string, object) error { return nil })
	}
	if req.Txn.ID != "" {
		done, err := s.sentBefore(ctx, sendOptions{User: req.Sender, Txn: req.Txn})
		if err != nil {
			return "", err
		}
		if len(done) > 0 {
			return done[0].ID, nil
		}
	}
	content, err := memberContent(req)
	if err != nil {
		return "", err
	}
	return s.inviteRemote(ctx, req.Room, req.Sender, req.Target, content)
}

// inviteRemote invites a user of another server:
//
//  1. build the event on the room as it is, and check that it is allowed
//  2. let the user's server sign it
//  3. take it into the room. The room may have moved on; then the event is a branch.
//
// spec: server-server §14 ("a request to that homeserver to have the event signed and
// verified must be made")
func (s *Server) inviteRemote(ctx context.Context, room id.Room, sender, target id.User, content json.RawMessage) (id.Event, error) {
	var ev *event.Event
	var known id.Event
	var stripped []json.RawMessage
	err := s.inRoom(ctx, room, func(ctx context.Context, v *roomView) error {
		_, old, err := v.Membership(ctx, target)
		if err != nil {
			return err
		}
		if sameMember(old, sender, content) {
			known = old.ID
			return nil
		}
		allowed, err := v.ServerAllowed(ctx, target.Server())
		if err != nil {
			return err
		}
		if !allowed {
			return merr.Forbidden("the room does not let users of %s in", target.Server())
		}
		spec := eventSpec{Type: eventauth.TypeMember, StateKey: stateKey(string(target)), Sender: sender, Content: content}
		if ev, err = s.buildOnly(ctx, v, spec); err != nil {
			return err
		}
		if err := v.CheckAuth(ctx, ev); err != nil {
			return err
		}
		stripped, err = v.stripped(ctx, sender)
		return err
	})
	if err != nil || known != "" {
		return known, err
	}
	raw, err := s.cfg.Remote.Invite(ctx, target.Server(), room, ev.ID, ev.Rules.Version, ev.JSON(), stripped)
	if err != nil {
		return "", asInviteError(err, target.Server())
	}
	signed, err := event.Parse(raw, ev.Rules)
	if err != nil || signed.ID != ev.ID || signed.Redacted() || len(signed.SignatureKeys(target.Server())) == 0 {
		return "", errors.Join(merr.New(http.StatusBadGateway, "M_UNKNOWN", "%s did not sign the invite", target.Server()), err)
	}
	ctx = context.WithoutCancel(ctx)
	if err := s.input(ctx, s.cfg.ServerName, []*event.Event{signed}, inputMembership)[signed.ID]; err != nil {
		return "", fmt.Errorf("taking the invite of %s into the room: %w", target, err)
	}
	return signed.ID, nil
}

// buildOnly builds and signs an event without sending it.
func (s *Server) buildOnly(ctx context.Context, v *roomView, spec eventSpec) (*event.Event, error) {
	b, err := v.Template(ctx, spec)
	if err != nil {
		return nil, err
	}
	return b.Build(s.cfg.ServerName, s.cfg.Key.ID, s.cfg.Key.Private)
}

// asInviteError makes of another server's refusal what the inviting client may hear.
//
// spec: server-server §14 (PUT /invite: "If M_MISSING_PARAM or M_INVALID_PARAM is returned … the
// Client-Server API request SHOULD fail with a 5xx error")
func asInviteError(err error, server id.Server) error {
	if _, ok := fedclient.AsRemote(err); ok && (errors.Is(err, merr.ErrMissingParam) || errors.Is(err, merr.ErrInvalidParam)) {
		return fmt.Errorf("%w: %w", merr.New(http.StatusBadGateway, "M_UNKNOWN", "%s does not accept the form of the invite", server), err)
	}
	return err
}
