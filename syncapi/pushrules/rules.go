package pushrules

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"weft/matrix/id"
)

const (
	// maxRules bounds the rules of a user that are looked at, maxConditions those of one rule.
	maxRules      = 2000
	maxConditions = 50
	// maxPattern bounds a pattern in bytes.
	maxPattern = 1000
)

var (
	pathMentions = []string{"content", "m.mentions"}
	pathBody     = []string{"content", "body"}
)

// Rules are a user's compiled push rules.
type Rules struct {
	user  id.User
	rules []rule
}

// Outcome is what the first matching rule asks for.
type Outcome struct {
	Notify, Highlight bool
	// Actions are the rule's actions as they are stored; nil where no rule matched.
	Actions json.RawMessage
	// RuleID names the rule.
	RuleID string
}

type rule struct {
	id         string
	conditions []condition
	outcome    Outcome
	// legacy: not asked where the event says by m.mentions whom it mentions.
	legacy bool
}

// condition tells whether it holds for an event and a user.
type condition func(e *Event, u User) bool

// wireRule is a rule in the content of m.push_rules.
//
// spec: client-server §13.13.1 (PushRule, PushCondition)
type wireRule struct {
	RuleID     string            `json:"rule_id"`
	Enabled    bool              `json:"enabled"`
	Default    bool              `json:"default"`
	Pattern    *string           `json:"pattern"`
	Conditions []json.RawMessage `json:"conditions"`
	Actions    json.RawMessage   `json:"actions"`
}

type wireCondition struct {
	Kind    string          `json:"kind"`
	Key     string          `json:"key"`
	Pattern *string         `json:"pattern"`
	Is      string          `json:"is"`
	Value   json.RawMessage `json:"value"`
}

// Compile reads the content of m.push_rules of a user. A condition that it does not
// know never holds; rules that are not enabled are left out. The error says which rules have a form that the specification does
// not give them: those match nothing, and the others are as good as ever.
//
// spec: client-server §13.13.1 (Push Rules): override, content, room, sender, underride, in this order
func Compile(user id.User, content json.RawMessage) (*Rules, error) {
	out := &Rules{user: user}
	var doc struct {
		Global map[string]json.RawMessage `json:"global"`
	}
	if err := json.Unmarshal(content, &doc); err != nil {
		return out, fmt.Errorf("push rules of %s: %w", user, err)
	}
	var failed []error
	for _, kind := range []string{"override", "content", "room", "sender", "underride"} {
		if doc.Global[kind] == nil {
			continue
		}
		var list []json.RawMessage
		if err := json.Unmarshal(doc.Global[kind], &list); err != nil {
			failed = append(failed, fmt.Errorf("%s rules of %s: %w", kind, user, err))
		}
		for _, raw := range list {
			var w wireRule
			if err := json.Unmarshal(raw, &w); err != nil {
				failed = append(failed, fmt.Errorf("the %s rule %q of %s: %w", kind, w.RuleID, user, err))
				continue
			}
			if !w.Enabled || len(out.rules) >= maxRules {
				continue
			}
			rule, err := compileRule(user, kind, w)
			if err != nil {
				failed = append(failed, fmt.Errorf("the %s rule %q of %s: %w", kind, w.RuleID, user, err))
			}
			out.rules = append(out.rules, rule)
		}
	}
	return out, errors.Join(failed...)
}

// compileRule makes a rule. Where the error says that a condition is of no known form, the rule never matches.
func compileRule(user id.User, kind string, w wireRule) (r rule, err error) {
	r = rule{id: w.RuleID, outcome: outcomeOf(w)}
	if w.Default {
		switch w.RuleID {
		case ".m.rule.contains_display_name", ".m.rule.contains_user_name", ".m.rule.roomnotif":
			// spec: client-server §13.13.1.2 ("not … if the m.mentions property … is present")
			r.legacy = true
		}
	}
	switch kind {
	case "override", "underride":
		if len(w.Conditions) > maxConditions {
			w.Conditions = nil
			r.conditions = append(r.conditions, never)
		}
		for _, raw := range w.Conditions {
			var c wireCondition
			if err = json.Unmarshal(raw, &c); err != nil {
				r.conditions = []condition{never}
				break
			}
			r.conditions = append(r.conditions, compileCondition(c))
		}
	case "content":
		if w.Pattern == nil {
			r.conditions = append(r.conditions, never)
			break
		}
		r.conditions = append(r.conditions, matches("content.body", *w.Pattern))
	case "room":
		r.conditions = append(r.conditions, func(e *Event, _ User) bool { return string(e.Room) == w.RuleID })
	case "sender":
		r.conditions = append(r.conditions, func(e *Event, _ User) bool { return string(e.Sender) == w.RuleID })
	}
	return r, err
}

// outcomeOf reads the actions.
//
// spec: client-server §13.13.1 (Actions): dont_notify and coalesce mean nothing any more
func outcomeOf(w wireRule) Outcome {
	o := Outcome{Actions: w.Actions, RuleID: w.RuleID}
	if len(o.Actions) == 0 {
		o.Actions = json.RawMessage(`[]`)
	}
	for _, a := range gjson.ParseBytes(w.Actions).Array() {
		switch {
		case a.Type == gjson.String && a.Str == "notify":
			o.Notify = true
		case a.IsObject() && a.Get("set_tweak").Str == "highlight":
			v := a.Get("value")
			o.Highlight = !v.Exists() || v.Bool()
		}
	}
	return o
}

// Eval gives the outcome of the first rule that matches; the zero Outcome when none does.
// The user's own events match nothing.
func (r *Rules) Eval(e *Event, u User) Outcome {
	if e.Sender == r.user {
		return Outcome{}
	}
	for i := range r.rules {
		if r.rules[i].matches(e, u) {
			return r.rules[i].outcome
		}
	}
	return Outcome{}
}

func (r *rule) matches(e *Event, u User) bool {
	if r.legacy && e.get(pathMentions).Exists() {
		return false
	}
	for _, c := range r.conditions {
		if !c(e, u) {
			return false
		}
	}
	return true
}

func never(*Event, User) bool { return false }

// compileCondition makes a condition.
//
// spec: client-server §13.13.1.1 (Conditions)
func compileCondition(c wireCondition) condition {
	switch c.Kind {
	case "event_match":
		if c.Pattern == nil || c.Key == "" {
			return never
		}
		return matches(c.Key, *c.Pattern)
	case "event_property_is":
		want, path := gjson.ParseBytes(c.Value), splitPath(c.Key)
		return func(e *Event, _ User) bool { return sameValue(e.get(path), want) }
	case "event_property_contains":
		want, path := gjson.ParseBytes(c.Value), splitPath(c.Key)
		return func(e *Event, _ User) bool {
			list := e.get(path)
			if !list.IsArray() {
				return false
			}
			for _, v := range list.Array() {
				if sameValue(v, want) {
					return true
				}
			}
			return false
		}
	case "contains_display_name":
		return containsName
	case "room_member_count":
		return memberCount(c.Is)
	case "sender_notification_permission":
		return func(e *Event, _ User) bool { return c.Key != "" && e.MayNotify(c.Key) }
	}
	return never
}

// sameValue compares strings, integers, booleans and nulls; nothing else is equal.
func sameValue(a, b gjson.Result) bool {
	if a.Type != b.Type || !a.Exists() || !b.Exists() {
		return false
	}
	switch a.Type {
	case gjson.String:
		return a.Str == b.Str
	case gjson.Number:
		return a.Raw == b.Raw
	case gjson.True, gjson.False, gjson.Null:
		return true
	}
	return false
}

// matches compares a string of the event with a glob: somewhere between word boundaries in
// content.body, as a whole elsewhere.
func matches(key, pattern string) condition {
	if len(pattern) > maxPattern || !utf8.ValidString(pattern) {
		return never
	}
	path := splitPath(key)
	if key != "content.body" && !strings.ContainsAny(pattern, "*?") {
		return func(e *Event, _ User) bool {
			v := e.get(path)
			return v.Type == gjson.String && strings.EqualFold(v.Str, pattern)
		}
	}
	re, err := regexp.Compile(globExpr(pattern, key == "content.body"))
	if err != nil {
		return never
	}
	return func(e *Event, _ User) bool {
		v := e.get(path)
		return v.Type == gjson.String && re.MatchString(v.Str)
	}
}

// globExpr makes a regular expression of a glob.
//
// spec: client-server §13.13.1.1 (event_match): case-insensitive; a word boundary is the
// start or end of the value, or a character that is no ASCII letter, digit or _
func globExpr(pattern string, words bool) string {
	var b strings.Builder
	b.WriteString(`(?is)`)
	if words {
		b.WriteString(`(?:^|[^A-Za-z0-9_])`)
	} else {
		b.WriteString(`^`)
	}
	for _, r := range pattern {
		switch r {
		case '*':
			b.WriteString(`.*`)
		case '?':
			b.WriteString(`.`)
		default:
			b.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	if words {
		b.WriteString(`(?:$|[^A-Za-z0-9_])`)
	} else {
		b.WriteString(`$`)
	}
	return b.String()
}

// containsName looks for the user's display name in content.body.
func containsName(e *Event, u User) bool {
	body := e.get(pathBody)
	if body.Type != gjson.String {
		return false
	}
	name := ""
	if u.DisplayName != nil {
		name = u.DisplayName()
	}
	return name != "" && containsWord(strings.ToLower(body.Str), strings.ToLower(name))
}

// containsWord looks for a word between word boundaries.
func containsWord(text, word string) bool {
	for from := 0; ; {
		i := strings.Index(text[from:], word)
		if i < 0 {
			return false
		}
		start, end := from+i, from+i+len(word)
		if (start == 0 || !wordByte(text[start-1])) && (end == len(text) || !wordByte(text[end])) {
			return true
		}
		from = start + 1
	}
}

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
}

// memberCount compares the number of members with something like "2" or ">=10".
func memberCount(is string) condition {
	op := strings.TrimRight(is, "0123456789")
	var want int64
	if _, err := fmt.Sscanf(is[len(op):], "%d", &want); err != nil {
		return never
	}
	compare := map[string]func(n int64) bool{
		"": func(n int64) bool { return n == want }, "==": func(n int64) bool { return n == want },
		"<": func(n int64) bool { return n < want }, ">": func(n int64) bool { return n > want },
		"<=": func(n int64) bool { return n <= want }, ">=": func(n int64) bool { return n >= want },
	}[op]
	if compare == nil {
		return never
	}
	return func(e *Event, _ User) bool { return compare(e.Members()) }
}
