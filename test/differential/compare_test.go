package differential

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	gmsl "github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/stateres"
	"weft/matrix/stateres/graphtest"
)

// graphsPerVersion makes more than 10,000 rooms in all. With -short, and with the
// race detector, which makes this ten times slower and has nothing to find here, it
// is graphsPerVersionShort.
const (
	graphsPerVersion      = 850
	graphsPerVersionShort = 40
	eventsPerGraph        = 20
)

// counts is what a run has compared.
type counts struct {
	graphs, events, signatures, redactions, verdicts, resolved, conflicts, equal int
	deviations                                                                   map[string]int
}

func (c *counts) add(o *counts) {
	c.graphs += o.graphs
	c.events += o.events
	c.signatures += o.signatures
	c.redactions += o.redactions
	c.verdicts += o.verdicts
	c.resolved += o.resolved
	c.conflicts += o.conflicts
	c.equal += o.equal
	for k, n := range o.deviations {
		c.deviations[k] += n
	}
}

func (c *counts) String() string {
	return fmt.Sprintf("%d graphs, %d events, %d signatures, %d redactions, %d verdicts (other verdicts, all explained: %v), "+
		"%d resolutions, %d of them with conflicts: the same state in %d, all others explained",
		c.graphs, c.events, c.signatures, c.redactions, c.verdicts, c.deviations, c.resolved, c.conflicts, c.equal)
}

// TestDifferential compares everything on generated rooms of every version.
func TestDifferential(t *testing.T) {
	var mu sync.Mutex
	total := &counts{deviations: make(map[string]int)}
	n := graphsPerVersion
	short := testing.Short() || raceDetector
	if short {
		n = graphsPerVersionShort
	}
	t.Run("versions", func(t *testing.T) {
		for _, v := range event.Versions() {
			t.Run("v"+string(v), func(t *testing.T) {
				t.Parallel()
				c := compareVersion(t, v, n)
				t.Log(c)
				mu.Lock()
				defer mu.Unlock()
				total.add(c)
			})
		}
	})
	t.Logf("differential: %s", total)
	if short || t.Failed() {
		return
	}
	if total.graphs < 10_000 {
		t.Errorf("only %d graphs", total.graphs)
	}
	for _, d := range verdictDeviations {
		if total.deviations[d] == 0 {
			t.Errorf("the deviation %q did not occur: is it still one?", d)
		}
	}
}

func compareVersion(t *testing.T, v event.RoomVersion, n int) *counts {
	rules, err := event.Version(v)
	if err != nil {
		t.Fatal(err)
	}
	c := &counts{deviations: make(map[string]int)}
	for seed := range uint64(n) {
		random := rand.New(rand.NewPCG(seed, 20260506))
		g, err := graphtest.Generate(rules, eventsPerGraph, random.IntN)
		if err != nil {
			t.Fatal(err)
		}
		r, err := newRoom(g)
		if err != nil {
			t.Fatalf("version %s, seed %d: %v", v, seed, err)
		}
		x := &comparison{t: t, room: r, counts: c, where: fmt.Sprintf("version %s, seed %d", v, seed)}
		c.graphs++
		for i, e := range g.Events {
			c.events++
			x.redaction(e)
			x.verdict(e)
			if (uint64(i)+seed)%8 == 0 {
				x.signatures(e)
			}
		}
		x.hashes(g.Events[random.IntN(len(g.Events))])
		x.state(random)
	}
	return c
}

// comparison is one room under comparison.
type comparison struct {
	t testing.TB
	*room
	*counts
	where string
}

// redaction compares the redacted form of an event.
func (x *comparison) redaction(e *event.Event) {
	x.t.Helper()
	ours, err := event.RedactJSON(e.JSON(), x.Rules)
	if err != nil {
		x.t.Fatalf("%s: %v", x.where, err)
	}
	theirs, err := x.impl.RedactEventJSON(e.JSON())
	if err != nil {
		x.t.Fatalf("%s: %v", x.where, err)
	}
	if theirs, err = gmsl.CanonicalJSON(theirs); err != nil || !bytes.Equal(ours, theirs) {
		x.t.Fatalf("%s: redacted to\n%s, want\n%s (%v)", x.where, ours, theirs, err)
	}
	x.redactions++
}

// signatures lets each side verify the event, and theirs sign it again.
func (x *comparison) signatures(e *event.Event) {
	x.t.Helper()
	keys := func(s id.Server, _ id.KeyID, _ int64) (ed25519.PublicKey, bool) {
		_, priv := graphtest.Key(s)
		return priv.Public().(ed25519.PublicKey), true
	}
	if err := e.VerifySignatures(keys); err != nil {
		x.t.Fatalf("%s: %v", x.where, err)
	}
	redacted, err := x.impl.RedactEventJSON(e.JSON())
	if err != nil {
		x.t.Fatalf("%s: %v", x.where, err)
	}
	signed := x.pdus[e.ID]
	for _, s := range e.RequiredSigners() {
		key, priv := graphtest.Key(s)
		if err := gmsl.VerifyJSON(string(s), gmsl.KeyID(key), priv.Public().(ed25519.PublicKey), redacted); err != nil {
			x.t.Fatalf("%s: %v", x.where, err)
		}
		signed = signed.Sign(string(s), gmsl.KeyID(key), priv)
		x.counts.signatures++
	}
	again, err := gmsl.CanonicalJSON(signed.JSON())
	if err != nil || !bytes.Equal(again, e.JSON()) {
		x.t.Fatalf("%s: signed again\n%s, want\n%s (%v)", x.where, again, e.JSON(), err)
	}
}

// hashes spoils the content of an event: both must take the redacted form, under
// the same ID.
func (x *comparison) hashes(e *event.Event) {
	x.t.Helper()
	content := canonical.Set(e.Content(), "spoilt", []byte("true"))
	spoilt := canonical.Set(e.JSON(), "content", content)
	ours, err := event.Parse(spoilt, x.Rules)
	if err != nil {
		x.t.Fatalf("%s: %v", x.where, err)
	}
	theirs, err := x.impl.NewEventFromUntrustedJSON(spoilt)
	if err != nil {
		x.t.Fatalf("%s: %v", x.where, err)
	}
	redacted, err := gmsl.CanonicalJSON(theirs.JSON())
	if err != nil || !ours.Redacted() || !theirs.Redacted() || string(ours.ID) != theirs.EventID() || !bytes.Equal(ours.JSON(), redacted) {
		x.t.Fatalf("%s: a wrong content hash: %v %s\n%s, theirs %v %s\n%s", x.where,
			ours.Redacted(), ours.ID, ours.JSON(), theirs.Redacted(), theirs.EventID(), redacted)
	}
}

// verdict compares the verdicts about an event in the state before it.
func (x *comparison) verdict(e *event.Event) {
	x.t.Helper()
	state := x.Before[e.ID]
	ours := eventauth.Check(e, x.View(state))
	theirs, err := x.allowed(e, state)
	if err != nil {
		x.t.Fatalf("%s: %v", x.where, err)
	}
	x.verdicts++
	if theirs == (ours == nil) {
		return
	}
	why := x.explain(e, state, ours)
	if why == "" {
		x.t.Errorf("%s: they allow: %v, we say: %v, about %s", x.where, theirs, ours, e.JSON())
		return
	}
	x.deviations[why]++
}

// state compares the resolution of the branches' states.
func (x *comparison) state(random *rand.Rand) {
	x.t.Helper()
	sets := x.Sets()
	for len(sets) < 2 {
		sets = append(sets, x.After[x.Events[len(x.Events)/2+random.IntN(len(x.Events)/2)].ID])
	}
	ours, err := stateres.Resolve(x.Rules, sets, x.ByID, x.IsRejected)
	if err != nil {
		x.t.Fatalf("%s: %v", x.where, err)
	}
	x.resolved++
	conflict := false
	for _, s := range sets[1:] {
		conflict = conflict || !maps.Equal(s, sets[0])
	}
	if conflict {
		x.conflicts++
	}
	if x.Rules.StateRes == event.StateResV21 {
		text := model{room: x.room, check: x.ourCheck}.resolve(sets)
		if !maps.Equal(ours, text) {
			x.t.Errorf("%s: resolved to %v, want by the text %v", x.where, ours, text)
		}
		withTheirs := model{room: x.room, check: x.theirCheck}.resolve(sets)
		if conflict && maps.Equal(ours, withTheirs) {
			x.equal++
		}
		return
	}
	theirs, err := x.resolve(sets)
	if err != nil {
		x.t.Fatalf("%s: %v", x.where, err)
	}
	if maps.Equal(ours, theirs) {
		if conflict {
			x.equal++
		}
		return
	}
	// Ours must be what the text says, and theirs what their known departures make.
	text := model{room: x.room, check: x.ourCheck}.resolve(sets)
	if !maps.Equal(ours, text) {
		x.t.Errorf("%s: resolved to %v, want by the text %v", x.where, ours, text)
	}
	known := model{room: x.room, theirs: true, check: x.theirCheck}.resolve(sets)
	if !maps.Equal(theirs, known) {
		x.t.Errorf("%s: theirs is %v, which its known departures do not explain: %v", x.where, theirs, known)
	}
}

// TestVersion12 holds why states of version 12 are not compared directly.
func TestVersion12(t *testing.T) {
	rules, err := event.Version("12")
	if err != nil {
		t.Fatal(err)
	}
	panics, dropped, rooms := 0, 0, 0
	for seed := uint64(0); rooms < 40; seed++ {
		g, err := graphtest.Generate(rules, eventsPerGraph, rand.New(rand.NewPCG(seed, 12)).IntN)
		if err != nil {
			t.Fatal(err)
		}
		sets := g.Sets()
		_, conflicted := partition(sets)
		if len(conflicted) == 0 {
			continue
		}
		rooms++
		r, err := newRoom(g)
		if err != nil {
			t.Fatal(err)
		}
		got, failed := quietly(t, func() (graphtest.State, error) { return r.resolve(sets) })
		if failed {
			panics++
			continue
		}
		kept := false
		for _, e := range got {
			kept = kept || conflicted[e]
		}
		if !kept {
			dropped++
		}
	}
	t.Logf("of %d rooms of version 12 with conflicts the other implementation panics in %d and drops all that is conflicted in %d", rooms, panics, dropped)
	if panics+dropped != rooms || panics == 0 {
		t.Errorf("the other implementation resolves states of version 12: compare them")
	}
}

// quietly runs something that prints and may panic.
func quietly(t *testing.T, fn func() (graphtest.State, error)) (s graphtest.State, failed bool) {
	t.Helper()
	stdout := os.Stdout
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout = null
	defer func() {
		os.Stdout = stdout
		if recover() != nil {
			s, failed = nil, true
		}
		if err := null.Close(); err != nil {
			t.Error(err)
		}
	}()
	s, err = fn()
	if err != nil {
		t.Error(err)
	}
	return s, failed
}

// TestSpecVersions: both know the same room versions.
func TestSpecVersions(t *testing.T) {
	for _, v := range event.Versions() {
		if !gmsl.StableRoomVersion(gmsl.RoomVersion(v)) {
			t.Errorf("version %s is not known there", v)
		}
	}
	if _, err := spec.NewUserID("@user:server", true); err != nil {
		t.Error(err)
	}
}
