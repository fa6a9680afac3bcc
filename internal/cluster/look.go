package cluster

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft/internal/sqldb"
)

// Seen is a node as somebody who is none sees it.
type Seen struct {
	Node
	// Live: it sent a heartbeat while it was looked at.
	Live bool
	// Share is the part of the keys that are its own, of all keys of all its components: 0 to 1.
	Share float64
}

// shareSamples is how many keys a component's shares are measured with.
const shareSamples = 2000

// Look reads the table twice, some time apart, and tells from the heartbeats in between who lives: for a person or a
// program that is no node. wait should be two heartbeats or more. The nodes are in the order of their ids.
func Look(ctx context.Context, db *sqldb.DB, wait time.Duration) ([]Seen, error) {
	t := sqlTable{db}
	before, err := t.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("cluster: read the nodes: %w", err)
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	after, err := t.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("cluster: read the nodes: %w", err)
	}
	beats := make(map[string]int64, len(before))
	for _, r := range before {
		beats[r.ID] = r.beat
	}
	var others []sighting
	for _, r := range after {
		beat, known := beats[r.ID]
		others = append(others, sighting{Node: r.Node, live: !known || beat != r.beat})
	}
	v := newView(sighting{}, others, 0, 0)
	shares := v.shares()
	var list []Seen
	for _, s := range v.all {
		if s.ID == "" {
			continue
		}
		list = append(list, Seen{Node: s.Node, Live: s.live, Share: shares[s.ID]})
	}
	return list, nil
}

// shares gives the part of the keys of its components that is each node's own, by ID: 0 to 1.
func (v *view) shares() map[string]float64 {
	owned := make(map[string]int)
	keys := make(map[string]int)
	for component, members := range v.members {
		for i := range shareSamples {
			owned[v.owner(component, strconv.Itoa(i)).node.ID]++
		}
		for _, m := range members {
			keys[m.node.ID] += shareSamples
		}
	}
	out := make(map[string]float64, len(keys))
	for id, n := range keys {
		out[id] = float64(owned[id]) / float64(n)
	}
	return out
}

const hasNodesSQL = `SELECT to_regclass('cluster_nodes') IS NOT NULL`

// NoneOlder fails where nodes live that know less of a component's schema than up to a version; it looks for wait, which should be two
// heartbeats or more, if there are any that do. A node that says nothing of the component has not come that far yet: it will see for itself.
func NoneOlder(ctx context.Context, db *sqldb.DB, wait time.Duration, component string, oldest int64) error {
	if db.Dialect() != sqldb.Postgres {
		return nil
	}
	var there bool
	if err := db.QueryRow(ctx, hasNodesSQL).Scan(&there); err != nil || !there {
		return err
	}
	rows, err := sqlTable{db}.list(ctx)
	if err != nil {
		return fmt.Errorf("cluster: read the nodes: %w", err)
	}
	if !slices.ContainsFunc(rows, func(r row) bool { return r.isOlder(component, oldest) }) {
		return nil
	}
	seen, err := Look(ctx, db, wait)
	if err != nil {
		return err
	}
	for _, s := range seen {
		if s.Live && s.isOlder(component, oldest) {
			return fmt.Errorf("the process %s (version %s) works with the database and knows the schema of %s up to version %d, where %d is needed: "+
				"stop it, or upgrade it to a version in between first", s.ID, s.Version, component, s.knows(component), oldest)
		}
	}
	return nil
}

// isOlder tells whether a node says that it knows the schema of a component, and less of it than up to a version.
func (n Node) isOlder(component string, oldest int64) bool {
	known := n.knows(component)
	return known > 0 && known < oldest
}

// knows gives up to which version a node knows the schema of a component; 0: it says nothing.
func (n Node) knows(component string) int64 {
	for part := range strings.SplitSeq(n.Schemas, ",") {
		if name, version, ok := strings.Cut(part, ":"); ok && name == component {
			v, err := strconv.ParseInt(version, 10, 64)
			if err != nil {
				return 0
			}
			return v
		}
	}
	return 0
}
