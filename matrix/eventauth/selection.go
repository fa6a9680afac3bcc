package eventauth

import (
	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/id"
)

// NeededKeys gives the keys of the state events that an event must name as its
// auth_events, as far as the state has them: the auth events selection. It is
// empty for a create event. From version 12 the create event is not among them.
//
// spec: server-server §5.1 (Auth events selection)
func NeededKeys(e *event.Event) []Key {
	return NeededKeysFor(e.Rules, e.Type, e.Sender, e.StateKeyPtr(), e.Content())
}

// NeededKeysFor is NeededKeys for an event that is yet to be built. content is
// canonical JSON.
func NeededKeysFor(r *event.Rules, typ string, sender id.User, stateKey *string, content []byte) []Key {
	if typ == TypeCreate {
		return nil
	}
	keys := make([]Key, 0, 6)
	if !r.RoomIDIsCreateHash {
		keys = append(keys, Key{TypeCreate, ""})
	}
	keys = append(keys, Key{TypePowerLevels, ""}, Key{TypeMember, string(sender)})
	if typ != TypeMember || stateKey == nil {
		return keys
	}
	if *stateKey != string(sender) {
		keys = append(keys, Key{TypeMember, *stateKey})
	}
	membership, _ := canonical.String(canonical.Get(content, "membership"))
	switch membership {
	case join, invite, knock:
		keys = append(keys, Key{TypeJoinRules, ""})
	}
	if membership == invite {
		signed := canonical.Get(canonical.Get(content, "third_party_invite"), "signed")
		if token, ok := canonical.String(canonical.Get(signed, "token")); ok {
			keys = append(keys, Key{TypeThirdPartyInvite, token})
		}
	}
	if membership == join && r.RestrictedJoin {
		user, ok := canonical.String(canonical.Get(content, "join_authorised_via_users_server"))
		if ok && user != string(sender) && user != *stateKey {
			keys = append(keys, Key{TypeMember, user})
		}
	}
	return keys
}

// CheckAuthEvents applies the rules about an event's auth_events, whose events
// the caller gives in any order: rule 2, and in version 12 rules 2 and 3.
// rejected says of an event ID whether that event was rejected when it was
// received; nil means that none was. In version 12 it is asked about the create
// event too. The error is a *RuleError.
func CheckAuthEvents(e *event.Event, authEvents []*event.Event, rejected func(id.Event) bool) error {
	return decideAuthEvents(e, authEvents, rejected).err(e.Rules)
}

func decideAuthEvents(e *event.Event, authEvents []*event.Event, rejected func(id.Event) bool) verdict {
	if e.Type == TypeCreate {
		// Rule 1 decides about a create event before its auth_events are looked at.
		return allow(StepCreateAllow)
	}
	if rejected == nil {
		rejected = func(id.Event) bool { return false }
	}
	if e.Rules.RoomIDIsCreateHash && rejected(CreateEventID(e.RoomID)) {
		return reject(StepRoomID, "the create event of the room %s was rejected", e.RoomID)
	}
	seen := make(map[Key]bool, len(authEvents))
	for _, a := range authEvents {
		k := Key{a.Type, a.StateKey}
		if seen[k] {
			return reject(StepAuthDuplicate, "two auth events for %s %q", k.Type, k.StateKey)
		}
		seen[k] = true
	}
	needed := make(map[Key]bool, 6)
	for _, k := range NeededKeys(e) {
		needed[k] = true
	}
	for _, a := range authEvents {
		if !a.IsState || !needed[Key{a.Type, a.StateKey}] {
			return reject(StepAuthUnneeded, "the auth event %s (%s %q) is not one that the event needs", a.ID, a.Type, a.StateKey)
		}
	}
	for _, a := range authEvents {
		if rejected(a.ID) {
			return reject(StepAuthRejected, "the auth event %s was rejected", a.ID)
		}
	}
	if !e.Rules.RoomIDIsCreateHash && !seen[Key{TypeCreate, ""}] {
		return reject(StepAuthCreate, "no create event among the auth events")
	}
	for _, a := range authEvents {
		if a.RoomID != e.RoomID {
			return reject(StepAuthRoom, "the auth event %s is of the room %s, not %s", a.ID, a.RoomID, e.RoomID)
		}
	}
	return allow(StepAllow)
}

// CreateEventID gives the ID of a room's create event in the room versions where
// the room ID is made from it (12 on). It is empty for an empty room ID.
func CreateEventID(room id.Room) id.Event {
	if room == "" {
		return ""
	}
	return id.Event("$" + string(room[1:]))
}
