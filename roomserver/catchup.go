package roomserver

import (
	"context"
	"slices"

	"weft/internal/eventstore"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/roomserver/api"
)

// catchUp asks the server through which a room was joined for what has happened in it meanwhile: events that were made
// between its template and its answer, and those that were sent to us while the room was not stored yet, and turned
// away because none of our users was in it. Nothing else would ask for them before the room's next event. What the room's newest
// events are is said by nothing but a template.
//
// spec: server-server §12 (Joining Rooms)
func (s *Server) catchUp(ctx context.Context, req api.SetMembership, server id.Server) error {
	room, err := s.store.Room(ctx, req.Room)
	if err != nil {
		return err
	}
	if in, err := s.store.ServerInRoom(ctx, room.NID, s.cfg.ServerName); err != nil || !in {
		return err
	}
	t, err := s.cfg.Remote.MakeJoin(ctx, server, req.Room, req.Target, event.Versions())
	if err != nil {
		return err
	}
	b, err := event.ParseProto(t.Event, room.Rules)
	if err != nil {
		return err
	}
	missing, err := s.missing(ctx, b.PrevEvents, eventstore.Outlier)
	if err != nil || len(missing) == 0 {
		return err
	}
	p := &plan{s: s, room: room, origin: server, has: make(map[id.Event]bool)}
	raws, err := p.fetchEvents(ctx, missing)
	if err != nil {
		return err
	}
	events := slices.DeleteFunc(s.parseAll(raws, room), func(ev *event.Event) bool { return !slices.Contains(missing, ev.ID) })
	for ev, err := range s.input(ctx, server, events, inputPushed) {
		s.log.WithError(err).WithField("event", ev).Info("an event from while the room was being joined is not part of it")
	}
	return nil
}
