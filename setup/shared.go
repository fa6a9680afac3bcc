package setup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"gopkg.in/yaml.v3"

	"weft/internal/cluster"
	"weft/internal/serverkey"
	"weft/internal/sqldb"
	"weft/matrix/id"
)

// The names of what the nodes of a cluster share in the table cluster_settings.
const (
	settingServerName = "server_name"
	settingConfig     = "config"
	settingKey        = "signing_key"
	settingMedia      = "media"
)

// sharedConfig are the options that belong to the server and not to one of its processes.
type sharedConfig struct {
	ServerName   string       `yaml:"server_name"`
	Registration Registration `yaml:"registration"`
	Accounts     Accounts     `yaml:"accounts"`
	Rooms        Rooms        `yaml:"rooms"`
	Federation   Federation   `yaml:"federation"`
	WellKnown    WellKnown    `yaml:"well_known"`
	RateLimits   RateLimits   `yaml:"rate_limits"`
	TURN         TURN         `yaml:"turn"`
}

func (c *Config) shared() sharedConfig {
	f := c.Federation
	f.CAFile = "" // of this machine
	return sharedConfig{c.ServerName, c.Registration, c.Accounts, c.Rooms, f, c.WellKnown, c.RateLimits, c.TURN}
}

// share makes a process on PostgreSQL one of those that share the database. One that was told the server's name was
// told the rest too, and notes it for others when it serves. One that was not takes what is noted, under what it
// was told itself.
func (s *Server) share(ctx context.Context) error {
	if s.db.Dialect() != sqldb.Postgres {
		return nil
	}
	if err := cluster.Migrate(ctx, s.db); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	if s.cfg.ServerName == "" {
		return s.takeShared(ctx)
	}
	name, err := cluster.Setting(ctx, s.db, settingServerName, func() ([]byte, error) { return []byte(s.cfg.ServerName), nil })
	if err != nil {
		return err
	}
	if string(name) != s.cfg.ServerName {
		return fmt.Errorf("database: it belongs to the server %s, not to %s", name, s.cfg.ServerName)
	}
	return nil
}

// noteShared notes for other processes what this one was told. One that took what is noted has nothing to tell.
func (s *Server) noteShared(ctx context.Context) error {
	if s.db.Dialect() != sqldb.Postgres {
		return nil
	}
	if err := s.agreeOnMedia(ctx); err != nil || s.took {
		return err
	}
	said, err := yaml.Marshal(s.cfg.shared())
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	noted, err := cluster.Setting(ctx, s.db, settingConfig, func() ([]byte, error) { return said, nil })
	if err != nil {
		return err
	}
	if said, err = keepUnknown(said, noted); err != nil {
		return fmt.Errorf("the configuration noted in the database: %w", err)
	}
	return cluster.SetSetting(ctx, s.db, settingConfig, said)
}

// keepUnknown adds to what is to be noted the options that are noted already and are none of this program's: a newer one's, which runs
// beside it while a cluster is upgraded.
func keepUnknown(said, noted []byte) ([]byte, error) {
	var now, before map[string]any
	if err := errors.Join(yaml.Unmarshal(said, &now), yaml.Unmarshal(noted, &before)); err != nil {
		return nil, err
	}
	for section, was := range before {
		own, known := now[section]
		if !known {
			now[section] = was
			continue
		}
		options, _ := own.(map[string]any)
		earlier, _ := was.(map[string]any)
		for name, value := range earlier {
			if _, known := options[name]; !known && options != nil {
				options[name] = value
			}
		}
	}
	return yaml.Marshal(now)
}

// The places where media may be. What is in one is not found in the other.
const (
	mediaInDatabase = "the database"
	mediaInFolder   = "a folder"
)

func (s *Server) mediaPlace() string {
	if s.db.Dialect() == sqldb.Postgres && s.cfg.Media.Path == "" {
		return mediaInDatabase
	}
	return mediaInFolder
}

// agreeOnMedia refuses a process that would keep media elsewhere than the others do, or did before.
func (s *Server) agreeOnMedia(ctx context.Context) error {
	if !slices.Contains(s.cfg.Components, "mediaapi") {
		return nil
	}
	place := s.mediaPlace()
	was, err := cluster.Setting(ctx, s.db, settingMedia, func() ([]byte, error) { return []byte(place), nil })
	if err == nil && string(was) != place {
		err = fmt.Errorf("media.path: the media of this server are in %s, and this process was told to keep them in %s", was, place)
	}
	return err
}

// errNameless says that nobody has told the server's name yet.
var errNameless = errors.New("server_name: must be set (--server-name example.org): no server has used this database yet")

// takeShared completes the configuration by what is noted.
func (s *Server) takeShared(ctx context.Context) error {
	said, err := cluster.Setting(ctx, s.db, settingConfig, func() ([]byte, error) { return nil, errNameless })
	if errors.Is(err, errNameless) {
		return errNameless
	}
	if err != nil {
		return err
	}
	base := Default()
	// A newer program may have noted options that this one does not know.
	if err := yaml.Unmarshal(said, &base); err != nil {
		return fmt.Errorf("the configuration noted in the database: %w", err)
	}
	c := base
	if s.opts.Reload != nil {
		if c, err = s.opts.Reload(base); err != nil {
			return err
		}
	} else {
		over := s.cfg
		over.ServerName, over.Registration, over.Accounts, over.Rooms = base.ServerName, base.Registration, base.Accounts, base.Rooms
		over.Federation, over.WellKnown, over.RateLimits, over.TURN = base.Federation, base.WellKnown, base.RateLimits, base.TURN
		c = over
	}
	if err := c.Validate(); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	s.cfg, s.took = c, true
	return nil
}

// openKey loads the signing key, or makes it at the first start. On PostgreSQL it is in the database, where all processes find
// it; a key file that is there from before, or was placed there, is taken up once and must be the same from then on.
func (s *Server) openKey(ctx context.Context) error {
	name, path := id.Server(s.cfg.ServerName), s.cfg.signingKeyPath()
	if s.db.Dialect() != sqldb.Postgres {
		key, warning, err := serverkey.LoadOrGenerate(name, path)
		if s.key = key; warning != "" {
			s.log.Warn(warning)
		}
		return err
	}
	own, warning, err := serverkey.Load(name, path)
	placed := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if warning != "" {
		s.log.Warn(warning)
	}
	line, err := cluster.Setting(ctx, s.db, settingKey, func() ([]byte, error) {
		if !placed {
			made, err := serverkey.Generate(name)
			return made.Marshal(), err
		}
		return own.Marshal(), nil
	})
	if err != nil {
		return err
	}
	keys, err := serverkey.Parse(name, line)
	if err != nil {
		return fmt.Errorf("the signing key in the database: %w", err)
	}
	s.key = keys[0]
	if placed && !bytes.Equal(own.Private, s.key.Private) {
		return fmt.Errorf("signing key %s is %s, the one in the database is %s: remove the file, or place the right one there", path, own.ID, s.key.ID)
	}
	return nil
}

// upkeepShare is the name under which the processes divide the upkeep, as if it were a component.
const upkeepShare = "upkeep"

// joinCluster makes a process that serves one of those that share the work.
func (s *Server) joinCluster(ctx context.Context, serves bool) (err error) {
	components := append(slices.Clone(s.cfg.Components), upkeepShare)
	if s.db.Dialect() != sqldb.Postgres || !serves {
		s.cluster = cluster.Single(components)
		return nil
	}
	// Heartbeats do not wait for a connection where requests do: a process that has much to do would be taken for a dead one.
	own, err := s.db.Apart()
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	beat, dead := time.Duration(s.cfg.Cluster.Heartbeat), time.Duration(s.cfg.Cluster.DeadAfter)
	s.cluster, err = cluster.Join(ctx, cluster.Config{
		DB: own, Log: s.part("cluster"), Components: components, Version: s.opts.Version, Schemas: s.db.Schemas,
		Beat: beat, LeaseTime: (beat + dead) / 2, DeadAfter: dead, RemoveAfter: max(time.Minute, 2*dead),
	})
	if err != nil {
		return err
	}
	return s.cluster.Register(s.reg)
}

// shares is how components ask what is theirs to do; nil where all is.
func (s *Server) shares() *cluster.Cluster {
	if s.db.Dialect() != sqldb.Postgres {
		return nil
	}
	return s.cluster
}

// makeDataDir makes the folder of what this process keeps on disk.
func (c *Config) makeDataDir() error {
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	return nil
}
