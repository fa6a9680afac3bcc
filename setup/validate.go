package setup

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"weft/internal/cluster"
	"weft/internal/sqldb"
	"weft/matrix/event"
	"weft/matrix/id"
)

// Validate checks everything that can be checked without touching files or the
// network, and reports all that is wrong at once.
func (c *Config) Validate() error {
	var errs []error
	fail := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{key}, args...)...))
	}
	if c.ServerName == "" && c.postgres() {
		// Other processes may have been told: see Server.share.
	} else if c.ServerName == "" {
		fail("server_name", "must be set (--server-name example.org)")
	} else if _, err := id.ParseServer(c.ServerName); err != nil {
		fail("server_name", "%v", err)
	}
	if c.DataDir == "" {
		fail("data_dir", "must not be empty")
	}
	if !strings.HasPrefix(c.databaseURL(), "sqlite:") && !c.postgres() {
		fail("database", "must be sqlite:PATH or postgres://…")
	}
	if c.DatabaseConnections < 0 || c.DatabaseConnections > 1000 {
		fail("database_connections", "must be between 0 and 1000")
	}
	c.validateReplicas(fail)
	c.validateListeners(fail)
	c.validateComponents(fail)
	if h, d := time.Duration(c.Cluster.Heartbeat), time.Duration(c.Cluster.DeadAfter); h < 10*time.Millisecond || d < 3*h || d > time.Minute/2 {
		fail("cluster", "heartbeat must be at least 10ms, dead_after three times that and at most 30s")
	}
	if c.Cluster.Listen != "" {
		if err := checkAddress(c.Cluster.Listen); err != nil {
			fail("cluster.listen", "%v", err)
		}
	}
	if c.Cluster.HTTPListen != "" {
		if err := checkAddress(c.Cluster.HTTPListen); err != nil {
			fail("cluster.http_listen", "%v", err)
		}
	}
	for _, a := range []struct{ key, value string }{
		{"cluster.advertise", c.Cluster.Advertise}, {"cluster.http_advertise", c.Cluster.HTTPAdvertise},
	} {
		if err := checkAdvertised(a.value); a.value != "" && err != nil {
			fail(a.key, "%v", err)
		}
	}
	c.validateFederation(fail)
	c.validateWellKnown(fail)
	c.validateRest(fail)
	return errors.Join(errs...)
}

// postgres tells whether the database is one that several processes can share.
func (c *Config) postgres() bool { return isPostgres(c.Database) }

func isPostgres(url string) bool {
	return strings.HasPrefix(url, "postgres://") || strings.HasPrefix(url, "postgresql://")
}

func (c *Config) validateReplicas(fail func(key, format string, args ...any)) {
	switch n := len(c.DatabaseReplicas); {
	case n > 0 && !c.postgres():
		fail("database_replicas", "needs PostgreSQL: a SQLite database has none")
	case n > sqldb.MaxReplicas:
		fail("database_replicas", "%d are more than %d", n, sqldb.MaxReplicas)
	}
	for i, u := range c.DatabaseReplicas {
		if !isPostgres(u) {
			fail(fmt.Sprintf("database_replicas[%d]", i), "must be postgres://…")
		}
	}
}

func (c *Config) validateListeners(fail func(key, format string, args ...any)) {
	if len(c.Listeners) == 0 {
		fail("listeners", "there must be at least one")
	}
	for i, l := range c.Listeners {
		key := fmt.Sprintf("listeners[%d]", i)
		if err := checkAddress(l.Address); err != nil {
			fail(key+".address", "%v", err)
		}
		if (l.TLS.Certificate == "") != (l.TLS.Key == "") {
			fail(key+".tls", "needs both certificate and key")
		}
	}
	if c.AdminListen != "" {
		if err := checkAddress(c.AdminListen); err != nil {
			fail("admin_listen", "%v", err)
		}
	}
	if _, err := c.trustedProxies(); err != nil {
		fail("trusted_proxies", "%v", err)
	}
	if c.MaxRequests < 1 {
		fail("max_requests", "must be at least 1")
	}
	if c.ShutdownTimeout < 0 {
		fail("shutdown_timeout", "must not be negative")
	}
	if c.ShutdownDelay < 0 || c.ShutdownDelay > Duration(10*time.Minute) {
		fail("shutdown_delay", "must be between 0 and 10m")
	}
}

func checkAddress(a string) error {
	_, port, err := net.SplitHostPort(a)
	if err != nil {
		return fmt.Errorf("%q is not HOST:PORT", a)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("%q has no valid port", a)
	}
	return nil
}

// checkAdvertised looks at an address that other processes are told.
func checkAdvertised(a string) error {
	if err := checkAddress(a); err != nil {
		return err
	}
	if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "0" {
		return fmt.Errorf("%q must name the host and the port where others reach this process", a)
	}
	return cluster.CheckAddress(a)
}

// trustedProxies parses the ranges; a plain address is a range of one.
func (c *Config) trustedProxies() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range c.TrustedProxies {
		if addr, err := netip.ParseAddr(s); err == nil {
			out = append(out, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%q is neither an address nor a range like 10.0.0.0/8", s)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

func (c *Config) validateComponents(fail func(key, format string, args ...any)) {
	for _, name := range c.Components {
		if !slices.Contains(componentNames(), name) {
			fail("components", "%q is none of %s", name, strings.Join(componentNames(), ", "))
		}
	}
	if len(c.Components) == 0 {
		fail("components", "there must be one")
	}
	for _, name := range componentNames() {
		if name != "mediaapi" && !slices.Contains(c.Components, name) && !c.postgres() {
			fail("components", "%s can be left out with PostgreSQL only, where another process runs it", name)
		}
	}
}

func (c *Config) validateFederation(fail func(key, format string, args ...any)) {
	for _, n := range c.Federation.TrustedNotaries {
		if _, err := id.ParseServer(n); err != nil {
			fail("federation.trusted_notaries", "%v", err)
		}
	}
	for _, a := range c.Federation.DNSServers {
		if err := checkAddress(a); err != nil {
			fail("federation.dns_servers", "%v", err)
		}
	}
}

func (c *Config) validateWellKnown(fail func(key, format string, args ...any)) {
	for _, u := range []struct{ key, value string }{
		{"well_known.client", c.WellKnown.Client},
		{"well_known.identity_server", c.WellKnown.IdentityServer},
		{"well_known.support_page", c.WellKnown.SupportPage},
	} {
		if u.value == "" {
			continue
		}
		if p, err := url.Parse(u.value); err != nil || p.Host == "" || (p.Scheme != "https" && p.Scheme != "http") {
			fail(u.key, "%q is no http or https URL", u.value)
		}
	}
	if c.WellKnown.Server != "" {
		if _, err := id.ParseServer(c.WellKnown.Server); err != nil {
			fail("well_known.server", "%v", err)
		}
	}
	if s := c.WellKnown.SupportContact; s != "" && !strings.Contains(s, "@") {
		fail("well_known.support_contact", "%q is neither a user ID nor a mail address", s)
	}
}

func (c *Config) validateRest(fail func(key, format string, args ...any)) {
	switch c.Registration.Mode {
	case "open", "token", "closed":
	default:
		fail("registration.mode", "%q is none of open, token, closed", c.Registration.Mode)
	}
	if c.Accounts.AccessTokenLifetime <= 0 {
		fail("accounts.access_token_lifetime", "must be positive")
	}
	if _, err := event.Version(event.RoomVersion(c.Rooms.DefaultVersion)); err != nil {
		fail("rooms.default_version", "%q is no room version that is supported", c.Rooms.DefaultVersion)
	}
	if c.Media.MaxUpload < 1 {
		fail("media.max_upload", "must be positive")
	}
	if c.Media.RemoteLifetime < 0 {
		fail("media.remote_lifetime", "must not be negative")
	}
	if c.RateLimits.Factor <= 0 {
		fail("rate_limits.factor", "must be positive")
	}
	if c.Memory != 0 && c.Memory < 64<<20 {
		fail("memory", "must be at least 64MiB")
	}
	if c.TURN.Lifetime <= 0 {
		fail("turn.lifetime", "must be positive")
	}
	if _, err := logrus.ParseLevel(c.Log.Level); err != nil {
		fail("log.level", "%q is none of error, warning, info, debug", c.Log.Level)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		fail("log.format", "%q is neither text nor json", c.Log.Format)
	}
}
