package federationapi

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"weft/federationapi/api"
	"weft/internal/eventstore"
	"weft/internal/fedclient"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
)

var errDown = errors.New("connection refused")

// call is a transaction that reached the transport.
type call struct {
	server id.Server
	txn    fedclient.Transaction
	err    error
}

// pdus gives the IDs of a transaction's events.
func (c call) pdus() []id.Event {
	rules, err := event.Version("10")
	if err != nil {
		panic(err)
	}
	var out []id.Event
	for _, raw := range c.txn.PDUs {
		e, err := event.Parse(raw, rules)
		if err != nil {
			panic(err)
		}
		out = append(out, e.ID)
	}
	return out
}

// network is a Transport that remembers, fails and blocks as it is told.
type network struct {
	mu    sync.Mutex
	calls []call
	// answer decides what becomes of a transaction; it runs without the lock.
	answer func(ctx context.Context, server id.Server, t fedclient.Transaction) error
	alive  map[id.Server]int
	moved  chan struct{} // closed and renewed whenever something happens
}

func newNetwork() *network {
	return &network{alive: map[id.Server]int{}, moved: make(chan struct{})}
}

func (n *network) SendTransaction(ctx context.Context, server id.Server, t fedclient.Transaction) (map[id.Event]string, error) {
	n.mu.Lock()
	answer := n.answer
	n.mu.Unlock()
	var err error
	if answer != nil {
		err = answer(ctx, server, t)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = append(n.calls, call{server, t, err})
	n.change()
	return nil, err
}

func (n *network) MarkAlive(s id.Server) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.alive[s]++
}

func (n *network) change() {
	close(n.moved)
	n.moved = make(chan struct{})
}

// answers sets what becomes of transactions from now on.
func (n *network) answers(fn func(ctx context.Context, server id.Server, t fedclient.Transaction) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answer = fn
}

// fails makes some servers unreachable, and the others not.
func (n *network) fails(servers ...id.Server) {
	n.answers(func(_ context.Context, server id.Server, _ fedclient.Transaction) error {
		if slices.Contains(servers, server) {
			return errDown
		}
		return nil
	})
}

// to lists the transactions to a server that were answered so.
func (n *network) to(server id.Server, delivered bool) []call {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []call
	for _, c := range n.calls {
		if c.server == server && (c.err == nil) == delivered {
			out = append(out, c)
		}
	}
	return out
}

// got lists the events that a server took, in order, repetitions included.
func (n *network) got(server id.Server) []id.Event {
	var out []id.Event
	for _, c := range n.to(server, true) {
		out = append(out, c.pdus()...)
	}
	return out
}

// edus lists the EDUs that a server took.
func (n *network) edus(server id.Server) []string {
	var out []string
	for _, c := range n.to(server, true) {
		for _, e := range c.txn.EDUs {
			out = append(out, gjson.GetBytes(e, "edu_type").Str+" "+gjson.GetBytes(e, "content.n").Raw)
		}
	}
	return out
}

// patience is how long a condition may take to come true.
const patience = 30 * time.Second

// wait waits until a condition holds. It is looked at after every transaction.
func (n *network) wait(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		n.mu.Lock()
		moved := n.moved
		n.mu.Unlock()
		if cond() {
			return
		}
		select {
		case <-moved:
		case <-deadline:
			t.Fatalf("it never came true: %s", what)
		}
	}
}

func (n *network) waitGot(t testing.TB, server id.Server, want ...id.Event) {
	t.Helper()
	n.wait(t, string(server)+" has all events", func() bool { return containsAll(n.got(server), want) })
}

func containsAll(got, want []id.Event) bool {
	have := map[id.Event]bool{}
	for _, e := range got {
		have[e] = true
	}
	for _, e := range want {
		if !have[e] {
			return false
		}
	}
	return true
}

// eventually polls a condition that no transaction tells of, such as the end of
// the work after the last one.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("it never came true: %s", what)
		}
	}
}

// quickLimits lets failures pass quickly.
func quickLimits() Limits {
	return Limits{MinBackoff: time.Millisecond, MaxBackoff: 4 * time.Millisecond, Poll: 50 * time.Millisecond, Save: time.Millisecond}
}

// patientLimits lets no pause end by itself.
func patientLimits() Limits {
	return Limits{MinBackoff: time.Hour, MaxBackoff: time.Hour, Poll: time.Hour, Save: time.Hour}
}

func (w *world) server(net *network, limits Limits) *Server {
	w.t.Helper()
	s, err := New(w.ctx(), Config{
		DB: w.db, Events: w.r, Tail: eventstore.NewTail(w.r), Bus: w.bus, Log: w.log, ServerName: home, KeyID: "ed25519:1", PrivateKey: w.key,
		Transport: net, Limits: limits,
	})
	w.ok(err)
	return s
}

// start runs a server; stop ends it and waits for it.
func (w *world) start(s *Server) (stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					w.t.Errorf("Run: %v", err)
				}
			case <-time.After(patience):
				w.t.Error("Run does not end")
			}
		})
	}
	w.t.Cleanup(stop)
	return stop
}

func (w *world) edu(s *Server, typ string, n int, durable bool, key string, to ...id.Server) {
	w.t.Helper()
	content, err := json.Marshal(map[string]int{"n": n})
	w.ok(err)
	w.ok(s.SendEDU(w.ctx(), api.EDU{Type: typ, Content: content, Destinations: to, Durable: durable, Key: key}))
}

// followed gives how far the stream was read.
func (s *Server) followed() int64 {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	return s.out.followed
}

// waiting counts the destinations in memory.
func (s *Server) waiting() int {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	return len(s.out.dests)
}

// behind stores that destinations are behind.
func (w *world) behind(s *Server, rows ...behindRow) {
	w.t.Helper()
	for _, r := range rows {
		s.out.mu.Lock()
		sh := s.out.held(r.server)
		s.out.mu.Unlock()
		w.ok(s.out.store.setBehind(w.ctx(), sh, r))
	}
}

func remoteError(status int, code string) error {
	return &fedclient.RemoteError{Server: one, Request: "PUT /send", Status: status, Remote: merr.New(status, code, "no")}
}
