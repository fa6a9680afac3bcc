package natsbus

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/sirupsen/logrus"

	"weft/internal/bus"
)

const (
	maxPayload  = 1 << 20 // bytes of a NATS message with its headers
	headerBytes = 1 << 10 // of which may go to what is not data
	maxSubject  = 1 << 10 // bytes; NATS takes subjects of under 4096
	maxName     = 512     // bytes of a topic, or of the subject of a call

	// MaxData is how many bytes a message of the bus, a request, an answer or an error may have. An external NATS
	// with a smaller maximum makes it smaller.
	MaxData = maxPayload - headerBytes

	reconnectBuffer = 4 << 20 // bytes that the client keeps while it has no server, and one message
	pendingMessages = 8192    // that wait in the client for being handed on, of each subscription
	pendingBytes    = 16 << 20
	reconnectWait   = 500 * time.Millisecond // between two attempts at a server, and up to as much again at random
	connectTimeout  = 5 * time.Second
	drainBound      = 5 * time.Second // that Close gives running calls
	endBound        = 2 * time.Second // that Close gives each further step
)

// Config says how a node takes part.
type Config struct {
	// Local delivers inside this process. It stays the caller's: Close leaves it as it is.
	Local *bus.Local
	// Cluster is the random name that the nodes of a cluster share, and Node the name of this node in it. Any text.
	Cluster, Node string

	// URL is an external NATS: nats://user:password@host:port, or tls://…, or several with commas between. With it
	// no server is started and the fields of the next group are ignored.
	URL string

	// Listen is where routes come in, host:port; port 0 takes a free one. Advertise is the host:port that nodes tell
	// each other about this one, if it is not what they see.
	Listen, Advertise string
	// Peers are the first argument of SetPeers.
	Peers []string
	// Identity is what NewIdentity made for the cluster.
	Identity []byte

	Log logrus.FieldLogger
	// Drop is nil, or loses the incoming messages of the bus for which it returns true. For tests.
	Drop func(topic string) bool
}

// Bus is a bus.Bus that reaches the other nodes of the cluster, and the calls between nodes. All methods may be called
// by many goroutines at once.
type Bus struct {
	cfg    Config
	lines  *lineLog
	prefix string // of all subjects
	nodes  string // of the subjects of nodes

	srv     *server.Server // nil with an external NATS
	tls     *tls.Config
	peersMu sync.Mutex // held for SetPeers
	routes  []*url.URL

	nc        *nats.Conn
	messages  *nats.Subscription // of the bus
	requests  *nats.Subscription // calls to this node
	maxData   atomic.Int64
	out       *outbox
	calls     calls
	flights   flights
	handlers  handlers
	signsMu   sync.Mutex
	signs     map[string]sign // of other nodes
	done      chan struct{}   // closed when nothing is waited for any more
	closing   sync.Once
	closeErr  error
	nodeDrain chan struct{} // closed when no further request comes in

	received, dropped, reconnects atomic.Uint64
}

var _ bus.Bus = (*Bus)(nil)

// Start joins the cluster. It does not wait for other nodes; nor for an external NATS that does not answer, which is
// tried until it does. It fails if the configuration cannot work: an identity that is none, a port that is taken,
// credentials that an external NATS refuses. ctx bounds the start only.
func Start(ctx context.Context, cfg Config) (*Bus, error) {
	if cfg.Local == nil || cfg.Log == nil || cfg.Cluster == "" || cfg.Node == "" {
		return nil, errors.New("natsbus: Local, Log, Cluster and Node are required")
	}
	b := &Bus{cfg: cfg, lines: newLineLog(cfg.Log), prefix: "weft.1." + token(cfg.Cluster) + ".", done: make(chan struct{}),
		nodeDrain: make(chan struct{}), signs: make(map[string]sign)}
	b.nodes = b.prefix + "node."
	if len(b.nodeSubject(cfg.Node)) > maxSubject/2 {
		return nil, errors.New("natsbus: the names of cluster and node are too long")
	}
	b.maxData.Store(MaxData)
	b.calls.init(b.prefix + "reply." + rand.Text() + ".")
	b.handlers.init()
	if cfg.URL == "" {
		if err := b.startServer(ctx); err != nil {
			return nil, err
		}
	}
	if err := b.connect(); err != nil {
		return nil, errors.Join(err, b.stopServer(ctx))
	}
	b.out = newOutbox(b.prefix+"bus", b.publish, func() int { return b.MaxData() + headerBytes })
	if err := b.subscribe(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// connect makes the client.
func (b *Bus) connect() error {
	opts := []nats.Option{
		nats.Name("weft " + b.cfg.Node), nats.NoEcho(), nats.Timeout(connectTimeout), nats.FlusherTimeout(writeDeadline),
		nats.MaxReconnects(-1), nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(reconnectWait, reconnectWait),
		nats.IgnoreAuthErrorAbort(), nats.ReconnectBufSize(reconnectBuffer), nats.PingInterval(routePing), nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(b.connected),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			b.reconnects.Add(1)
			b.connected(nc)
			b.cfg.Log.Info("cluster bus: connected again")
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				b.lines.warnf("disconnected: %v", err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { b.lines.warnf("%v", err) }),
	}
	if b.srv != nil {
		opts = append(opts, nats.InProcessServer(b.srv))
	}
	var err error
	if b.nc, err = nats.Connect(b.cfg.URL, opts...); err == nil {
		return nil
	}
	// Wrong credentials and a URL that is none do not get better; a server that is away may come.
	if b.srv != nil || errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrSecureConnRequired) {
		return fmt.Errorf("natsbus: %w", err)
	}
	b.lines.warnf("not connected yet: %v", err)
	if b.nc, err = nats.Connect(b.cfg.URL, append(opts, nats.RetryOnFailedConnect(true))...); err != nil {
		return fmt.Errorf("natsbus: %w", err)
	}
	return nil
}

// connected learns what the server takes.
func (b *Bus) connected(nc *nats.Conn) {
	b.maxData.Store(max(0, min(MaxData, nc.MaxPayload()-headerBytes)))
}

// subscribe sets up all that this node ever listens to, so that Subscribe and Handle need no network.
func (b *Bus) subscribe(ctx context.Context) (err error) {
	sub := func(subject string, fn nats.MsgHandler) *nats.Subscription {
		if err != nil {
			return nil
		}
		var s *nats.Subscription
		if s, err = b.nc.Subscribe(subject, fn); err == nil {
			err = s.SetPendingLimits(pendingMessages, pendingBytes)
		}
		return s
	}
	b.messages = sub(b.prefix+"bus", b.receive)
	b.requests = sub(b.nodeSubject(b.cfg.Node), b.serve)
	sub(b.calls.prefix+"*", b.answered)
	if err == nil {
		b.requests.SetClosedHandler(func(string) { close(b.nodeDrain) })
	}
	if err == nil && b.nc.IsConnected() {
		ctx, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		err = b.nc.FlushWithContext(ctx)
	}
	if err != nil {
		return fmt.Errorf("natsbus: subscribe: %w", err)
	}
	return nil
}

// nodeSubject is the subject of calls to a node.
func (b *Bus) nodeSubject(node string) string { return b.nodes + token(node) }

// MaxData is how many bytes a message may have: the constant, or what an external NATS allows.
func (b *Bus) MaxData() int { return int(b.maxData.Load()) }

// Publish implements bus.Bus: to the subscribers of this node at once, to the others through a queue. More than
// MaxData bytes stay on this node and count as dropped.
func (b *Bus) Publish(topic string, data []byte) {
	b.cfg.Local.Publish(topic, data)
	if int64(len(data)) > b.maxData.Load() || len(topic) > maxName {
		b.dropped.Add(1)
		b.lines.warnf("a message of %d bytes is too large for the other nodes", len(data))
		return
	}
	b.out.put(message{topic, data})
}

// Subscribe implements bus.Bus.
func (b *Bus) Subscribe(topic string, fn func(data []byte)) (cancel func()) {
	return b.cfg.Local.Subscribe(topic, fn)
}

// receive takes messages of another node.
func (b *Bus) receive(m *nats.Msg) {
	b.items(m.Data, func(it item) {
		if it.kind != itemMessage || b.cfg.Drop != nil && b.cfg.Drop(it.name) {
			return
		}
		b.received.Add(1)
		b.cfg.Local.Publish(it.name, it.data)
	})
}

// Close leaves the cluster: further calls to this node find nobody, running ones get 5 seconds, then their contexts
// end; what is queued is sent; requests that still wait end with ErrClosed. It takes 17 seconds at most, if
// handlers heed their contexts much less. Afterwards Publish and Subscribe work inside this process only.
func (b *Bus) Close() error {
	b.closing.Do(func() { b.closeErr = b.close() })
	return b.closeErr
}

// close takes these steps, each bounded:
//
//  1. further requests are told that nobody handles them, and handlers end
//  2. no further request comes in
//  3. requests of this node end, and the outbox is emptied
//  4. the client ends
//  5. the server ends
func (b *Bus) close() error {
	drain, cancel := context.WithTimeout(context.Background(), drainBound)
	defer cancel()
	idle := b.handlers.close()
	_ = wait(drain, idle)
	b.handlers.cancelAll()
	end := func(done <-chan struct{}) error {
		ctx, cancel := context.WithTimeout(context.Background(), endBound)
		defer cancel()
		return wait(ctx, done)
	}
	err := end(idle)
	if err != nil {
		err = errors.New("natsbus: a handler does not end")
	}
	if b.requests != nil && b.nc.IsConnected() && b.requests.Drain() == nil {
		_ = end(b.nodeDrain)
	}

	close(b.done)
	b.out.close()
	if end(b.out.stopped) == nil && b.nc.IsConnected() {
		_ = b.nc.FlushTimeout(endBound) // if it fails, the messages are lost, as they may be
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		b.nc.Close()
	}()
	if end(gone) != nil {
		err = errors.Join(err, errors.New("natsbus: the client does not end"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), endBound)
	defer cancel()
	return errors.Join(err, b.stopServer(ctx))
}

// wait waits for done until ctx ends.
func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
