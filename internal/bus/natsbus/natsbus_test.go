package natsbus_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"weft/internal/bus"
	"weft/internal/bus/natsbus"
	"weft/internal/freeport"
)

// patience is how long a test waits for what must come to be.
const patience = 30 * time.Second

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(patience)
	defer end.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("never: %s", what)
		}
	}
}

// noLeaks demands at the end of the test, when all else is cleaned up, that its goroutines are gone.
func noLeaks(t testing.TB) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		end := time.Now().Add(patience)
		for runtime.NumGoroutine() > before {
			if time.Now().After(end) {
				buf := make([]byte, 1<<20)
				t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
				return
			}
			runtime.Gosched()
		}
	})
}

func identity(t testing.TB) []byte {
	t.Helper()
	id, err := natsbus.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func config(node string, id []byte) natsbus.Config {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return natsbus.Config{Local: bus.NewLocal(), Cluster: "c", Node: node, Listen: "127.0.0.1:0", Identity: id, Log: log}
}

// start starts a node and closes it at the end of the test.
func start(t testing.TB, cfg natsbus.Config) *natsbus.Bus {
	t.Helper()
	b, err := natsbus.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeBus(t, b) })
	return b
}

func closeBus(t testing.TB, b *natsbus.Bus) {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func setPeers(t testing.TB, b *natsbus.Bus, addrs ...string) {
	t.Helper()
	if err := b.SetPeers(addrs); err != nil {
		t.Fatal(err)
	}
}

// mesh names all nodes to each other and waits for the routes.
func mesh(t testing.TB, nodes ...*natsbus.Bus) {
	t.Helper()
	var addrs []string
	for _, b := range nodes {
		addrs = append(addrs, b.Addr())
	}
	for _, b := range nodes {
		setPeers(t, b, addrs...)
	}
	for _, b := range nodes {
		eventually(t, "routes to all", func() bool { return b.Stats().Routes == len(nodes)-1 })
	}
}

// recorder keeps what a node gets of a topic.
type recorder struct {
	mu  sync.Mutex
	got []string
}

func record(t testing.TB, b bus.Bus, topic string) *recorder {
	r := &recorder{}
	t.Cleanup(b.Subscribe(topic, func(data []byte) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.got = append(r.got, string(data))
	}))
	return r
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// flowing publishes on a until b gets something: interest has reached a.
func flowing(t testing.TB, a, b *natsbus.Bus) {
	t.Helper()
	topic := "probe " + fmt.Sprint(time.Now().UnixNano())
	r := record(t, b, topic)
	eventually(t, "messages flow", func() bool {
		a.Publish(topic, []byte("probe"))
		return len(r.all()) > 0
	})
}

func TestThreeNodes(t *testing.T) {
	noLeaks(t)
	id := identity(t)
	var nodes []*natsbus.Bus
	for i := range 3 {
		nodes = append(nodes, start(t, config(fmt.Sprint("n", i), id)))
	}
	mesh(t, nodes...)
	const n, topic = 600, "updates.of/all sorts"
	var got []*recorder
	for _, b := range nodes {
		got = append(got, record(t, b, topic))
		for _, other := range nodes {
			if other != b {
				flowing(t, other, b)
			}
		}
	}
	var wg sync.WaitGroup
	for i, b := range nodes {
		wg.Go(func() {
			for k := range n / 3 {
				b.Publish(topic, fmt.Appendf(nil, "%d:%d", i, k))
			}
		})
	}
	wg.Wait()
	for i, r := range got {
		eventually(t, "all messages", func() bool { return len(r.all()) >= n })
		next := make([]int, len(nodes))
		for _, m := range r.all() {
			var from, k int
			if _, err := fmt.Sscanf(m, "%d:%d", &from, &k); err != nil {
				t.Fatal(err)
			}
			if k != next[from] {
				t.Fatalf("node %d got %d of node %d, want %d", i, k, from, next[from])
			}
			next[from]++
		}
		if s := nodes[i].Stats(); s.Dropped != 0 || !s.Connected || s.Routes != 2 {
			t.Errorf("node %d: %+v", i, s)
		}
	}
	// What would come twice comes before this.
	for _, b := range nodes {
		for _, other := range nodes {
			if other != b {
				flowing(t, other, b)
			}
		}
	}
	for i, r := range got {
		if len(r.all()) != n {
			t.Errorf("node %d got %d messages, want %d", i, len(r.all()), n)
		}
	}
}

func TestPeerComesBackElsewhere(t *testing.T) {
	noLeaks(t)
	id := identity(t)
	a, b := start(t, config("a", id)), start(t, config("b", id))
	c, err := natsbus.Start(t.Context(), config("c", id))
	if err != nil {
		t.Fatal(err)
	}
	mesh(t, a, b, c)
	closeBus(t, c)
	for _, x := range []*natsbus.Bus{a, b} {
		eventually(t, "the route is gone", func() bool { return x.Stats().Routes == 1 })
	}
	again := start(t, config("c", id))
	// Only the old nodes learn about it, as the new one learns about them by gossip.
	setPeers(t, a, b.Addr(), again.Addr())
	setPeers(t, b, a.Addr(), again.Addr())
	flowing(t, a, again)
	flowing(t, again, b)
	flowing(t, b, again)
	setPeers(t, a, b.Addr())
	eventually(t, "the forgotten node is gone", func() bool { return a.Stats().Routes == 1 })
}

// proxy carries TCP until it is cut, and can be put up again at the same address.
type proxy struct {
	t      testing.TB
	target string
	addr   string

	drop    atomic.Bool // what comes from now on is thrown away
	dropped atomic.Int64

	mu      sync.Mutex
	l       net.Listener
	conns   []net.Conn
	stalled chan struct{} // closed: bytes flow
	wg      sync.WaitGroup
}

func newProxy(t testing.TB, target string) *proxy {
	addr, err := freeport.Address() // it comes up there again and again
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, target: target, addr: addr, stalled: make(chan struct{})}
	close(p.stalled)
	p.up()
	t.Cleanup(p.cut)
	return p
}

func (p *proxy) up() {
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.l = l
	p.wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", p.target)
			if err != nil {
				_ = in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			p.wg.Go(func() { p.carry(in, out) })
			p.wg.Go(func() { p.carry(out, in) })
		}
	})
}

func (p *proxy) carry(to, from net.Conn) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		stalled := p.stalled
		p.mu.Unlock()
		<-stalled
		if err != nil {
			return
		}
		if p.drop.Load() {
			p.dropped.Add(int64(n))
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// stall keeps the connections and carries nothing until resume.
func (p *proxy) stall() (resume func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := make(chan struct{})
	p.stalled = s
	return sync.OnceFunc(func() { close(s) })
}

func (p *proxy) cut() {
	_ = p.l.Close()
	p.mu.Lock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.wg.Wait()
}

// publishAll publishes n messages of a size and demands that this takes no time to speak of.
func publishAll(t *testing.T, b *natsbus.Bus, n, size int) {
	t.Helper()
	data := make([]byte, size)
	began := time.Now()
	for range n {
		b.Publish("load", data)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("%d messages took %v to publish", n, took)
	}
}

func TestCutAndHealed(t *testing.T) {
	noLeaks(t)
	id := identity(t)
	a, b := start(t, config("a", id)), start(t, config("b", id))
	p := newProxy(t, b.Addr())
	setPeers(t, a, p.addr)
	flowing(t, a, b)
	flowing(t, b, a)
	p.cut()
	publishAll(t, a, 20000, 100)
	eventually(t, "both see the cut", func() bool { return a.Stats().Routes == 0 && b.Stats().Routes == 0 })
	publishAll(t, b, 20000, 100)
	p.up()
	flowing(t, a, b)
	flowing(t, b, a)
}

func TestStalledPeerBlocksNobody(t *testing.T) {
	noLeaks(t)
	id := identity(t)
	a, b := start(t, config("a", id)), start(t, config("b", id))
	p := newProxy(t, b.Addr())
	setPeers(t, a, p.addr)
	flowing(t, a, b)
	resume := p.stall()
	defer resume()
	// Until all buffers are full.
	eventually(t, "messages are dropped", func() bool {
		publishAll(t, a, 100, 64<<10)
		return a.Stats().Dropped > 1000
	})
	resume()
	flowing(t, a, b)
	flowing(t, b, a)
}

func TestOutboxDropsTheOldest(t *testing.T) {
	noLeaks(t)
	// There is no such server, so the outbox and then the client's buffer fill.
	nowhere, err := freeport.Address()
	if err != nil {
		t.Fatal(err)
	}
	cfg := config("a", nil)
	cfg.URL = "nats://" + nowhere
	b := start(t, cfg)
	publishAll(t, b, 20000, 1000)
	eventually(t, "drops are counted", func() bool {
		s := b.Stats()
		return s.Published+s.Dropped == 20000 && s.Dropped > 10000 && !s.Connected
	})
	b.Publish("large", make([]byte, natsbus.MaxData+1))
	if s := b.Stats(); s.Published+s.Dropped != 20001 {
		t.Errorf("%+v", s)
	}
}

func TestOtherIdentityIsRefused(t *testing.T) {
	noLeaks(t)
	ca, cb := config("a", identity(t)), config("b", identity(t))
	var la, lb lines
	ca.Log.(*logrus.Logger).SetOutput(&la)
	cb.Log.(*logrus.Logger).SetOutput(&lb)
	a, b := start(t, ca), start(t, cb)
	setPeers(t, a, b.Addr())
	setPeers(t, b, a.Addr())
	got := record(t, b, "t")
	for name, l := range map[string]*lines{"a": &la, "b": &lb} {
		eventually(t, name+" refuses", func() bool { return strings.Contains(l.String(), "certificate signed by unknown authority") })
	}

	// What does not speak TLS gets no further than the greeting.
	conn, err := net.Dial("tcp", a.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "CONNECT {}\r\nSUB > 1\r\nPING\r\n")
	answer, err := io.ReadAll(conn)
	if err == nil && bytes.Contains(answer, []byte("PONG")) || timedOut(err) {
		t.Errorf("a plain client got %q, %v", answer, err)
	}
	a.Publish("t", []byte("secret"))
	if a.Stats().Routes != 0 || b.Stats().Routes != 0 || len(got.all()) != 0 {
		t.Errorf("a: %+v, b: %+v, b got %q", a.Stats(), b.Stats(), got.all())
	}
}

// lines keeps a log.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// timedOut tells whether a connection was still open when the patience ended.
func timedOut(err error) bool {
	ne, ok := err.(net.Error)
	return ok && ne.Timeout()
}

func TestOtherClusterIsRefused(t *testing.T) {
	noLeaks(t)
	id := identity(t)
	a := start(t, config("a", id))
	other := config("b", id)
	other.Cluster = "d"
	b := start(t, other)
	friend := start(t, config("f", id))
	setPeers(t, b, a.Addr())
	setPeers(t, friend, a.Addr())
	flowing(t, a, friend)
	if b.Stats().Routes != 0 || a.Stats().Routes != 1 {
		t.Errorf("a: %+v, b: %+v", a.Stats(), b.Stats())
	}
}

func TestStartFails(t *testing.T) {
	noLeaks(t)
	id := identity(t)
	a := start(t, config("a", id))
	for name, change := range map[string]func(*natsbus.Config){
		"port taken":     func(c *natsbus.Config) { c.Listen = a.Addr() },
		"no identity":    func(c *natsbus.Config) { c.Identity = nil },
		"no certificate": func(c *natsbus.Config) { c.Identity = []byte("x") },
		"no address":     func(c *natsbus.Config) { c.Listen = "127.0.0.1" },
		"no node":        func(c *natsbus.Config) { c.Node = "" },
		"long node":      func(c *natsbus.Config) { c.Node = string(make([]byte, 1000)) },
		"URL":            func(c *natsbus.Config) { c.URL = "nats://[::1" },
	} {
		cfg := config("b", id)
		change(&cfg)
		if b, err := natsbus.Start(t.Context(), cfg); err == nil {
			t.Errorf("%s: started", name)
			closeBus(t, b)
		}
	}
}

// What one node says of itself wrongly keeps nobody from the others.
func TestAddressesThatAreNone(t *testing.T) {
	noLeaks(t)
	id := identity(t)
	none := []string{"10.0.0.5", "nonsense:port", ":4222", "host:0", "host:65536", "", "\x00"}
	a := start(t, config("a", id))
	cfg := config("b", id)
	cfg.Peers = append(none, a.Addr())
	b := start(t, cfg)
	flowing(t, b, a)
	flowing(t, a, b)
	c := start(t, config("c", id))
	setPeers(t, c, append(none, b.Addr())...)
	flowing(t, b, c)
	flowing(t, c, b)
}

func TestDropAndMetrics(t *testing.T) {
	noLeaks(t)
	id := identity(t)
	a := start(t, config("a", id))
	cfg := config("b", id)
	n := 0
	cfg.Drop = func(topic string) bool {
		if topic != "t" {
			return false
		}
		n++
		return n%3 == 0
	}
	b := start(t, cfg)
	mesh(t, a, b)
	flowing(t, a, b)
	got := record(t, b, "t")
	for i := range 30 {
		a.Publish("t", []byte{byte(i)})
	}
	flowing(t, a, b)
	if len(got.all()) != 20 {
		t.Errorf("got %d of 30 messages, want 20", len(got.all()))
	}
	reg := prometheus.NewRegistry()
	if err := a.Register(reg); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil || len(families) != 5 {
		t.Errorf("%d metrics, %v", len(families), err)
	}
}

func TestClosedBusIsLocal(t *testing.T) {
	noLeaks(t)
	b := start(t, config("a", identity(t)))
	got := record(t, b, "t")
	closeBus(t, b)
	closeBus(t, b)
	b.Publish("t", []byte("x"))
	eventually(t, "delivered here", func() bool { return len(got.all()) == 1 })
	if _, err := b.Request(context.Background(), "b", "s", nil); err != natsbus.ErrClosed {
		t.Errorf("request: %v", err)
	}
}

// BenchmarkPublish measures what a publisher pays, and BenchmarkDelivery what a message costs until another node has it.
func BenchmarkPublish(b *testing.B) {
	id := identity(b)
	x, y := start(b, config("x", id)), start(b, config("y", id))
	mesh(b, x, y)
	flowing(b, x, y)
	data := make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		x.Publish("t", data)
	}
}

func BenchmarkDelivery(b *testing.B) {
	id := identity(b)
	x, y := start(b, config("x", id)), start(b, config("y", id))
	mesh(b, x, y)
	flowing(b, x, y)
	// In windows, so that nothing is dropped.
	const window = 256
	acked := make(chan uint64, window)
	defer y.Subscribe("t", func(data []byte) {
		if n := binary.BigEndian.Uint64(data); n%window == 0 {
			acked <- n
		}
	})()
	b.ReportAllocs()
	n := uint64(0)
	for b.Loop() {
		n++
		x.Publish("t", binary.BigEndian.AppendUint64(make([]byte, 0, 100), n)[:100])
		if n%window == 0 {
			<-acked
		}
	}
}
