package eventauth

import (
	"strings"

	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/id"
)

// Check applies the authorization rules to an event against a state, all but the
// rule about its auth_events (CheckAuthEvents). The state must hold the keys that
// the event needs, as far as the room has them, and always the create event. The
// event's own signatures must have been verified. The error is a *RuleError.
func Check(e *event.Event, auth State) error {
	return NewChecker().Check(e, auth)
}

// Checker is Check for many events of one room: it keeps what it has read out of
// create and power levels events. It is not safe for use by two goroutines.
type Checker struct {
	levels map[*event.Event]*PowerLevels
	create *event.Event
	about  creation
}

// maxCachedLevels bounds the power levels events that a Checker remembers.
const maxCachedLevels = 256

// NewChecker makes a Checker.
func NewChecker() *Checker {
	return &Checker{levels: make(map[*event.Event]*PowerLevels)}
}

// Check applies the rules to an event; see the function Check.
func (c *Checker) Check(e *event.Event, auth State) error {
	return c.decide(e, auth).err(e.Rules)
}

// PowerLevels gives the power levels that the two events make; either may be nil.
func (c *Checker) PowerLevels(create, powerLevels *event.Event) *PowerLevels {
	if create != c.create {
		clear(c.levels)
		c.create, c.about = create, aboutCreation(create)
	}
	p := c.levels[powerLevels]
	if p == nil {
		if len(c.levels) >= maxCachedLevels {
			clear(c.levels)
		}
		p = levelsOf(&c.about, powerLevels)
		c.levels[powerLevels] = p
	}
	return p
}

// check is one application of the rules.
type check struct {
	e      *event.Event
	r      *event.Rules
	state  State
	create *event.Event
	about  *creation
	levels *PowerLevels
	// powerLevels is the power levels event of the state, nil if there is none.
	powerLevels *event.Event
}

// decide runs through the rules in their order:
//
//  1. m.room.create
//  2. the room's create event exists (the rest about auth_events is CheckAuthEvents)
//  3. m.federate
//  4. m.room.aliases, in the versions that have the rule
//  5. m.room.member
//  6. the sender is joined
//  7. m.room.third_party_invite
//  8. the required power level
//  9. state keys of users
//  10. m.room.power_levels
//  11. m.room.redaction, in the versions that have the rule
//  12. otherwise, allow
func (c *Checker) decide(e *event.Event, auth State) verdict {
	if e.Type == TypeCreate {
		return decideCreate(e)
	}
	create := auth.Get(TypeCreate, "")
	if v := decideRoom(e, create); v.decided() {
		return v
	}
	k := &check{e: e, r: e.Rules, state: auth, create: create, powerLevels: auth.Get(TypePowerLevels, "")}
	k.levels = c.PowerLevels(create, k.powerLevels)
	k.about = &c.about
	if !k.about.federate && e.Sender.Server() != create.Sender.Server() {
		return reject(StepFederate, "the room does not federate, and %s is not of %s", e.Sender, create.Sender.Server())
	}
	switch {
	case e.Type == TypeAliases && e.Rules.AuthorisesAliases:
		return k.aliases()
	case e.Type == TypeMember:
		return k.member()
	}
	if k.membership(e.Sender) != join {
		return reject(StepSenderJoined, "%s is not joined to the room", e.Sender)
	}
	level := k.levels.User(e.Sender)
	if e.Type == TypeThirdPartyInvite {
		return either(StepThirdPartyLevel, level >= k.levels.Invite,
			"%s has power level %d, inviting needs %d", e.Sender, level, k.levels.Invite)
	}
	if need := k.levels.Event(e.Type, e.IsState); need > level {
		return reject(StepRequiredLevel, "%s has power level %d, sending %s needs %d", e.Sender, level, e.Type, need)
	}
	if e.IsState && strings.HasPrefix(e.StateKey, "@") && e.StateKey != string(e.Sender) {
		return reject(StepUserStateKey, "%s may not set the state of %s", e.Sender, e.StateKey)
	}
	switch {
	case e.Type == TypePowerLevels:
		return k.changeOfLevels()
	case e.Type == TypeRedaction && e.Rules.AuthorisesRedactions:
		return k.redaction(level)
	}
	return allow(StepAllow)
}

// decideRoom looks whether the state has the create event of the event's room.
func decideRoom(e *event.Event, create *event.Event) verdict {
	if e.Rules.RoomIDIsCreateHash {
		if create == nil || create.ID != CreateEventID(e.RoomID) {
			return reject(StepRoomID, "the room ID %s is not that of an accepted create event", e.RoomID)
		}
		return verdict{}
	}
	if create == nil {
		return reject(StepAuthCreate, "there is no create event")
	}
	// spec?: rule 2.5 speaks of the auth events; the create event of a state is one.
	if create.RoomID != e.RoomID {
		return reject(StepAuthRoom, "the create event is of the room %s, not %s", create.RoomID, e.RoomID)
	}
	return verdict{}
}

// membership gives the membership of a user in the state, "leave" if there is none.
func (k *check) membership(u id.User) string {
	if m := k.state.Get(TypeMember, string(u)); m != nil {
		return m.Membership()
	}
	return leave
}

func (k *check) aliases() verdict {
	if !k.e.IsState {
		return reject(StepAliasesNoStateKey, "m.room.aliases has no state_key")
	}
	if k.e.StateKey != string(k.e.Sender.Server()) {
		return reject(StepAliasesDomain, "the state_key %q is not the sender's server", k.e.StateKey)
	}
	return allow(StepAliasesAllow)
}

func (k *check) redaction(level int64) verdict {
	if level >= k.levels.Redact {
		return allow(StepRedactionLevel)
	}
	if k.e.Redacts != "" && k.e.Redacts.Server() == k.e.ID.Server() {
		return allow(StepRedactionDomain)
	}
	return reject(StepRedactionOtherwise, "%s has power level %d, redacting needs %d", k.e.Sender, level, k.levels.Redact)
}

// MayRedact says whether a redaction that the rules have allowed is to be applied
// to its target. auth is the state before the redaction. In versions 1 and 2 rule
// 11 has decided that already.
//
// spec: rooms/v3 (Handling redactions)
func MayRedact(redaction, target *event.Event, auth State) bool {
	if redaction.Redacts != target.ID || redaction.RoomID != target.RoomID {
		return false
	}
	if redaction.Rules.AuthorisesRedactions || redaction.Sender.Server() == target.Sender.Server() {
		return true
	}
	p := PowerLevelsOf(auth.Get(TypeCreate, ""), auth.Get(TypePowerLevels, ""))
	return p.User(redaction.Sender) >= p.Redact
}

// text reads a string member of a canonical object, empty if it is none.
func text(obj []byte, key string) string {
	s, _ := canonical.String(canonical.Get(obj, key))
	return s
}
