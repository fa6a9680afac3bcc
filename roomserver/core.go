package roomserver

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"weft/internal/bus"
	"weft/internal/eventstore"
	"weft/internal/eventstore/write"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/statetree"
	"weft/internal/stream"
	"weft/internal/upkeep"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/roomserver/api"
)

// Keys verifies events. *keyring.Keyring implements it.
type Keys interface {
	// FetchFor gets the keys that the signatures of events need. The function
	// is usable whatever the error.
	FetchFor(ctx context.Context, events []*event.Event) (event.KeyFunc, error)
}

// Key is the key that signs events of this server.
type Key struct {
	ID      id.KeyID
	Private ed25519.PrivateKey
}

// Limits are the bounds of the room server. A zero field gets its default.
type Limits struct {
	// QueueLength is how many jobs may wait in one room (2,000), SendBatch how many
	// sends share a write set (64).
	QueueLength, SendBatch int
	// InboundRooms is how many rooms receive events at the same time (64; most of the
	// time they wait for other servers), and
	// InboundQueue how many events of one room that one server sent may wait before
	// its transactions with more of them are turned away (10,000); ten times as many
	// may wait in a room from all servers.
	InboundRooms, InboundQueue int
	// FetchConcurrency is how many events are asked for at the same time for one
	// event (8), FetchEvents how many at most (5,000).
	FetchConcurrency, FetchEvents int
	// MissingRounds is how often get_missing_events is asked for one event (10),
	// MissingEvents how many events each answer may have (20).
	MissingRounds, MissingEvents int
	// Conflicts is the largest conflicted set that is resolved, in keys (100,000).
	Conflicts int
	// ResolveCache is how many resolved states are remembered (4,096).
	ResolveCache int
	// AnswerWait is how long a transaction's answer waits for its events to be
	// processed (2 s). They are safe by then; waiting only slows a sender down that is
	// faster than we are.
	AnswerWait time.Duration
	// CatchUp is how long after a join over federation it is asked for what happened during it (10 s). What is on its way comes by itself
	// until then.
	CatchUp time.Duration
}

func (l Limits) withDefaults() Limits {
	set := func(v *int, def int) {
		if *v <= 0 {
			*v = def
		}
	}
	set(&l.QueueLength, 2000)
	set(&l.SendBatch, 64)
	set(&l.InboundRooms, 64)
	set(&l.InboundQueue, 10_000)
	set(&l.FetchConcurrency, 8)
	set(&l.FetchEvents, 5000)
	set(&l.MissingRounds, 10)
	set(&l.MissingEvents, 20)
	set(&l.Conflicts, 100_000)
	set(&l.ResolveCache, 4096)
	if l.AnswerWait <= 0 {
		l.AnswerWait = 2 * time.Second
	}
	if l.CatchUp <= 0 {
		l.CatchUp = 10 * time.Second
	}
	return l
}

// Config is what a Server needs.
type Config struct {
	DB         *sqldb.DB
	Events     *eventstore.Reader
	Bus        bus.Bus
	Log        *logrus.Entry
	Now        func() time.Time
	ServerName id.Server
	Key        Key
	// Remote asks other servers, Keys verifies their events.
	Remote Remote
	Keys   Keys
	// Shared: other processes may write to the database. What was decided on a room as this one remembers it
	// is then checked, where no fence does it.
	Shared bool
	// Shares says which rooms are this process's to work on where there are several; nil: all.
	Shares Shares
	// UserExists tells whether a user of this server can be invited: there is such an
	// account, and it is not deactivated. Nil: all can.
	UserExists func(ctx context.Context, user id.User) (bool, error)
	// Metrics may be nil.
	Metrics prometheus.Registerer
	// Upkeep may be nil: then nothing is swept.
	Upkeep *upkeep.Keeper
	Limits Limits
	// Verify makes Run check the invariants of the store when it ends, and fail
	// when one is broken (WEFT_VERIFY=1).
	Verify bool
}

// Shares divides work among the processes of a server.
type Shares interface {
	// Owns tells whether what has this key is the work of this process for now.
	Owns(component, key string) bool
}

// owns tells whether a room's background work is for this process to do. Nothing wrong comes from two who think so.
func (s *Server) owns(room id.Room) bool {
	return s.cfg.Shares == nil || s.cfg.Shares.Owns("roomserver", api.RoomKey(room))
}

// Server is the room server of one node.
type Server struct {
	cfg     Config
	db      *sqldb.DB
	store   *eventstore.Reader
	writer  *write.Writer
	group   *sqldb.Group
	log     *logrus.Entry
	limits  Limits
	metrics *metrics
	queues  *queues
	inbound *inbound
	memo    *resolveMemo
	// witnesses are places of the state whose events led, the last time, to an event in their auth chains that a
	// resolution asked about.
	witnesses *otter.Cache[nid.Event, statetree.Entry]
	heads     *heads
	verify    chan struct{} // one token for each signature checked at a time

	ops operations

	mu       sync.Mutex
	backfill map[id.Room]chan struct{} // rooms that are being backfilled
}

// New makes a Server, and the tables of the event store where they are missing.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		l := logrus.New()
		l.SetLevel(logrus.PanicLevel)
		cfg.Log = logrus.NewEntry(l)
	}
	cfg.Limits = cfg.Limits.withDefaults()
	if err := stream.Migrate(ctx, cfg.DB); err != nil {
		return nil, fmt.Errorf("roomserver: %w", err)
	}
	if err := eventstore.Migrate(ctx, cfg.DB); err != nil {
		return nil, fmt.Errorf("roomserver: %w", err)
	}
	w, err := write.New(ctx, cfg.DB, cfg.Events)
	if err != nil {
		return nil, fmt.Errorf("roomserver: %w", err)
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, fmt.Errorf("roomserver: %w", err)
	}
	witnesses, err := otter.New(&otter.Options[nid.Event, statetree.Entry]{MaximumSize: maxWitnesses})
	if err != nil {
		return nil, fmt.Errorf("roomserver: cache of witnesses: %w", err)
	}
	h, err := newHeads()
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, db: cfg.DB, heads: h, store: cfg.Events, writer: w, group: cfg.DB.Group("events"),
		log: cfg.Log, limits: cfg.Limits, metrics: m, memo: newResolveMemo(cfg.Limits.ResolveCache), witnesses: witnesses,
		verify: make(chan struct{}, runtime.GOMAXPROCS(0)), backfill: make(map[id.Room]chan struct{}),
	}
	s.queues = newQueues(cfg.Limits.QueueLength, cfg.Limits.SendBatch, s.sendBatch, m.queueLength)
	s.inbound = newInbound(s)
	cfg.Upkeep.Add(s.upkeep()...)
	return s, nil
}

// Run processes what is staged until ctx ends. It returns when everything it started has
// ended.
func (s *Server) Run(ctx context.Context) error {
	s.inbound.run(ctx)
	s.queues.close()
	if s.cfg.Verify {
		return s.Verify(context.WithoutCancel(ctx))
	}
	return nil
}

func (s *Server) now() int64 { return s.cfg.Now().UnixMilli() }

// local tells whether a user is one of ours.
func (s *Server) local(u id.User) bool { return u.Server() == s.cfg.ServerName }
