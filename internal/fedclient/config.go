package fedclient

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/sirupsen/logrus"

	"weft/internal/fedclient/discovery"
	"weft/internal/fedclient/guard"
	"weft/matrix/id"
)

const (
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
	idleConnTimeout  = 90 * time.Second
	pingAfter        = 20 * time.Second
	pingTimeout      = 10 * time.Second

	defaultTimeout      = 30 * time.Second
	defaultMaxIdleConns = 256
	maxConnsPerEndpoint = 32
	maxIdlePerEndpoint  = 2
	// streamBuffer bounds what is received of a response before it is read, in bytes.
	streamBuffer = 512 << 10
	// maxResponseHeader bounds the header of a response, in bytes.
	maxResponseHeader = 64 << 10
)

// Config says who we are and how we reach others.
type Config struct {
	// ServerName is our own name, the origin of all requests.
	ServerName id.Server
	// KeyID and PrivateKey sign requests.
	KeyID      id.KeyID
	PrivateKey ed25519.PrivateKey

	// Version goes into the user agent, "Weft/<version>".
	Version string

	// CAFile is a PEM file of certificate authorities that are trusted besides
	// the system's.
	CAFile string
	// RootCAs replaces the system's authorities; CAFile is added to it.
	RootCAs *x509.CertPool
	// InsecureSkipVerify turns certificate checks off. For test networks.
	InsecureSkipVerify bool

	// Addresses says which IP addresses may be dialled.
	Addresses guard.Options
	// DNSServers are "host:port" addresses of DNS servers to use instead of
	// the machine's, for all lookups.
	DNSServers []string

	// Timeout bounds a request that does not say otherwise; 0 means 30 s.
	Timeout time.Duration
	// MaxIdleConns bounds the connections that are kept open unused; 0 means 256.
	MaxIdleConns int
	// CacheEntries bounds the discovery caches and the circuit table, each;
	// 0 means 8192.
	CacheEntries int

	// Dial replaces the dialer, and with it the check of addresses. Tests
	// use it to lead names and ports to servers of their own.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Log gets debug lines; nil logs nothing.
	Log logrus.FieldLogger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Client sends requests to other servers. It is safe for concurrent use.
type Client struct {
	cfg       Config
	userAgent string
	resolver  *discovery.Resolver
	transport *http.Transport // for federation endpoints
	web       *http.Transport // for ordinary https URLs
	circuits  *circuits
}

// New makes a client. The error is about the configuration.
func New(cfg Config) (*Client, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.MaxIdleConns <= 0 {
		cfg.MaxIdleConns = defaultMaxIdleConns
	}
	if _, err := id.ParseServer(string(cfg.ServerName)); err != nil {
		return nil, fmt.Errorf("fedclient: the server name: %w", err)
	}
	if len(cfg.PrivateKey) != ed25519.PrivateKeySize || cfg.KeyID == "" {
		return nil, fmt.Errorf("fedclient: no signing key")
	}
	roots, err := rootCAs(cfg)
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, userAgent: "Weft"}
	if cfg.Version != "" {
		c.userAgent += "/" + cfg.Version
	}
	tlsConfig := &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: roots,
		InsecureSkipVerify: cfg.InsecureSkipVerify, // #nosec: an explicit choice of the operator
		ClientSessionCache: tls.NewLRUClientSessionCache(defaultMaxIdleConns),
	}
	dial := cfg.Dial
	if dial == nil {
		dial = guardedDialer(cfg)
	}
	c.transport = federationTransport(cfg, tlsConfig, dial)
	c.web = webTransport(tlsConfig, dial)
	c.resolver, err = discovery.New(discovery.Options{
		HTTP: c.web, DNSServers: cfg.DNSServers, UserAgent: c.userAgent,
		CacheEntries: cfg.CacheEntries, Log: cfg.Log, Now: cfg.Now,
	})
	if err != nil {
		return nil, fmt.Errorf("fedclient: %w", err)
	}
	if c.circuits, err = newCircuits(cfg.CacheEntries, cfg.Now); err != nil {
		return nil, fmt.Errorf("fedclient: %w", err)
	}
	return c, nil
}

// Close closes the connections that are idle.
func (c *Client) Close() {
	c.transport.CloseIdleConnections()
	c.web.CloseIdleConnections()
}

// ServerName is our own name.
func (c *Client) ServerName() id.Server { return c.cfg.ServerName }

// Resolve says where a server is; see discovery.Resolver.Resolve.
func (c *Client) Resolve(ctx context.Context, server id.Server) (*discovery.Result, error) {
	return c.resolver.Resolve(ctx, server)
}

func rootCAs(cfg Config) (*x509.CertPool, error) {
	if cfg.CAFile == "" {
		return cfg.RootCAs, nil
	}
	pem, err := os.ReadFile(cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("fedclient: reading the certificate authorities: %w", err)
	}
	var pool *x509.CertPool
	if cfg.RootCAs != nil {
		pool = cfg.RootCAs.Clone()
	} else if pool, err = x509.SystemCertPool(); err != nil {
		// A machine without a certificate store, such as an empty container.
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("fedclient: %s holds no PEM certificate", cfg.CAFile)
	}
	return pool, nil
}

// guardedDialer resolves names by the machine's rules (or the configured DNS
// servers), races IPv6 and IPv4, and asks the policy about each address.
func guardedDialer(cfg Config) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{
		Timeout: dialTimeout, KeepAlive: 30 * time.Second,
		Control: guard.New(cfg.Addresses).Control,
	}
	if len(cfg.DNSServers) > 0 {
		servers := append([]string(nil), cfg.DNSServers...)
		d.Resolver = &net.Resolver{
			PreferGo: true,
			Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				var nd net.Dialer
				var err error
				for _, s := range servers {
					var conn net.Conn
					if conn, err = nd.DialContext(ctx, network, s); err == nil {
						return conn, nil
					}
				}
				return nil, err
			},
		}
	}
	return d.DialContext
}
