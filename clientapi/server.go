package clientapi

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"weft/clientapi/api"
	fedapi "weft/federationapi/api"
	"weft/internal/bus"
	"weft/internal/eventstore"
	"weft/internal/fedclient"
	"weft/internal/sqldb"
	"weft/internal/upkeep"
	keyapi "weft/keyserver/api"
	"weft/matrix/event"
	"weft/matrix/id"
	roomapi "weft/roomserver/api"
	syncapi "weft/syncapi/api"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Remote asks other servers: profiles, public rooms and spaces. *fedclient.Client
// is one.
type Remote interface {
	QueryProfile(ctx context.Context, user id.User, field string) (map[string]json.RawMessage, error)
	GetPublicRooms(ctx context.Context, server id.Server, p fedclient.PublicRoomsQuery) (json.RawMessage, error)
	QueryPublicRooms(ctx context.Context, server id.Server, p fedclient.PublicRoomsQuery) (json.RawMessage, error)
	GetHierarchy(ctx context.Context, server id.Server, room id.Room) (json.RawMessage, error)
}

// Config is what the client API needs. Fields without a comment are required.
type Config struct {
	DB         *sqldb.DB
	Events     *eventstore.Reader
	Bus        bus.Bus
	Log        *logrus.Entry
	Now        func() time.Time // nil: time.Now
	ServerName id.Server
	Metrics    prometheus.Registerer // may be nil
	Upkeep     *upkeep.Keeper        // may be nil: nothing expires
	// Shared says that other processes write to the database as well, and that the bus may lose what they say.
	Shared bool

	Rooms     roomapi.Rooms
	Directory roomapi.Directory
	Keys      keyapi.Keys
	ToDevice  keyapi.ToDevice
	Backup    keyapi.Backup
	Sync      syncapi.Sync
	Outbound  fedapi.Outbound // may be nil: no federation
	Fed       Remote          // may be nil: no federation

	Registration Registration
	Appservices  []Appservice
	WellKnown    WellKnown
	TURN         TURN

	// DefaultRoomVersion for new rooms; empty: event.DefaultVersion.
	DefaultRoomVersion event.RoomVersion
	// AccessTokenLifetime of sessions that use refresh tokens; 0: one hour.
	AccessTokenLifetime time.Duration
	// Passwords sets the cost of password hashing; zero fields: defaults.
	Passwords PasswordCost
	// TokenCacheEntries bounds the cache of access tokens; 0: 10,000.
	TokenCacheEntries int
}

// Registration says who may make an account over the client API.
type Registration struct {
	// Mode is "open", "token" or "closed" (also where it is empty).
	Mode string
	// Tokens may be used any number of times in mode "token", beside those in
	// the database.
	Tokens []string
	// SharedSecret enables POST /_synapse/admin/v1/register where not empty.
	SharedSecret string
	// Guests may register in mode "open".
	Guests bool
}

// WellKnown is what /.well-known/matrix/client and /support answer. Empty
// parts are not served.
type WellKnown struct {
	// ClientBaseURL, such as "https://matrix.example.org".
	ClientBaseURL     string
	IdentityServerURL string
	SupportPage       string
	SupportContacts   []SupportContact
}

// SupportContact is one entry of /.well-known/matrix/support.
type SupportContact struct {
	Role     string `json:"role"` // "m.role.admin" or "m.role.security"
	MatrixID string `json:"matrix_id,omitempty"`
	Email    string `json:"email_address,omitempty"`
}

// TURN describes the TURN servers for calls.
type TURN struct {
	URIs         []string
	SharedSecret string        // for time-limited credentials; or:
	Username     string        // fixed credentials
	Password     string        //
	TTL          time.Duration // 0: one day
}

// Server is the client API component. It implements api.Accounts.
type Server struct {
	cfg         Config
	db          *sqldb.DB
	data        *sqldb.Group // writers of the account data stream
	log         *logrus.Entry
	now         func() time.Time
	appservices *appservices
	passwords   *passwordHasher
	sessions    *sessionCache
	lastSeen    *lastSeen
	remotes     *remoteProfiles
	told        *toldRooms
	spread      *profileSpreader
	metrics     *metrics
}

var _ api.Accounts = (*Server)(nil)

// New migrates the component's tables and makes it ready to serve.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.DefaultRoomVersion == "" {
		cfg.DefaultRoomVersion = event.DefaultVersion
	}
	if cfg.AccessTokenLifetime == 0 {
		cfg.AccessTokenLifetime = time.Hour
	}
	switch cfg.Registration.Mode {
	case "":
		cfg.Registration.Mode = RegistrationClosed
	case RegistrationClosed, RegistrationOpen, RegistrationToken:
	default:
		return nil, fmt.Errorf("registration mode %q is none of open, token and closed", cfg.Registration.Mode)
	}
	if err := cfg.DB.Migrate(ctx, "clientapi", migrations); err != nil {
		return nil, fmt.Errorf("migrating the client API's tables: %w", err)
	}
	s := &Server{cfg: cfg, db: cfg.DB, log: cfg.Log, now: cfg.Now, lastSeen: newLastSeen(), data: cfg.DB.Group("account_data")}
	var err error
	if s.appservices, err = compileAppservices(cfg.Appservices, cfg.ServerName); err != nil {
		return nil, err
	}
	s.passwords = newPasswordHasher(cfg.Passwords)
	if s.sessions, err = newSessionCache(cfg.TokenCacheEntries, cfg.Bus, cfg.Now); err != nil {
		return nil, err
	}
	if s.remotes, err = newRemoteProfiles(cfg.Fed); err != nil {
		return nil, err
	}
	if s.told, err = newToldRooms(cfg); err != nil {
		return nil, err
	}
	s.spread = newProfileSpreader(s)
	s.metrics = newMetrics(cfg.Metrics, func() float64 { return float64(s.sessions.cache.EstimatedSize()) })
	s.passwords.done = s.metrics.passwords.Inc
	cfg.Upkeep.Add(s.upkeep()...)
	if err := s.createAppserviceUsers(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// The modes of Registration.
const (
	RegistrationOpen   = "open"
	RegistrationToken  = "token"
	RegistrationClosed = "closed"
)

// flushInterval is how long a "last seen" may stay in memory only.
const flushInterval = time.Minute

// Run does the component's background work until ctx ends: it writes down when
// devices were last seen, and carries profile changes into rooms.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		s.spread.run(ctx)
	}()
	cancel := s.sessions.follow()
	defer cancel()
	tick := time.NewTicker(flushInterval)
	defer tick.Stop()
	var look <-chan time.Time // never, where nobody else ends sessions
	if s.cfg.Shared {
		poll := time.NewTicker(sessionPoll)
		defer poll.Stop()
		look = poll.C
	}
	for {
		select {
		case <-look:
			if err := s.sessions.look(ctx, s.db); err != nil && !errors.Is(err, context.Canceled) {
				s.log.WithError(err).Warn("could not look for sessions that ended elsewhere")
			}
		case <-tick.C:
			if err := s.flushLastSeen(ctx); err != nil && !errors.Is(err, context.Canceled) {
				s.log.WithError(err).Warn("could not write when devices were last seen")
			}
		case <-ctx.Done():
			wg.Wait()
			// The last look at devices is worth a moment after the end.
			last, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer stop()
			if err := s.flushLastSeen(last); err != nil {
				return fmt.Errorf("writing when devices were last seen: %w", err)
			}
			return nil
		}
	}
}

// nowMS is the time in milliseconds, as it is stored.
func (s *Server) nowMS() int64 { return s.now().UnixMilli() }

// isLocal tells whether a user belongs to this server.
func (s *Server) isLocal(u id.User) bool { return u.Server() == s.cfg.ServerName }
