package clientapi

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// typePushRules is the account data that holds the push rules.
const typePushRules = "m.push_rules"

const (
	maxRuleID = 512
	// maxRules bounds a user's own rules of one kind; each is looked at for
	// each event.
	maxRules = 1000
	maxRule  = 16 << 10 // bytes of the body of one rule
)

// effectiveRules is the content of m.push_rules as clients see it: what is
// stored (nil: nothing), with the default rules of this version of the server.
func effectiveRules(stored json.RawMessage, user id.User) (json.RawMessage, error) {
	rules, err := loadRules(stored, user)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(rulesContent{Global: rules})
	if err != nil {
		return nil, fmt.Errorf("writing push rules: %w", err)
	}
	return raw, nil
}

func loadRules(stored json.RawMessage, user id.User) (ruleset, error) {
	defaults, err := defaultRules(user)
	if err != nil {
		return ruleset{}, fmt.Errorf("making the default push rules: %w", err)
	}
	var content rulesContent
	if stored != nil {
		if err := json.Unmarshal(stored, &content); err != nil {
			return ruleset{}, fmt.Errorf("reading stored push rules: %w", err)
		}
	}
	var out ruleset
	for _, k := range []string{kindOverride, kindContent, kindRoom, kindSender, kindUnderride} {
		*out.kind(k) = mergeRules(*content.Global.kind(k), *defaults.kind(k))
	}
	return out, nil
}

// mergeRules puts the master rule first, then the user's own rules, then the
// other default rules, which keep what the user chose for them.
func mergeRules(stored, defaults []pushRule) []pushRule {
	out := make([]pushRule, 0, len(stored)+len(defaults))
	for _, d := range defaults {
		if d.ID == masterRule {
			out = append(out, choices(d, stored))
		}
	}
	for _, r := range stored {
		if !r.Default {
			out = append(out, r)
		}
	}
	for _, d := range defaults {
		if d.ID != masterRule {
			out = append(out, choices(d, stored))
		}
	}
	return out
}

// choices takes over what a user may change of a default rule.
func choices(d pushRule, stored []pushRule) pushRule {
	for _, r := range stored {
		if r.Default && r.ID == d.ID {
			d.Enabled, d.Actions = r.Enabled, r.Actions
		}
	}
	return d
}

func (s *Server) pushRules(ctx context.Context, q sqldb.Querier, user id.User) (ruleset, error) {
	stored, err := readAccountData(ctx, q, user, "", typePushRules)
	if err != nil {
		return ruleset{}, err
	}
	return loadRules(stored, user)
}

// changeRules changes the push rules in one transaction.
func (s *Server) changeRules(ctx context.Context, user id.User, change func(*ruleset) error) error {
	return s.changeAccountData(ctx, user, "", typePushRules, func(tx *sqldb.Tx) (json.RawMessage, error) {
		rules, err := s.pushRules(ctx, tx, user)
		if err != nil {
			return nil, err
		}
		if err := change(&rules); err != nil {
			return nil, err
		}
		raw, err := json.Marshal(rulesContent{Global: rules})
		if err != nil {
			return nil, fmt.Errorf("writing push rules: %w", err)
		}
		return raw, nil
	})
}

// GetPushRules is GET /pushrules/.
func (s *Server) GetPushRules(ctx context.Context, r *httpapi.Request) (any, error) {
	rules, err := s.pushRules(ctx, s.db, r.Session.User)
	return rulesContent{Global: rules}, err
}

// GetPushRulesGlobal is GET /pushrules/global/.
func (s *Server) GetPushRulesGlobal(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.pushRules(ctx, s.db, r.Session.User)
}

// findRule finds the rule that the path names in rules.
func findRule(r *httpapi.Request, rules *ruleset) (*pushRule, error) {
	list := rules.kind(r.Vars["kind"])
	if list == nil {
		// spec: client-server §10.11.2 (GET /pushrules/global/{kind}/{ruleId}): 404 for what is not there
		return nil, merr.NotFound("there is no kind %q of push rules", r.Vars["kind"])
	}
	i := indexRule(*list, r.Vars["ruleId"])
	if i < 0 {
		return nil, merr.NotFound("there is no push rule %q", r.Vars["ruleId"])
	}
	return &(*list)[i], nil
}

func indexRule(list []pushRule, ruleID string) int {
	return slices.IndexFunc(list, func(r pushRule) bool { return r.ID == ruleID })
}

func (s *Server) getRule(ctx context.Context, r *httpapi.Request) (*pushRule, error) {
	rules, err := s.pushRules(ctx, s.db, r.Session.User)
	if err != nil {
		return nil, err
	}
	return findRule(r, &rules)
}

// GetPushRule is GET /pushrules/global/{kind}/{ruleId}.
func (s *Server) GetPushRule(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.getRule(ctx, r)
}

// IsPushRuleEnabled is GET …/enabled.
func (s *Server) IsPushRuleEnabled(ctx context.Context, r *httpapi.Request) (any, error) {
	rule, err := s.getRule(ctx, r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"enabled": rule.Enabled}, nil
}

// GetPushRuleActions is GET …/actions.
func (s *Server) GetPushRuleActions(ctx context.Context, r *httpapi.Request) (any, error) {
	rule, err := s.getRule(ctx, r)
	if err != nil {
		return nil, err
	}
	return map[string]any{"actions": rule.Actions}, nil
}

// SetPushRuleEnabled is PUT …/enabled.
func (s *Server) SetPushRuleEnabled(ctx context.Context, r *httpapi.Request) (any, error) {
	var req struct {
		Enabled *bool `json:"enabled"`
	}
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	if req.Enabled == nil {
		return nil, merr.MissingParam("enabled is missing")
	}
	return nil, s.changeRules(ctx, r.Session.User, func(rules *ruleset) error {
		rule, err := findRule(r, rules)
		if err != nil {
			return err
		}
		rule.Enabled = *req.Enabled
		return nil
	})
}

// SetPushRuleActions is PUT …/actions.
func (s *Server) SetPushRuleActions(ctx context.Context, r *httpapi.Request) (any, error) {
	var req struct {
		Actions []json.RawMessage `json:"actions"`
	}
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	if err := checkActions(req.Actions); err != nil {
		return nil, err
	}
	return nil, s.changeRules(ctx, r.Session.User, func(rules *ruleset) error {
		rule, err := findRule(r, rules)
		if err != nil {
			return err
		}
		rule.Actions = req.Actions
		return nil
	})
}

// DeletePushRule is DELETE /pushrules/global/{kind}/{ruleId}.
func (s *Server) DeletePushRule(ctx context.Context, r *httpapi.Request) (any, error) {
	return nil, s.changeRules(ctx, r.Session.User, func(rules *ruleset) error {
		rule, err := findRule(r, rules)
		if err != nil {
			return err
		}
		if rule.Default {
			return merr.InvalidParam("the default rule %q cannot be deleted", rule.ID)
		}
		list := rules.kind(r.Vars["kind"])
		*list = slices.DeleteFunc(*list, func(x pushRule) bool { return x.ID == r.Vars["ruleId"] })
		return nil
	})
}

// SetPushRule is PUT /pushrules/global/{kind}/{ruleId}.
func (s *Server) SetPushRule(ctx context.Context, r *httpapi.Request) (any, error) {
	rule, err := readRule(r)
	if err != nil {
		return nil, err
	}
	before, after := r.Query().Get("before"), r.Query().Get("after")
	return nil, s.changeRules(ctx, r.Session.User, func(rules *ruleset) error {
		list := rules.kind(r.Vars["kind"])
		changed, err := placeRule(*list, rule, before, after)
		if err != nil {
			return err
		}
		*list = changed
		return nil
	})
}

func readRule(r *httpapi.Request) (pushRule, error) {
	kind, rule := r.Vars["kind"], pushRule{ID: r.Vars["ruleId"], Enabled: true}
	if err := checkRuleID(kind, rule.ID); err != nil {
		return rule, err
	}
	if len(r.Body) > maxRule {
		return rule, merr.TooLarge("a push rule may have %d bytes", maxRule)
	}
	var req struct {
		Actions    []json.RawMessage `json:"actions"`
		Conditions []json.RawMessage `json:"conditions"`
		Pattern    *string           `json:"pattern"`
	}
	if err := r.DecodeJSON(&req); err != nil {
		return rule, err
	}
	if err := checkActions(req.Actions); err != nil {
		return rule, err
	}
	rule.Actions = req.Actions
	switch kind {
	case kindOverride, kindUnderride:
		for _, c := range req.Conditions {
			var cond struct {
				Kind    string  `json:"kind"`
				Key     *string `json:"key"`
				Pattern *string `json:"pattern"`
				Is      *string `json:"is"`
			}
			if json.Unmarshal(c, &cond) != nil || cond.Kind == "" {
				return rule, merr.InvalidParam("a condition is an object with a kind; key, pattern and is are strings")
			}
		}
		rule.Conditions = req.Conditions
	case kindContent:
		if req.Pattern == nil {
			return rule, merr.MissingParam("a content rule needs a pattern")
		}
		rule.Pattern = req.Pattern
	}
	return rule, nil
}

func checkRuleID(kind, ruleID string) error {
	var err error
	switch {
	case strings.HasPrefix(ruleID, "."):
		return merr.InvalidParam("only default rules begin with a dot")
	case strings.ContainsAny(ruleID, `/\`):
		return merr.InvalidParam("a rule ID has no slashes")
	case len(ruleID) > maxRuleID || ruleID == "":
		return merr.InvalidParam("a rule ID has 1 to %d bytes", maxRuleID)
	}
	switch kind {
	case kindOverride, kindContent, kindUnderride:
	case kindRoom:
		_, err = id.ParseRoom(ruleID)
	case kindSender:
		_, err = id.ParseUser(ruleID)
	default:
		return merr.InvalidParam("there is no kind %q of push rules", kind)
	}
	if err != nil {
		return merr.InvalidParam("the ID of a %s rule: %v", kind, err)
	}
	return nil
}

// checkActions refuses what is no action. Actions of earlier versions of the
// specification are kept: clients still send them.
func checkActions(actions []json.RawMessage) error {
	if actions == nil {
		return merr.MissingParam("actions is missing")
	}
	for _, a := range actions {
		var name string
		if json.Unmarshal(a, &name) == nil {
			switch name {
			case "notify", "dont_notify", "coalesce":
				continue
			}
			return merr.InvalidParam("there is no action %q", name)
		}
		var tweak struct {
			SetTweak string `json:"set_tweak"`
		}
		if json.Unmarshal(a, &tweak) != nil || tweak.SetTweak == "" {
			return merr.InvalidParam("an action is a string or an object with set_tweak")
		}
	}
	return nil
}

// placeRule puts a rule where before and after say. Without them a rule that is
// there stays in its place, and a new one comes first among the user's own.
//
// spec: client-server §10.11.2 (PUT /pushrules/global/{kind}/{ruleId})
func placeRule(list []pushRule, rule pushRule, before, after string) ([]pushRule, error) {
	old := indexRule(list, rule.ID)
	if old >= 0 {
		rule.Enabled = list[old].Enabled
		if before == "" && after == "" {
			list[old] = rule
			return list, nil
		}
		list = slices.Delete(list, old, old+1)
	}
	own := 0
	for _, r := range list {
		if !r.Default {
			own++
		}
	}
	if own >= maxRules {
		return nil, merr.ResourceLimitExceeded("there are %d push rules of this kind already", own)
	}
	at := 0
	if len(list) > 0 && list[0].ID == masterRule {
		at = 1
	}
	// Where both are given, the rule is right above before; after only has to exist.
	for _, ref := range []struct {
		ruleID string
		offset int
	}{{after, 1}, {before, 0}} {
		if ref.ruleID == "" {
			continue
		}
		i := indexRule(list, ref.ruleID)
		if i < 0 || list[i].Default {
			return nil, merr.Unknown("before/after rule not found: %s", ref.ruleID)
		}
		at = i + ref.offset
	}
	return slices.Insert(list, at, rule), nil
}
