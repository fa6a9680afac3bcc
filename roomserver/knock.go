package roomserver

import (
	"context"
	"fmt"

	"weft/internal/fedclient"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

// knock asks to be let into a room. A knock may be repeated.
//
// spec: client-server §10.4.5 (Knocking on rooms); server-server §13 (Knocking upon a room)
func (s *Server) knock(ctx context.Context, req api.SetMembership) (id.Event, error) {
	room, resident, err := s.residence(ctx, req.Room)
	if err != nil {
		return "", err
	}
	if resident {
		return s.sendMembership(ctx, req, func(context.Context, *roomView, string, object) error { return nil })
	}
	servers, err := s.candidates(ctx, req, room)
	if err != nil {
		return "", err
	}
	return tryServers(ctx, req, servers, func(server id.Server) (id.Event, error) { return s.knockVia(ctx, req, server) })
}

// knockVersions are the room versions in which one can knock.
func knockVersions() []event.RoomVersion {
	var out []event.RoomVersion
	for _, v := range event.Versions() {
		if r, err := event.Version(v); err == nil && r.Knock {
			out = append(out, v)
		}
	}
	return out
}

func (s *Server) knockVia(ctx context.Context, req api.SetMembership, server id.Server) (id.Event, error) {
	h := &handshake{s: s, req: req, make: func(ctx context.Context, server id.Server) (*fedclient.Template, error) {
		return s.cfg.Remote.MakeKnock(ctx, server, req.Room, req.Target, knockVersions())
	}}
	ev, err := h.prepare(ctx, server)
	if err != nil {
		return "", err
	}
	if !ev.Rules.Knock {
		return "", merr.Forbidden("nobody can knock on rooms of version %s", ev.Rules.Version)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishJoin)
	defer cancel()
	state, err := s.cfg.Remote.SendKnock(ctx, server, req.Room, ev.ID, ev.JSON())
	if err != nil {
		return "", err
	}
	if _, err := s.storeOutlierMembership(ctx, ev.Rules, req.Room, ev, shownStripped(state)); err != nil {
		return "", fmt.Errorf("storing the knock on %s (%w): %w", req.Room, errAfterSend, err)
	}
	return ev.ID, nil
}
