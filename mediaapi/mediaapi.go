package mediaapi

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"weft/internal/bus"
	"weft/internal/cache"
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
	Bus        bus.Bus
	ServerName id.Server
	// Dir is the folder of the files: of those that come in, and of the media too unless they are in the database.
	Dir string
	// InDatabase keeps media in the database, for processes that share no folder.
	InDatabase bool
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
	spool   spool
	blobs   blobs
	scaling *semaphore.Weighted
	fetches singleflight.Group
	scales  singleflight.Group
	headers *cache.Cache[string, header]
	arrived *arrivals
}

// New makes a content repository and brings its tables up to date.
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
	sp, err := openSpool(filepath.Join(cfg.Dir, "tmp"))
	if err != nil {
		return nil, err
	}
	headers, err := newHeaders(cfg.Now)
	if err != nil {
		return nil, err
	}
	s := &Server{
		Config: cfg, spool: sp,
		scaling: semaphore.NewWeighted(int64(max(cfg.Scalers, 1))),
		headers: headers, arrived: newArrivals(),
	}
	now := func() time.Time { return s.Now() }
	s.blobs = folder{spool: sp, root: cfg.Dir, db: cfg.DB, now: now}
	if cfg.InDatabase {
		s.blobs = newChunks(cfg.DB, now)
	}
	cfg.Upkeep.Add(s.upkeep()...)
	return s, nil
}
