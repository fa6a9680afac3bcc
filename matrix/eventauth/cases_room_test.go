package eventauth

import (
	"weft/matrix/event"
	"weft/matrix/id"
)

func createCases() []ruleCase {
	good := func(w *world) verdict { return w.try(w.createEvent(nil)) }
	return []ruleCase{
		{StepCreatePrevEvents, "create_prev_events", good, StepCreateAllow,
			func(w *world) verdict {
				return w.try(w.createEvent(nil, content{"prev_events": w.parents("$p:a.example")}))
			}, StepCreatePrevEvents},
		{StepCreateRoomID, "create_room_id", good, StepCreateAllow,
			func(w *world) verdict {
				return w.try(w.createEvent(nil, content{"room_id": "!room:other.example"}))
			}, StepCreateRoomID},
		{StepCreateVersion, "create_room_version",
			func(w *world) verdict { return w.try(w.createEvent(content{"room_version": nil})) }, StepCreateAllow,
			func(w *world) verdict { return w.try(w.createEvent(content{"room_version": "no such"})) }, StepCreateVersion},
		{StepCreateVersion, "create_room_version_no_string", good, StepCreateAllow,
			func(w *world) verdict { return w.try(w.createEvent(content{"room_version": 1})) }, StepCreateVersion},
		{StepCreateCreator, "create_creator", good, StepCreateAllow,
			func(w *world) verdict { return w.try(w.createEvent(content{"creator": nil})) }, StepCreateCreator},
		{StepCreateAdditionalCreators, "create_additional_creators",
			func(w *world) verdict {
				return w.try(w.createEvent(content{"additional_creators": []any{bob, frank}}))
			}, StepCreateAllow,
			func(w *world) verdict {
				return w.try(w.createEvent(content{"additional_creators": []any{bob, "frank"}}))
			}, StepCreateAdditionalCreators},
		{StepCreateAdditionalCreators, "create_additional_creators_no_list", good, StepCreateAllow,
			func(w *world) verdict { return w.try(w.createEvent(content{"additional_creators": bob})) }, StepCreateAdditionalCreators},
		{StepCreateAdditionalCreators, "create_additional_creators_no_strings", good, StepCreateAllow,
			func(w *world) verdict { return w.try(w.createEvent(content{"additional_creators": []any{1}})) }, StepCreateAdditionalCreators},
		{StepCreateAllow, "create", good, StepCreateAllow,
			func(w *world) verdict {
				return w.try(w.createEvent(nil, content{"prev_events": w.parents("$p:a.example", "$q:a.example")}))
			}, StepCreatePrevEvents},
	}
}

// selected gives the auth events that an event needs.
func (w *world) selected(e *event.Event) []*event.Event {
	var list []*event.Event
	for _, k := range NeededKeys(e) {
		if a := w.state.Get(k.Type, k.StateKey); a != nil {
			list = append(list, a)
		}
	}
	return list
}

func authEventCases() []ruleCase {
	message := func(w *world) *event.Event { return w.message("m.room.message", bob, content{"body": "x"}) }
	good := func(w *world) verdict { e := message(w); return decideAuthEvents(e, w.selected(e), nil) }
	extra := func(more func(w *world) *event.Event) func(w *world) verdict {
		return func(w *world) verdict {
			e := message(w)
			return decideAuthEvents(e, append(w.selected(e), more(w)), nil)
		}
	}
	rejecting := func(which func(w *world) id.Event) func(w *world) verdict {
		return func(w *world) verdict {
			e := message(w)
			bad := which(w)
			return decideAuthEvents(e, w.selected(e), func(i id.Event) bool { return i == bad })
		}
	}
	return []ruleCase{
		{StepAuthDuplicate, "auth_events_duplicate", good, StepAllow,
			extra(func(w *world) *event.Event { return w.member(bob, bob, join) }), StepAuthDuplicate},
		{StepAuthUnneeded, "auth_events_unneeded", good, StepAllow,
			extra(func(w *world) *event.Event { return w.state.Get(TypeMember, carol) }), StepAuthUnneeded},
		{StepAuthUnneeded, "auth_events_no_state", good, StepAllow,
			func(w *world) verdict {
				e := message(w)
				return decideAuthEvents(e, []*event.Event{w.message(TypePowerLevels, alice, content{})}, nil)
			}, StepAuthUnneeded},
		{StepAuthRejected, "auth_events_rejected",
			rejecting(func(w *world) id.Event { return w.state.Get(TypeMember, carol).ID }), StepAllow,
			rejecting(func(w *world) id.Event { return w.state.Get(TypeMember, bob).ID }), StepAuthRejected},
		{StepAuthCreate, "auth_events_create", good, StepAllow,
			func(w *world) verdict {
				e := message(w)
				return decideAuthEvents(e, w.selected(e)[1:], nil)
			}, StepAuthCreate},
		{StepAuthRoom, "auth_events_room", good, StepAllow,
			func(w *world) verdict {
				e := message(w)
				w.set(w.member(bob, bob, join, content{"room_id": "!elsewhere:a.example"}))
				return decideAuthEvents(e, w.selected(e), nil)
			}, StepAuthRoom},
		{StepRoomID, "room_create_accepted", good, StepAllow,
			rejecting(func(w *world) id.Event { return w.create.ID }), StepRoomID},
		{StepRoomID, "room_id_of_create",
			func(w *world) verdict { return w.try(message(w)) }, StepAllow,
			func(w *world) verdict {
				e := message(w)
				w.set(w.event(TypeCreate, alice, "", content{}, content{"id": "$another", "room_id": nil}))
				return w.try(e)
			}, StepRoomID},
		{StepAuthCreate, "create_in_state",
			func(w *world) verdict { return w.try(message(w)) }, StepAllow,
			func(w *world) verdict { w.without(TypeCreate, ""); return w.try(message(w)) }, StepAuthCreate},
	}
}

func roomCases() []ruleCase {
	message := func(sender string) func(w *world) verdict {
		return func(w *world) verdict { return w.try(w.message("m.room.message", sender, content{"body": "x"})) }
	}
	aliases := func(key any) func(w *world) verdict {
		return func(w *world) verdict {
			return w.try(w.event(TypeAliases, frank, "", content{"aliases": []any{}}, content{"state_key": key}))
		}
	}
	return []ruleCase{
		{StepFederate, "federate",
			func(w *world) verdict {
				w.setCreate(content{"m.federate": false})
				return message(bob)(w)
			}, StepAllow,
			func(w *world) verdict {
				w.setCreate(content{"m.federate": false})
				return message(frank)(w)
			}, StepFederate},
		{StepAliasesNoStateKey, "aliases_state_key", aliases("f.example"), StepAliasesAllow, aliases(nil), StepAliasesNoStateKey},
		{StepAliasesDomain, "aliases_domain", aliases("f.example"), StepAliasesAllow, aliases("a.example"), StepAliasesDomain},
		{StepAliasesAllow, "aliases", aliases("f.example"), StepAliasesAllow, aliases(""), StepAliasesDomain},
		{StepSenderJoined, "sender_joined", message(carol), StepAllow, message(dave), StepSenderJoined},
		{StepSenderJoined, "sender_banned", message(bob), StepAllow, message(erin), StepSenderJoined},
		{StepThirdPartyLevel, "third_party_invite_level",
			func(w *world) verdict {
				w.setLevels(content{"invite": 50})
				return w.try(w.event(TypeThirdPartyInvite, bob, "t", content{}))
			}, StepThirdPartyLevel,
			func(w *world) verdict {
				w.setLevels(content{"invite": 50})
				return w.try(w.event(TypeThirdPartyInvite, carol, "t", content{}))
			}, StepThirdPartyLevel},
		{StepRequiredLevel, "state_default",
			func(w *world) verdict { return w.try(w.event("m.room.name", bob, "", content{})) }, StepAllow,
			func(w *world) verdict { return w.try(w.event("m.room.name", carol, "", content{})) }, StepRequiredLevel},
		{StepRequiredLevel, "events_default",
			func(w *world) verdict { w.setLevels(content{"events_default": 50}); return message(bob)(w) }, StepAllow,
			func(w *world) verdict { w.setLevels(content{"events_default": 51}); return message(bob)(w) }, StepRequiredLevel},
		{StepRequiredLevel, "events",
			func(w *world) verdict {
				w.setLevels(content{"events": content{"m.room.name": 0}})
				return w.try(w.event("m.room.name", carol, "", content{}))
			}, StepAllow,
			func(w *world) verdict {
				w.setLevels(content{"events": content{"m.room.message": 1}})
				return message(carol)(w)
			}, StepRequiredLevel},
		{StepRequiredLevel, "without_power_levels",
			func(w *world) verdict {
				w.without(TypePowerLevels, "")
				return w.try(w.event("m.room.name", alice, "", content{}))
			}, StepAllow,
			func(w *world) verdict {
				w.without(TypePowerLevels, "")
				return w.try(w.event("m.room.name", bob, "", content{}))
			}, StepRequiredLevel},
		{StepUserStateKey, "user_state_key",
			func(w *world) verdict { return w.try(w.event("my.state", bob, bob, content{})) }, StepAllow,
			func(w *world) verdict { return w.try(w.event("my.state", bob, carol, content{})) }, StepUserStateKey},
		{StepRedactionLevel, "redaction_level", redaction(bob, "$x:f.example"), StepRedactionLevel,
			redaction(carol, "$x:f.example"), StepRedactionOtherwise},
		{StepRedactionDomain, "redaction_domain", redaction(carol, "$x:a.example"), StepRedactionDomain,
			redaction(carol, "$x:f.example"), StepRedactionOtherwise},
		{StepRedactionOtherwise, "redaction", redaction(carol, "$x:a.example"), StepRedactionDomain,
			redaction(carol, "$x:f.example"), StepRedactionOtherwise},
		{StepAllow, "otherwise", message(carol), StepAllow, message("@nobody:a.example"), StepSenderJoined},
	}
}

func redaction(sender, target string) func(w *world) verdict {
	return func(w *world) verdict {
		return w.try(w.message(TypeRedaction, sender, content{}, content{"redacts": target}))
	}
}
