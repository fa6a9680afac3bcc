package clientapi

import (
	"context"
	"encoding/json"
	"strings"

	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/matrix/id"
	"weft/matrix/merr"
	roomapi "weft/roomserver/api"
)

const (
	maxReason = 4096
	// maxVia bounds the servers that a join is tried over.
	maxVia = 20
)

// membershipRequest is the body of the endpoints that change memberships.
type membershipRequest struct {
	UserID           *id.User        `json:"user_id"`
	Reason           string          `json:"reason"`
	ThirdPartySigned json.RawMessage `json:"third_party_signed"`
	Medium           string          `json:"medium"`
	Address          string          `json:"address"`
}

func readMembership(r *httpapi.Request) (membershipRequest, error) {
	var q membershipRequest
	if err := r.DecodeJSON(&q); err != nil {
		return q, err
	}
	return q, checkText("reason", q.Reason, maxReason)
}

// target is the user that the body names.
func (q membershipRequest) target() (id.User, error) {
	if q.UserID == nil {
		return "", merr.MissingParam("user_id is missing")
	}
	user, err := id.ParseUser(string(*q.UserID))
	if err != nil {
		return "", merr.InvalidParam("user_id: %q is no user ID", string(*q.UserID))
	}
	return user, nil
}

// roomOrAlias resolves the path variable of joins and knocks to a room and the
// servers it may be reached over.
func (s *Server) roomOrAlias(ctx context.Context, r *httpapi.Request) (id.Room, []id.Server, error) {
	name := r.Vars["roomIdOrAlias"]
	var servers []id.Server
	// spec: client-server §10.1.3 (POST /join/{roomIdOrAlias}): via replaces server_name
	q := r.Query()
	named := q["via"]
	if len(named) == 0 {
		named = q["server_name"]
	}
	for _, v := range named {
		server, err := id.ParseServer(v)
		if err != nil {
			return "", nil, merr.InvalidParam("via: %q is no server name", v)
		}
		servers = append(servers, server)
	}
	if len(servers) > maxVia {
		servers = servers[:maxVia]
	}
	if strings.HasPrefix(name, "#") {
		alias, err := id.ParseRoomAlias(name)
		if err != nil {
			return "", nil, merr.InvalidParam("%q is no room alias", name)
		}
		found, err := s.cfg.Directory.ResolveAlias(ctx, alias)
		if err != nil {
			return "", nil, err
		}
		return found.Room, append(servers, found.Servers[:min(len(found.Servers), maxVia)]...), nil
	}
	room, err := id.ParseRoom(name)
	if err != nil {
		return "", nil, merr.InvalidParam("%q is neither a room ID nor an alias", name)
	}
	return room, servers, nil
}

// JoinRoom is POST /join/{roomIdOrAlias}.
func (s *Server) JoinRoom(ctx context.Context, r *httpapi.Request) (any, error) {
	room, servers, err := s.roomOrAlias(ctx, r)
	if err != nil {
		return nil, err
	}
	return s.enter(ctx, r, room, servers, "join")
}

// JoinRoomByID is POST /rooms/{roomId}/join.
func (s *Server) JoinRoomByID(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	return s.enter(ctx, r, room, nil, "join")
}

// KnockRoom is POST /knock/{roomIdOrAlias}.
func (s *Server) KnockRoom(ctx context.Context, r *httpapi.Request) (any, error) {
	room, servers, err := s.roomOrAlias(ctx, r)
	if err != nil {
		return nil, err
	}
	return s.enter(ctx, r, room, servers, "knock")
}

// enter joins or knocks.
func (s *Server) enter(ctx context.Context, r *httpapi.Request, room id.Room, servers []id.Server, membership string) (any, error) {
	q, err := readMembership(r)
	if err != nil {
		return nil, err
	}
	extra := map[string]json.RawMessage{}
	if membership == "join" {
		if extra, err = joinContent(r.Body); err != nil {
			return nil, err
		}
	}
	content, err := s.memberContent(ctx, r.Session.User, extra)
	if err != nil {
		return nil, err
	}
	joined, err := s.setMembership(ctx, roomapi.SetMembership{Room: room, Sender: r.Session.User, Target: r.Session.User,
		Membership: membership, Reason: q.Reason, Servers: servers, Content: content})
	if err != nil {
		return nil, err
	}
	if membership == "join" {
		s.inherit(ctx, r.Session.User, joined)
	}
	return map[string]id.Room{"room_id": joined}, nil
}

// setMembership changes a membership. When a user comes into a room, the servers that hear of the
// user now are told of the user's devices. The user is in the room then, so that a failure of
// that is only logged.
func (s *Server) setMembership(ctx context.Context, req roomapi.SetMembership) (id.Room, error) {
	if req.Membership != "join" {
		return s.cfg.Rooms.SetMembership(ctx, req)
	}
	was, err := s.membershipIn(ctx, req.Target, req.Room)
	if err != nil {
		return "", err
	}
	room, err := s.cfg.Rooms.SetMembership(ctx, req)
	if err != nil || was == eventstore.Join {
		return room, err
	}
	if err := s.cfg.Keys.JoinedRoom(ctx, req.Target, room); err != nil {
		s.log.WithError(err).WithField("room", room).Warn("could not tell the servers of a room of the devices of a user who joined")
	}
	return room, nil
}

// joinContent is what the body of a join adds to the member event: every member that
// has no meaning of its own, and third_party_signed, which the room server reads.
//
// spec?: the specification names no further members of the body. Clients have long
// put their own fields into their joins so, and other servers carry them over.
func joinContent(body []byte) (map[string]json.RawMessage, error) {
	extra := map[string]json.RawMessage{}
	if len(body) == 0 {
		return extra, nil
	}
	raw, err := eventContent(body)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &extra); err != nil {
		return nil, merr.BadJSON("the body is no object")
	}
	for _, key := range []string{"reason", "membership", "join_authorised_via_users_server", fieldDisplayName, fieldAvatar} {
		delete(extra, key)
	}
	return extra, nil
}

// LeaveRoom is POST /rooms/{roomId}/leave.
func (s *Server) LeaveRoom(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	q, err := readMembership(r)
	if err != nil {
		return nil, err
	}
	_, err = s.cfg.Rooms.SetMembership(ctx, roomapi.SetMembership{Room: room, Sender: r.Session.User, Target: r.Session.User,
		Membership: "leave", Reason: q.Reason})
	return nil, err
}

// InviteUser is POST /rooms/{roomId}/invite.
func (s *Server) InviteUser(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	q, err := readMembership(r)
	if err != nil {
		return nil, err
	}
	if q.UserID == nil && q.Medium != "" && q.Address != "" {
		return nil, merr.ThreepidDenied("this server does not invite by third-party identifiers")
	}
	target, err := q.target()
	if err != nil {
		return nil, err
	}
	content, err := s.memberContent(ctx, target, nil)
	if err != nil {
		return nil, err
	}
	_, err = s.cfg.Rooms.SetMembership(ctx, roomapi.SetMembership{Room: room, Sender: r.Session.User, Target: target,
		Membership: "invite", Reason: q.Reason, Content: content})
	return nil, err
}

// Kick is POST /rooms/{roomId}/kick.
func (s *Server) Kick(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.moderate(ctx, r, "leave", "kick")
}

// Ban is POST /rooms/{roomId}/ban.
func (s *Server) Ban(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.moderate(ctx, r, "ban", "")
}

// Unban is POST /rooms/{roomId}/unban.
func (s *Server) Unban(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.moderate(ctx, r, "leave", "unban")
}

func (s *Server) moderate(ctx context.Context, r *httpapi.Request, membership, action string) (any, error) {
	room, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	q, err := readMembership(r)
	if err != nil {
		return nil, err
	}
	target, err := q.target()
	if err != nil {
		return nil, err
	}
	_, err = s.cfg.Rooms.SetMembership(ctx, roomapi.SetMembership{Room: room, Sender: r.Session.User, Target: target,
		Membership: membership, Action: action, Reason: q.Reason})
	return nil, err
}

// ForgetRoom is POST /rooms/{roomId}/forget.
func (s *Server) ForgetRoom(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	return nil, s.cfg.Rooms.ForgetRoom(ctx, r.Session.User, room)
}

// GetJoinedRooms is GET /joined_rooms.
func (s *Server) GetJoinedRooms(ctx context.Context, r *httpapi.Request) (any, error) {
	rooms, err := s.cfg.Events.RoomsOf(ctx, r.Session.User, eventstore.Join)
	if err != nil {
		return nil, err
	}
	out := make([]id.Room, 0, len(rooms))
	for _, m := range rooms {
		out = append(out, m.RoomID)
	}
	return map[string]any{"joined_rooms": out}, nil
}
