package setup

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"weft/internal/bus"
	"weft/internal/bus/natsbus"
	"weft/internal/cluster"
)

// The names of what the bus needs in the table cluster_settings.
const (
	settingCluster  = "cluster_name"
	settingIdentity = "bus_identity"
)

// spread is the bus of a process: within it, and to the other processes of the server from when there are any. So a
// process that is alone has no NATS.
type spread struct {
	*bus.Local
	far atomic.Pointer[natsbus.Bus]
}

// Publish implements bus.Bus.
func (b *spread) Publish(topic string, data []byte) {
	if far := b.far.Load(); far != nil {
		far.Publish(topic, data)
		return
	}
	b.Local.Publish(topic, data)
}

const (
	// busRetry is after how long what failed is tried again.
	busRetry = time.Second
	// handoverEnd is how long requests of other processes may take to end when this one stops.
	handoverEnd = 5 * time.Second
)

// runBus keeps in touch with the other processes until ctx ends.
func (s *Server) runBus(ctx context.Context) error {
	if s.shares() == nil {
		<-ctx.Done()
		return nil
	}
	for ctx.Err() == nil {
		changed := s.cluster.Changed()
		var retry <-chan time.Time
		if err := s.meet(ctx); err != nil && ctx.Err() == nil {
			s.log.WithError(err).Warn("the other processes cannot be reached; trying again. They find what they miss in the database, later")
			retry = time.After(busRetry)
		}
		select {
		case <-changed:
		case <-retry:
		case <-ctx.Done():
		}
	}
	// What others asked this process for ends before it is cut off from them.
	var errs []error
	if h := s.handover.Load(); h != nil {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), handoverEnd)
		errs = append(errs, h.stop(limit))
		cancel()
	}
	if far := s.bus.far.Load(); far != nil {
		errs = append(errs, far.Close())
	}
	return errors.Join(errs...)
}

// meet tells the bus where the others are, and starts it when there are any.
func (s *Server) meet(ctx context.Context) error {
	self := s.cluster.Self().ID
	var peers []string
	alone := true
	for _, n := range s.cluster.Nodes() {
		if n.ID == self {
			continue
		}
		alone = false
		if n.Address != "" {
			peers = append(peers, n.Address)
		}
	}
	if far := s.bus.far.Load(); far != nil {
		return far.SetPeers(peers)
	}
	if alone {
		return nil
	}
	identity, err := cluster.Setting(ctx, s.db, settingIdentity, natsbus.NewIdentity)
	if err != nil {
		return err
	}
	if s.handover.Load() == nil {
		h, err := s.startHandover(ctx, identity)
		if err != nil {
			return err
		}
		s.handover.Store(h)
	}
	far, err := s.startBus(ctx, self, peers, identity)
	if err != nil {
		return err
	}
	s.bus.far.Store(far)
	s.router.SetBus(far)
	if err := far.Register(s.reg); err != nil {
		return err
	}
	address := far.Addr()
	if address != "" { // not with an external NATS
		address = cmp.Or(s.cfg.Cluster.Advertise, address)
	}
	return s.cluster.SetAddress(ctx, address, s.handover.Load().address)
}

func (s *Server) startBus(ctx context.Context, self string, peers []string, identity []byte) (*natsbus.Bus, error) {
	name, err := cluster.Setting(ctx, s.db, settingCluster, func() ([]byte, error) { return []byte(rand.Text()), nil })
	if err != nil {
		return nil, err
	}
	listen := s.cfg.Cluster.Listen
	if listen == "" {
		listen = net.JoinHostPort(s.cfg.hostTowardsDatabase(), "0")
	}
	far, err := natsbus.Start(ctx, natsbus.Config{
		Local: s.bus.Local, Cluster: string(name), Node: self, URL: s.cfg.Cluster.NATS, Listen: listen, Advertise: s.cfg.Cluster.Advertise,
		Peers: peers, Identity: identity, Log: s.part("bus"), Drop: s.opts.DropBus,
	})
	if err != nil {
		return nil, fmt.Errorf("cluster bus: %w", err)
	}
	return far, nil
}

// hostTowardsDatabase gives the address of this machine from which it reaches the database: the others reach that too,
// and find this process there. Where the database is on this machine, it is a loopback address.
func (c *Config) hostTowardsDatabase() string {
	const loopback = "127.0.0.1"
	u, err := url.Parse(c.Database)
	if err != nil {
		return loopback
	}
	host, _, _ := strings.Cut(u.Hostname(), ",")
	if host == "" {
		return loopback // a socket
	}
	port := u.Port()
	if port == "" {
		port = "5432"
	}
	// Nothing is sent.
	conn, err := net.DialTimeout("udp", net.JoinHostPort(host, port), time.Second)
	if err != nil {
		return loopback
	}
	defer conn.Close() //nolint:errcheck // nothing was sent
	if a, ok := conn.LocalAddr().(*net.UDPAddr); ok {
		return a.IP.String()
	}
	return loopback
}
