package syncapi

import (
	"context"
	"embed"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	clientapi "weft/clientapi/api"
	fedapi "weft/federationapi/api"
	"weft/internal/bus"
	"weft/internal/cache"
	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/upkeep"
	keyapi "weft/keyserver/api"
	"weft/matrix/id"
	roomapi "weft/roomserver/api"
	"weft/syncapi/api"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Config is what the sync API needs. Fields without a comment are required.
type Config struct {
	DB         *sqldb.DB
	Events     *eventstore.Reader
	Tail       *eventstore.Tail // over Events
	Bus        bus.Bus
	Log        *logrus.Entry
	Now        func() time.Time // nil: time.Now
	ServerName id.Server
	Metrics    prometheus.Registerer // may be nil
	Upkeep     *upkeep.Keeper        // may be nil: nothing is removed
	// Shared says that other processes write to the database as well, and that the bus may lose what they say.
	Shared bool
	// Shares says which of the processes does what one is to do; nil: this one does all.
	Shares Shares
	// PollInterval is how often the positions of all streams are looked at for what the bus lost, with Shared; 0: 500 ms.
	PollInterval time.Duration

	Accounts clientapi.Accounts
	Keys     keyapi.Keys
	ToDevice keyapi.ToDevice
	Rooms    roomapi.Rooms   // may be nil: no backfill
	Outbound fedapi.Outbound // may be nil: no federation
}

// Shares divides work among processes. An answer may be wrong for a while, and two may own the same.
type Shares interface {
	Owns(component, key string) bool
}

// Server is the sync API component. It implements api.Sync.
type Server struct {
	cfg      Config
	db       *sqldb.DB
	events   *eventstore.Reader
	log      *logrus.Entry
	now      func() time.Time
	receipts *sqldb.Group // writers of the receipts stream
	notifier *notifier
	typing   *typing
	presence *presence
	sent     *sentMembers
	follower *follower
	shares   *roomShares
	poller   *poller // nil where nobody else writes
	node     int64   // names this process in tokens; 0 where nobody else writes
	begun    time.Time
	requests requests
	// What /sync of one user shares with those of others.
	latest    *positions
	tail      *eventstore.Tail
	joined    *joinedRooms
	pieces    *pieces
	residents *residentLists
	unread    *unreadCache
	read      *fence // of unread; nil where nobody else writes
	ignored   *cache.Cache[id.User, ignoredAt]
}

var _ api.Sync = (*Server)(nil)

// New migrates the component's tables and makes it ready to serve.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := cfg.DB.Migrate(ctx, "syncapi", migrations); err != nil {
		return nil, fmt.Errorf("migrating the sync API's tables: %w", err)
	}
	s := &Server{cfg: cfg, db: cfg.DB, events: cfg.Events, log: cfg.Log, now: cfg.Now, receipts: cfg.DB.Group("receipts")}
	s.begun = s.now()
	s.notifier = newNotifier(s)
	s.typing = newTyping(s)
	s.presence = newPresence(s)
	s.sent = newSentMembers()
	s.latest, s.tail = &positions{db: s.db}, cfg.Tail
	var err error
	if s.joined, err = newJoinedRooms(s); err != nil {
		return nil, err
	}
	if s.pieces, err = newPieces(s); err != nil {
		return nil, err
	}
	if s.residents, err = newResidentLists(s); err != nil {
		return nil, err
	}
	s.shares = &roomShares{s: s, of: make(map[nid.Room]uint8)}
	at := &cursors{shares: s.shares}
	if s.unread, err = newUnreadCache(s.now, at); err != nil {
		return nil, err
	}
	if cfg.Shared {
		s.read, s.poller, s.node = s.unreadFence(), newPoller(s), 1+rand.Int64N(maxNode)
	}
	if s.ignored, err = newIgnoredCache(s.now); err != nil {
		return nil, err
	}
	if s.follower, err = newFollower(ctx, s, at); err != nil {
		return nil, err
	}
	if err := s.register(cfg.Metrics); err != nil {
		return nil, err
	}
	cfg.Upkeep.Add(s.upkeep()...)
	return s, nil
}

// Run does the component's background work until ctx ends: it wakes sleeping
// requests, follows the event stream, and lets typing and presence run out.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	parts := []func(context.Context){s.notifier.run, s.typing.run, s.presence.run, s.follower.run}
	if s.poller != nil {
		parts = append(parts, s.poller.run)
	}
	for _, part := range parts {
		wg.Add(1)
		go func() {
			defer wg.Done()
			part(ctx)
		}()
	}
	wg.Wait()
	return nil
}

// maxNode bounds the numbers of processes: five characters in a token.
const maxNode = 36*36*36*36*36 - 1

// nowMS is the time in milliseconds.
func (s *Server) nowMS() int64 { return s.now().UnixMilli() }

// isLocal tells whether a user belongs to this server.
func (s *Server) isLocal(u id.User) bool { return u.Server() == s.cfg.ServerName }
