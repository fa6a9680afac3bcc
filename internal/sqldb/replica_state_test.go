package sqldb

import (
	"errors"
	"testing"
	"time"

	"github.com/lib/pq"
)

func TestIdentity(t *testing.T) {
	primary := identity{"71", "5", 2, false}
	for _, c := range []struct {
		text string
		want error
	}{
		{"71 5 2 t", nil},
		{"71 5 3 t", nil}, // the primary was asked before it was promoted
		{"72 5 2 t", errOtherDatabase},
		{"71 6 2 t", errOtherDatabase},
		{"72 5 2 f", errOtherDatabase},
		{"71 5 2 f", errNoStandby},
		{"71 5 1 t", errOldTimeline},
	} {
		own, err := parseIdentity(c.text)
		if err != nil {
			t.Fatal(err)
		}
		if err := own.check(primary); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.text, err, c.want)
		}
	}
	if id, err := parseIdentity("71 5"); err == nil {
		t.Errorf("half of it is %+v", id)
	}
}

// TestReplicaRests walks a replica through its states, without a server.
func TestReplicaRests(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	db := &DB{dialect: Postgres, opts: Options{Now: func() time.Time { return now }}.withDefaults(Postgres)}
	im, other := db.Immutable("SELECT 1 IN ", 0), db.Immutable("SELECT 2 IN ", 0)
	set := &replicas{db: db}
	rep := &replica{set: set, conns: 2, behind: map[*Immutable]time.Time{}, up: true, since: now}
	set.list = []*replica{rep}
	take := func(im *Immutable) bool {
		got, term := set.pick(im)
		if got != nil {
			rep.give(term, nil)
			set.work.Done()
		}
		return got != nil
	}
	if !take(im) {
		t.Error("not asked")
	}
	rep.lags(im)
	if take(im) || !take(other) {
		t.Error("it lags for one statement alone")
	}
	now = now.Add(replicaLag)
	if !take(im) {
		t.Error("it lags for longer than it should")
	}
	// What a standby does to statements that are in its way.
	rep.fail(rep.term, &pq.Error{Code: pgSerializationFailure})
	rep.fail(rep.term-1, errReplicaSlow) // of another time
	if !rep.up {
		t.Error("left alone for nothing")
	}
	rep.probing = true // nobody is to look
	least := replicaRest / 2
	for range 10 {
		rep.up = true
		term := rep.term
		rep.fail(term, errReplicaSlow)
		rep.fail(term, errReplicaSlow)
		if rest := rep.retry.Sub(now); rep.up || rest < least || rest > 3*least {
			t.Errorf("used: %v, left alone for %v, want %v to %v", rep.up, rest, least, 3*least)
		}
		if take(im) {
			t.Error("asked while it is left alone")
		}
		least = min(2*least, replicaMaxRest/2)
	}
	rep.up, rep.since = true, now
	now = now.Add(replicaStable)
	rep.fail(rep.term, errReplicaSlow)
	if rest := rep.retry.Sub(now); rest > 3*replicaRest/2 {
		t.Errorf("after it was well it is left alone for %v", rest)
	}
}
