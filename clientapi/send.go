package clientapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/matrix/id"
	"weft/matrix/merr"
	roomapi "weft/roomserver/api"
)

const (
	typeMember         = "m.room.member"
	typeRedaction      = "m.room.redaction"
	typeCanonicalAlias = "m.room.canonical_alias"
	// maxEventType bounds event types and state keys, as every room version
	// does.
	//
	// spec: client-server §8.3 (Size limits)
	maxEventType = 255
	// maxAltAliases bounds the aliases of one m.room.canonical_alias that are
	// looked up.
	maxAltAliases = 100
)

// txn is the scope of a client's transaction ID.
//
// spec: client-server §5.9 (Transaction identifiers): the device and the path.
// A session without a device (an application service's) has its own scope per service.
func txn(r *httpapi.Request, scope string) roomapi.Txn {
	device := r.Session.Device
	if device == "" {
		device = id.Device("\x01" + r.Session.Appservice)
	}
	return roomapi.Txn{Device: device, Scope: scope, ID: r.Vars["txnId"]}
}

// timestamp reads the ts parameter, which only application services may give.
//
// spec: application-service §2.4.5 (Timestamp massaging)
func timestamp(r *httpapi.Request) (int64, error) {
	ts := r.Query().Get("ts")
	if ts == "" || r.Session.Appservice == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(ts, 10, 64)
	if err != nil || n < 0 {
		return 0, merr.InvalidParam("ts is no time in milliseconds")
	}
	return n, nil
}

// eventVars reads what the paths of send and state have in common.
func eventVars(r *httpapi.Request) (room id.Room, typ string, err error) {
	if room, err = r.RoomVar("roomId"); err != nil {
		return "", "", err
	}
	typ = r.Vars["eventType"]
	if len(typ) > maxEventType {
		return "", "", merr.TooLarge("the event type is longer than %d bytes", maxEventType)
	}
	return room, typ, nil
}

// SendMessage is PUT /rooms/{roomId}/send/{eventType}/{txnId}.
func (s *Server) SendMessage(ctx context.Context, r *httpapi.Request) (any, error) {
	room, typ, err := eventVars(r)
	if err != nil {
		return nil, err
	}
	content, err := eventContent(r.Body)
	if err != nil {
		return nil, err
	}
	ts, err := timestamp(r)
	if err != nil {
		return nil, err
	}
	req := roomapi.SendEvent{Room: room, Sender: r.Session.User, Type: typ, Content: content, Timestamp: ts,
		Txn: txn(r, "send/"+typ+"/"+string(room))}
	if typ == typeRedaction {
		target, err := id.ParseEvent(gjson.GetBytes(content, "redacts").String())
		if err != nil {
			return nil, merr.InvalidParam("the redaction names no event in redacts")
		}
		req.Redacts = target
	}
	return s.send(ctx, req)
}

func (s *Server) send(ctx context.Context, req roomapi.SendEvent) (any, error) {
	ev, err := s.cfg.Rooms.SendEvent(ctx, req)
	if err != nil {
		return nil, err
	}
	return map[string]id.Event{"event_id": ev}, nil
}

// RedactEvent is PUT /rooms/{roomId}/redact/{eventId}/{txnId}.
func (s *Server) RedactEvent(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	target, err := r.EventVar("eventId")
	if err != nil {
		return nil, err
	}
	var body struct {
		Reason *string `json:"reason"`
	}
	if err := r.DecodeJSON(&body); err != nil {
		return nil, err
	}
	if r.Session.Suspended {
		// spec: client-server §5.11: a suspended user may redact its own events
		ev, err := s.cfg.Events.EventByID(ctx, target)
		if err != nil || ev.Sender != r.Session.User {
			return nil, merr.UserSuspended("the account is suspended")
		}
	}
	fields := map[string]string{}
	if body.Reason != nil {
		fields["reason"] = *body.Reason
	}
	content, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("writing a redaction: %w", err)
	}
	if content, err = eventContent(content); err != nil {
		return nil, err
	}
	ts, err := timestamp(r)
	if err != nil {
		return nil, err
	}
	return s.send(ctx, roomapi.SendEvent{Room: room, Sender: r.Session.User, Type: typeRedaction, Content: content,
		Redacts: target, Timestamp: ts, Txn: txn(r, "redact/"+string(target)+"/"+string(room))})
}

// SetRoomState is PUT /rooms/{roomId}/state/{eventType}/{stateKey}, also without
// a state key.
func (s *Server) SetRoomState(ctx context.Context, r *httpapi.Request) (any, error) {
	room, typ, err := eventVars(r)
	if err != nil {
		return nil, err
	}
	key := r.Vars["stateKey"]
	if len(key) > maxEventType {
		return nil, merr.TooLarge("the state key is longer than %d bytes", maxEventType)
	}
	content, err := eventContent(r.Body)
	if err != nil {
		return nil, err
	}
	switch typ {
	case typeMember:
		return s.setMemberState(ctx, r, room, key, content)
	case typeCanonicalAlias:
		if err := s.checkCanonicalAlias(ctx, room, content); err != nil {
			return nil, err
		}
	}
	ts, err := timestamp(r)
	if err != nil {
		return nil, err
	}
	return s.send(ctx, roomapi.SendEvent{Room: room, Sender: r.Session.User, Type: typ, StateKey: &key, Content: content, Timestamp: ts})
}

// setMemberState sets a membership by its state event: what it means for other
// servers is the same as by the endpoints made for it.
func (s *Server) setMemberState(ctx context.Context, r *httpapi.Request, room id.Room, key string, content json.RawMessage) (any, error) {
	target, err := id.ParseUser(key)
	if err != nil {
		return nil, merr.InvalidParam("the state key %q is no user ID", key)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(content, &fields); err != nil {
		return nil, merr.BadJSON("the content is not an object")
	}
	req := roomapi.SetMembership{Room: room, Sender: r.Session.User, Target: target}
	if json.Unmarshal(fields["membership"], &req.Membership) != nil || eventstore.ParseMembership(req.Membership) == eventstore.None {
		return nil, merr.BadJSON("the content has no membership")
	}
	if raw, ok := fields["reason"]; ok && json.Unmarshal(raw, &req.Reason) != nil {
		return nil, merr.BadJSON("reason is not a string")
	}
	delete(fields, "membership")
	delete(fields, "reason")
	if req.Content, err = json.Marshal(fields); err != nil {
		return nil, fmt.Errorf("writing a member event's content: %w", err)
	}
	if req.Membership == "leave" && target != r.Session.User {
		if req.Action, err = s.leaveAction(ctx, room, target); err != nil {
			return nil, err
		}
	}
	if _, err := s.setMembership(ctx, req); err != nil {
		return nil, err
	}
	ev, err := s.memberEvent(ctx, room, target)
	if err != nil {
		return nil, err
	}
	return map[string]id.Event{"event_id": ev.ID}, nil
}

// leaveAction tells an unban from a kick.
func (s *Server) leaveAction(ctx context.Context, room id.Room, target id.User) (string, error) {
	info, err := s.cfg.Events.Room(ctx, room)
	if errors.Is(err, merr.ErrNotFound) {
		return "kick", nil
	}
	if err != nil {
		return "", err
	}
	membership, _, err := s.cfg.Events.Membership(ctx, info.NID, target)
	if err != nil {
		return "", err
	}
	if membership == eventstore.Ban {
		return "unban", nil
	}
	return "kick", nil
}

// memberEvent is a user's current member event in a room.
func (s *Server) memberEvent(ctx context.Context, room id.Room, user id.User) (*eventstore.Event, error) {
	info, err := s.cfg.Events.Room(ctx, room)
	if err != nil {
		return nil, err
	}
	_, ev, err := s.cfg.Events.Membership(ctx, info.NID, user)
	if err != nil {
		return nil, err
	}
	if ev == 0 {
		return nil, merr.NotFound("%s is no member of the room", user)
	}
	return s.cfg.Events.Event(ctx, ev)
}

// checkCanonicalAlias refuses aliases that are none, or that do not lead to the
// room. Those that were in the event before are not looked up again.
//
// spec: client-server §10.1.2 (m.room.canonical_alias), PUT /state: M_BAD_ALIAS and M_INVALID_PARAM
func (s *Server) checkCanonicalAlias(ctx context.Context, room id.Room, content json.RawMessage) error {
	aliases, err := aliasesIn(content)
	if err != nil {
		return err
	}
	if len(aliases) > maxAltAliases {
		return merr.InvalidParam("there are more than %d aliases", maxAltAliases)
	}
	known := map[id.RoomAlias]bool{}
	old, err := s.currentContent(ctx, room, typeCanonicalAlias)
	if err != nil {
		return err
	}
	if before, err := aliasesIn(old); err == nil {
		for _, a := range before {
			known[a] = true
		}
	}
	for _, a := range aliases {
		if known[a] {
			continue
		}
		found, err := s.cfg.Directory.ResolveAlias(ctx, a)
		if err != nil || found.Room != room {
			return merr.New(400, "M_BAD_ALIAS", "%s does not lead to this room", a)
		}
	}
	return nil
}

// aliasesIn lists the aliases in the content of m.room.canonical_alias.
func aliasesIn(content json.RawMessage) ([]id.RoomAlias, error) {
	var list []gjson.Result
	parsed := gjson.ParseBytes(content)
	if a := parsed.Get("alias"); a.Exists() && a.Type != gjson.Null && a.Raw != `""` {
		list = append(list, a)
	}
	alt := parsed.Get("alt_aliases")
	if alt.Exists() && alt.Type != gjson.Null && !alt.IsArray() {
		return nil, merr.InvalidParam("alt_aliases is not a list")
	}
	list = append(list, alt.Array()...)
	var out []id.RoomAlias
	for _, a := range list {
		alias, err := id.ParseRoomAlias(a.String())
		if err != nil || a.Type != gjson.String {
			return nil, merr.InvalidParam("%s is no room alias", a.Raw)
		}
		out = append(out, alias)
	}
	return out, nil
}

// currentContent is the content of a state event with an empty state key; nil
// where there is none.
func (s *Server) currentContent(ctx context.Context, room id.Room, typ string) (json.RawMessage, error) {
	info, err := s.cfg.Events.Room(ctx, room)
	if errors.Is(err, merr.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ev, err := s.cfg.Events.CurrentState(info).Get(ctx, typ, "")
	if err != nil || ev == nil {
		return nil, err
	}
	return ev.Content(), nil
}

// UpgradeRoom is POST /rooms/{roomId}/upgrade.
func (s *Server) UpgradeRoom(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	var q upgradeRequest
	if err := r.DecodeJSON(&q); err != nil {
		return nil, err
	}
	req, err := q.request(room, r.Session.User)
	if err != nil {
		return nil, err
	}
	if req.Profile, err = s.memberContent(ctx, r.Session.User, nil); err != nil {
		return nil, err
	}
	successor, err := s.cfg.Rooms.UpgradeRoom(ctx, req)
	if err != nil {
		return nil, err
	}
	s.inherit(ctx, r.Session.User, successor)
	return map[string]id.Room{"replacement_room": successor}, nil
}
