package eventauth

import (
	"bufio"
	"errors"
	"os"
	"strings"
	"testing"

	"weft/matrix/event"
	"weft/matrix/merr"
)

// ruleCase is one rule with an event that gets past it or is allowed by it, and
// one that it, or what comes after it, rejects. At least one of the two is decided
// by the rule itself.
type ruleCase struct {
	step   Step
	what   string // follows the number in the test's name
	pass   func(w *world) verdict
	passBy Step
	fail   func(w *world) verdict
	failBy Step
}

// allCases lists the cases of all rules of all versions.
func allCases() []ruleCase {
	var all []ruleCase
	for _, part := range [][]ruleCase{createCases(), authEventCases(), roomCases(), joinCases(), restrictedCases(),
		thirdPartyCases(), inviteCases(), leaveCases(), knockCases(), levelFormCases(), levelChangeCases()} {
		all = append(all, part...)
	}
	return all
}

// TestRules tries every rule of every room version. A test's name carries the
// rule's number in that version.
func TestRules(t *testing.T) {
	eachVersion(t, func(t *testing.T, r *event.Rules) {
		for _, c := range allCases() {
			number := c.step.Number(r)
			if number == "" {
				continue
			}
			name := strings.ReplaceAll(number, ".", "_") + "_" + c.what
			t.Run("Rule_"+name+"_passes", func(t *testing.T) {
				expect(t, c.pass(newWorld(t, r)), r, c.passBy, true)
			})
			t.Run("Rule_"+name+"_fails", func(t *testing.T) {
				expect(t, c.fail(newWorld(t, r)), r, c.failBy, false)
			})
		}
	})
}

func expect(t *testing.T, got verdict, r *event.Rules, step Step, allowed bool) {
	t.Helper()
	if got.step != step || got.allowed != allowed {
		t.Fatalf("rule %s (step %d) decided %v (%s), want rule %s (step %d) deciding %v",
			got.step.Number(r), got.step, got.allowed, got.reason, step.Number(r), step, allowed)
	}
	err := got.err(r)
	if allowed {
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	var re *RuleError
	if !errors.As(err, &re) || re.Rule != step.Number(r) || re.Version != r.Version || re.Message == "" {
		t.Fatalf("error %#v", err)
	}
	if !errors.Is(err, merr.ErrForbidden) {
		t.Fatal("the error is not M_FORBIDDEN")
	}
}

// TestRulesComplete holds the outline against the numbers of the specification,
// and looks that each number has a passing and a failing case, one of which is
// decided by that rule.
func TestRulesComplete(t *testing.T) {
	cases := make(map[Step]ruleCase)
	for _, c := range allCases() {
		if c.passBy != c.step && c.failBy != c.step {
			t.Errorf("the case %s of step %d is decided by other rules", c.what, c.step)
		}
		if c.pass == nil || c.fail == nil {
			t.Errorf("the case %s of step %d lacks an event", c.what, c.step)
		}
		cases[c.step] = c
	}
	file, err := os.Open("testdata/rules.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	versions := 0
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, list, ok := strings.Cut(lines.Text(), ":")
		if !ok || name[0] == '#' {
			continue
		}
		versions++
		r, err := event.Version(event.RoomVersion(name[1:]))
		if err != nil {
			t.Fatal(err)
		}
		steps := make(map[string]Step)
		for s := stepNone + 1; s < stepCount; s++ {
			if n := s.Number(r); n != "" {
				steps[n] = s
			}
		}
		for _, n := range strings.Fields(list) {
			s, ok := steps[n]
			if !ok { // where the keys of a third-party invite stand: cases of the rule above
				s, ok = steps[n[:strings.LastIndexByte(n, '.')]]
				ok = ok && s == StepThirdPartySignature
				n = n[:strings.LastIndexByte(n, '.')]
			}
			if !ok {
				t.Errorf("%s has no rule %s", name, n)
				continue
			}
			if _, ok := cases[s]; !ok {
				t.Errorf("%s: rule %s (step %d) has no case", name, n, s)
			}
			steps[n] = s
		}
		want := make(map[string]bool)
		for _, n := range strings.Fields(list) {
			want[n] = true
			if steps[n] == stepNone {
				want[n[:strings.LastIndexByte(n, '.')]] = true
			}
		}
		for n := range steps {
			if steps[n] != stepNone && !want[n] {
				t.Errorf("%s: rule %s is not in the specification", name, n)
			}
		}
	}
	if versions != len(event.Versions()) {
		t.Errorf("%d versions in the list, %d supported", versions, len(event.Versions()))
	}
}
