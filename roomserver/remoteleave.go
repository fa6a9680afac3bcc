package roomserver

import (
	"context"
	"errors"
	"fmt"

	"weft/internal/eventstore"
	"weft/internal/fedclient"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/roomserver/api"
)

// leaveRemotely rejects an invite to a room that this server is not in, or withdraws a
// knock. When no server can be told, the user leaves all the same, here alone:
// nobody must be stuck with an invite whose room is gone.
//
// spec: server-server §15 (Leaving Rooms (Rejecting Invites))
func (s *Server) leaveRemotely(ctx context.Context, req api.SetMembership, room *eventstore.Room, member eventstore.Member) (id.Event, error) {
	servers, err := s.candidates(ctx, req, room)
	if err != nil {
		return "", err
	}
	event, err := tryServers(ctx, req, servers, func(server id.Server) (id.Event, error) { return s.leaveVia(ctx, req, room, server) })
	if err == nil || ctx.Err() != nil || errors.Is(err, errAfterSend) {
		return event, err
	}
	s.log.WithError(err).WithField("room", req.Room).WithField("user", req.Target).Info("no server could be told that a user leaves; leaving here alone")
	return s.leaveAlone(ctx, req, room, member)
}

func (s *Server) leaveVia(ctx context.Context, req api.SetMembership, room *eventstore.Room, server id.Server) (id.Event, error) {
	h := &handshake{s: s, req: req, make: func(ctx context.Context, server id.Server) (*fedclient.Template, error) {
		t, err := s.cfg.Remote.MakeLeave(ctx, server, req.Room, req.Target)
		if err == nil && t.RoomVersion == "" {
			// The invite or knock has told the version.
			t.RoomVersion = room.Version
		}
		return t, err
	}}
	ev, err := h.prepare(ctx, server)
	if err != nil {
		return "", err
	}
	if err := s.cfg.Remote.SendLeave(ctx, server, req.Room, ev.ID, ev.JSON()); err != nil {
		return "", err
	}
	if _, err := s.storeOutlierMembership(context.WithoutCancel(ctx), ev.Rules, req.Room, ev, nil); err != nil {
		return "", fmt.Errorf("storing the leave from %s (%w): %w", req.Room, errAfterSend, err)
	}
	return ev.ID, nil
}

// leaveAlone makes a leave event that stays here, on top of the invite or knock.
func (s *Server) leaveAlone(ctx context.Context, req api.SetMembership, room *eventstore.Room, member eventstore.Member) (id.Event, error) {
	old, err := s.store.Event(ctx, member.Event)
	if err != nil {
		return "", err
	}
	content, err := memberContent(req)
	if err != nil {
		return "", err
	}
	b := &event.Builder{
		Rules: room.Rules, RoomID: room.ID, Sender: req.Target, Type: eventauth.TypeMember, StateKey: stateKey(string(req.Target)),
		Content: content, PrevEvents: []id.Event{old.ID}, AuthEvents: []id.Event{old.ID}, Depth: old.Depth + 1, OriginServerTS: s.now(),
	}
	ev, err := b.Build(s.cfg.ServerName, s.cfg.Key.ID, s.cfg.Key.Private)
	if err != nil {
		return "", err
	}
	if _, err := s.storeOutlierMembership(ctx, room.Rules, room.ID, ev, nil); err != nil {
		return "", fmt.Errorf("storing the leave from %s: %w", room.ID, err)
	}
	return ev.ID, nil
}
