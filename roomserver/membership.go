package roomserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"weft/internal/eventstore"
	"weft/matrix/canonical"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

// SetMembership implements api.Rooms.
//
// spec: client-server §10.4 (Room membership)
func (s *Server) SetMembership(ctx context.Context, req api.SetMembership) (id.Room, error) {
	if _, err := s.changeMembership(ctx, req); err != nil {
		return "", err
	}
	return req.Room, nil
}

// changeMembership carries out a change and gives the event that made it, or the one
// that had made it before.
func (s *Server) changeMembership(ctx context.Context, req api.SetMembership) (id.Event, error) {
	if req.Target == "" {
		req.Target = req.Sender
	}
	if !s.local(req.Sender) {
		return "", merr.Forbidden("%s is not a user of this server", req.Sender)
	}
	self := req.Sender == req.Target
	switch {
	case (req.Membership == "join" || req.Membership == "knock") && !self:
		return "", merr.Forbidden("%s may not %s for %s", req.Sender, req.Membership, req.Target)
	case req.Membership == "join":
		return s.join(ctx, req)
	case req.Membership == "knock":
		return s.knock(ctx, req)
	case req.Membership == "invite":
		return s.invite(ctx, req)
	case req.Membership == "leave" && self && req.Action == "":
		return s.leave(ctx, req)
	case req.Membership == "leave", req.Membership == "ban":
		return s.moderate(ctx, req)
	}
	return "", merr.InvalidParam("the membership %q is not known", req.Membership)
}

// memberContent makes the content of a member event: what the request gives, without
// what only servers may say.
func memberContent(req api.SetMembership) (json.RawMessage, error) {
	content, err := parseObject("the content", req.Content)
	if err != nil {
		return nil, err
	}
	// The signature of a third party belongs to an invite that the room server makes, not
	// into the event.
	for _, key := range []string{"join_authorised_via_users_server", "third_party_signed", "third_party_invite"} {
		delete(content, key)
	}
	content.set("membership", req.Membership)
	if req.Reason != "" {
		content.set("reason", req.Reason)
	}
	return content.raw(), nil
}

// sameMember tells whether a member event says already what a new one would say.
func sameMember(old *eventstore.Event, sender id.User, content json.RawMessage) bool {
	if old == nil || old.Sender != sender {
		return false
	}
	wanted, err := canonical.CanonicalLenient(content)
	if err != nil {
		return false
	}
	have, err := parseObject("the content", old.Content())
	if err != nil {
		return false
	}
	delete(have, "join_authorised_via_users_server")
	now, err := canonical.CanonicalLenient(have.raw())
	return err == nil && bytes.Equal(now, wanted)
}

// sendMembership sends one member event, unless the current one says the same. check
// looks at the current membership; it may add to the content.
func (s *Server) sendMembership(ctx context.Context, req api.SetMembership,
	check func(ctx context.Context, v *roomView, current string, content object) error) (id.Event, error) {
	base, err := memberContent(req)
	if err != nil {
		return "", err
	}
	var known id.Event
	events, err := s.sendLocal(ctx, req.Room, sendOptions{User: req.Sender, Txn: req.Txn}, func(ctx context.Context, v *roomView) ([]eventSpec, error) {
		known = ""
		current, old, err := v.Membership(ctx, req.Target)
		if err != nil {
			return nil, err
		}
		if sameMember(old, req.Sender, base) {
			known = old.ID
			return nil, nil
		}
		content, err := parseObject("the content", base)
		if err != nil {
			return nil, err
		}
		if err := check(ctx, v, current, content); err != nil {
			return nil, err
		}
		return []eventSpec{{Type: eventauth.TypeMember, StateKey: stateKey(string(req.Target)), Sender: req.Sender, Content: content.raw()}}, nil
	})
	if err != nil || len(events) == 0 {
		return known, err
	}
	return events[0].ID, nil
}

// notInRoom is what a user hears about a room that this server knows nothing of, or
// is not in.
func notInRoom(req api.SetMembership) error {
	return merr.Forbidden("%s is not joined to the room %s", req.Sender, req.Room)
}

// moderate kicks, bans and unbans.
//
// spec: client-server §10.4.3 (Leaving rooms: kick), §10.4.4 (Banning users in a room)
func (s *Server) moderate(ctx context.Context, req api.SetMembership) (id.Event, error) {
	event, err := s.sendMembership(ctx, req, func(_ context.Context, _ *roomView, current string, _ object) error {
		switch {
		case req.Action == "kick" && current != "join" && current != "invite" && current != "knock":
			return merr.Forbidden("%s is not in the room", req.Target)
		case req.Action == "unban" && current != "ban":
			return merr.Forbidden("%s is not banned", req.Target)
		}
		return nil
	})
	if errors.Is(err, merr.ErrNotFound) {
		return "", fmt.Errorf("%w: %w", notInRoom(req), err)
	}
	return event, err
}

// join brings a local user into a room: by itself where this server is in the room and
// may let the user in, otherwise through a server that can.
//
// spec: client-server §10.4.2 (Joining rooms); server-server §12 (Joining Rooms)
func (s *Server) join(ctx context.Context, req api.SetMembership) (id.Event, error) {
	room, resident, err := s.residence(ctx, req.Room)
	if err != nil {
		return "", err
	}
	if !resident {
		return s.joinRemotely(ctx, req, room)
	}
	event, err := s.joinLocally(ctx, req)
	if !errors.Is(err, merr.ErrUnableToAuthoriseJoin) && !errors.Is(err, merr.ErrUnableToGrantJoin) {
		return event, err
	}
	// Others in the room may know more, or have somebody who may invite.
	return s.joinThroughOthers(ctx, req, room, err)
}

func (s *Server) joinLocally(ctx context.Context, req api.SetMembership) (id.Event, error) {
	return s.sendMembership(ctx, req, func(ctx context.Context, v *roomView, _ string, content object) error {
		via, err := s.authoriser(ctx, v, req.Target)
		if err == nil && via != "" {
			content.set("join_authorised_via_users_server", via)
		}
		return err
	})
}

// leave takes a local user out of a room, rejects an invite or withdraws a knock. A user
// who has left is done.
//
// spec: client-server §10.4.3 (Leaving rooms); server-server §15 (Leaving Rooms)
func (s *Server) leave(ctx context.Context, req api.SetMembership) (id.Event, error) {
	room, resident, err := s.residence(ctx, req.Room)
	if err != nil {
		return "", err
	}
	if room == nil {
		return "", merr.NotFound("the room %s is not known here", req.Room)
	}
	member, err := s.store.Member(ctx, room.NID, req.Target)
	if err != nil {
		return "", err
	}
	switch member.Membership {
	case eventstore.None:
		return "", notInRoom(req)
	case eventstore.Ban:
		return "", merr.Forbidden("%s is banned from the room", req.Target)
	case eventstore.Leave:
		e, err := s.store.Event(ctx, member.Event)
		if err != nil {
			return "", err
		}
		return e.ID, nil
	}
	if !resident {
		return s.leaveRemotely(ctx, req, room, member)
	}
	return s.sendMembership(ctx, req, func(context.Context, *roomView, string, object) error { return nil })
}
