package differential

import (
	"bytes"
	"fmt"

	gmsl "github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/stateres/graphtest"
)

// room is a generated room with the events of both implementations.
type room struct {
	*graphtest.Graph
	impl gmsl.IRoomVersion
	pdus map[id.Event]gmsl.PDU
}

// newRoom gives gomatrixserverlib the events as they travel between servers.
func newRoom(g *graphtest.Graph) (*room, error) {
	impl, err := gmsl.GetRoomVersion(gmsl.RoomVersion(g.Rules.Version))
	if err != nil {
		return nil, err
	}
	r := &room{Graph: g, impl: impl, pdus: make(map[id.Event]gmsl.PDU, len(g.Events))}
	for _, e := range g.Events {
		pdu, err := impl.NewEventFromUntrustedJSON(e.JSON())
		if err != nil {
			return nil, fmt.Errorf("event %s %s: %w", e.ID, e.JSON(), err)
		}
		if pdu.EventID() != string(e.ID) {
			return nil, fmt.Errorf("event ID %s, want %s: %s", pdu.EventID(), e.ID, e.JSON())
		}
		r.pdus[e.ID] = pdu
	}
	return r, nil
}

// userOf is how gomatrixserverlib asks for the user behind a sender.
func userOf(_ spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
	return spec.NewUserID(string(sender), true)
}

// allowed is the other verdict about an event in a state.
func (r *room) allowed(e *event.Event, state graphtest.State) (bool, error) {
	return r.allowedUnder(e, state, "")
}

// allowedUnder is allowed with another join rule, if one is given.
func (r *room) allowedUnder(e *event.Event, state graphtest.State, rule string) (bool, error) {
	var auth []gmsl.PDU
	keys := eventauth.NeededKeys(e)
	if e.Rules.RoomIDIsCreateHash && e.Type != eventauth.TypeCreate {
		keys = append(keys, eventauth.Key{Type: eventauth.TypeCreate})
	}
	for _, k := range keys {
		if i, ok := state[k]; ok {
			pdu := r.pdus[i]
			if rule != "" && k.Type == eventauth.TypeJoinRules {
				changed := bytes.Replace(pdu.JSON(), []byte(joinRule(r.ByID[i])), []byte(rule), 1)
				var err error
				if pdu, err = r.impl.NewEventFromTrustedJSONWithEventID(string(i), changed, false); err != nil {
					return false, err
				}
			}
			auth = append(auth, pdu)
		}
	}
	provider, err := gmsl.NewAuthEvents(auth)
	if err != nil {
		return false, err
	}
	return gmsl.Allowed(r.pdus[e.ID], provider, userOf) == nil, nil
}

// resolve is the other resolution of states.
func (r *room) resolve(sets []graphtest.State) (graphtest.State, error) {
	lists := make([][]gmsl.PDU, len(sets))
	needed := make(map[id.Event]bool)
	for i, s := range sets {
		for _, e := range s {
			lists[i] = append(lists[i], r.pdus[e])
			needed[e] = true
		}
	}
	if r.Rules.StateRes == event.StateResV1 {
		return r.resolveV1(sets, lists)
	}
	// Backwards through the events, which are in an order that has parents first.
	var auth []gmsl.PDU
	for i := len(r.Events) - 1; i >= 0; i-- {
		if e := r.Events[i]; needed[e.ID] {
			auth = append(auth, r.pdus[e.ID])
			for _, a := range e.AuthEvents {
				needed[a] = true
			}
			if e.Rules.RoomIDIsCreateHash {
				needed[eventauth.CreateEventID(e.RoomID)] = true
			}
		}
	}
	list, err := gmsl.ResolveConflictsNew(r.impl.Version(), lists, auth, userOf, r.rejected)
	if err != nil {
		return nil, err
	}
	return stateOf(list), nil
}

func stateOf(list []gmsl.PDU) graphtest.State {
	out := make(graphtest.State, len(list))
	for _, p := range list {
		out[eventauth.Key{Type: p.Type(), StateKey: *p.StateKey()}] = id.Event(p.EventID())
	}
	return out
}

// resolveV1 is the other algorithm of version 1, which wants the state without
// conflicts as its auth events.
func (r *room) resolveV1(sets []graphtest.State, lists [][]gmsl.PDU) (graphtest.State, error) {
	values := make(map[eventauth.Key]map[id.Event]bool)
	for _, s := range sets {
		for k, e := range s {
			if values[k] == nil {
				values[k] = make(map[id.Event]bool)
			}
			values[k][e] = true
		}
	}
	var auth []gmsl.PDU
	for _, events := range values {
		for e := range events {
			if len(events) == 1 {
				auth = append(auth, r.pdus[e])
			}
		}
	}
	list, err := gmsl.ResolveConflictsNew(r.impl.Version(), lists, auth, userOf, r.rejected)
	return stateOf(list), err
}

func (r *room) rejected(i string) bool { return r.Rejected[id.Event(i)] }
