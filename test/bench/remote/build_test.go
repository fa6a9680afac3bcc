package remote

import (
	"context"
	"crypto/ed25519"
	"maps"
	"slices"
	"testing"

	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/stateres"
)

func serve(t testing.TB, o Options) *Server {
	t.Helper()
	s, err := Serve(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newRoom(t testing.TB, s *Server, o RoomOptions) *Room {
	t.Helper()
	r, err := s.NewRoom(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// versions are the room versions that the load driver uses.
var versions = []event.RoomVersion{"10", "11", "12"}

// judge receives a room's history as another server does, by the plain definitions:
// whole states in maps, every event parsed anew, all its auth events looked at.
type judge struct {
	t      *testing.T
	r      *Room
	events stateres.MapEvents
	after  map[id.Event]map[key]id.Event
	heads  map[id.Event]bool
}

// judged gives the state after all events of a room.
func judged(t *testing.T, r *Room) map[key]id.Event {
	t.Helper()
	j := &judge{t: t, r: r, events: stateres.MapEvents{}, after: map[id.Event]map[key]id.Event{}, heads: map[id.Event]bool{}}
	for n, entry := range r.events.list {
		j.receive(n, j.parse(n, entry))
	}
	return j.resolve(slices.Sorted(maps.Keys(j.heads)))
}

// keys gives the keys of the room's servers.
func (j *judge) keys(server id.Server, kid id.KeyID, _ int64) (ed25519.PublicKey, bool) {
	i := j.r.s.identity(server)
	if i == nil || i.keyID != kid {
		return nil, false
	}
	return i.public(), true
}

// parse checks form, hash, event ID, room and signatures.
func (j *judge) parse(n int, from entry) *event.Event {
	j.t.Helper()
	e, err := event.Parse(from.json, j.r.rules)
	if err != nil {
		j.t.Fatalf("event %d: %v\n%s", n, err, from.json)
	}
	if e.ID != from.id || e.Redacted() || e.RoomID != j.r.ID {
		j.t.Fatalf("event %d: ID %s, kept as %s; redacted: %v; room %s", n, e.ID, from.id, e.Redacted(), e.RoomID)
	}
	if err := e.VerifySignatures(j.keys); err != nil {
		j.t.Fatalf("event %d: %v", n, err)
	}
	return e
}

// resolve gives the state after some events.
func (j *judge) resolve(prev []id.Event) map[key]id.Event {
	j.t.Helper()
	var sets []map[key]id.Event
	for _, p := range prev {
		if j.after[p] == nil {
			j.t.Fatalf("the parent %s comes later", p)
		}
		sets = append(sets, j.after[p])
	}
	if len(sets) == 1 {
		return sets[0]
	}
	st, err := stateres.Resolve(j.r.rules, sets, j.events, nil)
	if err != nil {
		j.t.Fatal(err)
	}
	return st
}

// receive checks an event's place in the graph and that it is allowed.
func (j *judge) receive(n int, e *event.Event) {
	j.t.Helper()
	before := map[key]id.Event{}
	if n > 0 {
		before = j.resolve(e.PrevEvents)
	}
	depth := int64(0)
	for _, p := range e.PrevEvents {
		depth = max(depth, j.events[p].Depth)
		delete(j.heads, p)
	}
	if e.Depth != depth+1 {
		j.t.Fatalf("event %d has depth %d after %d", n, e.Depth, depth)
	}
	var auth []*event.Event
	for _, a := range e.AuthEvents {
		if j.events[a] == nil {
			j.t.Fatalf("event %d: the auth event %s comes later", n, a)
		}
		auth = append(auth, j.events[a])
	}
	if err := eventauth.CheckAuthEvents(e, auth, nil); err != nil {
		j.t.Fatalf("event %d: %v", n, err)
	}
	state := eventauth.MapState{}
	for _, k := range append(eventauth.NeededKeys(e), key{Type: eventauth.TypeCreate}) {
		if before[k] != "" {
			state.Put(j.events[before[k]])
		}
	}
	if err := eventauth.Check(e, state); err != nil {
		j.t.Fatalf("event %d (%s): %v", n, e.Type, err)
	}
	j.events[e.ID] = e
	j.heads[e.ID] = true
	j.after[e.ID] = before
	if e.IsState {
		j.after[e.ID] = maps.Clone(before)
		j.after[e.ID][key{Type: e.Type, StateKey: e.StateKey}] = e.ID
	}
}

func checkAgainstJudge(t *testing.T, r *Room) {
	t.Helper()
	want := judged(t, r)
	got, err := r.State()
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(got, want) {
		t.Errorf("the state has %d entries, not the %d expected, or others", len(got), len(want))
		for k, w := range want {
			if got[k] != w {
				t.Errorf("%v is %s, not %s", k, got[k], w)
			}
		}
	}
}

func TestRoomIsValid(t *testing.T) {
	s := serve(t, Options{Servers: 3})
	for _, v := range versions {
		for _, members := range []int{1, 2, 3, 50} {
			r := newRoom(t, s, RoomOptions{Version: v, Members: members})
			checkAgainstJudge(t, r)
			state, err := r.State()
			if err != nil {
				t.Fatal(err)
			}
			joined, servers := 0, map[id.Server]bool{}
			for k := range state {
				if k.Type == eventauth.TypeMember {
					joined++
					servers[id.User(k.StateKey).Server()] = true
				}
			}
			if joined != members || len(servers) != min(3, members) {
				t.Errorf("version %s: %d of %d members, of %d servers", v, joined, members, len(servers))
			}
			for _, u := range r.cast.senders {
				if u.Server() != s.Name() {
					t.Errorf("the sender %s is not of the main server", u)
				}
			}
		}
	}
}

func TestLinearInflowIsValid(t *testing.T) {
	s := serve(t, Options{Servers: 2})
	for _, v := range versions {
		r := newRoom(t, s, RoomOptions{Version: v, Members: 20, Body: 100})
		f, err := r.Linear(30)
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Events) != 30 || len(f.Messages) != 30 || f.Last() != f.Events[29].ID {
			t.Errorf("%d events, %d messages", len(f.Events), len(f.Messages))
		}
		for n, e := range f.Events[1:] {
			if len(e.PrevEvents) != 1 || e.PrevEvents[0] != f.Events[n].ID {
				t.Errorf("event %d has the parents %v", n+1, e.PrevEvents)
			}
		}
		checkAgainstJudge(t, r)
	}
}

// The state of a branchy inflow is what the plain algorithm over whole states gives,
// and there is something to resolve.
func TestBranchyInflowIsValid(t *testing.T) {
	s := serve(t, Options{Servers: 2})
	for _, v := range versions {
		kinds, dropped := map[string]int{}, 0
		for seed := range uint64(6) {
			r := newRoom(t, s, RoomOptions{Version: v, Members: 60, Seed: seed})
			f, err := r.Branchy(150, 2+int(seed), 8)
			if err != nil {
				t.Fatal(err)
			}
			if len(f.Events) != 150 {
				t.Errorf("%d events", len(f.Events))
			}
			checkAgainstJudge(t, r)
			if !slices.Equal(r.heads, []id.Event{f.Last()}) {
				t.Errorf("after the last event %s the extremities are %v", f.Last(), r.heads)
			}
			if !slices.ContainsFunc(f.Events, func(e *event.Event) bool { return len(e.PrevEvents) == 2+int(seed) }) {
				t.Errorf("no event has %d parents", 2+seed)
			}
			for _, e := range f.Events {
				n := r.recent[e.ID]
				kinds[e.Type]++
				if k := (key{Type: e.Type, StateKey: e.StateKey}); e.IsState && len(e.PrevEvents) == 1 {
					for _, o := range f.Events {
						if slices.Contains(o.PrevEvents, e.ID) && len(o.PrevEvents) > 1 && r.lookUp(r.recent[o.ID].before, k) != e.ID {
							dropped++
						}
					}
				}
				if n == nil {
					t.Fatalf("%s is not part of the room", e.ID)
				}
			}
		}
		for _, typ := range []string{"m.room.message", "m.room.topic", "m.room.name", "m.room.member", "m.room.power_levels"} {
			if kinds[typ] == 0 {
				t.Errorf("version %s: no %s", v, typ)
			}
		}
		if dropped == 0 {
			t.Errorf("version %s: no end of a branch lost against another", v)
		}
	}
}

func TestInflowsThatAreRefused(t *testing.T) {
	s := serve(t, Options{})
	r := newRoom(t, s, RoomOptions{Version: "11", Members: 2})
	for name, make := range map[string]func() (*Inflow, error){
		"none":            func() (*Inflow, error) { return r.Linear(0) },
		"one branch":      func() (*Inflow, error) { return r.Branchy(10, 1, 1) },
		"too many":        func() (*Inflow, error) { return r.Branchy(10, 21, 1) },
		"empty branches":  func() (*Inflow, error) { return r.Branchy(10, 2, 0) },
		"endlessly many":  func() (*Inflow, error) { return r.Linear(maxInflow + 1) },
		"nothing at all":  func() (*Inflow, error) { return r.Branchy(0, 2, 2) },
		"negative number": func() (*Inflow, error) { return r.Linear(-1) },
	} {
		if _, err := make(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for name, o := range map[string]RoomOptions{
		"version":     {Version: "99", Members: 2},
		"old version": {Version: "1", Members: 2},
		"no members":  {Version: "12"},
		"too many":    {Version: "12", Members: MaxMembers + 1},
		"body":        {Version: "12", Members: 2, Body: maxBodyText + 1},
	} {
		if _, err := s.NewRoom(t.Context(), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
