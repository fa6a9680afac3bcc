package scenario

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"weft/test/bench/remote"
)

// Scenario is one row of the table.
type Scenario struct {
	Name string
	Doc  string
	// Optional scenarios run only when they are named.
	Optional bool
	// Federation says that the synthetic server takes part.
	Federation bool
	// Lacks says what a target would have to have; nil or "": it can be measured.
	Lacks func(t *Target) string
	Run   func(ctx context.Context, e *Env) error
}

// Table lists all scenarios in the order in which they run by default.
func Table() []Scenario {
	return []Scenario{
		{Name: "idle", Doc: "a server that nobody asks anything; an operation is a second",
			Run: func(ctx context.Context, e *Env) error { return idle(ctx, e, "idle") }},
		{Name: "send", Doc: "messages from several senders into several rooms", Run: send},
		{Name: "latency", Doc: "from sending a message to its arrival in another user's waiting /sync", Run: latency},
		{Name: "sync-few", Doc: "initial, empty and one-event /sync of a user in few rooms",
			Run: func(ctx context.Context, e *Env) error { return syncs(ctx, e, e.Sizes.FewRooms, e.Sizes.InitialSyncs) }},
		{Name: "sync-many", Doc: "the same for a user in many rooms",
			Run: func(ctx context.Context, e *Env) error {
				return syncs(ctx, e, e.Sizes.ManyRooms, (e.Sizes.InitialSyncs+4)/5)
			}},
		{Name: "create-room", Doc: "encrypted private rooms", Run: createRoom},
		{Name: "join", Doc: "joining and leaving rooms of this server", Run: join},
		{Name: "fanout", Doc: "a message to a room where many wait in /sync; an operation is a message with all deliveries", Run: fanout},
		{Name: "history", Doc: "reading a room page by page", Run: history},
		{Name: "keys", Doc: "encryption keys: upload, query, claim; messages to devices: send, receive", Run: keys},
		{Name: "media", Doc: "uploads and downloads", Run: media},
		remoteJoinRow("10"), remoteJoinRow("11"), remoteJoinRow("12"),
		{Name: "remote-join-many", Doc: "the same of very many members (only when it is named)", Optional: true, Federation: true, Lacks: lacksFederation,
			Run: func(ctx context.Context, e *Env) error { return remoteJoin(ctx, e, e.Sizes.RemoteMany, inflowVersion) }},
		{Name: "inflow-linear", Doc: "events of another server, one after the other", Federation: true, Lacks: lacksFederation,
			Run: func(ctx context.Context, e *Env) error { return inflow(ctx, e, "inflow-linear", (*remote.Room).Linear) }},
		{Name: "inflow-branchy", Doc: "events of another server in a graph that forks, with conflicts of state", Federation: true, Lacks: lacksFederation,
			Run: func(ctx context.Context, e *Env) error { return inflow(ctx, e, "inflow-branchy", branchy) }},
		{Name: "join-large", Doc: "joining and leaving a room of many members that other servers are in; an operation is a change",
			Federation: true, Lacks: lacksFederation, Run: joinLarge},
		{Name: "outflow", Doc: "messages to a room that other servers are in, until they have them", Federation: true, Lacks: lacksFederation, Run: outflow},
		{Name: "scale", Doc: "messages and /sync as fast as the server can, for a time each (only when it is named; see --nodes)", Optional: true, Run: scale},
		{Name: "overload", Doc: "more requests at a time than a server can work on", Run: overload},
		{Name: "idle-after", Doc: "the same server when the load is over",
			Run: func(ctx context.Context, e *Env) error { return idle(ctx, e, "idle-after") }},
	}
}

// Lacks says why a scenario cannot be measured with the target; "": it can.
func (e *Env) Lacks(s Scenario) string {
	if s.Lacks == nil {
		return ""
	}
	return s.Lacks(e.Target)
}

// Select picks scenarios by name, in the order of the names; no names: all that are not optional.
func Select(names []string) ([]Scenario, error) {
	all := Table()
	if len(names) == 0 {
		return slices.DeleteFunc(all, func(s Scenario) bool { return s.Optional }), nil
	}
	var out []Scenario
	for _, name := range names {
		found := false
		for _, s := range all {
			if s.Name == name {
				out, found = append(out, s), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no scenario %q; there are %s", name, strings.Join(Names(), ", "))
		}
	}
	return out, nil
}

// Names lists the names of all scenarios.
func Names() []string {
	var out []string
	for _, s := range Table() {
		out = append(out, s.Name)
	}
	return out
}
