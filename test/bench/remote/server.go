package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"weft/internal/fedclient/keyring"
	"weft/matrix/id"
)

const (
	// MaxServers bounds the names of one Server.
	MaxServers = 256
	// maxRequests bounds the requests that are answered at the same time; more wait.
	maxRequests = 256
	// closeTimeout bounds how long Close waits for requests to end.
	closeTimeout = 5 * time.Second

	defaultHost = "127.0.0.1"
)

// Options say what a Server is.
type Options struct {
	// Host is the name or address of this machine that is listened on and that the
	// server names begin with: "127.0.0.1" (the default), "localhost", or, for a server
	// under test in a container, what it calls this machine.
	Host string
	// Servers is how many names the server goes by, 1 to MaxServers; 0 means 1.
	Servers int
	// Authority issues the certificates; nil makes one in memory. Servers under
	// test whose certificates it issued are trusted.
	Authority *Authority
	// InsecureSkipVerify trusts the servers under test whatever their certificates.
	InsecureSkipVerify bool
	// Log gets debug lines; nil logs nothing.
	Log logrus.FieldLogger
	// Now is the clock for events and keys; nil means time.Now.
	Now func() time.Time
}

// Server is a synthetic server. It is safe for concurrent use.
type Server struct {
	opts       Options
	authority  *Authority
	identities []*identity
	ring       *keyring.Keyring
	traffic    *traffic
	txn        atomic.Int64
	slots      chan struct{} // requests that are answered

	mu     sync.RWMutex
	rooms  map[id.Room]*Room
	routes map[string]string // host of a server name → HOST:PORT to dial

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	close  sync.Once
	err    error
}

// Serve starts a server. It stops when ctx ends or by Close.
func Serve(ctx context.Context, o Options) (*Server, error) {
	if o.Host == "" {
		o.Host = defaultHost
	}
	if o.Servers == 0 {
		o.Servers = 1
	}
	if o.Servers < 1 || o.Servers > MaxServers {
		return nil, fmt.Errorf("remote: %d server names, not 1 to %d", o.Servers, MaxServers)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		quiet := logrus.New()
		quiet.SetOutput(io.Discard)
		o.Log = quiet
	}
	s := &Server{opts: o, authority: o.Authority, traffic: newTraffic(), slots: make(chan struct{}, maxRequests),
		rooms: make(map[id.Room]*Room), routes: make(map[string]string)}
	s.ctx, s.cancel = context.WithCancel(ctx)
	if err := s.start(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	context.AfterFunc(s.ctx, func() {
		if err := s.Close(); err != nil {
			o.Log.WithError(err).Warn("the synthetic server did not close cleanly")
		}
	})
	return s, nil
}

// start makes the identities and listens on their ports.
func (s *Server) start() (err error) {
	if s.authority == nil {
		if s.authority, err = NewAuthority(); err != nil {
			return err
		}
	}
	cert, err := s.authority.Issue(s.opts.Host, "localhost", "127.0.0.1", "::1")
	if err != nil {
		return err
	}
	for range s.opts.Servers {
		i, err := s.newIdentity()
		if err != nil {
			return err
		}
		s.identities = append(s.identities, i)
	}
	main := s.identities[0]
	s.ring, err = keyring.New(keyring.Config{
		ServerName: main.name, OwnKeys: map[id.KeyID]keyring.Key{main.keyID: {Public: main.public(), ValidUntilTS: math.MaxInt64}},
		Fetcher: main.client, Log: s.opts.Log, Now: s.opts.Now,
	})
	if err != nil {
		return fmt.Errorf("remote: %w", err)
	}
	for _, i := range s.identities {
		i.serve(s, cert)
	}
	return nil
}

// Name is the main server name: the one to join through.
func (s *Server) Name() id.Server { return s.identities[0].name }

// Names lists all server names, the main one first.
func (s *Server) Names() []id.Server {
	out := make([]id.Server, len(s.identities))
	for n, i := range s.identities {
		out[n] = i.name
	}
	return out
}

// Authority gives the authority that issued the server's certificate.
func (s *Server) Authority() *Authority { return s.authority }

// Route leads a server name to an address (HOST:PORT): for servers under test whose
// name does not say where they are.
func (s *Server) Route(name id.Server, address string) {
	host, _, _ := name.HostPort()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.routes[host] = address
}

// Close cuts off what is under way and waits until nothing of the server runs any more.
func (s *Server) Close() error {
	s.close.Do(func() {
		s.cancel()
		var errs []error
		for _, i := range s.identities {
			errs = append(errs, i.stop())
		}
		s.wg.Wait()
		s.err = errors.Join(append(errs, s.settle())...)
	})
	return s.err
}

// settle waits for the requests that are answered: they hold all slots but those that
// can be had. Their contexts have ended.
func (s *Server) settle() error {
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	for range maxRequests {
		select {
		case s.slots <- struct{}{}:
		case <-timer.C:
			return errors.New("remote: some requests do not end")
		}
	}
	return nil
}

// dial leads names that have a route to it, and others where they say.
func (s *Server) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	s.mu.RLock()
	to, routed := s.routes[host]
	s.mu.RUnlock()
	if routed {
		if port == "443" {
			// A server that has a route is not looked for by its .well-known.
			return nil, fmt.Errorf("%s is at %s", host, to)
		}
		address = to
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// httpLog hands what net/http complains about to the log.
func (s *Server) httpLog() *log.Logger { return log.New(logWriter{s.opts.Log}, "", 0) }

type logWriter struct{ log logrus.FieldLogger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Debug(string(p))
	return len(p), nil
}
