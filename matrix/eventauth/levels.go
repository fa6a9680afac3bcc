package eventauth

import (
	"math"

	"weft/matrix/event"
	"weft/matrix/id"
)

// CreatorLevel is the power level of the creators of a room of version 12 or
// later: above every level that an event can hold.
const CreatorLevel = math.MaxInt64

// Levels that hold where the power levels event says nothing, or there is none.
//
// spec: client-server, m.room.power_levels
const (
	defaultModeration   = 50
	defaultState        = 50
	defaultNotification = 50
	defaultCreator      = 100 // in a room without a power levels event
)

// PowerLevels is who may do what in a room. It must not be changed.
type PowerLevels struct {
	// Ban, Kick, Invite and Redact are the levels needed for these actions.
	Ban, Kick, Invite, Redact int64
	// StateDefault and EventsDefault are the levels needed for state events and
	// other events whose type the room does not list.
	StateDefault, EventsDefault int64
	// UsersDefault is the level of users that the room does not list.
	UsersDefault int64

	content  *levelContent
	creators map[id.User]bool
	creator  id.User // set only where there is no power levels event
}

// PowerLevelsOf reads the power levels that hold in a room with the given create
// and power levels events. Either may be nil. Values that the room version does
// not accept count as absent.
func PowerLevelsOf(create, powerLevels *event.Event) *PowerLevels {
	about := aboutCreation(create)
	return levelsOf(&about, powerLevels)
}

func levelsOf(about *creation, powerLevels *event.Event) *PowerLevels {
	p := &PowerLevels{creators: about.creators, content: &levelContent{}}
	if powerLevels == nil {
		p.creator = about.creator
	} else {
		p.content = parseLevels(powerLevels.Content(), powerLevels.Rules)
	}
	c := p.content
	p.UsersDefault = c.single[usersDefault].or(0)
	p.EventsDefault = c.single[eventsDefault].or(0)
	p.StateDefault = c.single[stateDefault].or(defaultState)
	p.Ban = c.single[banLevel].or(defaultModeration)
	p.Redact = c.single[redactLevel].or(defaultModeration)
	p.Kick = c.single[kickLevel].or(defaultModeration)
	p.Invite = c.single[inviteLevel].or(0)
	return p
}

// User gives the power level of a user: CreatorLevel for the creators of a room of
// version 12 or later.
func (p *PowerLevels) User(u id.User) int64 {
	if p.creators[u] {
		return CreatorLevel
	}
	if level, ok := p.content.users[string(u)]; ok {
		return level
	}
	// Version 12 has given its creators their level above.
	if p.creator != "" && p.creator == u {
		return defaultCreator
	}
	return p.UsersDefault
}

// Event gives the power level needed to send an event.
func (p *PowerLevels) Event(typ string, isState bool) int64 {
	if level, ok := p.content.events[typ]; ok {
		return level
	}
	if isState {
		return p.StateDefault
	}
	return p.EventsDefault
}

// Notification gives the power level needed to notify by a key, such as "room".
func (p *PowerLevels) Notification(key string) int64 {
	if level, ok := p.content.notifications[key]; ok {
		return level
	}
	return defaultNotification
}
