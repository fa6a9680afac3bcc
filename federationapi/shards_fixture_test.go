package federationapi

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"weft/internal/bus"
	"weft/internal/eventstore"
	"weft/internal/fedclient"
	"weft/matrix/id"
)

// lots is a Shares that the test switches.
type lots struct {
	mu      sync.Mutex
	own     [Shards]bool
	changed chan struct{}
}

func newLots() *lots { return &lots{changed: make(chan struct{})} }

func (l *lots) Owns(component, key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := range Shards {
		if component == ShareComponent && key == ShareKey(n) {
			return l.own[n]
		}
	}
	panic("no such share: " + component + " " + key)
}

func (l *lots) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// set switches shards; quiet ones turn by themselves, and nobody is told.
func (l *lots) set(own, quiet bool, shards ...int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range shards {
		l.own[n] = own
	}
	if !quiet {
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

func allShards() []int {
	out := make([]int, Shards)
	for n := range out {
		out[n] = n
	}
	return out
}

// node is one of several processes.
type node struct {
	*Server
	lots *lots
	mu   sync.Mutex
	sent map[id.Server]int // transactions that were begun
	halt func()
}

// SendTransaction implements Transport.
func (n *node) SendTransaction(ctx context.Context, server id.Server, t fedclient.Transaction) (map[id.Event]string, error) {
	n.mu.Lock()
	n.sent[server]++
	n.mu.Unlock()
	return n.Transport.(via).network.SendTransaction(ctx, server, t)
}

func (n *node) transactions(server id.Server) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent[server]
}

// via is the network as one node uses it.
type via struct {
	*network
	node *node
}

func (v via) SendTransaction(ctx context.Context, server id.Server, t fedclient.Transaction) (map[id.Event]string, error) {
	return v.node.SendTransaction(ctx, server, t)
}

// node makes a process that has some shards.
func (w *world) node(net *network, limits Limits, b bus.Bus, shards ...int) *node {
	w.t.Helper()
	n := &node{lots: newLots(), sent: map[id.Server]int{}}
	n.lots.set(true, true, shards...)
	var err error
	n.Server, err = New(w.ctx(), Config{
		DB: w.db, Events: w.r, Tail: eventstore.NewTail(w.r), Bus: b, Log: w.log, ServerName: home, KeyID: "ed25519:1", PrivateKey: w.key,
		Transport: via{net, n}, Limits: limits, Shares: n.lots,
	})
	w.ok(err)
	return n
}

// start runs a node. halt ends it, as it should be or at once, without a last word.
func (n *node) start(w *world, lastWord bool) *node {
	if lastWord {
		n.halt = w.start(n.Server)
		return n
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.out.serve(ctx)
	}()
	n.halt = func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			w.t.Error("a node does not end")
		}
	}
	w.t.Cleanup(n.halt)
	return n
}

// holds lists the shards that a node has taken.
func (n *node) holds() (out []int) {
	n.out.mu.Lock()
	defer n.out.mu.Unlock()
	for i, sh := range n.out.shares {
		if sh != nil {
			out = append(out, i)
		}
	}
	return out
}

// share waits until a node has taken the shard of a server.
func (n *node) share(t testing.TB, server id.Server) (sh *share) {
	t.Helper()
	eventually(t, "the shard is taken", func() bool {
		n.out.mu.Lock()
		defer n.out.mu.Unlock()
		sh = n.out.held(server)
		return sh != nil
	})
	return sh
}

// once checks that a server got some events once each, in their order, before
// anything is counted twice.
func once(t testing.TB, got, want []id.Event) {
	t.Helper()
	got = slices.DeleteFunc(slices.Clone(got), func(e id.Event) bool { return !slices.Contains(want, e) })
	if !slices.Equal(got, want) {
		t.Errorf("got %d events, want %d in order and once", len(got), len(want))
	}
}

// firsts keeps the first delivery of each.
func firsts(got []id.Event) (out []id.Event) {
	seen := map[id.Event]bool{}
	for _, e := range got {
		if !seen[e] {
			seen[e] = true
			out = append(out, e)
		}
	}
	return out
}

// deaf is a bus that loses everything.
type deaf struct{ bus.Bus }

func (deaf) Publish(string, []byte) {}

// counting counts what is published.
type counting struct {
	bus.Bus
	mu sync.Mutex
	n  map[string]int
}

func (c *counting) Publish(topic string, data []byte) {
	c.mu.Lock()
	c.n[topic]++
	c.mu.Unlock()
	c.Bus.Publish(topic, data)
}

func (c *counting) count(topic string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[topic]
}
