package stateres_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/stateres"
	"weft/matrix/stateres/graphtest"
)

func rules(t testing.TB, v event.RoomVersion) *event.Rules {
	t.Helper()
	r, err := event.Version(v)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func seeded(seed uint64) graphtest.Draw {
	return rand.New(rand.NewPCG(seed, 1)).IntN
}

func generate(t testing.TB, r *event.Rules, n int, draw graphtest.Draw) *graphtest.Graph {
	t.Helper()
	g, err := graphtest.Generate(r, n, draw)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func resolve(t testing.TB, g *graphtest.Graph, sets []graphtest.State) graphtest.State {
	t.Helper()
	out, err := stateres.Resolve(g.Rules, sets, g.ByID, g.IsRejected)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func same(t testing.TB, what string, got, want graphtest.State) {
	t.Helper()
	for k, e := range want {
		if got[k] != e {
			t.Fatalf("%s: %v is %q, want %q", what, k, got[k], e)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d entries, want %d", what, len(got), len(want))
	}
}

// graphsPerVersion is how many rooms the seeded tests make for each version.
const graphsPerVersion = 100

// TestNaive: the same result as the naive algorithm, for every choice of branches.
func TestNaive(t *testing.T) {
	conflicts := 0
	for _, v := range event.Versions() {
		r := rules(t, v)
		if r.StateRes == event.StateResV1 {
			continue
		}
		for seed := range uint64(graphsPerVersion) {
			g := generate(t, r, 30, seeded(seed))
			sets := g.Sets()
			for _, e := range g.Events[len(g.Events)/2:] {
				if e.IsState && seed%3 == 0 {
					sets = append(sets[:min(len(sets), 3)], g.After[e.ID])
				}
			}
			want := naive{r, g.ByID, g.IsRejected}.resolve(sets)
			same(t, fmt.Sprintf("version %s, seed %d", v, seed), resolve(t, g, sets), want)
			if len(sets) > 1 {
				conflicts++
			}
		}
	}
	if conflicts < graphsPerVersion {
		t.Errorf("only %d rooms had branches", conflicts)
	}
}

// input makes the call that a server would make out of whole states.
func input(g *graphtest.Graph, sets []graphtest.State) stateres.Input {
	unconflicted := graphtest.State{}
	conflicted := map[stateres.Key][]id.Event{}
	for _, s := range sets {
		for k := range s {
			sides := make([]id.Event, len(sets))
			agree := true
			for i := range sets {
				sides[i] = sets[i][k]
				agree = agree && sides[i] == sides[0]
			}
			if agree {
				unconflicted[k] = sides[0]
			} else {
				conflicted[k] = sides
			}
		}
	}
	return stateres.Input{
		Rules: g.Rules, Sides: len(sets), Conflicted: conflicted, Events: g.ByID, Rejected: g.IsRejected,
		Unconflicted: func(k stateres.Key) (id.Event, error) {
			if _, ok := conflicted[k]; ok {
				return "", errors.New("asked about a conflicted key")
			}
			return unconflicted[k], nil
		},
	}
}

// order is the order in which a server got the events.
func order(g *graphtest.Graph) func(id.Event) int64 {
	at := make(map[id.Event]int64)
	for i, e := range g.Events {
		at[e.ID] = int64(i + 1)
	}
	return func(i id.Event) int64 { return at[i] }
}

// TestOrder: an order makes resolution cheaper and nothing else; one that lies is
// found out and does no harm; and how often the answer about candidates matters.
func TestOrder(t *testing.T) {
	inexact, total := 0, 0
	for _, v := range event.Versions() {
		r := rules(t, v)
		for seed := range uint64(graphsPerVersion) {
			g := generate(t, r, 30, seeded(seed))
			sets := g.Sets()
			in := input(g, sets)
			without, err := stateres.ResolveConflicted(in)
			if err != nil {
				t.Fatal(err)
			}
			in.Order = order(g)
			with, err := stateres.ResolveConflicted(in)
			if err != nil {
				t.Fatal(err)
			}
			same(t, fmt.Sprintf("version %s, seed %d, in order", v, seed), with, without)
			draw := seeded(seed)
			lies := make(map[id.Event]int64)
			for _, e := range g.Events {
				lies[e.ID] = int64(draw(len(g.Events)))
			}
			in.Order = func(i id.Event) int64 { return lies[i] }
			if _, err := stateres.ResolveConflicted(in); err != nil {
				t.Fatal(err)
			}
			exact := resolve(t, g, sets)
			total++
			for k := range in.Conflicted {
				if exact[k] != without[k] {
					inexact++
					break
				}
			}
		}
	}
	t.Logf("%d of %d rooms resolve otherwise when nobody answers about candidates", inexact, total)
	if inexact*200 > total {
		t.Errorf("%d of %d rooms need the answer about candidates", inexact, total)
	}
}

// TestPermutations: the order of sides, and how often each is there, do not matter.
func TestPermutations(t *testing.T) {
	for _, v := range event.Versions() {
		r := rules(t, v)
		t.Run("v"+string(v), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				draw := func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "n") }
				g, err := graphtest.Generate(r, 20, draw)
				if err != nil {
					rt.Fatal(err)
				}
				sets := g.Sets()
				want, err := stateres.Resolve(r, sets, g.ByID, g.IsRejected)
				if err != nil {
					rt.Fatal(err)
				}
				shuffled := rapid.Permutation(sets).Draw(rt, "sides")
				shuffled = append(shuffled, shuffled[draw(len(shuffled))])
				got, err := stateres.Resolve(r, shuffled, g.ByID, g.IsRejected)
				if err != nil {
					rt.Fatal(err)
				}
				if !maps.Equal(got, want) {
					rt.Fatalf("sides in another order: %v, want %v", got, want)
				}
			})
		})
	}
}

// TestArrival: a server that gets the events in another order, each after those it
// names, computes the same state after each of them.
func TestArrival(t *testing.T) {
	for _, v := range event.Versions() {
		r := rules(t, v)
		for seed := range uint64(20) {
			g := generate(t, r, 25, seeded(1000+seed))
			draw := seeded(seed)
			after := make(map[id.Event]graphtest.State)
			for left := append([]*event.Event(nil), g.Events...); len(left) > 0; {
				at := draw(len(left))
				e := left[at]
				sets := make([]graphtest.State, 0, len(e.PrevEvents))
				for _, p := range e.PrevEvents {
					if s, ok := after[p]; ok {
						sets = append(sets, s)
					}
				}
				if len(sets) < len(e.PrevEvents) {
					continue // not yet: an event that it follows is missing
				}
				draw2 := rand.New(rand.NewPCG(seed, uint64(at)))
				draw2.Shuffle(len(sets), func(i, j int) { sets[i], sets[j] = sets[j], sets[i] })
				state := resolve(t, g, sets)
				same(t, fmt.Sprintf("version %s, seed %d, before %s", v, seed, e.ID), state, g.Before[e.ID])
				if e.IsState && !g.Rejected[e.ID] {
					state = maps.Clone(state)
					state[stateres.Key{Type: e.Type, StateKey: e.StateKey}] = e.ID
				}
				after[e.ID] = state
				left = append(left[:at], left[at+1:]...)
			}
		}
	}
}

// TestErrors: what is missing is an error, never a guess.
func TestErrors(t *testing.T) {
	for _, v := range event.Versions() {
		var in stateres.Input
		for seed := uint64(0); len(in.Conflicted) < 3; seed++ {
			g := generate(t, rules(t, v), 30, seeded(seed))
			in = input(g, g.Sets())
		}
		failing := errors.New("the disk is on fire")
		broken := in
		broken.Events = failingEvents{failing}
		if _, err := stateres.ResolveConflicted(broken); v != "1" && !errors.Is(err, failing) {
			t.Errorf("version %s: %v", v, err)
		}
		broken = in
		broken.Unconflicted = func(stateres.Key) (id.Event, error) { return "", failing }
		if _, err := stateres.ResolveConflicted(broken); v != "1" && !errors.Is(err, failing) {
			t.Errorf("version %s: %v", v, err)
		}
		broken = in
		broken.Sides++
		if _, err := stateres.ResolveConflicted(broken); err == nil {
			t.Errorf("version %s: the number of sides is wrong", v)
		}
	}
}

type failingEvents struct{ err error }

func (f failingEvents) Event(id.Event) (*event.Event, error) { return nil, f.err }
