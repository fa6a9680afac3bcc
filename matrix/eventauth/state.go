package eventauth

import "weft/matrix/event"

// Event types that authorization looks at.
const (
	TypeCreate           = "m.room.create"
	TypeMember           = "m.room.member"
	TypePowerLevels      = "m.room.power_levels"
	TypeJoinRules        = "m.room.join_rules"
	TypeThirdPartyInvite = "m.room.third_party_invite"
	TypeAliases          = "m.room.aliases"
	TypeRedaction        = "m.room.redaction"
)

// Values of membership.
const (
	join   = "join"
	invite = "invite"
	leave  = "leave"
	ban    = "ban"
	knock  = "knock"
)

// Key names an entry of a room's state.
type Key struct{ Type, StateKey string }

// State is a room's state as far as the rules ask for it.
type State interface {
	// Get gives the state event of a key, nil when there is none.
	Get(typ, stateKey string) *event.Event
}

// MapState is a State held in a map.
type MapState map[Key]*event.Event

// Get gives the state event of a key, nil when there is none.
func (m MapState) Get(typ, stateKey string) *event.Event { return m[Key{typ, stateKey}] }

// Put adds a state event under its own key.
func (m MapState) Put(events ...*event.Event) {
	for _, e := range events {
		m[Key{e.Type, e.StateKey}] = e
	}
}
