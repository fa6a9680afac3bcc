package graphtest

import (
	"encoding/json"
	"maps"
	"strconv"

	"weft/matrix/id"
	"weft/matrix/stateres"
)

// proposal is an event that somebody wants to send.
type proposal struct {
	sender  id.User
	typ     string
	key     string
	message bool // no state event
	content map[string]any
	redacts id.Event
	via     id.User // whose server signs too
}

func member(membership string) map[string]any { return map[string]any{"membership": membership} }

func encode(content map[string]any) []byte {
	raw, err := json.Marshal(content)
	if err != nil {
		panic(err) // values of this package only
	}
	return raw
}

func (g *Graph) user() id.User { return users[g.draw(len(users))] }

// powerful chooses a sender, more often one with power.
func (g *Graph) powerful() id.User {
	if g.draw(4) > 0 {
		return users[g.draw(3)]
	}
	return g.user()
}

// propose chooses what happens next in a state.
func (g *Graph) propose(state State) proposal {
	u := g.user()
	switch g.draw(14) {
	case 0, 1:
		return proposal{sender: g.powerful(), typ: "m.room.power_levels", content: g.powerLevels(g.content(state, "m.room.power_levels"))}
	case 2:
		return proposal{sender: g.powerful(), typ: "m.room.join_rules", content: map[string]any{"join_rule": g.joinRule()}}
	case 3:
		return proposal{sender: g.powerful(), typ: "m.room.member", key: string(u), content: member("ban")}
	case 4:
		return proposal{sender: g.powerful(), typ: "m.room.member", key: string(u), content: member("leave")}
	case 5:
		return proposal{sender: g.powerful(), typ: "m.room.member", key: string(u), content: member("invite")}
	case 6:
		return proposal{sender: u, typ: "m.room.member", key: string(u), content: member("leave")}
	case 7:
		return proposal{sender: u, typ: "m.room.member", key: string(u), content: member("knock")}
	case 8, 9:
		c := member("join")
		c["displayname"] = strconv.Itoa(g.draw(100))
		p := proposal{sender: u, typ: "m.room.member", key: string(u), content: c}
		if g.Rules.RestrictedJoin && g.draw(2) == 0 {
			p.via = g.user()
			c["join_authorised_via_users_server"] = p.via
		}
		return p
	case 10, 11:
		return proposal{sender: g.powerful(), typ: "m.room.topic", content: map[string]any{"topic": strconv.Itoa(g.draw(1000))}}
	case 12:
		key := g.user()
		return proposal{sender: u, typ: "my.state", key: string(key), content: map[string]any{"n": g.draw(1000)}}
	}
	p := proposal{sender: u, typ: "m.room.message", message: true, content: map[string]any{"body": strconv.Itoa(g.draw(1000))}}
	if g.draw(2) == 0 {
		p.typ, p.content, p.redacts = "m.room.redaction", map[string]any{}, g.Events[g.draw(len(g.Events))].ID
	}
	return p
}

func (g *Graph) content(state State, typ string) map[string]any {
	e := g.ByID[state[stateres.Key{Type: typ}]]
	if e == nil {
		return nil
	}
	var c map[string]any
	if json.Unmarshal(e.Content(), &c) != nil {
		return nil
	}
	return c
}

func (g *Graph) joinRule() string {
	rules := []string{"public", "invite", "public", "knock", "restricted", "knock_restricted", "private"}
	return rules[g.draw(len(rules))]
}

// level writes a power level in one of the forms that the version has.
func (g *Graph) level() any {
	n := []int{0, 10, 49, 50, 50, 51, 75, 99, 100, 100}[g.draw(10)]
	if g.draw(6) == 0 && !g.Rules.IntegerPowerLevels {
		if g.Rules.FloatPowerLevels && g.draw(2) == 0 {
			return float64(n) + 0.5
		}
		return strconv.Itoa(n)
	}
	return n
}

// powerLevels makes power levels, new ones or a change of those that hold.
func (g *Graph) powerLevels(now map[string]any) map[string]any {
	if now == nil {
		// All defaults are written down: the shape in which servers make rooms.
		levels := map[string]any{string(users[1]): 50 + 50*g.draw(2), string(users[2]): g.level()}
		if !g.Rules.CreatorsPrivileged {
			levels[string(users[0])] = 100
		}
		return map[string]any{
			"users": levels, "events": map[string]any{"m.room.topic": g.level()}, "users_default": 0, "events_default": 0,
			"state_default": 50, "ban": 50, "kick": 50, "redact": 50, "invite": 50 * g.draw(2),
		}
	}
	next := maps.Clone(now)
	for range 1 + g.draw(2) {
		switch g.draw(4) {
		case 0:
			key := []string{"ban", "kick", "redact", "invite", "state_default", "events_default", "users_default"}[g.draw(7)]
			next[key] = g.level()
		case 1:
			events := cloned(next["events"])
			events[[]string{"m.room.topic", "m.room.power_levels", "my.state"}[g.draw(3)]] = g.level()
			next["events"] = events
		default:
			levels := cloned(next["users"])
			u := g.user()
			if g.draw(4) == 0 {
				delete(levels, string(u))
			} else {
				levels[string(u)] = g.level()
			}
			next["users"] = levels
		}
	}
	return next
}

func cloned(v any) map[string]any {
	m, _ := v.(map[string]any)
	if m == nil {
		return map[string]any{}
	}
	return maps.Clone(m)
}
