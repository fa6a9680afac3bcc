package differential

import (
	"errors"

	"github.com/tidwall/gjson"

	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/stateres/graphtest"
)

// verdictDeviations are the known differences of verdicts, each of which must occur
// in a full run.
var verdictDeviations = []string{
	"leave without being in", "join under an unknown rule", "knock_restricted too early", "join after a knock", "power level defaults",
	"unban by the ban level alone",
}

// explain names the known deviation that a difference of verdicts is, "" if none.
// ours is the error of our verdict.
func (r *room) explain(e *event.Event, state graphtest.State, ours error) string {
	var rule *eventauth.RuleError
	rejected := errors.As(ours, &rule)
	auth := r.View(state)
	membership, joining := "leave", "invite"
	if m := auth.Get(eventauth.TypeMember, e.StateKey); e.Type == eventauth.TypeMember && m != nil {
		membership = m.Membership()
	}
	if jr := auth.Get(eventauth.TypeJoinRules, ""); jr != nil {
		joining = joinRule(jr)
	}
	switch {
	case e.Type == eventauth.TypeMember && rejected:
		early := joining == "knock_restricted" && !r.Rules.KnockRestricted
		switch {
		case rule.Step == eventauth.StepLeaveSelf && membership == "leave":
			return verdictDeviations[0]
		case rule.Step == eventauth.StepLeaveOtherwise && membership == "ban":
			return verdictDeviations[5]
		case early && (rule.Step == eventauth.StepKnockRule || rule.Step == eventauth.StepJoinOtherwise) && r.Rules.Knock:
			return verdictDeviations[2]
		case rule.Step == eventauth.StepJoinOtherwise && (membership == "join" || membership == "invite"):
			return verdictDeviations[1]
		}
	case e.Type == eventauth.TypeMember:
		if joining == "public" && membership == "knock" && e.Membership() == "join" {
			return verdictDeviations[3]
		}
	case e.Type == eventauth.TypePowerLevels:
		now := auth.Get(eventauth.TypePowerLevels, "")
		if now != nil && defaultsCount(now, e) {
			return verdictDeviations[4]
		}
	}
	return ""
}

// defaultsCount says whether a default could count in a change of power levels:
// one is changed, or an entry comes or goes.
func defaultsCount(from, to *event.Event) bool {
	a, b := gjson.ParseBytes(from.Content()), gjson.ParseBytes(to.Content())
	for _, name := range []string{"users_default", "events_default"} {
		if a.Get(name).Int() != b.Get(name).Int() {
			return true
		}
	}
	for _, name := range []string{"users", "events"} {
		x, y := a.Get(name).Map(), b.Get(name).Map()
		if len(x) != len(y) {
			return true
		}
		for k := range x {
			if !y[k].Exists() {
				return true
			}
		}
	}
	return false
}
