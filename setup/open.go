package setup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/sirupsen/logrus"

	"weft/internal/cluster"
	"weft/internal/eventstore"
	"weft/internal/fedclient"
	"weft/internal/fedclient/guard"
	"weft/internal/fedclient/keyring"
	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/internal/stream"
	"weft/internal/upkeep"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// The parts of the memory budget that the caches get, in per mille, and their
// bounds. The rest is for the work itself and for the garbage collector.
const (
	pageCacheShare  = 60
	eventCacheShare = 120
	nodeCacheShare  = 60
	nameCacheShare  = 60
)

// serverKeysFor is how long the keys of a server that cannot be reached are kept.
const serverKeysFor = 365 * 24 * time.Hour

// errAway is for who asked something of a process that was frozen, or cut off, before it was done.
var errAway = merr.New(http.StatusServiceUnavailable, "M_UNKNOWN", "this process was away, or cut off from who asked it, and others may have taken its place; try again").
	With("retry_after_ms", int64(1000))

// openDatabase opens the database and brings the shared tables up to date.
func (s *Server) openDatabase(ctx context.Context) error {
	var err error
	s.db, err = sqldb.Open(ctx, s.cfg.databaseURL(), sqldb.Options{
		Log: s.log.WithField("part", "database"), MaxConns: s.cfg.DatabaseConnections,
		CacheBytes: s.cfg.share(pageCacheShare, 8*mib, 256*mib), Now: s.opts.Now,
		Older: func(ctx context.Context, db *sqldb.DB, component string, oldest int64) error {
			return cluster.NoneOlder(ctx, db, lookFor(&s.cfg), component, oldest)
		},
		Stale: func(ctx context.Context) error {
			if s.cluster != nil && s.cluster.Stale(ctx) {
				return errAway
			}
			return nil
		},
	})
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	if err := stream.Migrate(ctx, s.db); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	if err := eventstore.Migrate(ctx, s.db); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	s.events, err = eventstore.Open(s.db, eventstore.Options{
		Events: s.cfg.share(eventCacheShare, 16*mib, 4096*mib),
		Nodes:  s.cfg.share(nodeCacheShare, 8*mib, 2048*mib),
		Names:  s.cfg.share(nameCacheShare, 8*mib, 1024*mib),
	})
	if err != nil {
		return fmt.Errorf("event store: %w", err)
	}
	s.tail = eventstore.NewTail(s.events)
	return nil
}

// openFederation makes the client towards other servers and the ring of their
// keys.
func (s *Server) openFederation(ctx context.Context) error {
	f := s.cfg.Federation
	var err error
	s.fed, err = fedclient.New(fedclient.Config{
		ServerName: id.Server(s.cfg.ServerName), KeyID: s.key.ID, PrivateKey: s.key.Private, Version: s.opts.Version,
		CAFile: f.CAFile, InsecureSkipVerify: !f.VerifyTLS, Addresses: guard.Options{AllowPrivate: f.AllowPrivateAddresses},
		DNSServers: f.DNSServers, Dial: s.opts.Dial, Log: s.part("federation"), Now: s.opts.Now,
	})
	if err != nil {
		return err
	}
	store, err := keyring.NewSQLStore(ctx, s.db)
	if err != nil {
		return err
	}
	s.upkeep.Add(upkeep.Task{Kind: "server_keys", Every: 24 * time.Hour, Run: func(ctx context.Context) (int64, error) {
		return store.DeleteOld(ctx, s.opts.Now().Add(-serverKeysFor).UnixMilli())
	}})
	var notaries []keyring.Notary
	for _, n := range f.TrustedNotaries {
		notaries = append(notaries, keyring.Notary{Server: id.Server(n)})
	}
	s.ring, err = keyring.New(keyring.Config{
		ServerName: id.Server(s.cfg.ServerName), OwnKeys: map[id.KeyID]keyring.Key{s.key.ID: {Public: s.key.Public()}},
		Fetcher: s.fed, Store: store, Notaries: notaries, Log: s.part("keyring"), Now: s.opts.Now,
	})
	if err != nil {
		return err
	}
	return nil
}

// part gives a component its log.
func (s *Server) part(name string) *logrus.Entry { return s.log.WithField("part", name) }

// listen opens all listeners before it serves any, so that a server is whole
// or not there.
func (s *Server) listen(ctx context.Context, stopping <-chan struct{}) error {
	s.listening = newListening(s.part("http"))
	handler, err := s.handler(stopping)
	if err != nil {
		return err
	}
	s.root = handler
	type opened struct {
		net.Listener
		cert *certificate
		h    http.Handler
	}
	var all []opened
	fail := func(err error) error {
		for _, l := range all {
			err = errors.Join(err, l.Close())
		}
		return err
	}
	for _, l := range s.cfg.Listeners {
		var cert *certificate
		if l.TLS.Certificate != "" {
			if cert, err = loadCertificate(l.TLS, s.part("http"), s.opts.Now); err != nil {
				return fail(err)
			}
		}
		listener, err := open(ctx, l.Address)
		if err != nil {
			return fail(err)
		}
		all = append(all, opened{listener, cert, handler})
		s.urls = append(s.urls, baseURL(listener.Addr(), cert != nil))
	}
	if s.cfg.AdminListen != "" {
		listener, err := open(ctx, s.cfg.AdminListen)
		if err != nil {
			return fail(err)
		}
		all = append(all, opened{listener, nil, adminHandler(s.reg, s.part("admin"), s.check)})
		s.admin = baseURL(listener.Addr(), false)
		s.log.WithField("address", s.admin).Info("metrics and health")
	}
	for _, l := range all {
		s.listening.serve(l.Listener, l.cert, l.h)
	}
	for _, u := range s.urls {
		s.log.WithFields(logrus.Fields{"address": u, "server_name": s.cfg.ServerName, "version": s.opts.Version}).Info("Weft is listening")
	}
	return nil
}

// handler makes the handler of all components' endpoints.
func (s *Server) handler(stopping <-chan struct{}) (http.Handler, error) {
	proxies, err := s.cfg.trustedProxies()
	if err != nil {
		return nil, fmt.Errorf("trusted_proxies: %w", err)
	}
	return httpapi.NewHandler(httpapi.Config{
		Now: time.Now, // sets deadlines of connections, which the machine's own clock ends
		Log: s.part("http"), Auth: s.parts.accounts,
		VerifyServer: func(r *http.Request, body []byte) (id.Server, error) {
			return s.ring.VerifyRequest(r, body, id.Server(s.cfg.ServerName))
		},
		Limits: s.cfg.limits(), MaxRunning: int64(s.cfg.MaxRequests), Stopping: stopping,
		TrustedProxies: proxies, Unavailable: sqldb.Unavailable, Begin: s.cluster.Begin, Metrics: s.reg,
	}, s.parts.routes...), nil
}

// limits gives the rate limits, or none.
func (c *Config) limits() httpapi.Limits {
	if !c.RateLimits.Enabled {
		return nil
	}
	l := httpapi.DefaultLimits()
	for class, r := range l {
		l[class] = httpapi.Rate{PerSecond: r.PerSecond * c.RateLimits.Factor, Burst: max(1, int(float64(r.Burst)*c.RateLimits.Factor))}
	}
	return l
}

// checkTimeout bounds the question of /health to the database: who asks is not to wait until it comes back.
const checkTimeout = 2 * time.Second

// check is the health check: the process was not told to stop, and the database must answer.
func (s *Server) check(ctx context.Context) error {
	if s.stopping.Load() {
		return errStopping
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	var one int
	if err := s.db.QueryRow(ctx, "SELECT 1").Scan(&one); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	return nil
}
