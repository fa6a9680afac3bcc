package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weft/internal/sqldb"
)

var errDown = errors.New("the database is down")

// memory is a table in memory.
type memory struct{ rows map[string]row }

func (m *memory) put(_ context.Context, r row) (bool, error) {
	_, there := m.rows[r.ID]
	m.rows[r.ID] = r
	return !there, nil
}

func (m *memory) list(context.Context) ([]row, error) {
	var list []row
	for _, r := range m.rows {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b row) int { return cmp.Compare(a.ID, b.ID) })
	return list[:min(len(list), MaxNodes+1)], nil
}

func (m *memory) remove(_ context.Context, rows []row) error {
	for _, r := range rows {
		if m.rows[r.ID].beat == r.beat {
			delete(m.rows, r.ID)
		}
	}
	return nil
}

func (m *memory) leave(_ context.Context, id string) error {
	delete(m.rows, id)
	return nil
}

// flaky is a table that can fail, for one node.
type flaky struct {
	table
	putFails, listFails bool
}

func (f *flaky) put(ctx context.Context, r row) (bool, error) {
	if f.putFails {
		return false, errDown
	}
	return f.table.put(ctx, r)
}

func (f *flaky) list(ctx context.Context) ([]row, error) {
	if f.listFails {
		return nil, errDown
	}
	return f.table.list(ctx)
}

// world holds nodes with clocks that run at the same rate and show different times. Nothing happens in it but by its
// methods.
type world struct {
	t     rapid.TB
	table table
	skew  time.Duration
	now   time.Duration
	nodes []*node
}

type node struct {
	*Cluster
	db   *flaky
	jump time.Duration // added to its clock
}

func newWorld(t rapid.TB, tb table, skew time.Duration) *world {
	return &world{t: t, table: tb, skew: skew}
}

func openWorld(t *testing.T, db *sqldb.DB, skew time.Duration) *world {
	t.Helper()
	if err := Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	return newWorld(t, sqlTable{db}, skew)
}

// make makes a node that has not joined.
func (w *world) make(components ...string) *node {
	w.t.Helper()
	n := &node{db: &flaky{table: w.table}}
	skew := w.skew * time.Duration(len(w.nodes)%3-1)
	now := func() time.Time { return time.UnixMilli(1_700_000_000_000).Add(w.now + n.jump + skew) }
	cfg := Config{DB: new(sqldb.DB), Components: components, Now: now, Version: "1", Address: fmt.Sprintf("host%d:1", len(w.nodes))}
	if err := cfg.check(); err != nil {
		w.t.Fatal(err)
	}
	n.Cluster = newCluster(cfg, n.db)
	n.self.ID = fmt.Sprintf("%032x", len(w.nodes)+1) // not by chance, so that a failure can be run again
	w.nodes = append(w.nodes, n)
	return n
}

func (w *world) join(components ...string) *node {
	w.t.Helper()
	n := w.make(components...)
	if _, err := join(context.Background(), n.Cluster); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// beats makes nodes beat, which must succeed.
func (w *world) beats(nodes ...*node) {
	w.t.Helper()
	for _, n := range nodes {
		if err := n.beat(context.Background()); err != nil {
			w.t.Fatal(err)
		}
	}
}

// pass lets seconds pass, with a beat of the nodes after each.
func (w *world) pass(seconds int, nodes ...*node) {
	w.t.Helper()
	for range seconds {
		w.now += time.Second
		w.beats(nodes...)
	}
}

// live names the nodes that a node counts as live, by their number in the world, as "0 2".
func (w *world) live(n *node) string {
	var list []string
	for i, o := range w.nodes {
		if slices.ContainsFunc(n.Nodes(), func(n Node) bool { return n.ID == o.Self().ID }) {
			list = append(list, fmt.Sprint(i))
		}
	}
	return strings.Join(list, " ")
}

func (w *world) wantLive(n *node, want string) {
	w.t.Helper()
	if got := w.live(n); got != want {
		w.t.Errorf("live nodes %q, want %q", got, want)
	}
}

const keyCount = 200

func key(i int) string { return fmt.Sprintf("!room%d:example.org", i) }

// share counts the keys that a node owns.
func share(n *node) int {
	count := 0
	for i := range keyCount {
		if n.Owns("rooms", key(i)) {
			count++
		}
	}
	return count
}

// wantOneOwner checks that the nodes agree, and own all keys.
func (w *world) wantOneOwner(nodes ...*node) {
	w.t.Helper()
	for i := range keyCount {
		owner, ok := nodes[0].Owner("rooms", key(i))
		owns := 0
		for _, n := range nodes {
			if o, _ := n.Owner("rooms", key(i)); o.ID != owner.ID {
				w.t.Fatalf("%s: one node names %v, another %v", key(i), owner.Address, o.Address)
			}
			if n.Owns("rooms", key(i)) {
				owns++
				if n.Self().ID != owner.ID {
					w.t.Fatalf("%s: owned by %v, not %v", key(i), n.Self().Address, owner.Address)
				}
			}
		}
		if !ok || owns != 1 {
			w.t.Fatalf("%s: owner %v (%v), owned by %d nodes", key(i), owner, ok, owns)
		}
	}
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
