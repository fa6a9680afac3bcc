package natsbus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"
)

const (
	maxPending    = 16 << 20         // bytes that wait in the server for the client of this process
	writeDeadline = 5 * time.Second  // after which a node that reads nothing loses its route
	routePing     = 10 * time.Second // a silent node loses its route after three of them
	startBound    = 10 * time.Second
)

// startServer starts the embedded server with routes to the peers.
func (b *Bus) startServer(ctx context.Context) error {
	var err error
	if b.tls, err = TLSConfig(b.cfg.Identity); err != nil {
		return err
	}
	routes := b.routeURLs(b.cfg.Peers, "")
	opts, err := b.serverOptions(routes)
	if err != nil {
		return err
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("natsbus: %w", err)
	}
	log := &serverLog{lines: b.lines, fatal: make(chan error, 1)}
	srv.SetLoggerV2(log, false, false, false)
	srv.Start()

	ctx, cancel := context.WithTimeout(ctx, startBound)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for srv.ClusterAddr() == nil {
		select {
		case err = <-log.fatal:
		case <-ctx.Done():
			err = fmt.Errorf("natsbus: the server does not start: %w", ctx.Err())
		case <-tick.C:
		}
		if err != nil {
			srv.Shutdown()
			return err
		}
	}
	b.srv, b.routes = srv, routes
	return nil
}

// serverOptions are the options with these routes; a server may change what it is given, so they are made each time.
func (b *Bus) serverOptions(routes []*url.URL) (*server.Options, error) {
	host, port, err := net.SplitHostPort(b.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("natsbus: listen address: %w", err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("natsbus: listen address: %w", err)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	clusterPort := int(n)
	if n == 0 {
		clusterPort = server.RANDOM_PORT
	}
	return &server.Options{
		// There must be no port for clients. With DontListen this version never opens the port for routes either:
		// it waits for the client port to be done with. So the client port is one that cannot be, which the server
		// takes for a failure and goes on (see serverLog.Fatalf).
		Host: "127.0.0.1", Port: noPort,

		NoSigs:                true,
		NoSystemAccount:       true,
		MaxPayload:            maxPayload,
		MaxPending:            maxPending,
		MaxClosedClients:      16,
		WriteDeadline:         writeDeadline,
		ConnectErrorReports:   600, // failed attempts (one a second) between two lines in the log
		ReconnectErrorReports: 600,
		Routes:                routes,
		Cluster: server.ClusterOpts{
			Name:      "weft-" + token(b.cfg.Cluster),
			Host:      host,
			Port:      clusterPort,
			Advertise: b.cfg.Advertise,
			TLSConfig: b.tls,
			// One connection to each node: order is kept, and the load is small.
			PoolSize:       1,
			Compression:    server.CompressionOpts{Mode: server.CompressionOff},
			PingInterval:   routePing,
			MaxPingsOut:    2,
			WriteDeadline:  writeDeadline,
			WriteTimeout:   server.WriteTimeoutPolicyClose,
			ConnectRetries: 3, // for nodes that only another node named
		},
	}, nil
}

// noPort is no port: opening it fails before anything is asked of the system.
const noPort = 1 << 16

// Addr is the address of the route listener, host:port with the real port; "" with an external NATS.
func (b *Bus) Addr() string {
	if b.srv == nil {
		return ""
	}
	if a := b.srv.ClusterAddr(); a != nil {
		return a.String()
	}
	return ""
}

// SetPeers says where the route listeners of the other nodes are (host:port each; this node's own does no harm). New
// ones are connected to, and tried once a second until they answer or are named no more; routes to addresses that
// are named no more are closed. An address that is none is left out, which is logged: its node said it, and the others are
// there all the same. It waits for no network. With an external NATS it does nothing. After an error nothing has changed.
func (b *Bus) SetPeers(addrs []string) error {
	if b.srv == nil {
		return nil
	}
	routes := b.routeURLs(addrs, b.Addr())
	b.peersMu.Lock()
	defer b.peersMu.Unlock()
	if slices.EqualFunc(routes, b.routes, func(x, y *url.URL) bool { return x.Host == y.Host }) {
		return nil
	}
	opts, err := b.serverOptions(routes)
	if err != nil {
		return err
	}
	if err := b.srv.ReloadOptions(opts); err != nil {
		return fmt.Errorf("natsbus: peers: %w", err)
	}
	b.routes = routes
	return nil
}

// routeURLs are the addresses, each once and without own.
func (b *Bus) routeURLs(addrs []string, own string) (out []*url.URL) {
	addrs = slices.Clone(addrs)
	slices.Sort(addrs)
	for _, a := range slices.Compact(addrs) {
		host, port, err := net.SplitHostPort(a)
		if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || host == "" || n == 0 {
			b.lines.warnf("the address of a peer, %.100q, is not host:port; it is left out", a)
			continue
		}
		if a != own {
			out = append(out, &url.URL{Scheme: "nats-route", Host: a})
		}
	}
	return out
}

// stopServer stops the embedded server and waits until its goroutines ended, or until ctx ends.
func (b *Bus) stopServer(ctx context.Context) error {
	if b.srv == nil {
		return nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.srv.Shutdown()
		b.srv.WaitForShutdown()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errors.New("natsbus: the server does not stop")
	}
}

// lineLog bounds what the network can make us log.
type lineLog struct {
	log   logrus.FieldLogger
	limit *rate.Limiter
}

func newLineLog(log logrus.FieldLogger) *lineLog {
	return &lineLog{log: log, limit: rate.NewLimiter(1, 20)}
}

func (l *lineLog) warnf(format string, args ...any) {
	if l.limit.Allow() {
		l.log.Warnf("cluster bus: "+format, args...)
	}
}

// serverLog passes the server's warnings and errors on.
type serverLog struct {
	lines *lineLog
	fatal chan error
}

var _ server.Logger = (*serverLog)(nil)

func (l *serverLog) Noticef(string, ...any) {}
func (l *serverLog) Debugf(string, ...any)  {}
func (l *serverLog) Tracef(string, ...any)  {}

func (l *serverLog) Warnf(format string, args ...any)  { l.lines.warnf(format, args...) }
func (l *serverLog) Errorf(format string, args ...any) { l.lines.warnf(format, args...) }

// Fatalf takes what keeps the server from starting, except for the client port that shall not be.
func (l *serverLog) Fatalf(format string, args ...any) {
	if strings.HasPrefix(format, "Error listening on port:") {
		return
	}
	select {
	case l.fatal <- fmt.Errorf("natsbus: "+format, args...):
	default:
	}
}
