package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

// SendEvent implements api.Rooms. Member events are changes of membership and go the
// way that SetMembership goes, because other servers may have a part in them.
//
// spec: client-server §5.9 (Sending events to a room)
func (s *Server) SendEvent(ctx context.Context, req api.SendEvent) (id.Event, error) {
	if _, err := parseObject("the content", req.Content); err != nil {
		return "", err
	}
	if req.Type == "" {
		return "", merr.InvalidParam("the event type is empty")
	}
	if req.Type == eventauth.TypeCreate {
		return "", errCreate
	}
	if len(req.Content) == 0 {
		req.Content = json.RawMessage("{}")
	}
	if req.Type == eventauth.TypeMember && req.StateKey != nil {
		return s.sendMember(ctx, req)
	}
	if req.Type == "m.room.canonical_alias" && req.StateKey != nil && *req.StateKey == "" {
		if err := s.checkAliases(ctx, req); err != nil {
			return "", err
		}
	}
	var known id.Event
	events, err := s.sendLocal(ctx, req.Room, sendOptions{User: req.Sender, Txn: req.Txn}, func(ctx context.Context, v *roomView) ([]eventSpec, error) {
		known = ""
		if err := s.checkSend(ctx, v, req); err != nil {
			return nil, err
		}
		same, err := v.sameState(ctx, req)
		if err != nil {
			return nil, err
		}
		if same != nil {
			known = same.ID
			return nil, nil
		}
		return []eventSpec{{Type: req.Type, StateKey: req.StateKey, Sender: req.Sender, Content: req.Content,
			Redacts: req.Redacts, Timestamp: req.Timestamp}}, nil
	})
	if errors.Is(err, merr.ErrNotFound) && !isError(err, errNoTarget) {
		// spec: a room that the user is not in is 403, and it is not told which there are.
		return "", fmt.Errorf("%w: %w", merr.Forbidden("%s is not joined to the room %s", req.Sender, req.Room), err)
	}
	if err != nil || len(events) == 0 {
		return known, err
	}
	return events[0].ID, nil
}

// sameState gives the state event that says already what a request would have its sender
// say; nil where there is none, or where the sender may no longer send it.
// Clients repeat state without need, and each event of it would stay for ever.
func (v *roomView) sameState(ctx context.Context, req api.SendEvent) (*eventstore.Event, error) {
	if req.StateKey == nil || req.Timestamp != 0 {
		return nil, nil
	}
	old, err := v.State(ctx, req.Type, *req.StateKey)
	if err != nil || !sameMember(old, req.Sender, req.Content) {
		return nil, err
	}
	membership, _, err := v.Membership(ctx, req.Sender)
	if err != nil || membership != "join" {
		return nil, err
	}
	levels, err := v.levels(ctx)
	if err != nil || levels.User(req.Sender) < levels.Event(req.Type, true) {
		return nil, err
	}
	return old, nil
}

// sendMember carries out a membership that was put as a state event.
func (s *Server) sendMember(ctx context.Context, req api.SendEvent) (id.Event, error) {
	content, err := parseObject("the content", req.Content)
	if err != nil {
		return "", err
	}
	target, err := id.ParseUser(*req.StateKey)
	if err != nil {
		return "", fmt.Errorf("%w: %w", merr.InvalidParam("the state key of a member event must be a user ID"), err)
	}
	membership := content.str("membership")
	if !slices.Contains([]string{"join", "leave", "invite", "ban", "knock"}, membership) {
		return "", merr.BadJSON("the membership %q is not known", membership)
	}
	return s.changeMembership(ctx, api.SetMembership{
		Room: req.Room, Sender: req.Sender, Target: target, Membership: membership,
		Content: req.Content, Txn: req.Txn,
	})
}

// isError tells whether an error is exactly this one: errors.Is would take any with
// the same code.
func isError(err error, this *merr.Error) bool {
	var e *merr.Error
	return errors.As(err, &e) && e == this
}

// errNoTarget refuses to redact what is of another room.
var errNoTarget = merr.NotFound("the event to redact is not in this room")

// errCreate refuses to make a room's create event again: nothing could allow it.
var errCreate = merr.InvalidParam("a room's m.room.create event is its first, and there is no other")

// checkSend refuses what the rules of the room let through but what has no effect, or
// what has an error of its own.
func (s *Server) checkSend(ctx context.Context, v *roomView, req api.SendEvent) error {
	switch {
	case req.Type == eventauth.TypeRedaction && req.Redacts != "":
		return s.checkRedaction(ctx, v, req)
	case req.Type == eventauth.TypePowerLevels && req.StateKey != nil && v.Room().Rules.CreatorsPrivileged:
		create, err := v.State(ctx, eventauth.TypeCreate, "")
		if err != nil || create == nil {
			return err
		}
		levels := eventauth.PowerLevelsOf(create.Event, nil)
		bad := ""
		gjson.GetBytes(req.Content, "users").ForEach(func(user, _ gjson.Result) bool {
			if levels.User(id.User(user.Str)) == eventauth.CreatorLevel {
				bad = user.Str
			}
			return bad == ""
		})
		if bad != "" {
			return merr.BadJSON("%s is a creator of the room, and cannot have a power level", bad)
		}
	}
	return nil
}

// checkRedaction demands that the redaction will be applied: from version 3 on the rules
// let every redaction into the room, and servers ignore those that were not
// allowed. An event that is not here can still be redacted where it is, as by a moderator who
// heard of it; it is not the user's own, or it would be here.
//
// spec: client-server §10.13 (Redactions); rooms/v3 (Handling redactions: "waits for a valid partner event
// to arrive")
func (s *Server) checkRedaction(ctx context.Context, v *roomView, req api.SendEvent) error {
	targets, err := v.d.eventsByID(ctx, []id.Event{req.Redacts})
	if err != nil {
		return err
	}
	if len(targets) > 0 && targets[0].RoomNID != v.Room().NID {
		return errNoTarget
	}
	if len(targets) > 0 && targets[0].Sender == req.Sender {
		return nil
	}
	levels, err := v.levels(ctx)
	if err != nil {
		return err
	}
	if have := levels.User(req.Sender); have < levels.Redact {
		return merr.Forbidden("%s has power level %d, redacting events of others needs %d", req.Sender, have, levels.Redact)
	}
	return nil
}

// levels gives the power levels that hold in the current state.
func (v *roomView) levels(ctx context.Context) (*eventauth.PowerLevels, error) {
	create, err := v.State(ctx, eventauth.TypeCreate, "")
	if err != nil {
		return nil, err
	}
	power, err := v.State(ctx, eventauth.TypePowerLevels, "")
	if err != nil {
		return nil, err
	}
	if create == nil {
		return nil, merr.NotFound("the room %s has no create event", v.Room().ID)
	}
	if power == nil {
		return eventauth.PowerLevelsOf(create.Event, nil), nil
	}
	return eventauth.PowerLevelsOf(create.Event, power.Event), nil
}

// checkAliases demands that the aliases a canonical alias event adds point to its room.
//
// spec: client-server, m.room.canonical_alias; PUT /rooms/{roomId}/state (M_BAD_ALIAS, M_INVALID_PARAM)
func (s *Server) checkAliases(ctx context.Context, req api.SendEvent) error {
	wanted, err := aliasesOf(req.Content)
	if err != nil || len(wanted) == 0 {
		return err
	}
	room, err := s.store.Room(ctx, req.Room)
	if err != nil {
		return err
	}
	var known []id.RoomAlias
	old, err := s.store.CurrentState(room).Get(ctx, "m.room.canonical_alias", "")
	if err != nil {
		return err
	}
	if old != nil {
		// Whatever is wrong with the event of before is no fault of this one.
		known, _ = aliasesOf(old.Content())
	}
	for _, alias := range wanted {
		if slices.Contains(known, alias) {
			continue
		}
		found, err := s.ResolveAlias(ctx, alias)
		if err != nil || found.Room != req.Room {
			return errors.Join(merr.New(http.StatusBadRequest, "M_BAD_ALIAS", "the alias %s does not point to this room", alias), err)
		}
	}
	return nil
}

// maxAliases bounds the aliases in one canonical alias event.
const maxAliases = 100

// aliasesOf reads the aliases of a canonical alias event.
func aliasesOf(content []byte) ([]id.RoomAlias, error) {
	var out []id.RoomAlias
	add := func(v gjson.Result) error {
		alias, err := id.ParseRoomAlias(v.Str)
		if v.Type != gjson.String || err != nil {
			return errors.Join(merr.InvalidParam("%s is no room alias", v.Raw), err)
		}
		out = append(out, alias)
		return nil
	}
	if v := gjson.GetBytes(content, "alias"); v.Exists() && v.Type != gjson.Null && v.Str != "" {
		if err := add(v); err != nil {
			return nil, err
		}
	}
	alt := gjson.GetBytes(content, "alt_aliases")
	if alt.Exists() && alt.Type != gjson.Null && !alt.IsArray() {
		return nil, merr.InvalidParam("alt_aliases must be a list")
	}
	for i, v := range alt.Array() {
		if i == maxAliases {
			return nil, merr.InvalidParam("more than %d aliases", maxAliases)
		}
		if err := add(v); err != nil {
			return nil, err
		}
	}
	return out, nil
}
