package mediaapi

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"weft/internal/fedclient"
	"weft/internal/sqldb"
	"weft/internal/upkeep"
	"weft/matrix/id"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Bounds that have no option.
const (
	maxFileName    = 255      // bytes of a stored file name
	maxContentType = 128      // bytes
	maxPending     = 100      // created and not uploaded media of one user
	maxPixels      = 50 << 20 // of an image that is scaled
	pendingTTL     = 24 * time.Hour
	usedPrecision  = 24 * time.Hour   // of when remote media was last used
	maxWait        = 60 * time.Second // timeout_ms
	defaultWait    = 20 * time.Second
)

// Remote fetches media from other servers.
type Remote interface {
	// DownloadMedia gets media from the server it belongs to. The caller
	// closes the body.
	DownloadMedia(ctx context.Context, m fedclient.MediaRequest) (*fedclient.Media, error)
}

// Config is what a media repository needs.
type Config struct {
	DB         *sqldb.DB
	Log        logrus.FieldLogger
	Upkeep     *upkeep.Keeper // may be nil: nothing expires
	Now        func() time.Time
	ServerName id.Server
	// Dir is the folder of the files.
	Dir string
	// MaxUpload bounds uploads and remote media, in bytes.
	MaxUpload int64
	// Scalers is how many images may be scaled at the same time; 0: one.
	Scalers int
	Remote  Remote
	// RemoteLifetime is how long media of other servers is kept after the last time that somebody
	// looked at it; 0: for ever.
	RemoteLifetime time.Duration
	// LegacyDownloads serves media without authentication too.
	//
	// spec: client-server §10.9 (servers should freeze those endpoints)
	LegacyDownloads bool
}

// Server is the content repository.
type Server struct {
	Config
	files   fileStore
	scaling *semaphore.Weighted
	fetches singleflight.Group
	scales  singleflight.Group
	arrived *arrivals
}

// New makes a content repository and brings its table up to date.
func New(ctx context.Context, cfg Config) (*Server, error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("mediaapi: embedded migrations: %w", err)
	}
	if err := cfg.DB.Migrate(ctx, "mediaapi", dir); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	files, err := openFileStore(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &Server{
		Config: cfg, files: files,
		scaling: semaphore.NewWeighted(int64(max(cfg.Scalers, 1))),
		arrived: newArrivals(),
	}
	cfg.Upkeep.Add(s.upkeep()...)
	return s, nil
}
