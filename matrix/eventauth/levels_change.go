package eventauth

import "weft/matrix/id"

// changeOfLevels is the rule about m.room.power_levels.
func (k *check) changeOfLevels() verdict {
	next := parseLevels(k.e.Content(), k.r)
	if next.wrong.decided() {
		return next.wrong
	}
	for u := range k.about.creators {
		if _, named := next.users[string(u)]; named {
			return reject(StepLevelsCreators, "users names the creator %s", u)
		}
	}
	if k.powerLevels == nil {
		return allow(StepLevelsFirst)
	}
	c := &change{level: k.levels.User(k.e.Sender), sender: k.e.Sender, from: k.levels.content, to: next}
	for _, part := range []func() verdict{c.singles, c.oldEntries, c.newEntries, c.oldUsers, c.newUsers} {
		if v := part(); v.decided() {
			return v
		}
	}
	return allow(StepLevelsAllow)
}

// change compares the power levels of a room with those that shall follow them.
type change struct {
	level    int64 // of the sender
	sender   id.User
	from, to *levelContent
}

// singles compares the values that stand alone.
//
// spec?: what is added has no current value and what is removed has no new value,
// though defaults hold in their place. Taking them as absent, as for the entries of
// the lists, is what the federation's most used server does.
func (c *change) singles() verdict {
	for i := range c.from.single {
		from, to := c.from.single[i], c.to.single[i]
		if from == to {
			continue
		}
		if from.present && from.value > c.level {
			return reject(StepLevelsOldDefault, "%s changes %s, which is %d, with power level %d",
				c.sender, singleName(i), from.value, c.level)
		}
		if to.present && to.value > c.level {
			return reject(StepLevelsNewDefault, "%s sets %s to %d, with power level %d",
				c.sender, singleName(i), to.value, c.level)
		}
	}
	return verdict{}
}

func (c *change) oldEntries() verdict {
	for _, l := range [][2]map[string]int64{{c.from.events, c.to.events}, c.notifications()} {
		if key, n, found := replaced(l[0], l[1], func(n int64) bool { return n > c.level }, ""); found {
			return reject(StepLevelsOldEntry, "%s changes the level of %q, which is %d, with power level %d",
				c.sender, key, n, c.level)
		}
	}
	return verdict{}
}

func (c *change) newEntries() verdict {
	for _, l := range [][2]map[string]int64{{c.from.events, c.to.events}, c.notifications()} {
		if key, n, found := added(l[0], l[1], c.level); found {
			return reject(StepLevelsNewEntry, "%s sets the level of %q to %d, with power level %d", c.sender, key, n, c.level)
		}
	}
	return verdict{}
}

// notifications gives the two lists of notification levels, empty where the room
// version has no rule about them.
func (c *change) notifications() [2]map[string]int64 {
	if !c.to.checksNotifications {
		return [2]map[string]int64{}
	}
	return [2]map[string]int64{c.from.notifications, c.to.notifications}
}

func (c *change) oldUsers() verdict {
	if user, n, found := replaced(c.from.users, c.to.users, func(n int64) bool { return n >= c.level }, string(c.sender)); found {
		return reject(StepLevelsOldUser, "%s changes the level of %s, which is %d, with power level %d",
			c.sender, user, n, c.level)
	}
	return verdict{}
}

func (c *change) newUsers() verdict {
	if user, n, found := added(c.from.users, c.to.users, c.level); found {
		return reject(StepLevelsNewUser, "%s sets the level of %s to %d, with power level %d", c.sender, user, n, c.level)
	}
	return verdict{}
}

// replaced looks for an entry, other than that of except, which is changed or
// removed though its value is too high.
func replaced(from, to map[string]int64, tooHigh func(int64) bool, except string) (key string, n int64, found bool) {
	for key, n := range from {
		if !tooHigh(n) || key == except && except != "" {
			continue
		}
		if now, ok := to[key]; !ok || now != n {
			return key, n, true
		}
	}
	return "", 0, false
}

// added looks for an entry which is added or changed to a value above limit.
func added(from, to map[string]int64, limit int64) (key string, n int64, found bool) {
	for key, n := range to {
		if n <= limit {
			continue
		}
		if was, ok := from[key]; !ok || was != n {
			return key, n, true
		}
	}
	return "", 0, false
}
