package roomserver

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tidwall/gjson"

	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// maxStripped bounds the events of a stripped state that are kept.
const maxStripped = 50

// strippedTypes are the state events that show a room to somebody outside.
//
// spec: client-server §9.3.1 (Stripped state)
func strippedTypes() []string {
	return []string{
		eventauth.TypeCreate, eventauth.TypeJoinRules, "m.room.name", "m.room.avatar", "m.room.topic",
		"m.room.canonical_alias", "m.room.encryption",
	}
}

// stripped gives the events that show the room to another server's user, as PDUs, with
// the member event of whoever invites.
//
// spec: server-server §14 ("invite_room_state MUST now have its entries formatted according to
// the room's version")
func (v *roomView) stripped(ctx context.Context, inviter id.User) ([]json.RawMessage, error) {
	var out []json.RawMessage
	take := func(typ, key string) error {
		e, err := v.State(ctx, typ, key)
		if err == nil && e != nil {
			out = append(out, e.JSON())
		}
		return err
	}
	for _, typ := range strippedTypes() {
		if err := take(typ, ""); err != nil {
			return nil, err
		}
	}
	if inviter != "" {
		if err := take(eventauth.TypeMember, string(inviter)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// checkStripped checks the state that came with an invite: the create event is there,
// and all are signed events of the room. From version 12 on whatever is wrong refuses the
// invite. Before that servers send events of any form, and nothing is checked but that
// they can be shown.
//
// spec: server-server §14 (PUT /v2/invite, validation of invite_room_state)
func (s *Server) checkStripped(ctx context.Context, rules *event.Rules, room id.Room, raws []json.RawMessage) error {
	if !rules.RoomIDIsCreateHash {
		return nil
	}
	created := false
	events := make([]*event.Event, 0, len(raws))
	if len(raws) > maxStripped {
		return merr.InvalidParam("invite_room_state has more than %d events", maxStripped)
	}
	for _, raw := range raws {
		ev, err := event.Parse(raw, rules)
		if err != nil {
			return fmt.Errorf("%w: %w", merr.InvalidParam("an event of invite_room_state is not of the room's format"), err)
		}
		if ev.RoomID != room || !ev.IsState {
			return merr.InvalidParam("the event %s of invite_room_state is no state of the room", ev.ID)
		}
		created = created || ev.Type == eventauth.TypeCreate
		events = append(events, ev)
	}
	if !created {
		// spec: "400 M_MISSING_PARAM"
		return merr.MissingParam("invite_room_state has no m.room.create event")
	}
	for i, err := range s.checkSignatures(ctx, events) {
		if err != nil {
			return fmt.Errorf("%w: %w", merr.InvalidParam("the event %s of invite_room_state is not signed as it must be", events[i].ID), err)
		}
	}
	return nil
}

// shownStripped cuts events of a stripped state down to what clients may get. What
// cannot be shown is left out.
//
// spec: client-server §9.3.1 ("Servers are expected to prune the events into the stripped state
// schema below before passing the details onto clients."), the create event of version 12 included
func shownStripped(raws []json.RawMessage) []json.RawMessage {
	out := make([]json.RawMessage, 0, len(raws))
	for _, raw := range raws {
		if len(out) == maxStripped {
			break
		}
		ev := gjson.ParseBytes(raw)
		typ, sender, key, content := ev.Get("type"), ev.Get("sender"), ev.Get("state_key"), ev.Get("content")
		if typ.Type != gjson.String || sender.Type != gjson.String || key.Type != gjson.String || !content.IsObject() || !gjson.ValidBytes(raw) {
			continue
		}
		if len(raw) > event.MaxSize {
			continue
		}
		out = append(out, object{"type": json.RawMessage(typ.Raw), "sender": json.RawMessage(sender.Raw),
			"state_key": json.RawMessage(key.Raw), "content": json.RawMessage(content.Raw)}.raw())
	}
	return out
}
