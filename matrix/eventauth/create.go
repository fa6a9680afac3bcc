package eventauth

import (
	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/id"
)

// creation is what the rules read out of a room's create event.
type creation struct {
	rules    *event.Rules
	creator  id.User
	creators map[id.User]bool // those with infinite power; nil before version 12
	federate bool
}

func aboutCreation(create *event.Event) creation {
	if create == nil {
		return creation{federate: true}
	}
	content := create.Content()
	c := creation{
		rules:    create.Rules,
		creator:  create.Sender,
		federate: string(canonical.Get(content, "m.federate")) != "false",
	}
	if create.Rules.CreatorInContent {
		c.creator = id.User(text(content, "creator"))
	}
	if create.Rules.CreatorsPrivileged {
		c.creators = map[id.User]bool{create.Sender: true}
		for a := canonical.Array(canonical.Get(content, "additional_creators")); a.Next(); {
			if u, ok := canonical.String(a.Value()); ok {
				c.creators[id.User(u)] = true
			}
		}
	}
	return c
}

// Creators lists the creators of a room: the create event's sender (in the
// versions that say so, content.creator), and from version 12 the
// additional_creators, in their order.
func Creators(create *event.Event) []id.User {
	about := aboutCreation(create)
	list := []id.User{about.creator}
	if about.creators == nil {
		return list
	}
	for a := canonical.Array(canonical.Get(create.Content(), "additional_creators")); a.Next(); {
		if u, ok := canonical.String(a.Value()); ok && id.User(u) != about.creator {
			list = append(list, id.User(u))
		}
	}
	return list
}

// decideCreate is rule 1.
func decideCreate(e *event.Event) verdict {
	content := e.Content()
	if len(e.PrevEvents) > 0 {
		return reject(StepCreatePrevEvents, "a create event has prev_events")
	}
	if e.Rules.RoomIDIsCreateHash {
		if e.HasRoomID() {
			return reject(StepCreateRoomID, "a create event of this version has no room_id")
		}
	} else if e.RoomID.Server() != e.Sender.Server() {
		return reject(StepCreateRoomID, "the room %s is not of the server of %s", e.RoomID, e.Sender)
	}
	if v := canonical.Get(content, "room_version"); v != nil {
		version, ok := canonical.String(v)
		if _, err := event.Version(event.RoomVersion(version)); !ok || err != nil {
			return reject(StepCreateVersion, "the room version %s is not recognised", v)
		}
	}
	if e.Rules.CreatorInContent && canonical.Get(content, "creator") == nil {
		return reject(StepCreateCreator, "content has no creator")
	}
	if e.Rules.CreatorsPrivileged && !validCreators(canonical.Get(content, "additional_creators")) {
		return reject(StepCreateAdditionalCreators, "additional_creators is not a list of user IDs")
	}
	return allow(StepCreateAllow)
}

// validCreators looks at the value of additional_creators, nil if it is absent.
func validCreators(value []byte) bool {
	if value == nil {
		return true
	}
	if value[0] != '[' {
		return false
	}
	for a := canonical.Array(value); a.Next(); {
		u, ok := canonical.String(a.Value())
		if !ok {
			return false
		}
		if _, err := id.ParseUser(u); err != nil {
			return false
		}
	}
	return true
}
