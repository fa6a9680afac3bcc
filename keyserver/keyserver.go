package keyserver

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"time"

	"github.com/sirupsen/logrus"

	fedapi "weft/federationapi/api"
	"weft/internal/bus"
	"weft/internal/cache"
	"weft/internal/fedclient"
	"weft/internal/sqldb"
	"weft/internal/upkeep"
	"weft/keyserver/api"
	"weft/matrix/id"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Bounds of a request. They are far above what clients send.
const (
	maxUsersPerQuery   = 10_000
	maxOneTimeKeys     = 1_000     // of a device, in store
	maxKeyBytes        = 64 << 10  // one key object
	maxToDeviceBytes   = 256 << 10 // one message's content
	maxToDeviceTargets = 20_000    // messages of one request
	maxBackupKeyBytes  = 64 << 10
	remoteConcurrency  = 16 // servers asked at the same time
	maxRemoteTimeout   = 30 * time.Second
)

// Rooms tells who shares rooms with whom. *eventstore.Reader implements it.
type Rooms interface {
	// ServersSharingRoomsWith lists the servers that have a member in a room
	// that user is joined to, this server among them.
	ServersSharingRoomsWith(ctx context.Context, user id.User) ([]id.Server, error)
	// ServersNewTo lists the servers in a room that share no other room with a user.
	ServersNewTo(ctx context.Context, user id.User, room id.Room) ([]id.Server, error)
	// SharedSince gives the event stream's position since when some room has been
	// shared with another server's user; false where none is.
	SharedSince(ctx context.Context, user id.User) (int64, bool, error)
	// CameLast tells whether the sharing began when the other server's user came.
	CameLast(ctx context.Context, user id.User) (bool, error)
}

// Federation asks other servers for keys. *fedclient.Client implements it.
type Federation interface {
	QueryKeys(ctx context.Context, server id.Server, want map[id.User][]id.Device) (*fedclient.DeviceKeys, error)
	ClaimKeys(ctx context.Context, server id.Server, want map[id.User]map[id.Device]string) (map[id.User]map[id.Device]json.RawMessage, error)
	GetUserDevices(ctx context.Context, user id.User) (*fedclient.UserDevices, error)
}

// Config is what a key server needs.
type Config struct {
	DB         *sqldb.DB
	Bus        bus.Bus
	Log        logrus.FieldLogger
	Upkeep     *upkeep.Keeper // may be nil: nothing is removed
	Now        func() time.Time
	ServerName id.Server
	Rooms      Rooms
	Federation Federation
	Outbound   fedapi.Outbound
	// Shared: other processes may write to the database. What is remembered of it is then short-lived, and the others
	// are told when it changes.
	Shared bool
}

// Server is the key server.
type Server struct {
	Config
	toDevice *sqldb.Group
	lists    *sqldb.Group
	counts   *cache.Cache[deviceID, api.KeyCounts]
}

var (
	_ api.Keys     = (*Server)(nil)
	_ api.ToDevice = (*Server)(nil)
	_ api.Backup   = (*Server)(nil)
)

// New makes a key server and brings its tables up to date.
func New(ctx context.Context, cfg Config) (*Server, error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("keyserver: embedded migrations: %w", err)
	}
	if err := cfg.DB.Migrate(ctx, "keyserver", dir); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	counts, err := newCounts(cfg)
	if err != nil {
		return nil, err
	}
	s := &Server{Config: cfg, counts: counts, toDevice: cfg.DB.Group("to_device"), lists: cfg.DB.Group("device_lists")}
	cfg.Upkeep.Add(s.upkeep()...)
	return s, nil
}

// Run hears what other nodes change, until ctx ends. A server that does not run works, and believes
// what it remembers a little longer than it should.
func (s *Server) Run(ctx context.Context) error {
	if s.Shared {
		defer s.followCounts()()
	}
	<-ctx.Done()
	return nil
}

func (s *Server) local(u id.User) bool { return u.Server() == s.ServerName }
