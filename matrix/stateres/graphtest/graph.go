package graphtest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"maps"

	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/stateres"
)

// Draw gives a number from 0 up to n-1.
type Draw func(n int) int

// State is a room's state.
type State = map[stateres.Key]id.Event

// Graph is a room.
type Graph struct {
	Rules *event.Rules
	Room  id.Room
	// Events are all events, each after its prev and auth events.
	Events []*event.Event
	ByID   stateres.MapEvents
	// Rejected are the events that the rules did not allow. Their state is that
	// before them, and no event follows them.
	Rejected map[id.Event]bool
	// Before and After are the states before and after each event.
	Before, After map[id.Event]State
	// Tips are the ends of the branches: accepted events that the next may follow.
	Tips []id.Event

	draw   Draw
	hashes map[id.Event][sha256.Size]byte
	keys   map[id.Server]ed25519.PrivateKey
}

// users of the room. The first is its creator; the next two are given power.
var users = []id.User{"@ann:one.example", "@bob:two.example", "@cat:one.example", "@dan:two.example", "@eve:three.example", "@fay:three.example"}

// keyID is the name of each server's key.
const keyID id.KeyID = "ed25519:k"

// Key gives the signing key of a server.
func Key(s id.Server) (id.KeyID, ed25519.PrivateKey) {
	seed := sha256.Sum256([]byte(s))
	return keyID, ed25519.NewKeyFromSeed(seed[:])
}

// Generate makes a room with about n events after those that every room begins with.
func Generate(r *event.Rules, n int, draw Draw) (*Graph, error) {
	g := &Graph{
		Rules: r, Room: "!room:one.example", ByID: make(stateres.MapEvents), Rejected: make(map[id.Event]bool),
		Before: make(map[id.Event]State), After: make(map[id.Event]State),
		draw: draw, hashes: make(map[id.Event][sha256.Size]byte), keys: make(map[id.Server]ed25519.PrivateKey),
	}
	for _, u := range users {
		_, g.keys[u.Server()] = Key(u.Server())
	}
	if err := g.begin(); err != nil {
		return nil, err
	}
	for range n {
		if err := g.step(); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// begin makes the room: create, the creator's join, power levels, join rules and
// some members.
func (g *Graph) begin() error {
	create := map[string]any{"room_version": string(g.Rules.Version)}
	if g.Rules.CreatorInContent {
		create["creator"] = users[0]
	}
	if g.Rules.CreatorsPrivileged && g.draw(3) == 0 {
		create["additional_creators"] = []id.User{users[2]}
	}
	if g.draw(20) == 0 {
		create["m.federate"] = false
	}
	plan := []proposal{
		{sender: users[0], typ: "m.room.create", content: create},
		{sender: users[0], typ: "m.room.member", key: string(users[0]), content: member("join")},
		{sender: users[0], typ: "m.room.power_levels", content: g.powerLevels(nil)},
		{sender: users[0], typ: "m.room.join_rules", content: map[string]any{"join_rule": "public"}},
	}
	for _, u := range users[1 : 2+g.draw(len(users)-1)] {
		plan = append(plan, proposal{sender: u, typ: "m.room.member", key: string(u), content: member("join")})
	}
	if rule := g.joinRule(); rule != "public" {
		plan = append(plan, proposal{sender: users[0], typ: "m.room.join_rules", content: map[string]any{"join_rule": rule}})
	}
	for _, p := range plan {
		state, err := g.stateAfter(g.Tips)
		if err != nil {
			return err
		}
		e, err := g.build(p, g.Tips, state)
		if err != nil {
			return err
		}
		if p.typ == "m.room.create" {
			g.Room = e.RoomID
		}
		if eventauth.Check(e, g.View(g.Before[e.ID])) != nil {
			continue // a server that may not take part
		}
		g.add(e, false)
	}
	return nil
}

// step adds one event, after some of the branches' ends or, as a new branch, after
// an older event.
func (g *Graph) step() error {
	prev := g.parents()
	state, err := g.stateAfter(prev)
	if err != nil {
		return err
	}
	for range 8 {
		p := g.propose(state)
		allowed, err := g.allowed(p, prev, state)
		if err != nil {
			return err
		}
		if !allowed && g.draw(4) > 0 {
			continue
		}
		e, err := g.build(p, prev, state)
		if err != nil {
			return err
		}
		if g.ByID[e.ID] == nil { // else the same event again
			g.add(e, eventauth.Check(e, g.View(g.Before[e.ID])) != nil)
			return nil
		}
	}
	return nil
}

// allowed tries a proposal before it is hashed and signed, which costs much more.
// Restricted joins are checked for signatures, and count as allowed here.
func (g *Graph) allowed(p proposal, prev []id.Event, state State) (bool, error) {
	if p.via != "" {
		return true, nil
	}
	raw, err := g.builder(p, prev, state).Proto()
	if err != nil {
		return false, err
	}
	e, err := event.ParseStored(raw, "", g.Rules)
	if err != nil {
		return false, err
	}
	return eventauth.Check(e, g.View(state)) == nil, nil
}

// parents chooses what the next event follows.
func (g *Graph) parents() []id.Event {
	switch g.draw(6) {
	case 0: // a new branch
		if e := g.Events[len(g.Events)/3+g.draw(len(g.Events)-len(g.Events)/3)]; !g.Rejected[e.ID] && e.Type != "m.room.create" {
			return []id.Event{e.ID}
		}
	case 1: // a merge
		if len(g.Tips) > 1 {
			at := g.draw(len(g.Tips))
			n := 2 + g.draw(len(g.Tips)-1)
			var list []id.Event
			for i := range n {
				list = append(list, g.Tips[(at+i)%len(g.Tips)])
			}
			return list
		}
	}
	return []id.Event{g.Tips[g.draw(len(g.Tips))]}
}

// stateAfter resolves the states after some events.
func (g *Graph) stateAfter(prev []id.Event) (State, error) {
	sets := make([]State, len(prev))
	for i, p := range prev {
		sets[i] = g.After[p]
	}
	return stateres.Resolve(g.Rules, sets, g.ByID, g.IsRejected)
}

// IsRejected says whether the rules did not allow an event.
func (g *Graph) IsRejected(i id.Event) bool { return g.Rejected[i] }

// builder holds what goes into the event.
func (g *Graph) builder(p proposal, prev []id.Event, state State) *event.Builder {
	b := &event.Builder{
		Rules: g.Rules, RoomID: g.Room, Sender: p.sender, Type: p.typ, Content: encode(p.content), Redacts: p.redacts,
		PrevEvents: prev, ParentHashes: g.hashes, Depth: 1,
	}
	if !p.message {
		b.StateKey = &p.key
	}
	for _, e := range prev {
		b.Depth = max(b.Depth, g.ByID[e].Depth+1)
	}
	for _, k := range eventauth.NeededKeysFor(g.Rules, p.typ, p.sender, b.StateKey, b.Content) {
		if a, ok := state[k]; ok {
			b.AuthEvents = append(b.AuthEvents, a)
		}
	}
	return b
}

// build makes the event.
func (g *Graph) build(p proposal, prev []id.Event, state State) (*event.Event, error) {
	b := g.builder(p, prev, state)
	b.OriginServerTS = 1_700_000_000_000 + int64(g.draw(20))
	if g.draw(10) == 0 {
		b.Depth = 1 + int64(g.draw(30))
	}
	server := p.sender.Server()
	e, err := b.Build(server, keyID, g.keys[server])
	if err != nil {
		return nil, fmt.Errorf("building %s: %w", p.typ, err)
	}
	if p.via != "" && p.via.Server() != server {
		if e, err = e.Sign(p.via.Server(), keyID, g.keys[p.via.Server()]); err != nil {
			return nil, err
		}
	}
	if g.ByID[e.ID] == nil {
		g.Before[e.ID] = state
	}
	return e, nil
}

// add puts an event into the graph.
func (g *Graph) add(e *event.Event, rejected bool) {
	g.Events = append(g.Events, e)
	g.ByID[e.ID] = e
	g.hashes[e.ID] = e.ReferenceHash()
	g.After[e.ID] = g.Before[e.ID]
	if rejected {
		g.Rejected[e.ID] = true
		return
	}
	if e.IsState {
		after := maps.Clone(g.Before[e.ID])
		after[stateres.Key{Type: e.Type, StateKey: e.StateKey}] = e.ID
		g.After[e.ID] = after
	}
	tips := g.Tips[:0:0]
	for _, t := range g.Tips {
		follows := false
		for _, p := range e.PrevEvents {
			follows = follows || p == t
		}
		if !follows {
			tips = append(tips, t)
		}
	}
	g.Tips = append(tips, e.ID)
	// Few branches with much on them show more than many short ones.
	if len(g.Tips) > 4 {
		g.Tips = g.Tips[1:]
	}
}

// View is the state as the authorization rules look at it.
func (g *Graph) View(s State) eventauth.State { return view{g, s} }

type view struct {
	g *Graph
	s State
}

func (v view) Get(typ, stateKey string) *event.Event {
	return v.g.ByID[v.s[stateres.Key{Type: typ, StateKey: stateKey}]]
}

// Sets gives the states after the branches' ends.
func (g *Graph) Sets() []State {
	sets := make([]State, len(g.Tips))
	for i, t := range g.Tips {
		sets[i] = g.After[t]
	}
	return sets
}
