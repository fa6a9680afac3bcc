package roomserver

import (
	"context"
	"slices"

	"weft/internal/eventstore"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

// MakeMembership implements api.Federation: make_join, make_knock and make_leave.
//
// spec: server-server §12 (make_join), §13 (make_knock), §15 (make_leave)
func (s *Server) MakeMembership(ctx context.Context, req api.MakeMembership) (api.MembershipTemplate, error) {
	var out api.MembershipTemplate
	if !slices.Contains([]string{"join", "leave", "knock"}, req.Membership) {
		return out, merr.InvalidParam("there is no template for the membership %q", req.Membership)
	}
	if req.User.Server() != req.Origin {
		return out, merr.Forbidden("%s is not a user of %s", req.User, req.Origin)
	}
	room, err := s.residentRoom(ctx, req.Room, req.Membership)
	if err != nil {
		return out, err
	}
	if err := checkVersion(room, req); err != nil {
		return out, err
	}
	out.Version = room.Version
	err = s.inRoom(ctx, req.Room, func(ctx context.Context, v *roomView) error {
		out.Event, err = s.membershipTemplate(ctx, v, req)
		return err
	})
	return out, err
}

// residentRoom gives a room in which this server can speak for the room. Any other
// is M_NOT_FOUND. A room that everybody left can still be left by those invited, but
// nobody gets in from elsewhere: others may have gone on without us.
func (s *Server) residentRoom(ctx context.Context, room id.Room, membership string) (*eventstore.Room, error) {
	r, resident, err := s.residence(ctx, room)
	if err != nil {
		return nil, err
	}
	if !resident || r.Joined == 0 && membership != "leave" {
		return nil, merr.NotFound("this server is not in the room %s", room)
	}
	return r, nil
}

// checkVersion demands that the asking server supports the room's version.
//
// spec: server-server §12 (make_join: ver "Defaults to [1]", M_INCOMPATIBLE_ROOM_VERSION)
func checkVersion(room *eventstore.Room, req api.MakeMembership) error {
	if req.Membership == "leave" {
		return nil // make_leave has no such parameter
	}
	versions := req.Versions
	if len(versions) == 0 {
		versions = []event.RoomVersion{"1"}
	}
	if slices.Contains(versions, room.Version) {
		return nil
	}
	return merr.IncompatibleRoomVersion("the room has version %s, which your server does not support", room.Version).
		With("room_version", string(room.Version))
}

func (s *Server) membershipTemplate(ctx context.Context, v *roomView, req api.MakeMembership) ([]byte, error) {
	allowed, err := v.ServerAllowed(ctx, req.Origin)
	if err != nil {
		return nil, err
	}
	if !allowed {
		return nil, merr.Forbidden("%s is not allowed in this room", req.Origin)
	}
	if req.Membership == "knock" && !v.Room().Rules.Knock {
		return nil, merr.Forbidden("nobody can knock on rooms of version %s", v.Room().Version)
	}
	content := object{}
	content.set("membership", req.Membership)
	if req.Membership == "join" {
		via, err := s.authoriser(ctx, v, req.User)
		if err != nil {
			return nil, err
		}
		if via != "" {
			content.set("join_authorised_via_users_server", via)
		}
	}
	spec := eventSpec{Type: eventauth.TypeMember, StateKey: stateKey(string(req.User)), Sender: req.User, Content: content.raw()}
	b, err := v.Template(ctx, spec)
	if err != nil {
		return nil, err
	}
	// The rules judge events, so one is made of the template. It goes nowhere.
	ev, err := b.Build(s.cfg.ServerName, s.cfg.Key.ID, s.cfg.Key.Private)
	if err != nil {
		return nil, err
	}
	if err := v.CheckAuth(ctx, ev); err != nil {
		return nil, err
	}
	return b.Proto()
}
