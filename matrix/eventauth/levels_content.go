package eventauth

import (
	"math"
	"strconv"
	"strings"

	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/id"
)

// The single values of m.room.power_levels, in the order of the prose.
const (
	usersDefault = iota
	eventsDefault
	stateDefault
	banLevel
	redactLevel
	kickLevel
	inviteLevel
	singleLevels
)

// singleName gives the property that holds a single value.
func singleName(i int) string {
	return [singleLevels]string{"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"}[i]
}

// level is a power level that may be absent.
type level struct {
	value   int64
	present bool
}

func (l level) or(otherwise int64) int64 {
	if l.present {
		return l.value
	}
	return otherwise
}

// levelContent is the content of an m.room.power_levels event.
type levelContent struct {
	single        [singleLevels]level
	events        map[string]int64
	notifications map[string]int64
	users         map[string]int64
	// checksNotifications: the room version has rules about notifications.
	checksNotifications bool
	// wrong is the rejection that the content deserves, undecided if it is good.
	wrong verdict
}

// parseLevels reads the content of an m.room.power_levels event by the rules about
// its form. It reads all that is readable, also when something is wrong.
//
// spec?: before version 10 only the form of users has a rule. Servers cannot
// compare a level that is no number, and reject the event; so does this, by the
// number of that rule.
func parseLevels(content []byte, r *event.Rules) *levelContent {
	out := &levelContent{checksNotifications: r.ChecksNotificationLevels}
	integers, lists := StepLevelsUsers, StepLevelsUsers
	if r.IntegerPowerLevels {
		integers, lists = StepLevelsIntegers, StepLevelsLists
	}
	for i := range out.single {
		value := canonical.Get(content, singleName(i))
		if value == nil {
			continue
		}
		n, ok := parseLevel(value, r)
		if !ok {
			out.fault(integers, "%s is not a power level: %s", singleName(i), value)
			continue
		}
		out.single[i] = level{n, true}
	}
	out.events = out.list(content, "events", lists, r)
	if r.ChecksNotificationLevels {
		out.notifications = out.list(content, "notifications", lists, r)
	} else {
		// Nothing about notifications is a rule in these versions.
		var ignored levelContent
		out.notifications = ignored.list(content, "notifications", lists, r)
	}
	out.users = out.list(content, "users", StepLevelsUsers, r)
	for u := range out.users {
		if _, err := id.ParseUser(u); err != nil {
			out.fault(StepLevelsUsers, "users names %q, which is no user ID", u)
			break
		}
	}
	return out
}

// fault notes the first thing that is wrong.
func (c *levelContent) fault(s Step, format string, args ...any) {
	if !c.wrong.decided() {
		c.wrong = reject(s, format, args...)
	}
}

// list reads an object of power levels.
func (c *levelContent) list(content []byte, name string, s Step, r *event.Rules) map[string]int64 {
	value := canonical.Get(content, name)
	if value == nil {
		return nil
	}
	if value[0] != '{' {
		c.fault(s, "%s is not an object", name)
		return nil
	}
	out := make(map[string]int64)
	for o := canonical.Object(value); o.Next(); {
		key, _ := canonical.String(value[o.KeyStart : o.ValueStart-1])
		n, ok := parseLevel(o.Value(), r)
		if !ok {
			c.fault(s, "%s[%q] is not a power level: %s", name, key, o.Value())
			continue
		}
		out[key] = n
	}
	return out
}

// parseLevel reads one power level as the room version allows it: an integer; up
// to version 9 also a string that holds one; up to version 5 also a float, which
// is truncated. What exceeds 64 bits becomes the nearest number that fits, which
// keeps its order among all others.
//
// spec: rooms/v1 (m.room.power_levels events accept values as strings, as floats)
func parseLevel(value []byte, r *event.Rules) (int64, bool) {
	s := string(value)
	if s == "" {
		return 0, false
	}
	if s[0] == '"' {
		if r.IntegerPowerLevels {
			return 0, false
		}
		inner, ok := canonical.String(value)
		inner = strings.TrimSpace(inner)
		if !ok || !isInteger(strings.TrimLeft(inner, "+-")) || len(inner)-len(strings.TrimLeft(inner, "+-")) > 1 {
			return 0, false
		}
		return clampInteger(inner)
	}
	if isInteger(strings.TrimPrefix(s, "-")) {
		return clampInteger(s)
	}
	if !r.FloatPowerLevels || s[0] != '-' && (s[0] < '0' || s[0] > '9') {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, false
	}
	return clampFloat(f), true
}

func isInteger(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// clampInteger reads an integer with an optional sign. ok is false when it is
// beyond what a double can hold.
func clampInteger(s string) (int64, bool) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, true
	}
	f, err := strconv.ParseFloat(s, 64)
	return clampFloat(f), err == nil
}

func clampFloat(f float64) int64 {
	switch {
	case f >= math.MaxInt64:
		return math.MaxInt64
	case f <= math.MinInt64:
		return math.MinInt64
	}
	return int64(f)
}
