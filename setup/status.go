package setup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sirupsen/logrus"

	"weft/internal/cluster"
)

// Status is a cluster as an operator wants to see it.
type Status struct {
	Nodes []NodeStatus `json:"nodes"`
	Lag
}

// NodeStatus is a process of a cluster. State is live, leaving (it stops in order) or silent (no heartbeat was seen).
type NodeStatus struct {
	ID         string    `json:"id"`
	State      string    `json:"state"`
	Share      float64   `json:"share"` // of the work: 0 to 1
	Version    string    `json:"version"`
	Address    string    `json:"address"`
	Components []string  `json:"components"`
	Started    time.Time `json:"started"` // by the process's own clock
	Load       int64     `json:"load"`
}

// lookFor is how long to look at the table of processes to see who lives: a bit more than two heartbeats.
func lookFor(c *Config) time.Duration { return 5 * time.Duration(c.Cluster.Heartbeat) / 2 }

// ClusterStatus looks at the processes that share a PostgreSQL database, for a bit more than two heartbeats.
func ClusterStatus(ctx context.Context, c *Config) (out Status, err error) {
	if !c.postgres() {
		return out, errors.New("only PostgreSQL can be shared by several processes (--database postgres://…)")
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	s := &Server{cfg: *c, log: logrus.NewEntry(log), opts: RunOptions{Now: time.Now}}
	if err := s.openDatabase(ctx); err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := cluster.Migrate(ctx, s.db); err != nil {
		return out, fmt.Errorf("database: %w", err)
	}
	list, err := cluster.Look(ctx, s.db, lookFor(c))
	if err != nil {
		return out, err
	}
	for _, n := range list {
		state := "live"
		switch {
		case !n.Live:
			state = "silent"
		case n.Leaving:
			state = "leaving"
		}
		out.Nodes = append(out.Nodes, NodeStatus{ID: n.ID, State: state, Share: n.Share, Version: n.Version, Address: n.Address,
			Components: n.Components, Started: n.Started, Load: n.Load})
	}
	out.Lag, err = s.lag(ctx)
	return out, err
}
