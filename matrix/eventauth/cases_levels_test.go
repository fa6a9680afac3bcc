package eventauth

// levels tries new power levels, which differ from the present ones by changes.
func levels(sender string, changes content, prepare ...func(w *world)) func(w *world) verdict {
	return func(w *world) verdict {
		for _, p := range prepare {
			p(w)
		}
		return w.try(w.event(TypePowerLevels, sender, "", w.levels(changes)))
	}
}

// users is the users property with changes; nil removes a user.
func users(changes content) func(w *world) content {
	return func(w *world) content {
		return content{"users": merge(w.levels(nil)["users"].(content), changes)}
	}
}

// userLevels is levels for changes of the users property, on top of now.
func userLevels(sender string, now, changes content) func(w *world) verdict {
	return func(w *world) verdict {
		before := users(now)(w)
		w.setLevels(before)
		after := content{"users": merge(before["users"].(content), changes)}
		return w.try(w.event(TypePowerLevels, sender, "", w.levels(after)))
	}
}

func without(typ string) func(w *world) { return func(w *world) { w.without(typ, "") } }

func levelFormCases() []ruleCase {
	return []ruleCase{
		{StepLevelsIntegers, "levels_integers", levels(alice, content{"kick": 40}), StepLevelsAllow,
			levels(alice, content{"kick": "40"}), StepLevelsIntegers},
		{StepLevelsLists, "levels_events", levels(alice, content{"events": content{"a": 1}}), StepLevelsAllow,
			levels(alice, content{"events": content{"a": "1"}}), StepLevelsLists},
		{StepLevelsLists, "levels_notifications", levels(alice, content{"notifications": content{"room": 1}}), StepLevelsAllow,
			levels(alice, content{"notifications": []any{}}), StepLevelsLists},
		{StepLevelsUsers, "levels_users_object", levels(alice, nil), StepLevelsAllow,
			levels(alice, content{"users": []any{}}), StepLevelsUsers},
		{StepLevelsUsers, "levels_users_ids", userLevels(alice, nil, content{carol: 1}), StepLevelsAllow,
			userLevels(alice, nil, content{"carol": 1}), StepLevelsUsers},
		{StepLevelsUsers, "levels_users_values", userLevels(alice, nil, content{carol: 1}), StepLevelsAllow,
			userLevels(alice, nil, content{carol: "much"}), StepLevelsUsers},
		{StepLevelsCreators, "levels_creator", userLevels(alice, nil, content{carol: 1}), StepLevelsAllow,
			userLevels(alice, nil, content{alice: 100}), StepLevelsCreators},
		{StepLevelsCreators, "levels_additional_creator", userLevels(alice, nil, content{carol: 1}), StepLevelsAllow,
			func(w *world) verdict {
				w.setCreate(content{"additional_creators": []any{frank}})
				return userLevels(alice, nil, content{frank: 100})(w)
			}, StepLevelsCreators},
		{StepLevelsFirst, "levels_first", levels(alice, content{"kick": 1000}, without(TypePowerLevels)), StepLevelsFirst,
			levels(bob, content{"kick": 1000}), StepLevelsNewDefault},
	}
}

func levelChangeCases() []ruleCase {
	now := needs(content{"ban": 60, "kick": 50, "events": content{"a": 60, "b": 50}})
	low := content{"ban": 60, "kick": 50, "events": content{"a": 60, "b": 50}}
	with := func(changes content) content { return merge(low, changes) }
	return []ruleCase{
		{StepLevelsOldDefault, "levels_old_default", levels(bob, with(content{"kick": 40}), now), StepLevelsAllow,
			levels(bob, with(content{"ban": 40}), now), StepLevelsOldDefault},
		{StepLevelsOldDefault, "levels_old_default_removed", levels(bob, with(content{"kick": nil}), now), StepLevelsAllow,
			levels(bob, with(content{"ban": nil}), now), StepLevelsOldDefault},
		{StepLevelsNewDefault, "levels_new_default", levels(bob, with(content{"kick": 49}), now), StepLevelsAllow,
			levels(bob, with(content{"kick": 51}), now), StepLevelsNewDefault},
		{StepLevelsNewDefault, "levels_new_default_added", levels(bob, with(content{"invite": 50}), now), StepLevelsAllow,
			levels(bob, with(content{"invite": 51}), now), StepLevelsNewDefault},
		{StepLevelsOldEntry, "levels_old_event", levels(bob, with(content{"events": content{"a": 60, "b": 1}}), now), StepLevelsAllow,
			levels(bob, with(content{"events": content{"a": 1, "b": 50}}), now), StepLevelsOldEntry},
		{StepLevelsOldEntry, "levels_old_event_removed", levels(bob, with(content{"events": content{"a": 60}}), now), StepLevelsAllow,
			levels(bob, with(content{"events": content{"b": 50}}), now), StepLevelsOldEntry},
		{StepLevelsNewEntry, "levels_new_event", levels(bob, with(content{"events": content{"a": 60, "b": 50, "c": 50}}), now), StepLevelsAllow,
			levels(bob, with(content{"events": content{"a": 60, "b": 50, "c": 51}}), now), StepLevelsNewEntry},
		{StepLevelsNewEntry, "levels_new_event_changed", levels(bob, with(content{"events": content{"a": 60, "b": 49}}), now), StepLevelsAllow,
			levels(bob, with(content{"events": content{"a": 60, "b": 51}}), now), StepLevelsNewEntry},
		{StepLevelsOldUser, "levels_old_user", userLevels(bob, content{carol: 49}, content{carol: 10}), StepLevelsAllow,
			userLevels(bob, content{carol: 50}, content{carol: 10}), StepLevelsOldUser},
		{StepLevelsOldUser, "levels_old_user_removed", userLevels(bob, content{carol: 49}, content{carol: nil}), StepLevelsAllow,
			userLevels(bob, content{carol: 50}, content{carol: nil}), StepLevelsOldUser},
		{StepLevelsOldUser, "levels_own", userLevels(bob, nil, content{bob: 10}), StepLevelsAllow,
			userLevels(bob, content{carol: 60}, content{carol: 10}), StepLevelsOldUser},
		{StepLevelsNewUser, "levels_new_user", userLevels(bob, nil, content{dave: 50}), StepLevelsAllow,
			userLevels(bob, nil, content{dave: 51}), StepLevelsNewUser},
		{StepLevelsNewUser, "levels_own_raised", userLevels(bob, content{carol: 1}, content{carol: 50}), StepLevelsAllow,
			userLevels(bob, nil, content{bob: 51}), StepLevelsNewUser},
		{StepLevelsAllow, "levels", levels(bob, low, now), StepLevelsAllow,
			levels(bob, with(content{"users_default": 51}), now), StepLevelsNewDefault},
	}
}
