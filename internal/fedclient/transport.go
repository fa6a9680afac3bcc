package fedclient

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"weft/internal/fedclient/discovery"
)

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// dialError marks a failure before any byte of the request was sent, after which
// another endpoint may be tried whatever the method.
type dialError struct {
	addr string
	err  error
}

func (e *dialError) Error() string { return "connecting to " + e.addr + ": " + e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// federationTransport pools connections per pair of dial address and TLS name.
//
// A URL has one host for both, so the pair is spelt in hex as that host
// (endpointURL) and read back when the pool asks for a new connection. The Host
// header is set on the request and is not affected.
func federationTransport(cfg Config, tlsConfig *tls.Config, dial dialFunc) *http.Transport {
	tlsConfig = tlsConfig.Clone()
	tlsConfig.NextProtos = []string{"h2", "http/1.1"}
	return &http.Transport{
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			dialAddr, tlsName, err := readEndpointHost(address)
			if err != nil {
				return nil, err
			}
			conn, err := dialTLS(ctx, network, dialAddr, tlsName, tlsConfig, dial)
			if err != nil {
				return nil, &dialError{dialAddr, err}
			}
			return conn, nil
		},
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("federation is spoken over TLS only")
		},
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           cfg.MaxIdleConns,
		MaxIdleConnsPerHost:    maxIdlePerEndpoint,
		MaxConnsPerHost:        maxConnsPerEndpoint,
		IdleConnTimeout:        idleConnTimeout,
		MaxResponseHeaderBytes: maxResponseHeader,
		HTTP2: &http.HTTP2Config{
			// A kept connection whose other end vanished without a word is noticed.
			SendPingTimeout: pingAfter, PingTimeout: pingTimeout,
			// What a reader that is slower than the network leaves in memory.
			MaxReceiveBufferPerStream: streamBuffer, MaxReceiveBufferPerConnection: 32 * streamBuffer,
		},
	}
}

func dialTLS(ctx context.Context, network, addr, name string, cfg *tls.Config, dial dialFunc) (net.Conn, error) {
	raw, err := dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	cfg = cfg.Clone()
	// For an IP address crypto/tls checks the certificate's IP names and sends
	// no SNI. spec: server-server §2.1
	cfg.ServerName = name
	conn := tls.Client(raw, cfg)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return conn, nil
}

// webTransport is for ordinary https URLs: .well-known files and redirected
// media. The same dialer checks the addresses.
func webTransport(tlsConfig *tls.Config, dial dialFunc) *http.Transport {
	return &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        tlsConfig.Clone(),
		TLSHandshakeTimeout:    handshakeTimeout,
		ResponseHeaderTimeout:  dialTimeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           8,
		MaxIdleConnsPerHost:    1,
		MaxConnsPerHost:        maxConnsPerEndpoint,
		IdleConnTimeout:        dialTimeout,
		MaxResponseHeaderBytes: maxResponseHeader,
	}
}

// endpointURL spells an endpoint as the host of a URL and appends the path.
func endpointURL(e discovery.Endpoint, path string) (*url.URL, error) {
	u, err := url.ParseRequestURI(path)
	if err != nil || !strings.HasPrefix(path, "/") || u.Fragment != "" {
		return nil, fmt.Errorf("fedclient: %q is not an escaped path", path)
	}
	u.Scheme = "https"
	u.Host = hex.EncodeToString([]byte(e.Addr())) + "." + hex.EncodeToString([]byte(e.TLSName))
	return u, nil
}

// readEndpointHost undoes endpointURL; address has the pool's port appended.
func readEndpointHost(address string) (dialAddr, tlsName string, err error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "", "", err
	}
	a, b, _ := strings.Cut(host, ".")
	addr, err1 := hex.DecodeString(a)
	name, err2 := hex.DecodeString(b)
	if err := errors.Join(err1, err2); err != nil {
		return "", "", fmt.Errorf("fedclient: %q is not an endpoint: %w", host, err)
	}
	return string(addr), string(name), nil
}
