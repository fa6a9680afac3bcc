package federationapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	"weft/internal/httpapi"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
	roomapi "weft/roomserver/api"
)

// MakeJoin gives the template of a join.
//
// spec: server-server §10, GET /_matrix/federation/v1/make_join/{roomId}/{userId}
func (s *Server) MakeJoin(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.makeMembership(ctx, r, "join")
}

// MakeLeave gives the template of a leave.
//
// spec: server-server §13, GET /_matrix/federation/v1/make_leave/{roomId}/{userId}
func (s *Server) MakeLeave(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.makeMembership(ctx, r, "leave")
}

// MakeKnock gives the template of a knock.
//
// spec: server-server §11, GET /_matrix/federation/v1/make_knock/{roomId}/{userId}
func (s *Server) MakeKnock(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.makeMembership(ctx, r, "knock")
}

func (s *Server) makeMembership(ctx context.Context, r *httpapi.Request, membership string) (any, error) {
	roomID, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	user, err := r.UserVar("userId")
	if err != nil {
		return nil, err
	}
	if user.Server() != r.Origin {
		return nil, merr.Forbidden("%s is not a user of %s", user, r.Origin)
	}
	if _, err := s.room(ctx, r.Origin, roomID); err != nil {
		return nil, err
	}
	// spec: "ver … defaults to ["1"]"
	versions := []event.RoomVersion{"1"}
	if ver := r.Query()["ver"]; len(ver) > 0 {
		versions = versions[:0]
		for _, v := range ver {
			versions = append(versions, event.RoomVersion(v))
		}
	}
	t, err := s.Rooms.MakeMembership(ctx, roomapi.MakeMembership{
		Origin: r.Origin, Room: roomID, User: user, Membership: membership, Versions: versions,
	})
	if err != nil {
		return nil, err
	}
	return map[string]any{"room_version": t.Version, "event": t.Event}, nil
}

// sendMembership hands a signed membership event to the room server.
func (s *Server) sendMembership(ctx context.Context, r *httpapi.Request, membership string) (roomapi.SentMembership, error) {
	var none roomapi.SentMembership
	roomID, err := r.RoomVar("roomId")
	if err != nil {
		return none, err
	}
	eventID, err := r.EventVar("eventId")
	if err != nil {
		return none, err
	}
	if _, err := s.room(ctx, r.Origin, roomID); err != nil {
		return none, err
	}
	return s.Rooms.SendMembership(ctx, roomapi.SendMembership{
		Origin: r.Origin, Room: roomID, EventID: eventID, Membership: membership, Event: r.Body,
	})
}

// SendJoinV2 takes a join and streams the state of the room.
//
// spec: server-server §10, PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}
func (s *Server) SendJoinV2(ctx context.Context, r *httpapi.Request) (any, error) {
	sent, err := s.sendMembership(ctx, r, "join")
	if err != nil {
		return nil, err
	}
	return &httpapi.Response{Stream: func(w io.Writer) error { return s.writeJoin(ctx, w, sent) }}, nil
}

// SendJoinV1 is SendJoinV2 in the shape of an array of status and body.
//
// spec: server-server §10, PUT /_matrix/federation/v1/send_join/{roomId}/{eventId}
func (s *Server) SendJoinV1(ctx context.Context, r *httpapi.Request) (any, error) {
	sent, err := s.sendMembership(ctx, r, "join")
	if err != nil {
		return nil, err
	}
	return &httpapi.Response{Stream: func(w io.Writer) error {
		if _, err := io.WriteString(w, "[200,"); err != nil {
			return err
		}
		if err := s.writeJoin(ctx, w, sent); err != nil {
			return err
		}
		_, err := io.WriteString(w, "]")
		return err
	}}, nil
}

// writeJoin writes the body of a send_join answer.
func (s *Server) writeJoin(ctx context.Context, w io.Writer, sent roomapi.SentMembership) error {
	o := newObject(w)
	o.field("origin", s.ServerName)
	o.field("members_omitted", false)
	o.name("event")
	o.bytes(sent.Event)
	s.writeEvents(ctx, o, "state", sent.State)
	s.writeEvents(ctx, o, "auth_chain", sent.AuthChain)
	return o.close()
}

// SendLeaveV2 takes a leave.
//
// spec: server-server §13, PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}
func (s *Server) SendLeaveV2(ctx context.Context, r *httpapi.Request) (any, error) {
	_, err := s.sendMembership(ctx, r, "leave")
	return nil, err
}

// SendLeaveV1 is SendLeaveV2 in the shape of an array of status and body.
//
// spec: server-server §13, PUT /_matrix/federation/v1/send_leave/{roomId}/{eventId}
func (s *Server) SendLeaveV1(ctx context.Context, r *httpapi.Request) (any, error) {
	if _, err := s.sendMembership(ctx, r, "leave"); err != nil {
		return nil, err
	}
	return []any{200, struct{}{}}, nil
}

// SendKnock takes a knock.
//
// spec: server-server §11, PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}
func (s *Server) SendKnock(ctx context.Context, r *httpapi.Request) (any, error) {
	sent, err := s.sendMembership(ctx, r, "knock")
	if err != nil {
		return nil, err
	}
	stripped := sent.Stripped
	if stripped == nil {
		stripped = []json.RawMessage{}
	}
	return map[string]any{"knock_room_state": stripped}, nil
}

// SendInviteV2 takes an invite for a user of this server.
//
// spec: server-server §12, PUT /_matrix/federation/v2/invite/{roomId}/{eventId}
func (s *Server) SendInviteV2(ctx context.Context, r *httpapi.Request) (any, error) {
	var req struct {
		Version  event.RoomVersion `json:"room_version"`
		Event    json.RawMessage   `json:"event"`
		Stripped []json.RawMessage `json:"invite_room_state"`
	}
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	if req.Version == "" || len(req.Event) == 0 {
		return nil, merr.MissingParam("room_version or event is missing")
	}
	signed, err := s.receiveInvite(ctx, r, req.Version, req.Event, req.Stripped)
	if err != nil {
		return nil, err
	}
	return map[string]json.RawMessage{"event": signed}, nil
}

// SendInviteV1 is SendInviteV2 for rooms of versions 1 and 2.
//
// spec: server-server §12, PUT /_matrix/federation/v1/invite/{roomId}/{eventId}
func (s *Server) SendInviteV1(ctx context.Context, r *httpapi.Request) (any, error) {
	var ev struct {
		Unsigned struct {
			Stripped []json.RawMessage `json:"invite_room_state"`
		} `json:"unsigned"`
	}
	if err := r.DecodeJSON(&ev); err != nil {
		return nil, err
	}
	version, err := s.oldVersion(ctx, r)
	if err != nil {
		return nil, err
	}
	signed, err := s.receiveInvite(ctx, r, version, r.Body, ev.Unsigned.Stripped)
	if err != nil {
		return nil, err
	}
	return []any{200, map[string]json.RawMessage{"event": signed}}, nil
}

// oldVersion gives the version of the room of a v1 invite, which does not say it:
// 1, unless the room is known to have another. Invites of versions 1 and 2 do
// not differ.
func (s *Server) oldVersion(ctx context.Context, r *httpapi.Request) (event.RoomVersion, error) {
	roomID, err := r.RoomVar("roomId")
	if err != nil {
		return "", err
	}
	room, err := s.Events.Room(ctx, roomID)
	switch {
	case errors.Is(err, merr.ErrNotFound):
		return "1", nil
	case err != nil:
		return "", err
	case room.Version != "1" && room.Version != "2":
		return "", merr.IncompatibleRoomVersion("rooms of version %s need version 2 of this endpoint", room.Version).
			With("room_version", string(room.Version))
	}
	return room.Version, nil
}

// maxStripped bounds the stripped state of an invite.
const maxStripped = 200

func (s *Server) receiveInvite(ctx context.Context, r *httpapi.Request, version event.RoomVersion, ev json.RawMessage, stripped []json.RawMessage) (json.RawMessage, error) {
	roomID, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	eventID, err := r.EventVar("eventId")
	if err != nil {
		return nil, err
	}
	if len(stripped) > maxStripped {
		return nil, merr.TooLarge("more than %d events of invite_room_state", maxStripped)
	}
	return s.Rooms.ReceiveInvite(ctx, roomapi.ReceiveInvite{
		Origin: r.Origin, Room: roomID, EventID: eventID, Version: version, Event: ev, Stripped: stripped,
	})
}

// userOf reads a user of this server from a request.
func (s *Server) userOf(text string) (id.User, error) {
	user, err := id.ParseUser(text)
	if err != nil {
		return "", merr.InvalidParam("%q is no user ID", text)
	}
	if user.Server() != s.ServerName {
		return "", merr.NotFound("%s is not a user of this server", user)
	}
	return user, nil
}
