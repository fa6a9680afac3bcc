package remote

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"weft/internal/fedclient"
	"weft/matrix/canonical"
	"weft/matrix/id"
)

const (
	signingKeyID = id.KeyID("ed25519:1")
	keyValidity  = 24 * time.Hour
	// noDNS is where SRV records are asked for: nobody is there, so a name without
	// a route fails at once instead of going out of the machine.
	noDNS = "127.0.0.1:1"

	readHeaderTimeout = 10 * time.Second
	maxHeaderBytes    = 64 << 10
)

// identity is one of a Server's names: a port, a signing key, and a client that
// speaks to others by that name.
type identity struct {
	name     id.Server
	keyID    id.KeyID
	key      ed25519.PrivateKey
	client   *fedclient.Client
	listener net.Listener
	http     *http.Server // nil until serve
}

// newIdentity takes a free port; the name follows from it.
func (s *Server) newIdentity() (*identity, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(s.opts.Host, "0"))
	if err != nil {
		return nil, fmt.Errorf("remote: listen: %w", err)
	}
	i := &identity{listener: listener, keyID: signingKeyID}
	fail := func(err error) (*identity, error) {
		return nil, errors.Join(fmt.Errorf("remote: %w", err), listener.Close())
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if i.name, err = id.ParseServer(net.JoinHostPort(s.opts.Host, strconv.Itoa(port))); err != nil {
		return fail(err)
	}
	if _, i.key, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return fail(err)
	}
	i.client, err = fedclient.New(fedclient.Config{
		ServerName: i.name, KeyID: i.keyID, PrivateKey: i.key, Version: "bench",
		RootCAs: s.authority.Pool(), InsecureSkipVerify: s.opts.InsecureSkipVerify,
		DNSServers: []string{noDNS}, Dial: s.dial, Log: s.opts.Log, Now: s.opts.Now,
	})
	if err != nil {
		return fail(err)
	}
	return i, nil
}

func (i *identity) public() ed25519.PublicKey { return i.key.Public().(ed25519.PublicKey) }

// serve answers requests until stop.
func (i *identity) serve(s *Server, cert tls.Certificate) {
	i.http = &http.Server{
		Handler: s.handler(i), ErrorLog: s.httpLog(),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: readHeaderTimeout, MaxHeaderBytes: maxHeaderBytes,
		BaseContext: func(net.Listener) context.Context { return s.ctx },
	}
	s.wg.Go(func() {
		if err := i.http.ServeTLS(i.listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			s.opts.Log.WithError(err).Error("the synthetic server stopped listening")
		}
	})
}

// stop gives the port back and closes the connections.
func (i *identity) stop() error {
	i.client.Close()
	if i.http == nil {
		return i.listener.Close()
	}
	return i.http.Close()
}

// keyObject is what the name publishes of its key.
//
// spec: server-server §2.3.1 (Publishing Keys)
func (i *identity) keyObject(now time.Time) ([]byte, error) {
	obj, err := canonical.Marshal(map[string]any{
		"server_name":     i.name,
		"verify_keys":     map[id.KeyID]any{i.keyID: map[string]string{"key": canonical.EncodeBase64(i.public())}},
		"old_verify_keys": struct{}{},
		"valid_until_ts":  now.Add(keyValidity).UnixMilli(),
	})
	if err != nil {
		return nil, fmt.Errorf("remote: keys: %w", err)
	}
	return canonical.SignJSON(obj, string(i.name), i.keyID, i.key)
}
