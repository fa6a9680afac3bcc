package sqldb

import (
	"context"
	"crypto/x509"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"
	"github.com/sirupsen/logrus"
)

const (
	// AwayPatience is for how long those who need a connection wait for a PostgreSQL that went away, or for another one to take its
	// place. From then on they fail at once, until it is back.
	AwayPatience = 10 * time.Second
	// awayProbe is how often they are asked from then on. Who comes in between does not ask, so that many who wait for a connection do not
	// wait for each other's attempts, each as long as a machine takes that is not there.
	awayProbe = time.Second
	// awayAgain: a failure so long after the last one is the beginning of another outage.
	awayAgain     = 3 * AwayPatience
	minAwayPause  = 20 * time.Millisecond
	maxAwayPause  = 500 * time.Millisecond
	maxAwayDouble = 5
)

// hosts opens connections to that of several servers which takes writes: first to the one that did last time. It implements
// driver.Connector.
type hosts struct {
	each []driver.Connector
	log  logrus.FieldLogger
	now  func() time.Time

	mu     sync.Mutex
	good   int       // the one that took writes
	since  time.Time // of the present outage; zero where there is none
	failed time.Time // the last time that none of them could be reached, or was asked when it was away for long
	cause  error     // why
}

// newHosts makes one connector for each host of a configuration.
func newHosts(cfg pq.Config, o Options, dial pq.Dialer) (*hosts, error) {
	h := &hosts{log: o.Log, now: o.Now}
	all := append([]pq.ConfigMultihost{{Host: cfg.Host, Hostaddr: cfg.Hostaddr, Port: cfg.Port}}, cfg.Multi...)
	cfg.Multi = nil
	for _, m := range all {
		cfg.Host, cfg.Hostaddr, cfg.Port = m.Host, m.Hostaddr, m.Port
		c, err := pq.NewConnectorConfig(cfg)
		if err != nil {
			return nil, fmt.Errorf("database URL: %w", err)
		}
		c.Dialer(dial)
		h.each = append(h.each, c)
	}
	return h, nil
}

// Driver implements driver.Connector.
func (h *hosts) Driver() driver.Driver { return h.each[0].Driver() }

// Connect implements driver.Connector. It waits while the servers are away, for AwayPatience after they went or until ctx ends.
func (h *hosts) Connect(ctx context.Context) (driver.Conn, error) {
	for attempt := 0; ; attempt++ {
		if err := h.given(); err != nil {
			return nil, err
		}
		c, err := h.try(ctx)
		if err == nil {
			h.back()
			return c, nil
		}
		if !comesBack(err) || !h.wait(ctx, attempt, err) {
			return nil, err
		}
	}
}

// given gives the reason of an outage that lasts for long, where somebody has asked just now.
func (h *hosts) given() error {
	now := h.now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.since.IsZero() || now.Sub(h.since) < AwayPatience || now.Sub(h.failed) > awayAgain {
		return nil
	}
	if now.Sub(h.failed) < awayProbe {
		return h.cause
	}
	h.failed = now // it asks now
	return nil
}

// try asks each server once.
func (h *hosts) try(ctx context.Context) (driver.Conn, error) {
	h.mu.Lock()
	first := h.good
	h.mu.Unlock()
	var errs []error
	for i := range h.each {
		at := (first + i) % len(h.each)
		c, err := h.each[at].Connect(ctx)
		if err == nil {
			h.mu.Lock()
			h.good = at
			h.mu.Unlock()
			return c, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	if len(h.each) == 1 {
		return nil, errs[0]
	}
	return nil, &hostsError{errs}
}

// wait waits for the next attempt; false: it is in vain.
func (h *hosts) wait(ctx context.Context, attempt int, cause error) bool {
	now := h.now()
	h.mu.Lock()
	fresh := h.since.IsZero() || now.Sub(h.failed) > awayAgain
	if fresh {
		h.since = now
	}
	h.failed, h.cause = now, cause
	over := now.Sub(h.since) >= AwayPatience
	h.mu.Unlock()
	if fresh {
		h.log.WithError(cause).Warnf("the database does not answer; what needs it waits for up to %s", AwayPatience)
	}
	if over {
		return false
	}
	pause := min(minAwayPause<<min(attempt, maxAwayDouble), maxAwayPause)
	t := time.NewTimer(pause/2 + rand.N(pause/2))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// back ends an outage.
func (h *hosts) back() {
	h.mu.Lock()
	was := h.since
	h.since, h.cause = time.Time{}, nil
	h.mu.Unlock()
	if !was.IsZero() {
		h.log.WithField("after", h.now().Sub(was).Round(time.Millisecond)).Info("the database answers")
	}
}

// hostsError says why none of several servers could be used.
type hostsError struct{ errs []error }

func (e *hostsError) Error() string {
	var texts []string
	for _, err := range e.errs {
		texts = append(texts, err.Error())
	}
	return "none of the hosts takes writes: " + strings.Join(texts, "; ")
}

func (e *hostsError) Unwrap() []error { return e.errs }

// comesBack tells whether a connection that could not be made may well be made later: the server is away, starts or stops, has too many connections, or is
// a standby that may be promoted. A wrong name, password or certificate is an error of the configuration.
func comesBack(err error) bool {
	var several *hostsError
	if errors.As(err, &several) {
		return slices.ContainsFunc(several.errs, comesBack)
	}
	if code := pgCode(err); code != "" {
		return isConnectionLost(err) || code == pgReadOnlyTransaction || strings.HasPrefix(code, pgResourcesClass)
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return !dns.IsNotFound
	}
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	return !errors.As(err, &authority) && !errors.As(err, &name) && !errors.As(err, &invalid) && !errors.Is(err, pq.ErrSSLNotSupported) &&
		!errors.Is(err, context.Canceled)
}
