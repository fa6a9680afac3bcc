package eventauth

import (
	"fmt"

	"weft/matrix/event"
	"weft/matrix/merr"
)

// RuleError says which rule rejected an event. errors.Is(err, merr.ErrForbidden)
// holds for it.
type RuleError struct {
	// Version is the room version whose rules were applied.
	Version event.RoomVersion
	// Step is the rule's name, the same in every version.
	Step Step
	// Rule is the rule's number in the version's prose, such as "4.3.1".
	Rule string
	// Message says what was wrong, for people.
	Message string
}

func (e *RuleError) Error() string {
	return fmt.Sprintf("rejected by rule %s of room version %s: %s", e.Rule, e.Version, e.Message)
}

// Unwrap gives the error that a client sees: M_FORBIDDEN.
func (e *RuleError) Unwrap() error { return merr.Forbidden("%s", e.Message) }

// verdict is the decision of the rules and the step that made it.
type verdict struct {
	step    Step
	allowed bool
	reason  string
}

func allow(s Step) verdict { return verdict{step: s, allowed: true} }

func reject(s Step, format string, args ...any) verdict {
	return verdict{step: s, reason: fmt.Sprintf(format, args...)}
}

// either allows when ok holds and rejects otherwise, both by the same step.
func either(s Step, ok bool, format string, args ...any) verdict {
	if ok {
		return allow(s)
	}
	return reject(s, format, args...)
}

// decided reports whether a step has made a decision.
func (v verdict) decided() bool { return v.step != stepNone }

func (v verdict) err(r *event.Rules) error {
	if v.allowed {
		return nil
	}
	return &RuleError{Version: r.Version, Step: v.step, Rule: v.step.Number(r), Message: v.reason}
}
