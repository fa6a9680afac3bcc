package setup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"weft/internal/bus"
	"weft/internal/cluster"
	"weft/internal/eventstore"
	"weft/internal/fedclient"
	"weft/internal/fedclient/keyring"
	"weft/internal/rpc"
	"weft/internal/serverkey"
	"weft/internal/sqldb"
	"weft/internal/upkeep"
)

// RunOptions are what a server takes from the program around it rather than from
// its configuration.
type RunOptions struct {
	// Log is where the server logs; nil: as the configuration says, to
	// standard error.
	Log *logrus.Logger
	// Version is what the server says it is.
	Version string
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Reload loads the configuration anew over what the other processes of the server were told, for one
	// that was not told the server's name; nil: nothing that they share was told to this one.
	Reload func(base Config) (Config, error)
	// Verify makes the server check its invariants when it stops.
	Verify bool
	// Dial replaces the dialer towards other servers, so that tests can lead
	// names to servers of their own.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// DropBus is nil, or loses the messages of other processes for which it returns true, so that tests can see
	// that messages may be lost.
	DropBus func(topic string) bool
}

// Server is a running server.
type Server struct {
	cfg  Config
	opts RunOptions
	log  *logrus.Entry

	db     *sqldb.DB
	bus    *spread
	events *eventstore.Reader
	tail   *eventstore.Tail
	key    serverkey.Key
	took   bool // the server's settings were taken from the database
	fed    *fedclient.Client
	ring   *keyring.Keyring
	reg    *prometheus.Registry
	upkeep *upkeep.Keeper
	// cluster is who shares the work; alone where the database is SQLite.
	cluster *cluster.Cluster
	// router calls components in other processes; nil where there are none, with SQLite.
	router *rpc.Router
	// handover hands requests on; nil before a second process was seen.
	handover atomic.Pointer[handover]
	root     http.Handler // of all endpoints
	parts    *parts

	listening *listening
	stopping  atomic.Bool
	urls      []string
	admin     string

	done chan struct{}
	err  error // set before done is closed
}

// Run boots a server: when it returns, requests are answered. The server stops,
// in order, when ctx ends:
//  1. where other processes share the work, they take over its share, and this one lingers (drain.go)
//  2. no new requests are taken, sleeping ones are woken, the others end
//  3. background work ends
//  4. what was accepted for writing is written, and the database closes
func Run(ctx context.Context, cfg Config, o RunOptions) (*Server, error) {
	s, err := build(ctx, cfg, o, true)
	if err != nil {
		return nil, err
	}
	if err := s.noteShared(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	// All statements that go there are made by now, and their tables too.
	if err := s.db.UseReplicas(ctx, cfg.DatabaseReplicas); err != nil {
		return nil, errors.Join(fmt.Errorf("database_replicas: %w", err), s.close())
	}
	stopping, stopPolls := context.WithCancel(context.WithoutCancel(ctx))
	if err := s.listen(ctx, stopping.Done()); err != nil {
		stopPolls()
		return nil, errors.Join(err, s.close())
	}
	go s.supervise(ctx, stopPolls)
	return s, nil
}

// build opens everything and wires the components, without running anything.
func build(ctx context.Context, cfg Config, o RunOptions, serves bool) (_ *Server, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if !serves {
		cfg.Components = componentNames() // nobody else is there to ask
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		if o.Log, err = NewLogger(cfg.Log, os.Stderr); err != nil {
			return nil, err
		}
	}
	s := &Server{cfg: cfg, opts: o, log: logrus.NewEntry(o.Log), bus: &spread{Local: bus.NewLocal()}, done: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := cfg.makeDataDir(); err != nil {
		return nil, err
	}
	if err := s.openDatabase(ctx); err != nil {
		return nil, err
	}
	if err := s.checkCopied(ctx); err != nil {
		return nil, err
	}
	if err := s.share(ctx); err != nil {
		return nil, err
	}
	if err := s.openKey(ctx); err != nil {
		return nil, err
	}
	s.reg = newRegistry(o.Version, s.db, s.bus.Local)
	if err := errors.Join(s.db.Register(s.reg), s.reg.Register(newStoreMetrics(s.events, o.Now))); err != nil {
		return nil, err
	}
	if err := s.joinCluster(ctx, serves); err != nil {
		return nil, err
	}
	if s.upkeep, err = upkeep.New(upkeep.Config{DB: s.db, Log: s.part("upkeep"), Metrics: s.reg, Owns: func(component, kind string) bool {
		return s.cluster.Owns(cmp.Or(component, upkeepShare), kind)
	}}); err != nil {
		return nil, err
	}
	if err := s.openFederation(ctx); err != nil {
		return nil, err
	}
	if s.shared() && serves {
		spill, err := rpc.NewSpill(ctx, s.db, s.upkeep, o.Now)
		if err != nil {
			return nil, err
		}
		s.router = rpc.NewRouter(s.cluster, spill, s.part("rpc"))
		if err := s.router.Register(s.reg); err != nil {
			return nil, err
		}
	}
	if s.parts, err = s.wire(ctx); err != nil {
		return nil, err
	}
	// First the others see what this process knows of the schema, then it looks: a newer one that changes it sees this one, or is seen.
	if err := s.cluster.Announce(ctx); err != nil {
		return nil, err
	}
	if err := s.db.CheckSchemas(ctx); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	return s, nil
}

// URLs gives the base URLs of the listeners, in the configuration's order.
func (s *Server) URLs() []string { return s.urls }

// AdminURL gives the base URL of the admin listener, or "".
func (s *Server) AdminURL() string { return s.admin }

// Upkeep removes at once what has had its time, as the server does by itself in the
// background: for tests and measurements.
func (s *Server) Upkeep(ctx context.Context) error { return s.upkeep.RunAll(ctx) }

// Wait returns when the server has stopped. The error is what made it stop, or
// what went wrong while it did; nil where it stopped because its context ended.
func (s *Server) Wait() error {
	<-s.done
	return s.err
}

// supervise runs the background work and stops the server when ctx ends or a
// part of it fails.
func (s *Server) supervise(ctx context.Context, stopPolls context.CancelFunc) {
	defer close(s.done)
	background, endBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer endBackground()
	failed := make(chan error, len(s.parts.runners))
	var work sync.WaitGroup
	for name, run := range s.parts.runners {
		work.Go(func() {
			if err := run(background); err != nil && !errors.Is(err, context.Canceled) {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	membership, leave := context.WithCancel(context.WithoutCancel(ctx))
	var left sync.WaitGroup
	left.Go(func() {
		if err := s.cluster.Run(membership); err != nil && !errors.Is(err, context.Canceled) {
			s.log.WithError(err).Warn("the cluster was not left in order")
		}
	})
	cause := s.awaitStop(ctx, failed)
	if cause == nil {
		cause = s.linger(failed)
	}
	if cause != nil {
		s.log.WithError(cause).Error("stopping because a part of the server failed")
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(s.cfg.ShutdownTimeout))
	stopErr := s.listening.stop(limit, stopPolls)
	cancel()
	if stopErr != nil {
		// Cutting off slow requests is what the limit is for.
		s.log.WithError(stopErr).Warn("not all requests ended in time")
	}
	endBackground()
	work.Wait()
	leave()
	left.Wait()
	close(failed)
	errs := []error{cause}
	for err := range failed {
		errs = append(errs, err)
	}
	s.err = errors.Join(append(errs, s.close())...)
	s.log.Info("stopped")
}

// close gives back what build took.
func (s *Server) close() error {
	if s.fed != nil {
		s.fed.Close()
	}
	if s.db != nil {
		if err := s.db.Close(); err != nil {
			return fmt.Errorf("close database: %w", err)
		}
	}
	return nil
}
