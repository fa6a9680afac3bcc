package clientapi

import (
	"encoding/json"

	"weft/matrix/id"
)

// The kinds of push rules, from the highest priority to the lowest.
//
// spec: client-server §10.11.2 (Push rules)
const (
	kindOverride  = "override"
	kindContent   = "content"
	kindRoom      = "room"
	kindSender    = "sender"
	kindUnderride = "underride"
)

// pushRule is one push rule.
type pushRule struct {
	ID         string            `json:"rule_id"`
	Default    bool              `json:"default"`
	Enabled    bool              `json:"enabled"`
	Conditions []json.RawMessage `json:"conditions,omitempty"` // override and underride
	Pattern    *string           `json:"pattern,omitempty"`    // content
	Actions    []json.RawMessage `json:"actions"`
}

// ruleset holds the rules of each kind, the highest priority first.
type ruleset struct {
	Override  []pushRule `json:"override"`
	Content   []pushRule `json:"content"`
	Room      []pushRule `json:"room"`
	Sender    []pushRule `json:"sender"`
	Underride []pushRule `json:"underride"`
}

// kind gives the list of a kind; nil where there is no such kind.
func (s *ruleset) kind(k string) *[]pushRule {
	switch k {
	case kindOverride:
		return &s.Override
	case kindContent:
		return &s.Content
	case kindRoom:
		return &s.Room
	case kindSender:
		return &s.Sender
	case kindUnderride:
		return &s.Underride
	}
	return nil
}

// rulesContent is the content of m.push_rules.
type rulesContent struct {
	Global ruleset `json:"global"`
}

// masterRule has a higher priority than the user's own rules.
const masterRule = ".m.rule.master"

const (
	actNotify    = `"notify"`
	actSound     = `{"set_tweak":"sound","value":"default"}`
	actRing      = `{"set_tweak":"sound","value":"ring"}`
	actHighlight = `{"set_tweak":"highlight"}`

	ifTwoMembers  = `{"kind":"room_member_count","is":"2"}`
	ifNoStateKey  = `{"kind":"event_match","key":"state_key","pattern":""}`
	ifMemberEvent = `{"kind":"event_match","key":"type","pattern":"m.room.member"}`
)

func ifType(typ string) string {
	return `{"kind":"event_match","key":"type","pattern":"` + typ + `"}`
}

// raw turns parts of a rule into the form they are kept in; never nil.
func raw(parts ...string) []json.RawMessage {
	out := make([]json.RawMessage, 0, len(parts))
	for _, p := range parts {
		out = append(out, json.RawMessage(p))
	}
	return out
}

func defaultRule(ruleID string, conditions, actions []json.RawMessage) pushRule {
	return pushRule{ID: ruleID, Default: true, Enabled: ruleID != masterRule, Conditions: conditions, Actions: actions}
}

// defaultRules are the server-default rules for a user.
//
// spec: client-server §10.11.2.1 (Predefined rules)
func defaultRules(user id.User) (ruleset, error) {
	quoted, err := json.Marshal(string(user))
	if err != nil {
		return ruleset{}, err
	}
	me := string(quoted)
	return ruleset{
		Override: []pushRule{
			defaultRule(masterRule, raw(), raw()),
			defaultRule(".m.rule.suppress_notices",
				raw(`{"kind":"event_match","key":"content.msgtype","pattern":"m.notice"}`), raw()),
			defaultRule(".m.rule.invite_for_me", raw(ifMemberEvent,
				`{"kind":"event_match","key":"content.membership","pattern":"invite"}`,
				`{"kind":"event_match","key":"state_key","pattern":`+me+`}`), raw(actNotify, actSound)),
			defaultRule(".m.rule.member_event", raw(ifMemberEvent), raw()),
			defaultRule(".m.rule.is_user_mention",
				raw(`{"kind":"event_property_contains","key":"content.m\\.mentions.user_ids","value":`+me+`}`),
				raw(actNotify, actSound, actHighlight)),
			defaultRule(".m.rule.is_room_mention",
				raw(`{"kind":"event_property_is","key":"content.m\\.mentions.room","value":true}`,
					`{"kind":"sender_notification_permission","key":"room"}`),
				raw(actNotify, actHighlight)),
			defaultRule(".m.rule.tombstone", raw(ifType("m.room.tombstone"), ifNoStateKey), raw(actNotify, actHighlight)),
			defaultRule(".m.rule.reaction", raw(ifType("m.reaction")), raw()),
			defaultRule(".m.rule.room.server_acl", raw(ifType("m.room.server_acl"), ifNoStateKey), raw()),
			defaultRule(".m.rule.suppress_edits",
				raw(`{"kind":"event_property_is","key":"content.m\\.relates_to.rel_type","value":"m.replace"}`), raw()),
		},
		Underride: []pushRule{
			defaultRule(".m.rule.call", raw(ifType("m.call.invite")), raw(actNotify, actRing)),
			defaultRule(".m.rule.encrypted_room_one_to_one", raw(ifTwoMembers, ifType("m.room.encrypted")), raw(actNotify, actSound)),
			defaultRule(".m.rule.room_one_to_one", raw(ifTwoMembers, ifType("m.room.message")), raw(actNotify, actSound)),
			defaultRule(".m.rule.message", raw(ifType("m.room.message")), raw(actNotify)),
			defaultRule(".m.rule.encrypted", raw(ifType("m.room.encrypted")), raw(actNotify)),
		},
	}, nil
}
