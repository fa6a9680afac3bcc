package remote

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
)

// maxInflow bounds the events that are made at once.
const maxInflow = 1_000_000

// Inflow is events that this server's users have sent and a server under test has not
// received yet. They are part of the room from the moment that they are made.
type Inflow struct {
	// Events are in an order in which they may be sent: each after its parents.
	Events []*event.Event
	// Messages are the IDs of those that are messages.
	Messages []id.Event
}

// Last is the event that comes after all others of the inflow.
func (f *Inflow) Last() id.Event { return f.Events[len(f.Events)-1].ID }

// Linear makes n messages, each the parent of the next.
func (r *Room) Linear(n int) (*Inflow, error) {
	if n < 1 || n > maxInflow {
		return nil, fmt.Errorf("remote: an inflow of %d events, not 1 to %d", n, maxInflow)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.generator()
	heads := r.parents()
	for range n {
		st, err := r.before(heads)
		if err != nil {
			return nil, err
		}
		e, err := g.message(st, heads)
		if err != nil {
			return nil, err
		}
		heads = []id.Event{e.ID}
	}
	return &g.out, nil
}

// Branchy makes n events in a graph that forks: width branches of length events each
// grow side by side, then an event names the ends of all of them, and it begins
// anew. Three in ten events are state: topics, the room's name, members' names, bans
// and power levels, which contradict those in other branches, so that the state must
// be resolved. The last event has all others before it.
func (r *Room) Branchy(n, width, length int) (*Inflow, error) {
	switch {
	case n < 1 || n > maxInflow:
		return nil, fmt.Errorf("remote: an inflow of %d events, not 1 to %d", n, maxInflow)
	case width < 2 || width > event.MaxPrevEvents:
		return nil, fmt.Errorf("remote: %d branches, not 2 to %d", width, event.MaxPrevEvents)
	case length < 1:
		return nil, fmt.Errorf("remote: branches of %d events", length)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.generator()
	heads := r.parents()
	for len(g.out.Events) < n {
		left := n - len(g.out.Events) - 1
		ends, err := g.fork(heads, width, min(width*length, left))
		if err != nil {
			return nil, err
		}
		st, err := r.before(ends)
		if err != nil {
			return nil, err
		}
		e, err := g.message(st, ends)
		if err != nil {
			return nil, err
		}
		heads = []id.Event{e.ID}
	}
	return &g.out, nil
}

// fork grows branches by n events, which take turns, and gives their ends: where the
// fork began if nothing grew.
func (g *generator) fork(from []id.Event, width, n int) (ends []id.Event, err error) {
	tips := make([][]id.Event, width)
	for k := range n {
		b := k % width
		prev := tips[b]
		if prev == nil {
			prev = from
		}
		e, err := g.any(prev)
		if err != nil {
			return nil, err
		}
		tips[b] = []id.Event{e.ID}
	}
	if ends = slices.Concat(tips...); len(ends) == 0 {
		return from, nil
	}
	return ends, nil
}

// generator makes the events of one inflow.
type generator struct {
	r   *Room
	rng *rand.Rand
	out Inflow
	n   int
}

func (r *Room) generator() *generator {
	return &generator{r: r, rng: rand.New(rand.NewPCG(r.opts.Seed, uint64(len(r.events.list))))}
}

// add links an event.
func (g *generator) add(e *event.Event) error {
	if _, err := g.r.link(e); err != nil {
		return err
	}
	g.n++
	g.out.Events = append(g.out.Events, e)
	if !e.IsState {
		g.out.Messages = append(g.out.Messages, e.ID)
	}
	return nil
}

// message adds a message by one of the senders.
func (g *generator) message(st state, prev []id.Event) (*event.Event, error) {
	senders := g.r.cast.senders
	text := "synthetic message " + strconv.Itoa(len(g.r.events.list)) + " "
	if pad := g.r.opts.Body - len(text); pad > 0 {
		text += strings.Repeat("lorem ipsum dolor sit amet ", pad/27+1)[:pad]
	}
	content, err := canonical.Marshal(map[string]string{"msgtype": "m.text", "body": text})
	if err != nil {
		return nil, err
	}
	e, err := g.r.draft(st, prev, senders[g.n%len(senders)], "m.room.message", nil, content)
	if err != nil {
		return nil, err
	}
	return e, g.add(e)
}

// any adds a message, or a state event if one comes up that the state allows.
func (g *generator) any(prev []id.Event) (*event.Event, error) {
	st, err := g.r.before(prev)
	if err != nil {
		return nil, err
	}
	if g.rng.IntN(10) >= 3 {
		return g.message(st, prev)
	}
	sender, typ, stateKey, content := g.change()
	raw, err := canonical.Marshal(content)
	if err != nil {
		return nil, err
	}
	e, err := g.r.draft(st, prev, sender, typ, &stateKey, raw)
	if err != nil {
		return nil, err
	}
	if g.r.allowed(e, st) != nil {
		return g.message(st, prev) // such as a topic by a moderator who was demoted
	}
	return e, g.add(e)
}

// change picks a change of the room's state. Whether it is allowed where it is to be
// made is not known here.
func (g *generator) change() (sender id.User, typ, stateKey string, content any) {
	c, n := g.r.cast, strconv.Itoa(len(g.r.events.list))
	moderator, anybody := g.r.Creator(), pick(g.rng, c.senders)
	if len(c.moderators) > 0 {
		moderator = pick(g.rng, c.moderators)
	}
	other := anybody
	if len(c.others) > 0 {
		other = pick(g.rng, c.others)
	}
	switch g.rng.IntN(10) {
	case 0, 1, 2:
		return moderator, "m.room.topic", "", map[string]string{"topic": "Topic " + n}
	case 3:
		return moderator, "m.room.name", "", map[string]string{"name": "Name " + n}
	case 4, 5:
		return anybody, eventauth.TypeMember, string(anybody), map[string]string{"membership": "join", "displayname": "Name " + n}
	case 6, 7:
		return other, eventauth.TypeMember, string(other), map[string]string{"membership": "join", "displayname": "Name " + n}
	case 8:
		if other != anybody {
			return moderator, eventauth.TypeMember, string(other), map[string]string{"membership": "ban", "reason": "Reason " + n}
		}
	}
	demoted := map[id.User]bool{}
	for _, m := range c.moderators {
		demoted[m] = g.rng.IntN(4) == 0
	}
	return g.r.Creator(), eventauth.TypePowerLevels, "", g.r.levels(demoted)
}

func pick(rng *rand.Rand, list []id.User) id.User { return list[rng.IntN(len(list))] }
